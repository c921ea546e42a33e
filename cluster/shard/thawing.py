"""The way back of a document whose replicas differ and where no majority says what it is: an operator chooses one replica.

The record of that replica travels in the command, so every replica takes over the same bytes, whatever it had itself, in the
log's order. The document goes on in a later epoch, because what viewers and callers saw of the last one may be contradicted:
every position of before is answered with PositionRewound, every viewer gets a whole view. Its index goes on, for texts
remember at which index they were edited. Sessions are those of the record: what it remembers is repeated, what it lacks is a
gap, and clients send it again.

Invariant: what apply does follows from the command and the document's epoch alone, never from what the replica had or from
whether it knew that the document was frozen. The epoch of the command is later than that of every replica that was asked; one
that was not, and is later still, refuses it, differs from a majority then, and is healed.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec
from msgspec import Struct

from cluster.documents.repairing import check_reason
from cluster.documents.runtime import Code, Outcome, Program
from cluster.errors import InvalidRequest, RejectedError, StorageDamaged, TooLarge
from cluster.ids import check_node
from cluster.session.table import SessionTable
from cluster.shard.commands import Command
from cluster.shard.directory import Directory
from cluster.shard.document import LiveDocument, Record, decode_record

RECORD_BYTES_MAX: Final = 2 * 1024 * 1024
"""A larger record does not go through the log in one command."""
STATE_DIGEST_BYTES: Final = 32


class ThawOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a thaw. node: whose record it is. record: base64 in JSON. epoch: the document's from here on."""

    node: str
    reason: str
    epoch: int
    record: bytes


_decode_order: Final = msgspec.json.Decoder(ThawOrder).decode


def order_of(payload: bytes) -> ThawOrder:
    """Read an order. Raises InvalidRequest."""
    try:
        return _decode_order(payload)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"that orders no thaw: {error}") from None


def record_of(order: ThawOrder) -> Record:
    """The record that is to be taken over. Raises InvalidRequest for what is none, or that of a document that is deleted."""
    try:
        record = decode_record(order.record)
    except StorageDamaged as error:
        raise InvalidRequest(f"that is no record: {error.message}") from None
    if not record.alive:
        raise InvalidRequest(f"{order.node} has a deleted document: choose another replica")
    return record


# -- the leader ------------------------------------------------------------------------------------------------------------


def check_order(live: LiveDocument | None, payload: bytes, directory: Directory) -> tuple[bytes, bytes]:
    """(code of the record, payload) of a thaw that may be logged. Raises InvalidRequest, TooLarge, or CodeMissing."""
    order = order_of(payload)
    check_reason(order.reason)
    check_node(order.node)
    if len(order.record) > RECORD_BYTES_MAX:
        raise TooLarge(f"the record has {len(order.record)} bytes, at most {RECORD_BYTES_MAX} can be taken over")
    if live is None or not live.frozen:
        raise InvalidRequest("the document is not frozen at its shard's leader")
    if order.epoch <= live.epoch:
        raise InvalidRequest(f"{live.id} is in epoch {live.epoch} already: ask its replicas again")
    record = record_of(order)
    try:
        directory.program(record.code_hash).load(live.id, record.state)
    except StorageDamaged as error:  # of the order, not of this node
        raise InvalidRequest(f"the record of {order.node} can not be loaded: {error.message}") from None
    return record.code_hash, payload


# -- apply -----------------------------------------------------------------------------------------------------------------


def check(live: LiveDocument, command: Command) -> None:
    """Raise RejectedError for a thaw that was done before."""
    if order_of(command.payload).epoch <= live.epoch:
        raise RejectedError(f"{live.id} is in epoch {live.epoch} already")


def run(live: LiveDocument, command: Command, program: Program) -> Outcome:
    """Take the record over. The command itself is the first of the new epoch."""
    order = order_of(command.payload)
    record = record_of(order)
    live.program, live.instance = program, program.load(live.id, record.state)
    live.code_hash, live.chain, live.sessions = record.code_hash, record.chain, SessionTable(record.sessions)
    live.epoch, live.index, live.frozen = order.epoch, record.index, ""
    live.upgraded_index, live.upgrade_failed, live.settled = 0, record.upgrade_failed, 0
    live.clear_ring()
    return Outcome(Code.OK, b"null", writes=blake2b(record.state, digest_size=STATE_DIGEST_BYTES).digest())
