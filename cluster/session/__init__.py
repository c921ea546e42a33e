"""Both halves of the client protocol: exactly once, in order, across leader deaths. Pure.

`operations.py` is the vocabulary. `table.py` is the server's half: a document's memory of its sessions, judged at apply
and kept in the record. `client.py` is the client's half: numbering, the window of unacknowledged operations, resending,
resuming.
"""
