"""What a node keeps on disk, and the promise that what it reads back is what it wrote.

Read in this order:

    engine      the contract: families, batches, one durability point
    keys        the whole on-disk layout, and the checksum that seals every value
    log         a shard's Raft log, hard state and snapshot position
    records     the documents' records, in generations; a shard's metadata
    history     the documents' commands
    bundles     deployed code by its hash
    format      the layout's version; whose directory this is
    memory      an engine without files, with crashes that can be asked for
    rocks, wal  the durable engine, and the look at its write-ahead logs before it opens

Invariant: a value that rotted, was misplaced or is missing where one must be is told as StorageDamaged, never returned,
skipped or taken for the end.

Only `rocks` and `wal` touch files. Nothing here knows what a document or a command is.
"""
