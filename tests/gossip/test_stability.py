"""From opinions to a view: verdicts in cuts, flapping members held down."""

from __future__ import annotations

from cluster.gossip.effects import Cut, MemberView
from cluster.gossip.member import Member
from cluster.gossip.messages import State
from cluster.gossip.stability import BATCH_MS_MAX, FLAP_FORGIVEN_MS, HOLD_FIRST_MS, HOLD_MS_MAX, QUIET_MS, StabilityFilter
from cluster.ids import NodeId
from tests.gossip.cores import alive, node

ALIVE, SUSPECT, DEAD, LEFT = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT


class Filtered:
    """A filter with the opinions that it is told of."""

    def __init__(self) -> None:
        self.filter = StabilityFilter()
        self.held: dict[NodeId, State] = {}
        self.now_ms = 1_000_000

    def hear(self, number: int, state: State) -> None:
        self.held[node(number)] = state
        self.filter.hear(node(number), state, self.now_ms)

    def view(self, name: NodeId) -> MemberView | None:
        state = self.held.get(name)
        return None if state is None else Member(alive(int(name[1:])), state, 0).view()

    def after(self, duration_ms: int) -> list[tuple[int, Cut]]:
        """The cuts of this time, each with how much of it had passed."""
        began_ms, cuts = self.now_ms, []
        while (due_ms := self.filter.deadline_ms()) is not None and due_ms <= began_ms + duration_ms:
            self.now_ms = due_ms
            cut = self.filter.publish(self.now_ms, self.view)
            assert self.filter.deadline_ms() != due_ms, "what is due was done"
            if cut is not None:
                cuts.append((due_ms - began_ms, cut))
        self.now_ms = began_ms + duration_ms
        return cuts


def settled(*numbers: int) -> Filtered:
    """A view that has these members up."""
    made = Filtered()
    for number in numbers:
        made.hear(number, ALIVE)
    ((_, cut),) = made.after(10_000)
    assert {view.node for view in cut.up} == set(map(node, numbers))
    return made


def test_a_rack_that_fails_is_one_cut() -> None:
    one = settled(1, 2, 3, 4)
    for number in (1, 2, 3):
        one.hear(number, SUSPECT)
        one.hear(number, DEAD)
        assert one.after(QUIET_MS // 2) == []
    ((after_ms, cut),) = one.after(10_000)
    assert after_ms <= QUIET_MS
    assert ({view.node for view in cut.down}, cut.up, cut.left, cut.number) == ({node(1), node(2), node(3)}, (), (), 2)


def test_a_cut_is_not_put_off_for_ever() -> None:
    one = settled(*range(1, 40))
    cuts: list[tuple[int, Cut]] = []
    for number in range(1, 40):
        one.hear(number, DEAD)
        cuts += one.after(QUIET_MS // 2)
    assert len(cuts) == 39 * (QUIET_MS // 2) // BATCH_MS_MAX
    assert all(len(cut.down) <= BATCH_MS_MAX // (QUIET_MS // 2) + 1 for _, cut in cuts)


def test_what_is_taken_back_in_time_is_never_published_and_a_suspect_is_still_up() -> None:
    one = settled(1)
    one.hear(1, SUSPECT)
    assert one.after(1_000) == []
    one.hear(1, DEAD)
    one.after(QUIET_MS - 1)
    one.hear(1, ALIVE)
    assert one.after(1_000) == []
    assert one.filter.published[node(1)] is ALIVE


def test_who_flaps_is_held_down_longer_each_time_and_deaths_are_never_delayed() -> None:
    one = settled(1)
    waits = []
    for _ in range(12):
        one.hear(1, DEAD)
        ((dead_ms, cut),) = one.after(1_000)
        assert (len(cut.down), dead_ms) == (1, QUIET_MS)
        one.hear(1, ALIVE)
        ((up_ms, cut),) = one.after(HOLD_MS_MAX + 1_000)
        assert len(cut.up) == 1
        waits.append(up_ms)
        one.now_ms -= HOLD_MS_MAX + 1_000 - up_ms
    assert waits[0] == QUIET_MS, "once is no flapping"
    assert waits[1] >= HOLD_FIRST_MS - 1_000
    assert waits[2] > waits[1]
    assert max(waits) <= HOLD_MS_MAX
    assert sorted(waits[:8]) == waits[:8]


def test_a_hold_down_is_forgiven() -> None:
    one = settled(1)
    for _ in range(4):
        one.hear(1, DEAD)
        one.after(1_000)
        one.hear(1, ALIVE)
        one.after(60_000)
    one.now_ms += 4 * FLAP_FORGIVEN_MS
    one.hear(1, DEAD)
    one.after(1_000)
    one.hear(1, ALIVE)
    ((up_ms, _),) = one.after(60_000)
    assert up_ms == QUIET_MS


def test_who_dies_again_while_held_down_stays_down_without_a_word() -> None:
    one = settled(1)
    for _ in range(3):
        one.hear(1, DEAD)
        one.after(500)
        one.hear(1, ALIVE)
        one.after(500)
    one.hear(1, DEAD)
    assert one.after(60_000) == []
    assert one.filter.published[node(1)] is DEAD
    one.hear(1, LEFT)
    ((_, cut),) = one.after(1_000)
    assert [view.node for view in cut.left] == [node(1)]


def test_who_is_forgotten_leaves_nothing_behind() -> None:
    one = settled(1)
    one.hear(1, DEAD)
    one.filter.forget(node(1))
    assert one.after(HOLD_MS_MAX) == []
    assert one.filter.deadline_ms() is None
    assert one.filter.published == {}
