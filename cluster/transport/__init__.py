"""Sockets: frames between nodes, and gossip's datagrams.

`peer` is the interface that the node is written against; `peer_wire` is what its bytes look like; `reconnect` is when to
dial again; `tcp` is the transport. `gossip` drives the gossip core. Nothing here decides anything about the cluster: a
lost connection is reported as evidence, and those above judge it.
"""
