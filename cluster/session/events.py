"""What handlers emitted, as applications meet it: in a delta of the client's half of the protocol, decoded."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from cluster.ids import Position
from cluster.session.operations import Delta

_decode = msgspec.json.decode


class PassedEvent(NamedTuple):
    """name: of the event's class. value: its fields. position: of the command that emitted it."""

    name: str
    value: Any
    position: Position


def events_of(delta: Delta) -> list[PassedEvent]:
    """What came by with a delta, in order."""
    if not delta.emitted:
        return []
    return [PassedEvent(one.name, _decode(one.payload), Position(one.epoch, one.index)) for one in delta.emitted]
