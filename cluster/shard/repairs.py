"""An operator's repair of a document, at apply: when it may run, and what it does beside the state.

A repair goes through the log like any command and has an index. One that may not run leaves no trace: who ordered it is told
why, and the document is where it was.

A document that was frozen because a command was isolated is the same on every replica: it can be repaired, and be thawed by the
same order. One that was frozen because its replicas differ can not: a patch would be applied to different states.
"""

from __future__ import annotations

from cluster.documents.repairing import order_of
from cluster.documents.runtime import REPAIR_CHANNEL, Invocation, Outcome
from cluster.errors import DocumentFrozen, PositionMoved
from cluster.ids import Principal
from cluster.shard.commands import SEED_BYTES, Command
from cluster.shard.document import FREEZE_AFTER_POISON, LiveDocument

_TRIAL_SEED = bytes(SEED_BYTES)
"""Of the trial, whose row ids nobody sees."""


def check(live: LiveDocument, command: Command, sender: Principal, now_ms: int) -> None:
    """Raise what is said against a repair of this living document as it is now: DocumentFrozen, PositionMoved, InvalidPatch or
    TooLarge.
    """
    assert live.instance is not None, "only living documents are repaired"
    if live.frozen and live.frozen != FREEZE_AFTER_POISON:
        raise DocumentFrozen(f"{live.id} is frozen, and its replicas differ: a patch can not make them equal", why=live.frozen)
    order = order_of(command.payload)
    if order.expect is not None and order.expect != (live.epoch, live.index):
        raise PositionMoved(
            f"{live.id} is at {live.position}, not at {order.expect[0]}.{order.expect[1]}", current=live.position
        )
    live.instance.check_repair(Invocation(REPAIR_CHANNEL, command.payload, sender, now_ms, _TRIAL_SEED, live.index + 1))


def run(live: LiveDocument, invocation: Invocation) -> Outcome:
    """Carry out what `check` let pass."""
    assert live.instance is not None, "only living documents are repaired"
    outcome = live.instance.repair(invocation)
    if order_of(invocation.payload).thaw and live.frozen:
        live.frozen = ""
        live.settled = 0  # code that it could not get while it was frozen
    return outcome
