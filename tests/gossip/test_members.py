"""The rules by which one opinion beats another. Rows of the table in `cluster.gossip.members`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gossip.chronicle import EPISODES_MAX, Happening
from cluster.gossip.config import GossipConfig
from cluster.gossip.member import Member
from cluster.gossip.members import INCARNATION_JUMP_MAX
from cluster.gossip.messages import Accuser, Address, Alive, Opinion, Path, Refusal, State, Suspect, SyncRecord, Tags
from tests.gossip.cores import ME, accusers, alive, dead, endpoint, hints, left, load, node, suspect, table

ALIVE, SUSPECT, DEAD, LEFT = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT


def after(*opinions: Opinion, members: int = 5) -> Member:
    """n1 as n0 holds it after these opinions."""
    held = table(members)
    for opinion in opinions:
        held.hear(opinion, 100)
    member = held.get(node(1))
    assert member is not None
    return member


@pytest.mark.parametrize(
    ("held", "heard", "state"),
    [
        (alive(1, incarnation=2), alive(1, incarnation=2), ALIVE),
        (suspect(1, 2), alive(1), SUSPECT),
        (suspect(1, 2), alive(1, incarnation=1), ALIVE),
        (dead(1, 2), alive(1), DEAD),
        (dead(1, 2), alive(1, incarnation=1), ALIVE),
        (left(1), alive(1), LEFT),
        (left(1), alive(1, incarnation=1), ALIVE),
        (alive(1, incarnation=2), suspect(1, 2, incarnation=1), ALIVE),
        (alive(1, incarnation=2), suspect(1, 2, incarnation=2), SUSPECT),
        (alive(1, incarnation=2), suspect(1, 2, incarnation=3), SUSPECT),
        (dead(1, 2), suspect(1, 2), DEAD),
        (dead(1, 2), suspect(1, 2, incarnation=4), DEAD),
        (alive(1, incarnation=2), dead(1, 2, incarnation=1), ALIVE),
        (alive(1, incarnation=2), dead(1, 2, incarnation=2), DEAD),
        (suspect(1, 2, incarnation=2), dead(1, 2, incarnation=1), SUSPECT),
        (dead(1, 2), left(1), LEFT),
        (left(1), dead(1, 2), LEFT),
        (left(1), suspect(1, 2), LEFT),
        (alive(1), left(1), LEFT),
        (suspect(1), left(1), LEFT),
        (alive(1), suspect(1), ALIVE),
    ],
)
def test_an_opinion_is_worth_what_the_table_says(held: Opinion, heard: Opinion, state: State) -> None:
    assert after(held, heard).state is state


@pytest.mark.parametrize("old", [suspect(1, 2, incarnation=99), dead(1, 2, incarnation=99), left(1, incarnation=99)])
def test_gossip_about_a_former_process_does_not_touch_its_successor(old: Opinion) -> None:
    """Trap 12: news about the old instance of an endpoint downs the new one."""
    assert after(alive(1, generation=2), old).state is ALIVE


def test_a_newer_process_beats_everything_about_older_ones_whatever_the_incarnation() -> None:
    """Traps 2 and 4: a restart begins at incarnation 0 and must not be held for stale; the address moves with it."""
    moved = Alive(node(1), 2, 0, Address("elsewhere", 7402), Tags())
    member = after(dead(1, 2, incarnation=50), moved)
    assert (member.state, member.alive.address.host) == (ALIVE, "elsewhere")
    assert after(alive(1, incarnation=50), moved).alive is moved


def test_an_older_process_never_comes_back() -> None:
    assert after(alive(1, generation=2), dead(1, 2, generation=2), alive(1, generation=1, incarnation=9)).state is DEAD


def test_a_suspicion_heard_from_others_runs_a_timer_here_too() -> None:
    """Trap 10: if only the accuser kept time, the suspect would linger when its accuser dies."""
    held = table(2)
    held.hear(suspect(1, 2, 3), 100)
    due_ms = held.suspicion_deadline_ms()
    assert due_ms == 100 + GossipConfig().suspicion_min_ms(3)
    held.expire(due_ms - 1)
    assert held.get(node(1)).state is SUSPECT  # type: ignore[union-attr]
    held.expire(due_ms)
    assert held.get(node(1)).state is DEAD  # type: ignore[union-attr]
    assert held.suspicion_deadline_ms() is None


@pytest.mark.parametrize("refutation", [alive(1, incarnation=1), alive(1, generation=2)])
def test_a_refuted_suspicion_can_not_kill_later(refutation: Alive) -> None:
    """Trap 11: a timer that is not keyed by the identity kills the rejoined node."""
    held = table(2)
    held.hear(suspect(1, 2), 100)
    held.hear(refutation, 200)
    assert held.suspicion_deadline_ms() is None
    held.expire(10**9)
    member = held.get(node(1))
    assert member is not None
    assert (member.state, member.suspicion) == (ALIVE, None)


def test_a_fresh_suspicion_of_a_refuted_member_starts_its_time_anew() -> None:
    held = table(2)
    held.hear(suspect(1, 2, 3), 100)
    held.hear(suspect(1, 2, 3, incarnation=1), 900)
    assert held.suspicion_deadline_ms() == 900 + GossipConfig().suspicion_min_ms(3)


def test_confirmations_by_others_bring_the_verdict_forward_and_are_passed_on_once() -> None:
    held = table(9)
    held.hear(suspect(1, 2), 100)
    lonely_ms = held.suspicion_deadline_ms()
    held.hear(suspect(1, 2, 3), 150)
    confirmed_ms = held.suspicion_deadline_ms()
    held.hear(suspect(1, 3), 160)
    assert lonely_ms is not None
    assert confirmed_ms is not None
    assert confirmed_ms < lonely_ms
    assert held.suspicion_deadline_ms() == confirmed_ms


def test_the_accusers_of_a_verdict_are_known() -> None:
    """Trap 20: who accused must be visible where the verdict is."""
    held = table(2)
    held.hear(suspect(1, 2, 3), 100)
    held.expire(10**9)
    (_, death) = held.changes
    assert (death.before, death.member.state, death.member.accusers) == (SUSPECT, DEAD, (node(2), node(3)))


def test_an_accusation_of_ourselves_is_refuted_one_above_it_and_costs_health() -> None:
    held = table(2)
    held.hear(suspect(0, 1, incarnation=4), 100)
    assert held.own.incarnation == 5
    held.hear(dead(0, 1, incarnation=4), 100)
    assert held.own.incarnation == 5, "an old charge is answered already"
    held.hear(dead(0, 1, incarnation=5), 100)
    held.hear(left(0, incarnation=6), 100)
    assert held.own.incarnation == 7
    assert held.refutations == 3


def test_nobody_can_use_up_our_incarnations() -> None:
    """Trap 3: an accusation at the maximum made refuting overflow and evicted the node for good."""
    held = table(2)
    held.hear(suspect(0, 1, incarnation=INCARNATION_JUMP_MAX + 1), 100)
    held.hear(alive(1, incarnation=INCARNATION_JUMP_MAX + 1), 100)
    held.hear(alive(9, incarnation=INCARNATION_JUMP_MAX + 1), 100)
    assert held.own.incarnation == 0
    assert held.get(node(1)).alive.incarnation == 0  # type: ignore[union-attr]
    assert held.get(node(9)) is None
    assert held.refusals[Refusal.IMPLAUSIBLE_INCARNATION] == 3


def test_accusations_are_accepted_while_leaving_and_a_return_is_heard() -> None:
    """Trap 5: leaving and joining again on one instance never rejoined."""
    held = table(2)
    held.leave()
    held.hear(dead(0, 1), 100)
    assert held.own.incarnation == 0
    held.leaving = False
    held.restate()
    assert held.own.incarnation == 1
    assert after(left(1), alive(1, incarnation=1)).state is ALIVE


def test_news_of_a_newer_process_under_our_name_is_reported_and_ends_nothing() -> None:
    """Trap 23: a peer's opinion never terminates a process."""
    held = table(2)
    held.hear(alive(0, generation=3), 100)
    assert held.superseded_by == 3
    assert held.own == alive(0)


