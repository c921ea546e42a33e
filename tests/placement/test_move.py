"""What a move does next, against a model of the shard: from whatever point, the rest of the same move."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidRequest
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId
from cluster.placement.move import CATCH_UP_ENTRIES, Action, ConfigurationStatus, Member, Step, next_step
from cluster.raft.configuration import entered, highest_of, left
from cluster.raft.messages import Configuration

A, B, C, D, E = (NodeId(name) for name in "abcde")
LAST = LogIndex(5_000)


class Model:
    """A shard whose leader does at once what it is asked; learners catch up when a test says so."""

    def __init__(self, *nodes: NodeId) -> None:
        places = tuple((ReplicaId(number), node) for number, node in enumerate(nodes, 1))
        self.now = Configuration(tuple(number for number, _ in places), places=places)
        self.leader = nodes[0]
        self.behind: set[NodeId] = set()
        self.index = 0
        self.transfers: list[NodeId] = []

    @property
    def status(self) -> ConfigurationStatus:
        now = self.now
        lags = {replica: CATCH_UP_ENTRIES + 1 if node in self.behind else 0 for replica, node in now.places}
        members = [Member(replica, node, LogIndex(LAST - lags[replica]), lags[replica]) for replica, node in now.places]
        return ConfigurationStatus(
            shard=ShardId(1),
            index=LogIndex(self.index),
            committed=True,
            voters=now.voters,
            learners=now.learners,
            outgoing=now.outgoing,
            highest=highest_of(now),
            members=tuple(members),
            leader=self.leader,
            leads=True,
            last_index=LAST,
            transferring_to=None,
        )

    def do(self, step: Step) -> None:
        self.index += 1
        if step.action is Action.CHANGE:
            self.now = entered(self.now, step.voters, step.learners, step.places)
        elif step.action is Action.TRANSFER:
            assert step.to is not None
            self.transfers.append(step.to)
            self.leader = step.to
        elif self.now.outgoing:
            self.now = left(self.now)
            if self.leader not in self.voting:
                self.leader = min(self.voting)
        else:
            self.behind.clear()

    @property
    def voting(self) -> set[NodeId]:
        return {node for replica, node in self.now.places if replica in self.now.voters}

    @property
    def nodes(self) -> set[NodeId]:
        return {node for _, node in self.now.places}


def drive(model: Model, leaving: NodeId | None, joining: NodeId | None) -> list[Action]:
    actions: list[Action] = []
    for _ in range(20):
        step = next_step(model.status, leaving, joining)
        actions.append(step.action)
        if step.action is Action.DONE:
            return actions
        model.do(step)
    raise AssertionError(f"the move does not end: {actions}")


def test_a_voter_is_replaced_through_a_learner() -> None:
    model = Model(A, B, C)
    assert drive(model, B, D) == [Action.CHANGE, Action.CHANGE, Action.WAIT, Action.CHANGE, Action.DONE]
    assert model.now.voters == (1, 3, 4)
    assert model.nodes == {A, C, D}


def test_a_learner_that_is_far_behind_is_waited_for() -> None:
    """Reference trap 44: a voter that lacks the log would only hold up commits."""
    model = Model(A, B, C)
    model.behind = {D}
    assert drive(model, B, D)[:2] == [Action.CHANGE, Action.WAIT]


def test_a_leader_hands_over_to_the_voter_that_lacks_least_before_it_is_demoted() -> None:
    """Reference trap 45."""
    model = Model(A, B, C)
    model.behind = {B}
    step = next_step(model.status, A, None)
    assert (step.action, step.to) == (Action.TRANSFER, C)
    drive(model, A, D)
    assert model.transfers == [C]
    assert model.nodes == {B, C, D}


def test_the_only_voter_can_be_replaced() -> None:
    model = Model(A)
    drive(model, A, B)
    assert (model.nodes, model.transfers, model.leader) == ({B}, [], B)


def test_a_shard_grows_and_shrinks_by_one() -> None:
    model = Model(A, B, C)
    drive(model, None, D)
    assert model.voting == {A, B, C, D}
    drive(model, B, None)
    assert model.nodes == {A, C, D}


def test_a_replica_that_comes_back_has_another_id() -> None:
    """Reference trap 12."""
    model = Model(A, B, C)
    drive(model, B, D)
    drive(model, D, B)
    assert model.now.places == ((1, A), (3, C), (5, B))


@pytest.mark.parametrize(("leaving", "joining"), [(A, A), (None, None), (A, None)])
def test_a_move_that_can_not_be_is_refused(leaving: NodeId | None, joining: NodeId | None) -> None:
    with pytest.raises(InvalidRequest):
        next_step(Model(A).status, leaving, joining)


def test_a_move_that_another_one_overtook_neither_shrinks_nor_grows_the_shard() -> None:
    with pytest.raises(InvalidRequest):
        next_step(Model(A, B, C).status, A, B)
    with pytest.raises(InvalidRequest):
        next_step(Model(A, B, C).status, D, E)
    model = Model(A, B, C)
    model.do(next_step(model.status, None, D))
    with pytest.raises(InvalidRequest):
        next_step(model.status, E, D)
    assert next_step(Model(A, B, C).status, D, None).action is Action.DONE
    assert next_step(Model(A, B, C).status, D, C).action is Action.DONE


def test_nothing_is_begun_on_a_configuration_that_may_be_rolled_back() -> None:
    status = replace(Model(A, B, C).status, committed=False)
    assert next_step(status, B, D).action is Action.WAIT


@given(st.data())
def test_a_move_ends_the_same_from_wherever_another_driver_left_it(data: st.DataObject) -> None:
    """Drivers die, and leadership wanders: only the configuration says how far a move is."""
    model = Model(A, B, C)
    leaving = data.draw(st.sampled_from([A, B, C]))
    for _ in range(data.draw(st.integers(0, 8))):
        if data.draw(st.booleans()):
            model.leader = data.draw(st.sampled_from(sorted(model.voting)))
        if data.draw(st.booleans()):
            model.behind = {D}
        before, voting = model.now, model.voting
        model.do(next_step(model.status, leaving, D))
        assert len(model.voting ^ voting) <= 2, "one voter each way"
        assert set(before.voters) & set(model.now.voters)
        assert len(model.voting) >= 3, "nobody stops voting before its replacement votes"
    drive(model, leaving, D)
    assert model.nodes == {A, B, C, D} - {leaving}
    assert len(model.now.voters) == 3
