"""Which shard owns a key, and which nodes hold a shard. Pure.

`hashing.py` places a document on the 32-bit key-hash space; `map.py` divides that space into contiguous intervals, one a shard.
The map lives in the system shard; every other copy is a cache that a typed stale answer corrects.
"""