def test_removed_ids_never_come_back() -> None:
    """Trap 19: a pruned member that others still remember is learnt again, endlessly."""
    held = table(2)
    held.hear(suspect(1, 2), 50)
    held.remove([node(1)], 3)
    held.hear(alive(1, generation=9), 100)
    held.merge(SyncRecord(alive(1, generation=9), ALIVE, (), 0), node(2), 100)
    assert held.get(node(1)) is None
    assert held.suspicion_deadline_ms() is None
    assert held.refusals[Refusal.REMOVED] == 2
    assert held.size == 2


def test_a_death_read_in_another_table_is_a_suspicion_first() -> None:
    held = table(5)
    held.merge(SyncRecord(alive(1), DEAD, accusers(2, 3), 1000), node(4), 5000)
    member = held.get(node(1))
    assert member is not None
    assert member.suspicion is not None
    assert (member.state, list(member.suspicion.accusers)) == (SUSPECT, [node(4)])


def test_a_stranger_that_died_before_we_came_is_remembered_with_its_age_and_is_no_news() -> None:
    """Trap 21: the time of death must not be refreshed each time that it is told on."""
    held = table(0)
    held.merge(SyncRecord(alive(1), DEAD, accusers(2), 4000), node(3), 5000)
    member = held.get(node(1))
    assert member is not None
    assert (member.state, member.since_ms, held.size) == (DEAD, 1000, 1)
    held.forget_dead(999 + GossipConfig().dead_retention_ms)
    assert held.get(node(1)) is not None
    held.forget_dead(1000 + GossipConfig().dead_retention_ms)
    assert held.get(node(1)) is None


