"""Raft for one group as a pure state machine: `core.Raft.step(event, now_ms) -> Effects`.

Read in this order:

    messages, events, effects   what replicas say, what a core can be told, what it asks for
    config                      every number, with its unit, range and reason
    core                        the dispatch table, persistence numbering, what the owner may read
    state                       the fields of one replica and who may change them
    roles                       the four roles and every way from one to another
    election                    votes, PreVote, leader stickiness, staggered failover
    following                   a follower's log: append, conflict, snapshot
    replication                 a leader's followers: probing, pipelining, commit, CheckQuorum
    configuration, membership   who votes, which changes are allowed, and how a leader carries one through
    transfer                    leadership handed over on purpose
    reads, lease                ReadIndex, and answering alone while nobody else can lead
    progress, quorum, log       one follower as its leader sees it; majorities; the log

docs/internals/raft.md says why it is as it is, where it departs from the paper, and what an owner must do.

Invariant: election safety, log matching, leader completeness and state machine safety of the paper (Ongaro and Ousterhout
2014, figure 3), under crash, loss, duplication and reordering, as long as what was reported durable stays durable.

Not here: clocks, sockets, disks, heartbeats (liveness belongs to node pairs), snapshot transfer, applying entries.
"""
