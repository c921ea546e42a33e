"""A document that begins as another one was: an operator's fork of a past into a key of its own.

The state travels in the command that creates the document, so that every replica begins with the same bytes; no constructor and
no gate are asked. What the other document had armed (alarms, asks) stays with it: a fork calls nobody a second time. Its index
goes on from the position that it was taken at, because texts remember at which index they were edited.

Invariant: what apply does follows from the command alone and from whether a document is there.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from cluster.documents.runtime import Code, Instance, Outcome, Program
from cluster.errors import DocumentExists, InvalidRequest, StorageDamaged, TooLarge
from cluster.ids import DocumentId, Principal
from cluster.shard.commands import Command
from cluster.shard.directory import Directory
from cluster.shard.document import LiveDocument

STATE_BYTES_MAX: Final = 2 * 1024 * 1024
"""A larger state does not go through the log in one command."""
SOURCE_CHARACTERS_MAX: Final = 1024


class ForkOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a fork. source: what it was taken from, for the history. position: (epoch, index) there. seen_by: whose
    view the state was made from, empty for the whole of it. state: a dump, base64 in JSON. code: its hash, hexadecimal.
    """

    source: str
    position: tuple[int, int]
    seen_by: str
    code: str
    state: bytes


_decode_order: Final = msgspec.json.Decoder(ForkOrder).decode


def order_of(payload: bytes) -> ForkOrder:
    """Read an order. Raises InvalidRequest."""
    try:
        return _decode_order(payload)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"that orders no fork: {error}") from None


def disarmed(state: bytes) -> bytes:
    """A dump without what its document had armed: hidden fields begin with a hyphen. Raises InvalidRequest for what is none."""
    try:
        fields = msgspec.msgpack.decode(state, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"that is no state: {error}") from None
    empty = msgspec.Raw(msgspec.msgpack.encode({}))
    return msgspec.msgpack.encode({name: empty if name.startswith("-") else value for name, value in fields.items()})


# -- the leader ------------------------------------------------------------------------------------------------------------


def check_order(document: DocumentId, payload: bytes, directory: Directory) -> tuple[bytes, bytes]:
    """(code, payload) of a fork that may be logged. Raises InvalidRequest, TooLarge, UnknownSpace or CodeMissing."""
    order = order_of(payload)
    if order.position[0] < 1 or order.position[1] < 1 or len(order.source) > SOURCE_CHARACTERS_MAX:
        raise InvalidRequest("a fork names the document and the position that it was taken from")
    if order.seen_by:
        Principal.parse(order.seen_by)
    if len(order.state) > STATE_BYTES_MAX:
        raise TooLarge(f"the state has {len(order.state)} bytes, at most {STATE_BYTES_MAX} can be forked")
    deployed = {deployment.code_hash.hex(): deployment.code_hash for deployment in directory.space(document.space).walked}
    if order.code not in deployed:
        raise InvalidRequest(f"the code of {order.source} was never deployed to the space {document.space}")
    state = disarmed(order.state)
    _load(directory.program(deployed[order.code]), document, state)
    return deployed[order.code], msgspec.json.encode(msgspec.structs.replace(order, state=state))


def _load(program: Program, document: DocumentId, state: bytes) -> Instance:
    try:
        return program.load(document, state)
    except StorageDamaged as error:  # of the order, not of this node
        raise InvalidRequest(f"the state can not be loaded: {error.message}") from None


# -- apply -----------------------------------------------------------------------------------------------------------------


def check(live: LiveDocument) -> None:
    """Raise DocumentExists where a document is."""
    if live.alive:
        raise DocumentExists(f"{live.id} exists")


def run(live: LiveDocument, command: Command, program: Program) -> Outcome:
    """Make the document. The command itself has the first index behind the position that it was taken at."""
    order = order_of(command.payload)
    live.program, live.instance = program, _load(program, live.id, order.state)
    live.code_hash, live.frozen = command.code_hash, ""
    live.epoch, live.index = live.epoch + 1, order.position[1]
    live.upgraded_index = live.upgrade_failed = live.settled = 0
    live.clear_ring()
    return Outcome(Code.OK, b"null", writes=order.state)