def test_a_full_table_gives_up_its_longest_dead_but_nobody_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.gossip.members.MEMBERS_MAX", 3)
    held = table(3)
    held.hear(alive(4), 10)
    assert held.get(node(4)) is None
    assert held.refusals[Refusal.TOO_MANY_MEMBERS] == 1
    held.hear(dead(2, 1), 20)
    held.hear(dead(1, 3), 30)
    held.hear(alive(4), 40)
    assert held.get(node(2)) is None
    assert held.get(node(4)) is not None
    assert held.size == 3


def test_new_hints_are_reported_and_a_bare_refutation_is_not() -> None:
    held = table(2)
    held.hear(alive(1, incarnation=1), 100)
    assert held.changes == []
    held.note(hints(1, b"leads 7"))
    held.note(hints(1, b"the same sequence"))
    held.note(hints(1, b"of another process", generation=2, sequence=9))
    held.note(load(1, map_version=4))
    told, busy = held.changes
    assert (told.before, told.member.hints) == (ALIVE, b"leads 7")
    assert busy.member.load is not None
    assert busy.member.load.map_version == 4


def test_a_restart_forgets_what_the_former_process_said_of_itself() -> None:
    held = table(2)
    held.note(hints(1, b"leads 7", sequence=5))
    held.note(load(1))
    held.hear(alive(1, generation=2), 100)
    member = held.get(node(1))
    assert member is not None
    assert (member.hints, member.load) == (None, None)
    held.note(hints(1, b"leads 8", generation=2))
    assert member.view().hints == b"leads 8"


def test_the_list_of_removed_ids_only_grows_and_its_epoch_only_rises() -> None:
    """Trap 27: one authoritative list; one that comes late, or twice, changes nothing."""
    held = table(3)
    assert held.remove([node(1)], 7) == [node(1)]
    assert held.remove([node(2), node(1)], 5) == [node(2)]
    assert held.members_epoch == 7
    assert [member.alive.node for member in held] == [node(3)]


def test_two_must_agree_in_a_small_cluster_as_long_as_there_are_two() -> None:
    """One node with a broken link must not bury the others; the last one must not wait for the dead to agree."""
    for others in (2, 3):
        held = table(others)
        held.hear(suspect(1, 0), 100)
        assert held.suspicion_deadline_ms() is None
        held.expire(10**7)
        assert held.get(node(1)).state is SUSPECT  # type: ignore[union-attr]
        held.hear(suspect(1, 2), 200)
        assert held.suspicion_deadline_ms() == 200 + GossipConfig().suspicion_min_ms(others + 1)
        alone = table(others)
        for number in range(1, others + 1):
            alone.hear(suspect(number, 0), 100)
        alone.expire(100 + GossipConfig().suspicion_min_ms(4))
        assert {member.state for member in alone} == {DEAD}


