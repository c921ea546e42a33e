"""The composition root: wraps the pump with clocks, sockets and a disk. The only layer that knows all the others.

`node.py` builds and starts everything. `loop.py` turns the pump's outputs into writes, syncs, frames and deliveries.
`facts.py` is what a node remembers about itself and its peers. `marker.py` notes the running command where it survives a
crash, and `watchdog.py` ends a node whose command does not end. `backend.py` is what the gateway talks to and `admin.py`
answers operators.
"""
