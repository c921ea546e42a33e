"""The public protocol to the cluster's vocabulary and back, once per operation, nowhere else.

Checked here: names, sizes, numbers, and that a request says what it wants. Not here: the JSON of payloads, which the shard's
leader checks against the schema, so that one authority decides what a document can be sent.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cluster.documents.arguments import ARGUMENTS_BYTES_MAX
from cluster.documents.presence import PRESENCE_BYTES_MAX
from cluster.documents.state.blob import is_blob_hash
from cluster.errors import InvalidRequest, TooLarge
from cluster.gateway.identity import scoped_idempotency_key
from cluster.gateway.limits import (
    IDEMPOTENCY_KEY_BYTES_MAX,
    NUMBER_MAX,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    PAGE_TOKEN_BYTES_MAX,
    Limits,
)
from cluster.gateway.status import fill_error
from cluster.ids import KEY_BYTES_MAX, check_channel, check_key, check_space
from cluster.session.operations import Consistency, Delta, Kind, Operation, Reply
from cluster.v1 import documents_pb2 as wire

ASK_CHARACTERS_MAX: Final = 128

EVENT_OVERHEAD_BYTES: Final = 64
"""What an event costs beside its payload, in memory and on the wire, for accounting."""

_CONSISTENCY: Final[dict[int, int]] = {
    wire.CONSISTENCY_UNSPECIFIED: Consistency.LINEARIZABLE.value,
    wire.CONSISTENCY_LINEARIZABLE: Consistency.LINEARIZABLE.value,
    wire.CONSISTENCY_AT_LEAST: Consistency.AT_LEAST.value,
    wire.CONSISTENCY_ANY: Consistency.ANY.value,
}
_CREATE: Final = Kind.CREATE.value
_SEND: Final = Kind.SEND.value
_READ: Final = Kind.READ.value
_DELETE: Final = Kind.DELETE.value
_WATCH: Final = Kind.WATCH.value
_UNWATCH: Final = Kind.UNWATCH.value
_LIST: Final = Kind.LIST.value
_ARGUMENTS: Final = Kind.ARGUMENTS.value


_WRITES: Final = {"create": _CREATE, "send": _SEND, "delete": _DELETE, "answer": Kind.ANSWER.value}


class ShownBlob(msgspec.Struct):
    """The payload of the reply to a read of a blob; `data` is base64 there."""

    data: bytes
    media_type: str


_decode_blob: Final = msgspec.json.Decoder(ShownBlob).decode


class Page(msgspec.Struct):
    """The payload of a LIST reply: one page of a space."""

    documents: list[PageEntry]
    next_page_token: str = ""


class PageEntry(msgspec.Struct):
    """One document of a page."""

    key: str
    epoch: int = 0
    index: int = 0


_decode_page = msgspec.json.Decoder(Page).decode


def session_operation(request: wire.Operation, kind: str, principal: str, session: bytes, payload_bytes_max: int) -> Operation:
    """An operation of a session frame: create, send, read, delete. Raises RejectedError; nothing is affected.

    kind: the set member of the request's oneof. session: the scoped identity of the session.
    """
    document = request.document
    space = document.space
    key = document.key
    check_space(space)
    check_key(key)
    if kind == "send":
        send = request.send
        channel = send.channel
        payload = send.payload
        check_channel(channel)
    elif kind == "create":
        channel = ""
        payload = request.create.payload
    elif kind == "delete":
        channel = ""
        payload = b""
    elif kind == "answer":
        channel = ""
        payload = answer_payload(request.answer.ask, request.answer.value)
    else:
        assert kind == "read", kind
        read = request.read
        operation = read_operation(document, read.consistency, _at_least(read), principal, read.arguments, read.blob)
        operation.id = request.id
        return operation
    if len(payload) > payload_bytes_max:
        raise _payload_too_large(payload, payload_bytes_max)
    sequence = request.sequence
    acked_through = request.acked_through
    if not acked_through < sequence <= NUMBER_MAX:
        raise InvalidRequest(
            "a write needs a sequence from 1 and acked_through below it", sequence=sequence, acked_through=acked_through
        )
    number = _WRITES[kind]
    return Operation(request.id, number, space, key, principal, channel, payload, session, sequence, acked_through)


def answer_payload(ask: str, value: bytes) -> bytes:
    """The payload of an answer. Raises InvalidRequest. What `value` spells is looked at by the shard's leader, which takes an
    object of just these two members: text that closes the object early is none.
    """
    if not ask or len(ask) > ASK_CHARACTERS_MAX:
        raise InvalidRequest("an answer names the ask that it answers")
    return b'{"ask":%b,"value":%b}' % (msgspec.json.encode(ask), value or b"null")


def write_operation(
    kind: Kind, document: wire.Document, channel: str, payload: bytes, idempotency_key: bytes, principal: str, limits: Limits
) -> Operation:
    """A unary create, send, delete or answer, without an id. Raises RejectedError; nothing is affected."""
    check_space(document.space)
    check_key(document.key)
    if kind is Kind.SEND:
        check_channel(channel)
    if len(payload) > limits.payload_bytes_max:
        raise _payload_too_large(payload, limits.payload_bytes_max)
    if len(idempotency_key) > IDEMPOTENCY_KEY_BYTES_MAX:
        raise TooLarge(f"an idempotency key has at most {IDEMPOTENCY_KEY_BYTES_MAX} bytes", limit="idempotency_key_bytes_max")
    session = scoped_idempotency_key(principal, idempotency_key)
    return Operation(0, kind.value, document.space, document.key, principal, channel, payload, session)


def read_operation(
    document: wire.Document,
    consistency: int,
    at_least: wire.Position | None,
    principal: str,
    arguments: bytes = b"",
    blob: str = "",
) -> Operation:
    """A read of the view, or of a blob in it, without an id. Raises RejectedError; nothing is affected.

    at_least: also with ANY: any replica may answer that has reached it. A linearizable read has reached it anyway.
    """
    check_space(document.space)
    check_key(document.key)
    level = _CONSISTENCY.get(consistency)
    if level is None:
        raise InvalidRequest(f"unknown consistency {consistency}")
    payload = checked_arguments(arguments)
    if blob and not is_blob_hash(blob):
        raise InvalidRequest("a blob's hash is SHA-256 in 64 hexadecimal digits, lower case")
    operation = Operation(0, _READ, document.space, document.key, principal, blob, payload, consistency=level)
    if at_least is not None:
        operation.epoch, operation.index = checked_position(at_least)
        if level == Consistency.ANY:
            operation.consistency = Consistency.AT_LEAST.value
    elif level == Consistency.AT_LEAST:
        raise InvalidRequest("a read with CONSISTENCY_AT_LEAST needs the position to reach")
    return operation


def blob_of(payload: bytes) -> tuple[bytes, str]:
    """The bytes and the media type in the reply to a read of a blob."""
    shown = _decode_blob(payload)
    return shown.data, shown.media_type


def watch_operation(
    document: wire.Document,
    resume_after: wire.Position | None,
    credit_bytes: int,
    principal: str,
    limits: Limits,
    arguments: bytes = b"",
    version: int = 0,
    presence: bytes = b"",
) -> Operation:
    """A watch, without an id. Raises RejectedError; nothing is affected."""
    check_space(document.space)
    check_key(document.key)
    credit = min(credit_bytes or limits.watch_credit_bytes, limits.watch_credit_bytes_max)
    operation = Operation(
        0, _WATCH, document.space, document.key, principal, payload=checked_arguments(arguments), credit=credit
    )
    operation.sequence = checked_version(version)
    operation.channel = checked_presence(presence)
    if resume_after is not None:
        operation.epoch, operation.index = checked_position(resume_after)
    return operation


def arguments_operation(request: wire.Operation, space: str, key: str, principal: str) -> Operation:
    """Changes the arguments of a watch of this document. Raises RejectedError; nothing is affected."""
    wanted = request.arguments
    payload, version = checked_arguments(wanted.arguments), checked_version(wanted.version)
    return Operation(request.id, _ARGUMENTS, space, key, principal, payload=payload, sequence=version, credit=wanted.watch)


def present_operation(request: wire.Operation, space: str, key: str, principal: str) -> Operation:
    """Shows the other viewers of a watch's document something. Raises RejectedError; nothing is affected."""
    wanted = request.present
    payload = checked_presence(wanted.value).encode()
    return Operation(request.id, Kind.PRESENT.value, space, key, principal, payload=payload, credit=wanted.watch)


