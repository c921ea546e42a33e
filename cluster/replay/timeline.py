"""A document at any of its positions, made by running its history up to there.

Invariant: what a position shows here is what it showed when it was the present, for the same code and the same viewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cluster.documents.instance import DocumentInstance
from cluster.documents.repairing import check_order, order_of
from cluster.documents.runtime import REPAIR_CHANNEL, Code, Invocation, Outcome
from cluster.documents.state import Changes
from cluster.documents.state.patch import diff, same, steps_of
from cluster.errors import InvalidRequest, PermissionDenied, PositionMoved, UnknownDocument
from cluster.ids import Position, Principal
from cluster.replay.seen import seen_past
from cluster.replay.verify import Replay
from cluster.shard.document import LiveDocument

ABSENT: Final = object()
"""In place of a value where there is none."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command that ran, and the document after it (None when it does not exist then)."""

    position: Position
    row: dict[str, Any]
    outcome: Outcome
    instance: DocumentInstance | None


@dataclass(frozen=True, slots=True)
class Cause:
    """One command that changed a value. before, after: in JSON form, or ABSENT."""

    position: Position
    row: dict[str, Any]
    before: Any
    after: Any


def steps(exported: dict[str, Any]) -> Iterator[Step]:
    """Run a history, command by command. The instance is the same object all along: look at it before going on.

    Raises InvalidRequest when it lacks the document's beginning or can not be read.
    """
    yield from _run(_begun(exported), exported)


def _begun(exported: dict[str, Any]) -> Replay:
    try:
        replay = Replay(exported)
        replay.begin()
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"the history can not be read: {error!r}") from None
    return replay


def _run(replay: Replay, exported: dict[str, Any]) -> Iterator[Step]:
    try:
        for row in exported["commands"]:
            outcome = replay.step(row)
            instance = replay.live.instance
            assert instance is None or isinstance(instance, DocumentInstance), "exports are of authors' documents"
            yield Step(replay.live.position, row, outcome, instance)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"the history can not be read: {error!r}") from None


def at(exported: dict[str, Any], index: int, epoch: int = 0) -> tuple[Position, DocumentInstance]:
    """The document at one index of an epoch; epoch 0 is the last, index 0 its end.

    Raises UnknownDocument when there is no such position or the document did not exist there, and what `steps` raises.
    """
    wanted = epoch or _last_epoch(exported)
    if "seen" in exported:
        return _seen_at(exported, index, epoch)
    reached: tuple[Position, DocumentInstance | None] | None = None
    for step in steps(exported):
        if step.position.epoch == wanted and (not index or step.position.index <= index):
            reached = (step.position, step.instance)
            if step.position.index == index:
                break
    if reached is None or (index and reached[0].index != index):
        raise UnknownDocument(f"{exported['document']} has no position {wanted}.{index} in this history")
    position, instance = reached
    if instance is None:
        raise UnknownDocument(f"{exported['document']} does not exist at {position}")
    return position, instance


def _last_epoch(exported: dict[str, Any]) -> int:
    return max((row["position"]["epoch"] for row in exported["commands"]), default=0)


def _seen_at(exported: dict[str, Any], index: int, epoch: int) -> tuple[Position, DocumentInstance]:
    """The one position that a file has which holds only what somebody saw."""
    live = end(exported)
    if (index and index != live.index) or (epoch and epoch != live.epoch):
        raise UnknownDocument(f"the file holds what was seen of {exported['document']} at {live.position}, and nothing else")
    assert isinstance(live.instance, DocumentInstance), "exports are of authors' documents"
    return live.position, live.instance


def cut(exported: dict[str, Any], position: Position) -> dict[str, Any]:
    """The same history, ending at a position."""
    last = (position.epoch, position.index)
    rows = [row for row in exported["commands"] if (row["position"]["epoch"], row["position"]["index"]) <= last]
    shorter = exported | {"commands": rows, "position": {"epoch": position.epoch, "index": position.index}}
    if len(rows) < len(exported["commands"]):
        # the chain of a past position is in no history: whoever reads the file is told that it was not compared.
        shorter["whole"] = False
    return shorter


def seen_by(exported: dict[str, Any], who: Principal) -> tuple[dict[str, Any], list[str]]:
    """The end of a history as a file that holds only what `who` saw there, and paths of what it can not be made again from.

    Raises UnknownDocument, PermissionDenied, and what `steps` raises.
    """
    live = end(exported)
    if not isinstance(live.instance, DocumentInstance):
        raise UnknownDocument(f"{exported['document']} does not exist at {live.position}")
    time_ms = max((row["time_ms"] for row in exported["commands"]), default=0)
    position = {"epoch": live.epoch, "index": live.index}
    past = seen_past(exported, live.code_hash, position, time_ms, who, shown(live.instance, who))
    replay = _begun(past)
    return past, replay.left_out


