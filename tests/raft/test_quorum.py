"""Majorities against brute force: every subset of voters is tried."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import ReplicaId
from cluster.raft.configuration import voters_of
from cluster.raft.messages import Configuration
from cluster.raft.quorum import Verdict, agreed, elected, majority, reached, tally


def quorums(voters: Sequence[int]) -> list[set[int]]:
    """Every set of more than half of the voters."""
    return [set(some) for size in range(len(voters) + 1) if size * 2 > len(voters) for some in combinations(voters, size)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7))
def test_reached_is_the_highest_value_that_some_whole_quorum_has(values: list[int]) -> None:
    """Reference trap 36: the one function behind commits, reads and CheckQuorum."""
    places = list(range(len(values)))
    assert reached(values) == max(min(values[place] for place in quorum) for quorum in quorums(places))


@given(st.integers(1, 7), st.data())
def test_tally_says_won_or_lost_exactly_when_no_further_vote_can_change_it(count: int, data: st.DataObject) -> None:
    """Reference trap 15: strangers' votes do not count, and a vote counts once."""
    voters = [ReplicaId(number) for number in range(1, count + 1)]
    strangers = [ReplicaId(number) for number in range(101, 104)]
    votes = data.draw(st.dictionaries(st.sampled_from(voters + strangers), st.booleans()))
    granted = {voter for voter in voters if votes.get(voter)}
    silent = {voter for voter in voters if voter not in votes}
    won = any(quorum <= granted for quorum in quorums(voters))
    winnable = any(quorum <= granted | silent for quorum in quorums(voters))
    assert tally(voters, votes) is (Verdict.WON if won else Verdict.PENDING if winnable else Verdict.LOST)


def joint_quorums(configuration: Configuration) -> list[set[int]]:
    """Every set of voters that holds a whole quorum of each half (thesis 4.3), written without counting anything."""
    everybody = voters_of(configuration)
    halves = [quorums(half) for half in (configuration.voters, configuration.outgoing) if half]
    subsets: list[set[int]] = [set(some) for size in range(len(everybody) + 1) for some in combinations(everybody, size)]
    return [subset for subset in subsets if all(any(quorum <= subset for quorum in half) for half in halves)]


IDS = st.sets(st.integers(1, 7).map(ReplicaId), min_size=1, max_size=5).map(lambda ids: tuple(sorted(ids)))
CONFIGURATIONS = st.builds(Configuration, voters=IDS, learners=st.just(()), outgoing=st.one_of(st.just(()), IDS))


@given(CONFIGURATIONS, st.data())
def test_agreed_is_the_highest_value_that_some_whole_joint_quorum_has(joint: Configuration, data: st.DataObject) -> None:
    """Reference trap 36: commits, reads and CheckQuorum of a joint configuration need both halves."""
    values = {voter: data.draw(st.integers(0, 9)) for voter in voters_of(joint)}
    assert agreed(joint, values.__getitem__) == max(
        min(values[ReplicaId(v)] for v in quorum) for quorum in joint_quorums(joint)
    )


@given(CONFIGURATIONS, st.data())
def test_elected_says_won_or_lost_exactly_when_no_further_vote_can_change_it(joint: Configuration, data: st.DataObject) -> None:
    """Reference traps 15 and 23: whoever votes in both halves is one vote in each, the candidate too."""
    voters = voters_of(joint)
    votes = data.draw(st.dictionaries(st.sampled_from([*voters, ReplicaId(99)]), st.booleans()))
    granted = {voter for voter in voters if votes.get(voter)}
    silent = {voter for voter in voters if voter not in votes}
    won = any(quorum <= granted for quorum in joint_quorums(joint))
    winnable = any(quorum <= granted | silent for quorum in joint_quorums(joint))
    assert elected(joint, votes) is (Verdict.WON if won else Verdict.PENDING if winnable else Verdict.LOST)


def small() -> list[Configuration]:
    """Every configuration of up to four replicas, joint ones included."""
    halves = [ids for size in range(1, 5) for ids in combinations([ReplicaId(number) for number in range(1, 5)], size)]
    return [Configuration(voters, (), outgoing) for voters in halves for outgoing in [(), *halves]]


def test_commit_index_of_every_small_configuration_is_that_of_brute_force() -> None:
    """Reference trap 36: all of them with all orders of what their voters have, nothing left to chance."""
    for one in small():
        voters, quorums_of_one = voters_of(one), joint_quorums(one)
        for values in product(range(len(voters)), repeat=len(voters)):
            has = dict(zip(voters, values, strict=True))
            assert agreed(one, has.__getitem__) == max(min(has[ReplicaId(v)] for v in quorum) for quorum in quorums_of_one)


def test_election_in_every_small_configuration_is_that_of_brute_force() -> None:
    """Reference trap 15: all of them with every voter granting, refusing or silent."""
    for one in small():
        voters, quorums_of_one = voters_of(one), joint_quorums(one)
        for answers in product((True, False, None), repeat=len(voters)):
            votes = {voter: answer for voter, answer in zip(voters, answers, strict=True) if answer is not None}
            granted = {voter for voter, answer in votes.items() if answer}
            not_refused = {voter for voter in voters if votes.get(voter, True)}
            won = any(quorum <= granted for quorum in quorums_of_one)
            winnable = any(quorum <= not_refused for quorum in quorums_of_one)
            assert elected(one, votes) is (Verdict.WON if won else Verdict.PENDING if winnable else Verdict.LOST)


@given(st.integers(1, 9))
def test_any_two_majorities_share_a_voter(count: int) -> None:
    """Paper 5.2: this is why a term has one leader."""
    assert 2 * majority(count) > count
    assert 2 * (majority(count) - 1) <= count