def checked_presence(value: bytes) -> str:
    """What a connection shows; the document's code says whether it takes it. Raises TooLarge or InvalidRequest."""
    if len(value) > PRESENCE_BYTES_MAX:
        raise TooLarge(f"a connection shows at most {PRESENCE_BYTES_MAX} bytes", limit="presence_bytes_max")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("what a connection shows is JSON in UTF-8") from None


def checked_arguments(arguments: bytes) -> bytes:
    """Arguments of views and windows; the document's code says whether it takes them. Raises TooLarge."""
    if len(arguments) > ARGUMENTS_BYTES_MAX:
        raise TooLarge(f"arguments have at most {ARGUMENTS_BYTES_MAX} bytes", limit="arguments_bytes_max")
    return arguments


def checked_version(version: int) -> int:
    """A client's number of its arguments. Raises InvalidRequest."""
    if version > NUMBER_MAX:
        raise InvalidRequest("a version of arguments is at most 2^53-1")
    return version


def unwatch_operation(watch: int, space: str, key: str, principal: str) -> Operation:
    """Ends the watch with this id."""
    return Operation(watch, _UNWATCH, space, key, principal)


def list_operation(request: wire.ListRequest, principal: str) -> Operation:
    """A listing, without an id. Raises RejectedError; nothing is affected."""
    check_space(request.space)
    if request.key_prefix:
        check_key(request.key_prefix)
    if request.page_size > PAGE_SIZE_MAX:
        raise TooLarge(f"a page has at most {PAGE_SIZE_MAX} documents", limit="page_size_max")
    token = request.page_token.encode()
    if len(token) > PAGE_TOKEN_BYTES_MAX:
        raise InvalidRequest("this page token was not made here")
    size = request.page_size or PAGE_SIZE_DEFAULT
    assert len(request.key_prefix) <= KEY_BYTES_MAX
    return Operation(0, _LIST, request.space, "", principal, channel=request.key_prefix, payload=token, credit=size)


