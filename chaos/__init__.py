"""Ways to hurt a cluster and to measure it: simulator, live faults, checkers, load harnesses. Not part of the wheel."""
