"""Who is alive, in everybody's opinion: SWIM (Das et al., DSN 2002) with Lifeguard (Dadgar et al., 2017), without I/O.

`Gossip` in `core` takes events and the time and returns effects; it owns no clock, socket or task, so that thousands of them
run in one thread under virtual time. Reading order: config, messages, effects, suspicion, chronicle, member, tables, members,
broadcast, health, reach, outbox, probe, sync, contacts, stability, core.

Gossip is an opinion. It never removes a voter, ends a process or bypasses a vote: alive, suspect and dead are what this node
would bet on, with who said so; Raft and the system shard decide.
"""