def list_response(space: str, payload: bytes) -> wire.ListResponse:
    """A page, from the JSON of a LIST reply: {"documents": [{"key", "epoch", "index"}], "next_page_token"}."""
    page = _decode_page(payload)
    response = wire.ListResponse(next_page_token=page.next_page_token)
    for entry in page.documents:
        summary = response.documents.add()
        summary.document.space = space
        summary.document.key = entry.key
        summary.position.epoch = entry.epoch
        summary.position.index = entry.index
    return response


def checked_position(position: wire.Position) -> tuple[int, int]:
    """(epoch, index). Raises InvalidRequest; nothing is affected."""
    if position.epoch > NUMBER_MAX or position.index > NUMBER_MAX:
        raise InvalidRequest("a position's epoch and index are at most 2^53-1")
    return position.epoch, position.index


def _payload_too_large(payload: bytes, bytes_max: int) -> TooLarge:
    return TooLarge(f"the payload has {len(payload)} bytes, at most {bytes_max} are taken", limit="payload_bytes_max")


def _at_least(read: wire.Read) -> wire.Position | None:
    return read.at_least if read.HasField("at_least") else None


def encode_event(response: wire.SessionResponse, event: Reply | Delta) -> None:
    """Append a reply or delta to a session frame."""
    if isinstance(event, Reply):
        reply = response.events.add().reply
        reply.id = event.id
        failure = event.failure
        if failure is None:
            position = reply.position
            position.epoch = event.epoch
            position.index = event.index
            if event.payload:
                reply.payload = event.payload
        else:
            if event.epoch or event.index:
                reply.position.epoch = event.epoch
                reply.position.index = event.index
            fill_error(reply.error, failure)
        return
    delta = response.events.add().delta
    delta.watch = event.watch
    _fill_change(delta, event)
    if event.arguments:
        delta.arguments = event.arguments
        if not event.reset:
            delta.base_arguments = event.from_arguments
    if event.failure is not None:
        fill_error(delta.error, event.failure)


def watch_response(event: Delta) -> wire.WatchResponse:
    """A delta for a unary watch; one that ends it is a status, not a response."""
    assert event.failure is None
    response = wire.WatchResponse()
    _fill_change(response, event)
    return response


def _fill_change(message: wire.Delta | wire.WatchResponse, event: Delta) -> None:
    position = message.position
    position.epoch = event.epoch
    position.index = event.index
    for one in event.emitted or ():
        emitted = message.events.add()
        emitted.name = one.name
        emitted.payload = one.payload
        emitted.position.epoch = one.epoch
        emitted.position.index = one.index
    if event.reset:
        message.view = event.body
        return
    base = message.base
    base.epoch = event.from_epoch
    base.index = event.from_index
    message.patch = event.body
