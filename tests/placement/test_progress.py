"""What an operator may ask of a shard's replicas, and how far a move is: told from the configuration alone."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidMove
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId
from cluster.placement.move import CATCH_UP_ENTRIES, Action, ConfigurationStatus, Member, next_step
from cluster.placement.progress import Stage, check_move, stage_of
from cluster.raft import configuration
from cluster.raft.messages import Configuration

N1, N2, N3, N4, N5 = (NodeId(f"n{number}") for number in range(1, 6))


def status(
    voters: str = "123",
    learners: str = "",
    outgoing: str = "",
    *,
    committed: bool = True,
    lag: int = 0,
    leader: NodeId = N3,
    transferring: bool = False,
) -> ConfigurationStatus:
    """Replica 1 is on n1 and so on. lag: of every learner."""

    def ids(text: str) -> tuple[ReplicaId, ...]:
        return tuple(ReplicaId(int(digit)) for digit in text)

    members = tuple(
        Member(ReplicaId(int(digit)), NodeId(f"n{digit}"), LogIndex(100), lag if digit in learners else 0)
        for digit in sorted({*voters, *learners, *outgoing})
    )
    return ConfigurationStatus(
        shard=ShardId(7),
        index=LogIndex(50),
        committed=committed,
        voters=ids(voters),
        learners=ids(learners),
        outgoing=ids(outgoing),
        highest=ReplicaId(9),
        members=members,
        leader=leader,
        leads=True,
        last_index=LogIndex(100),
        transferring_to=ReplicaId(2) if transferring else None,
    )


@pytest.mark.parametrize(
    ("now", "leaving", "joining", "word"),
    [
        (status(), N1, N1, "itself"),
        (status(), N4, N5, "n4 has no replica of shard 7; n1, n2, n3 have"),
        (status(), N1, N2, "n2 has a replica"),
        (status(learners="4"), N4, N5, "n4 only learns"),
        (status(learners="4"), N1, N5, "n4 learns already"),
        (status(learners="4"), N5, N4, "n5 does not vote"),
        (status(learners="45"), N5, N4, "does not vote"),
    ],
)
def test_what_fits_nothing_that_stands_there_is_refused(
    now: ConfigurationStatus, leaving: NodeId, joining: NodeId, word: str
) -> None:
    with pytest.raises(InvalidMove, match=word):
        check_move(now, leaving, joining)


@pytest.mark.parametrize(
    ("now", "stage"),
    [
        (status(), Stage.ADDING),
        (status(learners="4", committed=False), Stage.ADDING),
        (status(learners="4", lag=CATCH_UP_ENTRIES + 1), Stage.CATCHING_UP),
        (status(learners="4", transferring=True, leader=N1), Stage.HANDING_OVER),
        (status(learners="4"), Stage.EXCHANGING),
        (status("234", "1", "123", committed=False), Stage.EXCHANGING),
        (status("234", "1", "123"), Stage.EXCHANGING),
        (status("234", "1", committed=False), Stage.EXCHANGING),
        (status("234", "1"), Stage.REMOVING),
        (status("234", committed=False), Stage.REMOVING),
        (status("234"), Stage.RECORDING),
    ],
)
def test_every_place_of_a_move_from_n1_to_n4_is_taken_up_and_has_its_stage(now: ConfigurationStatus, stage: Stage) -> None:
    check_move(now, N1, N4)
    assert stage_of(now, N1, N4) is stage


def test_leadership_is_not_handed_over_for_a_learner_that_has_nothing_yet() -> None:
    """A node that is down lacks little of a short log."""
    now = status(learners="4", leader=N1)
    *others, learner = now.members
    now = dataclasses.replace(now, members=(*others, dataclasses.replace(learner, match=LogIndex(0), lag=12)))
    assert next_step(now, N1, N4).action is Action.WAIT
    assert stage_of(now, N1, N4) is Stage.CATCHING_UP


def test_a_move_is_taken_back_by_moving_from_the_learner_to_who_still_votes() -> None:
    now = status(learners="4")
    check_move(now, N4, N1)
    step = next_step(now, N4, N1)
    assert (step.action, step.voters, step.learners) == (Action.CHANGE, (1, 2, 3), ())


@given(leaving=st.sampled_from([N1, N2, N3]), joining=st.sampled_from([N4, N5]), leader=st.sampled_from([N1, N2, N3]))
def test_a_move_that_may_begin_ends_with_as_many_voters_and_never_has_fewer(
    leaving: NodeId, joining: NodeId, leader: NodeId
) -> None:
    nodes = {ReplicaId(number): NodeId(f"n{number}") for number in range(1, 4)}
    now = Configuration(tuple(nodes), highest=ReplicaId(3))
    seen = []
    for _ in range(12):
        members = tuple(Member(replica, nodes[replica], LogIndex(5), 0) for replica in configuration.members_of(now))
        told = ConfigurationStatus(
            ShardId(7), LogIndex(5), True, now.voters, now.learners, now.outgoing, now.highest, members, leader, True,
            LogIndex(5), None,
        )  # fmt: skip
        check_move(told, leaving, joining)
        seen.append(stage_of(told, leaving, joining))
        step = next_step(told, leaving, joining)
        if step.action is Action.DONE:
            break
        if step.action is Action.TRANSFER:
            assert step.to is not None
            leader = step.to
        elif step.action is Action.CHANGE:
            nodes.update(dict(step.places))
            now = configuration.entered(now, step.voters, step.learners)
        else:
            now = configuration.left(now)
        assert len(now.voters) == 3
    assert seen[-1] is Stage.RECORDING
    order = list(Stage)
    assert [order.index(stage) for stage in seen] == sorted(order.index(stage) for stage in seen)
    assert {nodes[voter] for voter in now.voters} == ({N1, N2, N3} - {leaving}) | {joining}
    assert not now.learners
