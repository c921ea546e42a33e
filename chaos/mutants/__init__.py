"""Bugs that are planted on purpose, one at a time, to learn whether the simulator would find them.

mutant.py          what a planted bug is
consensus.py       in Raft and in the order of writing and telling
documents.py       in apply, records, sessions, snapshots
telling.py         in reads, watches and the client's half
hunt.py            how many seeds it takes
"""
