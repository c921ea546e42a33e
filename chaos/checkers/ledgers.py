"""The simulator's own documents, judged by what is in them: every acknowledged number once, in its client's order, and one
order of all calls that explains every answer, without a look at positions (`linearizability`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from chaos.checkers.checker import Checker
from chaos.checkers.history import Call, Name, Place
from chaos.checkers.linearizability import Interval, Verdict, search
from chaos.checkers.violation import Violation
from cluster.session.operations import Consistency, Kind

State = tuple[int, int]
"""A ledger: how many entries, and a digest of them in their order. NOTHING: there is no such document."""
NOTHING: State = (0, 0)
Step = Callable[[State], State | None]


class Ledgers(Checker):
    """See the module. Looks once, at the end."""

    def finished(self) -> None:
        final = self.world.final_places()
        calls: dict[Name, list[Call]] = {}
        for call in self.world.history.calls:
            if call.name[0] == "ledger":
                calls.setdefault(call.name, []).append(call)
        views = self.world.final_views()
        for name, view in views.items():
            if name[0] == "ledger":
                self._content(name, view["entries"], calls.get(name, []), final[name])
        for name, asked in calls.items():
            self._one_order(name, asked, views.get(name))

    def _content(self, name: Name, entries: list[int], calls: list[Call], final: Place) -> None:
        """Every acknowledged number stands in its ledger, and no number twice that a session or a remembered key protects."""
        counted: dict[int, int] = {}
        for number in entries[1:]:
            counted[number] = counted.get(number, 0) + 1
        sends = [(call, _number(call)) for call in calls if call.kind is Kind.SEND]
        # Protected by a key for as long as the table remembers it: `commands` judges those. What was sent once needs no key.
        alone = {number for call, number in sends if call.alone and call.attempts > 1}
        twice = {number: count for number, count in counted.items() if count > 1 and number not in alone}
        if twice:
            raise Violation("exactly once", f"{'/'.join(name)} has {twice} more than once: {entries}")
        for call, number in sends:
            if call.ok and call.place[0] == final[0] and number not in counted:
                raise Violation("lost", f"{number} was acknowledged and is not in {'/'.join(name)}: {call}")
            if call.told_unchanged and number in counted:
                raise Violation("exactly once", f"{number} was said not to have changed anything, and stands there: {call}")
        self._in_order(name, entries, sends)

    def _in_order(self, name: Name, entries: list[int], sends: list[tuple[Call, int]]) -> None:
        """What one client sent in its session stands in the order in which it was sent."""
        places = {number: place for place, number in enumerate(entries)}
        last: dict[str, tuple[int, int]] = {}
        for call, number in sends:
            place = places.get(number)
            if call.alone or not call.ok or place is None:
                continue
            before = last.get(call.client)
            if before is not None and before[0] > place:
                raise Violation("order", f"{call.client} sent {before[1]} before {number} to {'/'.join(name)}: {entries}")
            last[call.client] = (place, number)

    def _one_order(self, name: Name, calls: list[Call], view: Any) -> None:
        intervals: list[Interval[State]] = []
        crowded = self.world.commands.crowded(name)
        numbers = None if view is None or _cut(calls) else set(view["entries"])
        for call in calls:
            interval = _interval(call)
            if interval is None or (not interval.known and numbers is not None and _left_nothing(call, numbers)):
                continue
            intervals.append(interval)
            if crowded and call.kind is Kind.SEND and call.alone:
                # The table may have forgotten its key between any two attempts.
                repeats = call.attempts - 1
                if numbers is not None:
                    repeats = min(repeats, view["entries"].count(_number(call)) - 1)
                again = Interval(call.began_ms, math.inf, _append(_number(call), None), f"{call} again")
                intervals += [again] * repeats
        end_ms = self.world.now_ms
        if view is not None:
            intervals.append(Interval(end_ms, end_ms, _read(view["entries"]), f"at last it reads {view['entries']}"))
        found = search(intervals, NOTHING)
        self.world.marks[f"histories_{found.verdict.name.lower()}"] += 1
        if found.verdict is Verdict.NOT_LINEARIZABLE:
            explained = [str(intervals[number].told) for number in found.longest]
            left = [str(call.told) for number, call in enumerate(intervals) if number not in set(found.longest) and call.known]
            raise Violation(
                "linearizability",
                f"no order of the calls to {'/'.join(name)} explains their answers; the longest that could be explained ends "
                f"{explained[-3:]}, and nothing fits next: {left[:4]}",
            )


def _cut(calls: list[Call]) -> bool:
    """Whether the document may have had another life, whose entries its last view does not show."""
    return any(call.kind is Kind.DELETE for call in calls)


def _left_nothing(call: Call, numbers: set[int]) -> bool:
    """Whether a call of unknown fate has surely not taken effect, which spares the search the question."""
    return call.kind is Kind.SEND and _number(call) not in numbers


def _number(call: Call) -> int:
    number = msgspec.json.decode(call.payload)["number"]
    assert isinstance(number, int)
    return number


def _interval(call: Call) -> Interval[State] | None:
    """What a call may do to a ledger, None when it says nothing."""
    reply = call.reply
    assert reply is not None, "everything is answered at the end"
    assert call.ended_ms is not None
    refused = reply.failure is not None and reply.failure.reason == "HANDLER_REFUSED"
    known = reply.failure is None or refused
    ended_ms = call.ended_ms if known else math.inf
    if call.kind is Kind.SEND:
        if refused:
            return Interval(call.began_ms, ended_ms, _unchanged, call)
        if call.channel == "doubt" and _number(call) % 2 == 0:
            return None  # whether it was judged or not, it has changed nothing
        count = msgspec.json.decode(reply.payload) if known else None
        return Interval(call.began_ms, ended_ms, _append(_number(call), count), call)
    if call.kind is Kind.READ:
        if not known or call.consistency is not Consistency.LINEARIZABLE:
            return None
        return Interval(call.began_ms, ended_ms, _read(msgspec.json.decode(reply.payload)["entries"]), call)
    if call.kind is Kind.CREATE:
        return Interval(call.began_ms, ended_ms, _create, call)
    if call.kind is Kind.DELETE:
        return Interval(call.began_ms, ended_ms, _delete, call)
    return None


def _append(number: int, count: int | None) -> Step:
    def step(state: State) -> State | None:
        if state == NOTHING or (count is not None and state[0] + 1 != count):
            return None
        return _with(state, number)

    return step


def _read(entries: list[int]) -> Step:
    shown = _state_of(entries)

    def step(state: State) -> State | None:
        return state if state == shown else None

    return step


def _create(state: State) -> State | None:
    return _with(NOTHING, 0) if state == NOTHING else None


def _delete(state: State) -> State | None:
    return NOTHING if state != NOTHING else None


def _unchanged(state: State) -> State | None:
    return state if state != NOTHING else None


def _with(state: State, number: int) -> State:
    return state[0] + 1, hash((state[1], number))


def _state_of(entries: list[int]) -> State:
    state = NOTHING
    for number in entries:
        state = _with(state, number)
    return state
