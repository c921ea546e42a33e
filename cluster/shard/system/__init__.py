"""Shard 0: the cluster's decisions, as a built-in document type.

One document, `system/cluster`, holds the shard map, the deployed spaces and the isolated commands. It is fed and
replicated like any other document; `program.py` is its code, trusted and part of this release. Bundles are not in its
state: their bytes travel in the deploy command and are stored, content-addressed, by every replica that applies it.
"""
