"""The search for one order of calls: held against every order there is, and against histories that are known to be wrong."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from chaos.checkers.linearizability import UNKNOWN_MAX, Interval, Verdict, search

State = tuple[int, ...]


def append(began: float, ended: float, number: int, count: int | None = None) -> Interval[State]:
    def step(state: State) -> State | None:
        return (*state, number) if count is None or len(state) + 1 == count else None

    return Interval(began, ended, step, f"append {number}")


def read(began: float, ended: float, *shown: int) -> Interval[State]:
    return Interval(began, ended, lambda state: state if state == shown else None, f"read {shown}")


def verdict(*calls: Interval[State]) -> Verdict:
    return search(calls, ()).verdict


def test_one_call_after_another_is_explained_by_that_order() -> None:
    assert verdict(append(0, 1, 7, 1), read(2, 3, 7), append(4, 5, 8, 2), read(6, 7, 7, 8)) is Verdict.LINEARIZABLE


def test_calls_that_overlap_may_take_effect_in_either_order() -> None:
    assert verdict(append(0, 9, 7), append(1, 8, 8), read(10, 11, 8, 7)) is Verdict.LINEARIZABLE
    assert verdict(append(0, 9, 7), append(1, 8, 8), read(10, 11, 7, 8)) is Verdict.LINEARIZABLE


def test_a_read_that_began_after_an_answer_must_contain_it() -> None:
    """Reference traps 10, 19 to 22: an old leader that answers alone."""
    assert verdict(append(0, 1, 7, 1), read(2, 3)) is Verdict.NOT_LINEARIZABLE


def test_two_reads_one_after_the_other_do_not_go_back() -> None:
    """The write is still under way, so each of the two alone could be right."""
    assert verdict(append(0, 100, 7), read(1, 2, 7), read(3, 4)) is Verdict.NOT_LINEARIZABLE
    assert verdict(append(0, 100, 7), read(1, 4, 7), read(3, 4)) is Verdict.LINEARIZABLE


def test_an_append_that_took_effect_twice_is_seen() -> None:
    assert verdict(append(0, 1, 7, 1), read(2, 3, 7, 7)) is Verdict.NOT_LINEARIZABLE


def test_an_answer_that_names_another_place_is_seen() -> None:
    assert verdict(append(0, 1, 7, 1), append(2, 3, 8, 3)) is Verdict.NOT_LINEARIZABLE


def test_a_call_of_unknown_fate_may_take_effect_late_or_never_but_once() -> None:
    unknown = append(0, math.inf, 7)
    assert verdict(unknown, read(1, 2), read(50, 51, 7)) is Verdict.LINEARIZABLE
    assert verdict(unknown, read(1, 2), read(50, 51)) is Verdict.LINEARIZABLE
    assert verdict(unknown, read(1, 2, 7), read(50, 51)) is Verdict.NOT_LINEARIZABLE
    assert verdict(unknown, read(50, 51, 7, 7)) is Verdict.NOT_LINEARIZABLE


def test_a_call_of_unknown_fate_does_not_take_effect_before_it_began() -> None:
    assert verdict(read(0, 1, 7), append(2, math.inf, 7)) is Verdict.NOT_LINEARIZABLE


def test_too_many_unknown_fates_are_left_undecided() -> None:
    unknown = [append(0, math.inf, number) for number in range(UNKNOWN_MAX + 1)]
    assert verdict(*unknown, read(1, 2, 999)) is Verdict.UNDECIDED


def test_a_search_that_takes_too_long_is_left_undecided() -> None:
    calls = [append(0, 10, number) for number in range(12)]
    found = search([*calls, read(11, 12, 999)], (), steps_max=500)
    assert found.verdict is Verdict.UNDECIDED
    assert found.steps == 501


def test_the_longest_explanation_is_told() -> None:
    found = search([append(0, 1, 7, 1), append(2, 3, 8, 2), read(4, 5, 7)], ())
    assert found.verdict is Verdict.NOT_LINEARIZABLE
    assert found.longest == (0, 1)


def _history(source: random.Random, calls: int, clients: int) -> list[Interval[State]]:
    """What clients see of a list that is right: each call takes effect at some moment inside its interval."""
    state: State = ()
    moments = sorted(source.uniform(0, calls) for _ in range(calls))
    free = [-1.0] * clients
    found: list[Interval[State]] = []
    for number, moment in enumerate(moments):
        idle = [place for place in range(clients) if free[place] < moment]
        if not idle:
            continue
        client = source.choice(idle)
        began = source.uniform(free[client], moment)
        ended = moment + source.uniform(0, 2 / clients)
        free[client] = ended
        if source.random() < 0.5:
            state = (*state, number)
            found.append(append(began, ended, number, source.choice((None, len(state)))))
        else:
            found.append(read(began, ended, *state))
    return found


@pytest.mark.parametrize("clients", [4, 12])
def test_long_histories_of_many_clients_are_explained(clients: int) -> None:
    for seed in range(10):
        found = search(_history(random.Random(seed), 200, clients), ())
        assert found.verdict is Verdict.LINEARIZABLE, found


def test_a_stale_read_planted_in_a_long_history_is_found() -> None:
    for seed in range(20):
        source = random.Random(seed)
        calls = _history(source, 80, 12)
        began = max(call.ended_ms for call in calls) + 1
        shown = read(began, began + 1, -1, *range(3))
        assert verdict(*calls, shown) is Verdict.NOT_LINEARIZABLE


def _every_order(calls: list[Interval[State]]) -> bool:
    """The definition, tried out: some order of all known and any unknown calls that keeps to the times and fits the answers."""
    known = [call for call in calls if call.known]
    unknown = [call for call in calls if not call.known]
    for some_unknown in itertools.chain.from_iterable(
        itertools.combinations(unknown, count) for count in range(len(unknown) + 1)
    ):
        for order in itertools.permutations([*known, *some_unknown]):
            if any(later.ended_ms < earlier.began_ms for place, earlier in enumerate(order) for later in order[place + 1 :]):
                continue
            if _fits(order):
                return True
    return False


def _fits(order: tuple[Interval[State], ...]) -> bool:
    state: State | None = ()
    for call in order:
        assert state is not None
        state = call.step(state)
        if state is None:
            return False
    return True


_TIMES = some.integers(0, 9)


@some.composite
def _calls(draw: some.DrawFn) -> list[Interval[State]]:
    made: list[Interval[State]] = []
    for number in range(draw(some.integers(1, 5))):
        began, length = draw(_TIMES), draw(some.integers(0, 5))
        ended = math.inf if draw(some.booleans()) and draw(some.booleans()) else began + length + 0.5
        if draw(some.booleans()):
            made.append(append(began, ended, number, draw(some.sampled_from((None, 1, 2)))))
        elif ended != math.inf:
            made.append(read(began, ended, *draw(some.lists(some.integers(0, 4), max_size=2))))
    return made


@given(_calls())
@settings(max_examples=300, deadline=None)
def test_the_search_agrees_with_trying_every_order(calls: list[Interval[State]]) -> None:
    assert (verdict(*calls) is Verdict.LINEARIZABLE) == _every_order(calls)
