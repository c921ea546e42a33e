"""The node's turn: what arrives, in which order it is worked on, what must be durable before what leaves. Pure.

`pump.py` is the turn, `incoming.py` what peers send into it, `schedule.py` which replicas have something to do. `liveness.py`
is the node-pair heartbeat that replaces per-group heartbeats. `streams.py` routes client operations and their answers.
`assembly.py` puts a node's pump together from its disk, `facts.py` is what a node remembers about itself and its peers.
`frames.py` packs what goes to a peer. `bundles.py` fetches code. `transfers.py` runs snapshot transfers.
"""
