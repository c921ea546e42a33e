"""Every event and message has a chosen answer in every role, and bad input changes nothing."""

from __future__ import annotations

import typing

import msgspec
import pytest

from cluster.errors import InvalidRequest, LogLost, StorageDamaged
from cluster.ids import LogIndex, ReplicaId, Term
from cluster.raft.core import EVENTS, MESSAGES
from cluster.raft.effects import Role
from cluster.raft.events import Compact, Deadline, Event, Persisted, Receive, Transfer
from cluster.raft.messages import Message
from tests.raft.network import Cluster
from tests.raft.solo import Solo, append, run


def test_every_role_has_a_cell_for_every_event() -> None:
    """Receive is not an event of the table: it asks the table of messages."""
    events = set(typing.get_args(Event)) - {Receive}
    assert set(EVENTS) == set(Role)
    for role in Role:
        assert set(EVENTS[role]) == events, role


def test_every_role_has_a_cell_for_every_message() -> None:
    assert set(MESSAGES) == set(Role)
    for role in Role:
        assert set(MESSAGES[role]) == set(typing.get_args(Message)), role


@pytest.mark.parametrize(("table", "place"), [(EVENTS, 1), (MESSAGES, 2)])
def test_cells_take_the_type_that_their_column_names(table: typing.Any, place: int) -> None:
    for cells in table.values():
        for column, handler in cells.items():
            hints = [hint for name, hint in typing.get_type_hints(handler).items() if name != "return"]
            assert hints[place] in (column, object, Message), handler


def test_deadline_that_comes_early_changes_nothing() -> None:
    solo = Solo()
    before = solo.core.deadline_ms
    effects = solo.step(Deadline())
    assert solo.core.deadline_ms == before
    assert solo.core.role is Role.FOLLOWER
    assert not effects.send_now


def test_every_message_survives_its_encoding() -> None:
    """What crosses the wire is checked by type there and equal here."""
    cluster = Cluster(seed=10)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.propose(b"a", b"b")
    cluster.run_until(lambda: cluster.node(1).core.applied_index == 3)
    cluster.compact(1, 3)
    cluster.heal()
    cluster.settle()
    cluster.node(1).step(Transfer(ReplicaId(2)))
    cluster.run_until(lambda: cluster.node(2).core.role is Role.LEADER)
    sent = [message for _, _, message in cluster.delivered]
    assert {type(message) for message in sent} == set(typing.get_args(Message))
    decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
    for message in sent:
        assert decoder.decode(msgspec.msgpack.encode(message)) == message


def test_malformed_append_is_refused_before_anything_changes() -> None:
    """Not even its higher term is believed."""
    solo = Solo(term=1)
    with pytest.raises(InvalidRequest):
        solo.receive(2, append(9, (0, 0), run(2, 9, b"gap")))
    assert (solo.core.term, solo.core.leader, solo.core.last_index) == (1, None, 0)
    assert solo.receive(2, append(1, (0, 0), run(1, 1, b"good"))).persist is not None


def test_second_leader_in_one_term_is_reported_as_damage() -> None:
    """Election safety (paper 5.2) can break only if somebody forgot a vote."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0)))
    with pytest.raises(StorageDamaged):
        solo.receive(3, append(1, (0, 0)))
    leader = Solo()
    leader.lead()
    with pytest.raises(StorageDamaged):
        leader.receive(2, append(leader.core.term, (0, 0)))


def test_contradiction_of_a_committed_entry_is_reported_as_damage() -> None:
    """Reference trap 25: a conflict at or below the commit index is fatal, not repaired."""
    solo = Solo()
    solo.receive(2, append(1, (0, 0), run(1, 1, b"a"), commit=1))
    with pytest.raises(StorageDamaged):
        solo.receive(3, append(2, (0, 0), run(1, 2, b"b")))
    assert solo.core.term_of(LogIndex(1)) == 1


def test_log_shorter_than_what_was_applied_refuses_to_start() -> None:
    """Reference trap 14: a commit beyond the durable log means entries were lost; clamping would hide it."""
    with pytest.raises(LogLost):
        Solo(term=1, log=[1, 1], applied=3)


def test_log_ahead_of_the_durable_term_refuses_to_start() -> None:
    """Reference trap 4: the term is durable no later than entries of it."""
    with pytest.raises(StorageDamaged):
        Solo(term=1, log=[1, 2])


def test_compaction_beyond_what_is_applied_is_refused() -> None:
    """Paper 7: a snapshot covers what is committed and applied."""
    solo = Solo(term=1, log=[1, 1, 1], applied=2)
    with pytest.raises(InvalidRequest):
        solo.step(Compact(LogIndex(3)))
    assert solo.core.snapshot.index == 0


def test_completion_of_an_unknown_write_is_ignored() -> None:
    """Reference trap 6: neither a future number nor the right number under another term counts."""
    solo = Solo(voters=1)
    solo.campaign()
    term, sequence = solo.write
    for stale in [(term, sequence + 1), (term - 1, sequence), (term, 0)]:
        solo.step(Persisted(Term(stale[0]), stale[1]))
        assert solo.core.role is Role.CANDIDATE
    solo.persist()
    assert solo.core.role is Role.LEADER
