"""Ways to hurt a cluster and to measure it: demo, live faults, load harnesses. Only the command line imports them."""