def end(exported: dict[str, Any]) -> LiveDocument:
    """The document as a node would hold it at the end of a history. Raises what `steps` raises."""
    replay = _begun(exported)
    for _ in _run(replay, exported):
        pass
    replay.close()
    return replay.live


def repaired(exported: dict[str, Any], order: bytes, who: Principal) -> tuple[Position, list[dict[str, Any]]]:
    """What an operator's repair would change at the end of a history: where it begins, and the JSON Patch of the whole state.
    order: see repairing.RepairOrder.

    Raises UnknownDocument, PositionMoved, what `check_order` and `check_repair` raise for the order, and what `steps` raises.
    """
    live = end(exported)
    instance, program = live.instance, live.program
    if instance is None or program is None:
        raise UnknownDocument(f"{exported['document']} does not exist at {live.position}")
    assert isinstance(instance, DocumentInstance), "exports are of authors' documents"
    payload = check_order(order, program.settings)
    expect = order_of(payload).expect
    if expect is not None and expect != (live.epoch, live.index):
        raise PositionMoved(f"{exported['document']} is at {live.position}", current=live.position)
    last = exported["commands"][-1]
    invocation = Invocation(REPAIR_CHANNEL, payload, who, last["time_ms"], bytes.fromhex(last["seed"]), live.index + 1)
    before = instance.state()
    instance.check_repair(invocation)
    instance.repair(invocation)
    return live.position, diff(before, instance.state())


def shown(instance: DocumentInstance, who: Principal | None, arguments: bytes = b"") -> dict[str, Any]:
    """What the document shows `who`, by these arguments of views; its whole state, private fields included, without one.
    Raises PermissionDenied where the gate says no, and InvalidArguments."""
    if who is None:
        return instance.state()
    if not instance.admits(who):
        raise PermissionDenied(f"the document's gate says no to {who}")
    view: dict[str, Any] = msgspec.json.decode(instance.view(who, instance.arguments(arguments)))
    return view


def difference(
    exported: dict[str, Any], first: int, last: int, who: Principal | None, epoch: int = 0
) -> tuple[Position, Position, list[dict[str, Any]]]:
    """What changed between two indexes, as a JSON Patch of what is shown to `who`. Raises what `at` and `shown` raise."""
    old: tuple[Position, dict[str, Any]] | None = None
    reached: tuple[Position, DocumentInstance | None] | None = None
    wanted = epoch or _last_epoch(exported)
    for step in steps(exported):
        if step.position.epoch != wanted or (last and step.position.index > last):
            continue
        reached = (step.position, step.instance)
        if step.position.index == first and step.instance is not None:
            old = (step.position, shown(step.instance, who))
        if step.position.index == last:
            break
    if old is None or reached is None or (last and reached[0].index != last):
        missing = first if old is None else last
        raise UnknownDocument(f"{exported['document']} has no position {wanted}.{missing} in this history")
    position, instance = reached
    if instance is None:
        raise UnknownDocument(f"{exported['document']} does not exist at {position}")
    return old[0], position, diff(old[1], shown(instance, who))


def causes(exported: dict[str, Any], pointer: str) -> list[Cause]:
    """The commands that changed the value at a JSON pointer of the state, oldest first.

    Raises InvalidRequest for what is not a pointer, and what `steps` raises.
    """
    if not pointer.startswith("/") or pointer == "/":
        raise InvalidRequest(f"{pointer!r} is no path into the state: write /field, or /field/name/...")
    path = steps_of(pointer)
    found: list[Cause] = []
    before: Any = ABSENT
    for step in steps(exported):
        if not _touches(step, path[0]):
            continue
        after = ABSENT if step.instance is None else _value(step.instance.state(), path)
        if (before is ABSENT) != (after is ABSENT) or (after is not ABSENT and not same(before, after)):
            found.append(Cause(step.position, step.row, before, after))
        before = after
    return found


def _touches(step: Step, field: str) -> bool:
    """Whether a command can have changed a field: existence and code change everything."""
    if step.row["kind"] != "send":
        return True
    changes = step.outcome.changes
    return step.outcome.code is Code.OK and isinstance(changes, Changes) and field in changes.fields


def _value(state: Any, path: list[str]) -> Any:
    for name in path:
        if isinstance(state, dict) and name in state:
            state = state[name]
        elif isinstance(state, list) and name.isdecimal() and int(name) < len(state):
            state = state[int(name)]
        else:
            return ABSENT
    return state
