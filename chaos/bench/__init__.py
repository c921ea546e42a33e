"""Load harnesses for comparing Moot with other systems on one machine, through generators that are not written in Python."""