def test_a_verdict_that_makes_another_one_due_is_followed_by_it() -> None:
    held = table(7)
    for number in (6, 7):
        held.hear(dead(number, 1), 0)
    held.hear(suspect(1, 0, 3, 4), 100)
    held.hear(suspect(2, 0, 3), 100)
    due_ms = 100 + GossipConfig().suspicion_min_ms(6)
    assert held.suspicion_deadline_ms() == due_ms
    held.expire(due_ms)
    states = {member.alive.node: member.state for member in held}
    assert states[node(1)] is states[node(2)] is DEAD, "five are a small cluster, where two accusers are enough"
    assert held.suspicion_deadline_ms() is None


def test_a_cluster_is_small_up_to_five_and_stays_what_it_was_up_to_seven() -> None:
    held = table(4)
    assert held.profile.small
    for number in (5, 6):
        held.hear(alive(number), 0)
        assert held.profile.small
    held.hear(alive(7), 0)
    assert not held.profile.small
    for number in (7, 6):
        held.hear(dead(number, 1), 0)
        assert not held.profile.small
    held.hear(dead(5, 1), 0)
    assert held.profile.small


def test_every_node_remembers_who_accused_a_member_when_and_by_which_ways() -> None:
    """Trap 20: logs at the victim do not name the accuser."""
    held = table(5)
    held.teller = node(3)
    held.hear(Suspect(node(1), 1, 0, (Accuser(node(2), Path.DIRECT | Path.STREAM),)), 100)
    held.hear(suspect(1, 4), 150)
    held.teller = node(1)
    held.hear(alive(1, incarnation=1), 190)
    member = held.get(node(1))
    assert member is not None
    assert [(e.at_ms, e.what, e.teller) for e in member.episodes] == [
        (100, Happening.SUSPECTED, node(3)),
        (150, Happening.CONFIRMED, node(3)),
        (190, Happening.REFUTED, node(1)),
    ]
    assert Path(member.episodes[-1].accusers[0].paths).names == ["direct", "stream"]
    assert (held.counters.suspected, held.counters.refuted, held.counters.refute_ms) == (1, 1, 90)
    for incarnation in range(1, EPISODES_MAX):
        held.hear(suspect(1, 2, incarnation=incarnation), 200)
        held.hear(alive(1, incarnation=incarnation + 1), 300)
    assert len(member.episodes) == EPISODES_MAX


opinions = st.one_of(
    st.builds(alive, st.integers(0, 4), generation=st.integers(1, 3), incarnation=st.integers(0, 4)),
    st.builds(suspect, st.integers(0, 4), st.integers(0, 4), generation=st.integers(1, 3), incarnation=st.integers(0, 4)),
    st.builds(dead, st.integers(0, 4), st.integers(0, 4), generation=st.integers(1, 3), incarnation=st.integers(0, 4)),
    st.builds(left, st.integers(0, 4), generation=st.integers(1, 3), incarnation=st.integers(0, 4)),
)


@given(heard=st.lists(st.tuples(opinions, st.integers(0, 900)), max_size=60))
def test_identities_only_rise_and_suspicions_belong_to_suspects(heard: list[tuple[Opinion, int]]) -> None:
    held = table(3)
    now_ms = 0
    highest: dict[str, tuple[int, int]] = {}
    own = held.own.identity
    for opinion, wait_ms in heard:
        now_ms += wait_ms
        held.hear(opinion, now_ms)
        held.expire(now_ms)
        for member in held:
            assert member.alive.identity >= highest.get(member.alive.node, (0, 0))
            highest[member.alive.node] = member.alive.identity
            assert (member.suspicion is not None) == (member.state is SUSPECT)
            assert member.suspicion is None or member.suspicion.deadline_ms > now_ms
        assert held.size == 1 + sum(member.state <= SUSPECT for member in held)
        assert held.own.identity >= own
        own = held.own.identity
    assert held.own.node == ME
    assert held.get(ME) is None
    assert endpoint(0) == (held.own.address.host, held.own.address.gossip_port)
