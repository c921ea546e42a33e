"""Bugs that are planted on purpose, one at a time, to learn whether the simulator would find them.

mutant.py          what a planted bug is
reach.py           which seeds it can show in
elections.py       in votes, terms, and who stops leading when
consensus.py       in the log: appending, acknowledging, committing, and the order of writing and telling
membership.py      in configurations, moves and handovers
placement.py       in where replicas are placed, and in how that is ordered
leases.py          in promises to wait for a leader
sleeping.py        in groups without timers
storage.py         in what a disk is trusted with
documents.py       in apply, records, sessions
snapshots.py       in compaction, transfers, installation
upgrades.py        in giving documents new code
by_hand.py         in repairs, forks and thaws
waiting.py         in alarms and asks
telling.py         in reads, watches, routes
passing.py         in what connections show and handlers say in passing
connections.py     in telling documents who watches them
clients.py         in the client's half of the session protocol
hunt.py            how many seeds it takes
results.py         what was found so far, in a file; the table that is published

Each is a bug that some system had, or one of the traps that the tests of a layer name, or one that this product once had.
docs/internals/known-bugs.md says which is which, and what stands against those that can not be planted.
"""

from __future__ import annotations

from chaos.mutants import (
    by_hand,
    clients,
    connections,
    consensus,
    documents,
    elections,
    leases,
    membership,
    passing,
    placement,
    sleeping,
    snapshots,
    storage,
    telling,
    upgrades,
    waiting,
)
from chaos.mutants.mutant import Mutant

CATALOGUE: tuple[Mutant, ...] = (
    *elections.MUTANTS,
    *consensus.MUTANTS,
    *membership.MUTANTS,
    *placement.MUTANTS,
    *leases.MUTANTS,
    *sleeping.MUTANTS,
    *storage.MUTANTS,
    *documents.MUTANTS,
    *snapshots.MUTANTS,
    *telling.MUTANTS,
    *passing.MUTANTS,
    *connections.MUTANTS,
    *upgrades.MUTANTS,
    *by_hand.MUTANTS,
    *waiting.MUTANTS,
    *clients.MUTANTS,
)
