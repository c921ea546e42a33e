"""`ctx.emit`: what a handler shows to those who watch, once, and nobody keeps.

    class Rolled(Event):
        face: int

    ctx.emit(Rolled(ctx.random.integer(1, 6)), to=self.may_hear)

An event leaves with its command: one that is rolled back emits nothing. It is made into its wire form at once, so what the
handler does afterwards does not change it; whom it is for is asked when it is delivered, of the state at that time.

Invariant: emitting changes neither the state nor the answer nor the chain, so replicas that nobody watches need not know. How
events reach viewers is the business of the shard's feed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cluster.documents import payload as json
from cluster.documents.declare import is_policy
from cluster.documents.meter import METER, charge, charge_items
from cluster.documents.runtime import Emission
from cluster.documents.sizes import measure
from cluster.documents.state import Event
from cluster.documents.state.record import record_type_of
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.views import Viewing

EVENTS_MAX: Final = 32
"""Events of one command."""
EVENTS_BYTES_MAX: Final = 16 * 1024
"""Wire bytes of one command's events."""
EMIT_STEPS: Final = 8

ONE_VIEWER = 2
"""Parameters of a policy that is asked about the viewer alone: (self, who); one of (self, event, who) has one more."""


@dataclass(frozen=True, slots=True)
class _Emitted:
    event: type[Event]
    body: bytes
    policy: Callable[..., bool] | None


def emit(event: Event, to: Callable[..., bool] | None) -> None:
    """Note an event of the running command. Raises TypeError; exhausts the budget `events` when there are too many."""
    charge(EMIT_STEPS)
    if not isinstance(event, Event) or type(event) is Event:
        raise TypeError(f"what is emitted is an object of a class that derives from Event, not {type(event).__name__}")
    policy = None if to is None else getattr(to, "__func__", to)
    if policy is not None and not (is_policy(policy) and callable(policy)):
        raise TypeError("whom an event is for is said by a @read.policy, such as self.may_hear")
    measure(event)
    kind = record_type_of(type(event))
    body = json.encode(kind.to_json(kind.admit(event)))
    charge_items(len(body))
    emitted = METER.emitted
    if len(emitted) >= EVENTS_MAX or sum(len(one.body) for one in emitted) + len(body) > EVENTS_BYTES_MAX:
        METER.exhaust("events")
    METER.emitted = [*emitted, _Emitted(type(event), body, policy)]


def take(viewing: Viewing) -> list[Emission]:
    """What the command that has just ended well emitted, with the question whom it is for."""
    emitted, METER.emitted = METER.emitted, []
    return [Emission(one.event.__name__, one.body, _question(one, viewing)) for one in emitted]


def _question(emitted: _Emitted, viewing: Viewing) -> Callable[[Principal], bool] | None:
    policy = emitted.policy
    if policy is None:
        return None
    if policy.__code__.co_argcount == ONE_VIEWER:
        return lambda who: viewing.ask(policy, who)
    event = record_type_of(emitted.event).from_json(json.decode(emitted.body))
    return lambda who: viewing.admits(policy, event, who)[0]
