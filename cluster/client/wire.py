"""The client session's frames to messages of the public protocol, and the server's frames back."""

from __future__ import annotations

from typing import Final

from cluster.session.client_events import Frame, StreamLimits
from cluster.session.operations import Consistency, Delta, Emitted, Failure, Kind, Reply
from cluster.v1 import documents_pb2 as wire

_CONSISTENCY: Final[dict[int, wire.Consistency.ValueType]] = {
    Consistency.LINEARIZABLE.value: wire.CONSISTENCY_LINEARIZABLE,
    Consistency.AT_LEAST.value: wire.CONSISTENCY_AT_LEAST,
    Consistency.ANY.value: wire.CONSISTENCY_ANY,
}
_APPLIED: Final[dict[int, str]] = {wire.APPLIED_NO: "no", wire.APPLIED_YES: "yes", wire.APPLIED_UNKNOWN: "unknown"}
_CREATE: Final = Kind.CREATE.value
_SEND: Final = Kind.SEND.value
_READ: Final = Kind.READ.value
_DELETE: Final = Kind.DELETE.value
_WATCH: Final = Kind.WATCH.value
_ANSWER: Final = Kind.ANSWER.value


def encode_frame(frame: Frame) -> wire.SessionRequest:
    """One frame of the client session as its message."""
    request = wire.SessionRequest()
    if frame.session:
        request.open.session = frame.session
    add = request.operations.add
    for operation in frame.operations:
        message = add()
        message.id = operation.id
        kind = operation.kind
        document = message.document
        document.space = operation.space
        document.key = operation.key
        if kind == _SEND:
            send = message.send
            send.channel = operation.channel
            send.payload = operation.payload
            message.sequence = operation.sequence
            message.acked_through = operation.acked_through
        elif kind == _READ:
            message.read.consistency = _CONSISTENCY[operation.consistency]
            message.read.arguments = operation.payload
            message.read.blob = operation.channel
            if operation.index >= 0:
                message.read.at_least.epoch = operation.epoch
                message.read.at_least.index = operation.index
        elif kind == _ANSWER:
            message.answer.ask = operation.channel
            message.answer.value = operation.payload
            message.sequence = operation.sequence
            message.acked_through = operation.acked_through
        elif kind in (_CREATE, _DELETE):
            if kind == _CREATE:
                message.create.payload = operation.payload
            else:
                message.delete.SetInParent()
            message.sequence = operation.sequence
            message.acked_through = operation.acked_through
        elif kind == _WATCH:
            message.watch.credit_bytes = operation.credit
            message.watch.arguments = operation.payload
            message.watch.arguments_version = operation.sequence
            message.watch.presence = operation.channel.encode()
            if operation.index >= 0:
                message.watch.resume_after.epoch = operation.epoch
                message.watch.resume_after.index = operation.index
        elif kind == Kind.PRESENT:
            message.present.watch = operation.credit
            message.present.value = operation.payload
        elif kind == Kind.ARGUMENTS:
            message.arguments.watch = operation.credit
            message.arguments.arguments = operation.payload
            message.arguments.version = operation.sequence
        else:
            assert kind == Kind.UNWATCH
            message.unwatch.SetInParent()
    for watch, credit_bytes in frame.grants:
        message = add()
        message.id = watch
        message.grant.credit_bytes = credit_bytes
    return request


def decode_events(response: wire.SessionResponse) -> list[Reply | Delta]:
    """What happened, in the server's order. Event kinds of a newer release are skipped."""
    events: list[Reply | Delta] = []
    for event in response.events:
        kind = event.WhichOneof("event")
        if kind == "reply":
            reply = event.reply
            position = reply.position
            failure = _failure(reply.error) if reply.HasField("error") else None
            events.append(Reply(reply.id, position.epoch, position.index, reply.payload, failure))
        elif kind == "delta":
            events.append(_delta(event.delta))
    return events


def decode_limits(opened: wire.Opened) -> StreamLimits:
    """The bounds that the server announced; what it did not say stays as assumed."""
    assumed = StreamLimits()
    return StreamLimits(
        opened.frame_bytes_max or assumed.frame_bytes_max,
        opened.operations_max or assumed.operations_max,
        opened.open_operations_max or assumed.open_operations_max,
        opened.payload_bytes_max or assumed.payload_bytes_max,
    )


def _delta(delta: wire.Delta) -> Delta:
    change = delta.WhichOneof("change")
    base = delta.base
    position = delta.position
    event = Delta(delta.watch, base.epoch, base.index, position.epoch, position.index)
    event.from_arguments, event.arguments = delta.base_arguments, delta.arguments
    if change == "view":
        event.reset = True
        event.body = delta.view
    elif change == "patch":
        event.body = delta.patch
    elif change == "error":
        event.failure = _failure(delta.error)
    if delta.events:
        event.emitted = [Emitted(one.name, one.payload, one.position.epoch, one.position.index) for one in delta.events]
    return event


def _failure(error: wire.Error) -> Failure:
    applied = _APPLIED.get(error.applied, "unknown")
    details = dict(error.details)
    return Failure(error.reason, error.message, error.retryable, applied, error.retry_after_ms, details)
