"""An operator's change of a document's state: what it orders, and how it is carried out.

A repair is a command like any other: it is in the log and in the history with who ordered it and why, it is atomic, and what it
writes is told to viewers. It differs in that no code of the author's runs: neither gate nor handler is asked. Types, sizes and
the budget of the space hold for it as for a handler.

Invariant: an order that does not fit the state changes nothing, and leaves no trace in the document: no index, no history.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from cluster.documents import payload as json
from cluster.documents.blobs import Blobs
from cluster.documents.context import RowIds
from cluster.documents.meter import METER, Exhausted, Fault, charge, charge_items
from cluster.documents.runtime import Invocation, Settings
from cluster.documents.state import Changes, Journal, StateRoot
from cluster.documents.state.patching import check_operations, write_operations
from cluster.errors import ApplyHalted, InvalidPatch, InvalidRequest, TooLarge

REASON_BYTES_MAX: Final = 1024
OPERATION_STEPS: Final = 16
"""Budget that every operation costs, beside what it writes."""


class RepairOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a repair. patch: see state/patching.py. reason: for those who read the history.

    expect: (epoch, index) that the document must have; none in particular if None. thaw: whether a document that takes no
    commands takes them again.
    """

    patch: list[dict[str, Any]]
    reason: str
    expect: tuple[int, int] | None = None
    thaw: bool = False


_decode_order: Final = msgspec.json.Decoder(RepairOrder).decode


def check_order(payload: bytes, settings: Settings) -> bytes:
    """An order in canonical form. Raises InvalidPayload, InvalidPatch, InvalidRequest or TooLarge for what can not be one."""
    given = json.parse(payload, bytes_max=settings.payload_bytes_max, depth_max=settings.payload_depth_max)
    order = order_of(payload)
    check_reason(order.reason)
    if not order.patch and not order.thaw:
        raise InvalidRequest("there is nothing to do: the patch is empty")
    expect = None if order.expect is None else list(order.expect)
    return json.encode({"patch": given["patch"], "reason": order.reason, "expect": expect, "thaw": order.thaw})


def check_reason(reason: str) -> None:
    """Raise InvalidRequest or TooLarge unless it can be why an operator orders something."""
    if not reason.strip():
        raise InvalidRequest("a reason is needed")
    if len(reason.encode()) > REASON_BYTES_MAX:
        raise TooLarge(f"the reason has at most {REASON_BYTES_MAX} bytes")


def order_of(payload: bytes) -> RepairOrder:
    """Read an order. Raises InvalidPatch."""
    try:
        order = _decode_order(payload)
        check_operations(order.patch)
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidPatch(f"that orders no repair: {error}") from None
    return order


def write(
    root: StateRoot, journal: Journal, settings: Settings, invocation: Invocation, blobs: Blobs | None, *, keep: bool
) -> Changes | None:
    """Carry out the patch of an order, and keep what it wrote or, to see whether it fits, undo it (then None).

    Raises InvalidPatch, or TooLarge where a limit of the space is reached: nothing is changed then. Raises ApplyHalted for what
    is no answer.
    """
    order = order_of(invocation.payload)
    METER.begin(settings.steps_max, settings.call_depth_max)
    journal.begin(index=invocation.index, new_id=RowIds(invocation.seed))
    size_before = journal.size
    try:
        charge(OPERATION_STEPS * len(order.patch))
        charge_items(len(invocation.payload))
        write_operations(root, order.patch)
        if blobs is not None:
            blobs.settle()
        if journal.size > settings.state_bytes_max and journal.size > size_before:
            METER.exhaust("state")
        if keep:
            return journal.commit()
    except ValueError as error:
        raise InvalidPatch(str(error)) from None
    except Exhausted as error:
        raise TooLarge(f"the repair exceeds the space's limit of {error.limit}", limit=error.limit) from None
    except (MemoryError, RecursionError, SystemError, Fault) as error:
        raise ApplyHalted(f"a repair at {invocation.index}: {type(error).__name__}: {error}") from error
    finally:
        METER.end()
        if journal.active:
            journal.rollback()
    return None
