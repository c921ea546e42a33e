"""Whatever comes, in whatever order: a core takes it, refuses it by name, or says that something durable is damaged. Peers may
be old, late, or wrong; no message ends a node by an assertion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import InvalidRequest, StorageDamaged
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.configuration import encode
from cluster.raft.effects import Role
from cluster.raft.events import (
    Campaign,
    ChangeConfiguration,
    Compact,
    Event,
    LeaderLost,
    LivenessChanged,
    PeerAcked,
    PeerUnreachable,
    Propose,
    Read,
    Receive,
    SnapshotFailed,
    SnapshotInstalled,
    Transfer,
)
from cluster.raft.messages import (
    Append,
    AppendReply,
    Configuration,
    Run,
    SnapshotMeta,
    SnapshotOffer,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from tests.raft.disk import Write
from tests.raft.network import TEST_CONFIG
from tests.raft.solo import Solo

TERMS = st.integers(0, 4).map(Term)
INDEXES = st.integers(0, 7).map(LogIndex)
PEERS = st.integers(2, 5).map(ReplicaId)
SOME = st.sets(st.integers(1, 5), max_size=4).map(lambda numbers: tuple(ReplicaId(number) for number in sorted(numbers)))
CONFIGURATIONS = st.builds(Configuration, voters=SOME, learners=SOME, outgoing=st.one_of(st.just(()), SOME))
PAYLOADS = st.one_of(st.just(b""), st.just(b"x"), CONFIGURATIONS.map(encode))


@st.composite
def appends(draw: st.DrawFn) -> Append:
    """Runs that follow each other; what they contain need not make sense."""
    term, previous = draw(TERMS), draw(INDEXES)
    last_term = previous_term = Term(draw(st.integers(0, term)))
    runs: list[Run] = []
    first = previous + 1
    for _ in range(draw(st.integers(0, 3))):
        last_term = Term(draw(st.integers(last_term, term)))
        payloads = draw(st.lists(PAYLOADS, min_size=1, max_size=3))
        runs.append(Run(LogIndex(first), last_term, payloads))
        first += len(payloads)
    return Append(term, previous, previous_term, draw(INDEXES), runs)


@st.composite
def offers(draw: st.DrawFn) -> SnapshotOffer:
    """Of the leader's term or an earlier one: what is not is refused before it gets here."""
    term = draw(TERMS)
    meta = SnapshotMeta(LogIndex(draw(st.integers(1, 7))), Term(draw(st.integers(0, term))), draw(CONFIGURATIONS))
    return SnapshotOffer(term, meta)


MESSAGES = st.one_of(
    st.builds(VoteRequest, TERMS, INDEXES, TERMS, st.booleans(), st.booleans()),
    st.builds(VoteReply, TERMS, st.booleans(), st.booleans()),
    appends(),
    st.builds(AppendReply, TERMS, INDEXES, st.booleans(), INDEXES, TERMS),
    offers(),
    st.builds(TimeoutNow, TERMS, INDEXES),
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Receive, PEERS, MESSAGES),
    st.builds(Receive, PEERS, MESSAGES),
    st.builds(Propose, st.lists(st.sampled_from([b"", b"a", b"\xc1"]), max_size=3)),
    st.builds(Read, st.integers(1, 99), st.booleans()),
    st.builds(PeerAcked, PEERS, TERMS, st.floats(0.0, 20_000.0)),
    st.builds(PeerUnreachable, PEERS),
    st.builds(SnapshotFailed, PEERS),
    st.builds(Transfer, st.integers(1, 5).map(ReplicaId)),
    st.builds(ChangeConfiguration, SOME, SOME),
    st.builds(Compact, INDEXES),
    st.sampled_from([Campaign(), LeaderLost(), LivenessChanged()]),
)


def at_deadline(solo: Solo) -> None:
    if solo.core.deadline_ms < math.inf:
        solo.at_deadline()


def later(solo: Solo) -> None:
    solo.now_ms += 700.0


def persist(solo: Solo) -> None:
    solo.persist()


def install(solo: Solo) -> None:
    """A snapshot beyond the log arrived whole."""
    core = solo.core
    meta = SnapshotMeta(LogIndex(core.last_index + 2), core.term, solo.configuration)
    if core.role is not Role.LEADER and core.needs_snapshot(meta):
        solo.disk.write(Write(install=meta))
        solo.step(SnapshotInstalled(ReplicaId(2), meta))


HAPPENINGS: st.SearchStrategy[Event | Callable[[Solo], None]] = st.one_of(
    EVENTS, EVENTS, st.sampled_from([at_deadline, later, persist, install])
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.lists(HAPPENINGS, max_size=40),
    st.booleans(),
    st.sampled_from([(0, 0, []), (2, 0, [1, 1, 2]), (3, 1, [1])]),
)
def test_no_order_of_events_breaks_an_invariant(
    happenings: list[Event | Callable[[Solo], None]], leases: bool, found: tuple[int, int, list[int]]
) -> None:
    """Every invariant of one replica is asserted after every step. After damage was told, the group is over."""
    term, vote, log = found
    config = replace(TEST_CONFIG, lease_reads=leases)
    solo = Solo(term=term, vote=vote, log=log, learners=1, config=config)
    core = solo.core
    for happening in happenings:
        before = (core.term, core.commit_index, core.snapshot.index)
        try:
            if callable(happening):
                happening(solo)
            else:
                solo.step(happening)
        except InvalidRequest:
            assert (core.term, core.commit_index, core.snapshot.index) == before, "refused, and nothing changed"
        except StorageDamaged:
            return
        assert core.term >= before[0]
        assert core.commit_index >= before[1]
        assert core.snapshot.index >= before[2]
        if core.applied_index < core.commit_index:
            core.applied_to(core.commit_index)
