"""One replica of one shard: Raft and documents brought together. Pure: what it wants done goes into a `Turn`.

`replica.py` is the way in. `commands.py` is what an entry holds. `gathering.py` turns operations into one entry,
`proposals.py` remembers who waits for it, `apply.py` turns a committed entry into new document states, answers and history.
`document.py` is a document in memory and its durable record, `cache.py` decides what stays in memory and when a record is
written. `feed.py` pushes changes to viewers, `reading.py` answers reads. `snapshot.py` is the stored state as a whole, read
and replaced in pieces, and `compaction.py` says how much log is kept. `directory.py` is what every shard knows of spaces and
their code, and `system/` is shard 0, which decides it.
"""
