"""Packing what one turn has for one peer into one frame, and unpacking it: one C call each.

Bodies are msgpack of tagged arrays, type-checked on the way in: a frame of garbage raises InvalidRequest and changes nothing.
"""

from __future__ import annotations

import msgspec

from cluster.errors import InvalidRequest
from cluster.pump.liveness import LivenessMessage
from cluster.shard.turn import BulkLaneItem, RaftLaneItem

_encoder = msgspec.msgpack.Encoder()
_liveness_decoder = msgspec.msgpack.Decoder(LivenessMessage)
_raft_decoder = msgspec.msgpack.Decoder(list[RaftLaneItem])
_bulk_decoder = msgspec.msgpack.Decoder(list[BulkLaneItem])


def pack_liveness(message: LivenessMessage) -> bytes:
    return _encoder.encode(message)


def pack_raft(items: list[RaftLaneItem]) -> bytes:
    return _encoder.encode(items)


def pack_bulk(items: list[BulkLaneItem]) -> bytes:
    return _encoder.encode(items)


def unpack_liveness(frame: bytes) -> LivenessMessage:
    try:
        message: LivenessMessage = _liveness_decoder.decode(frame)
        return message
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"a liveness frame does not decode: {error}") from error


def unpack_raft(frame: bytes) -> list[RaftLaneItem]:
    try:
        return _raft_decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"a raft frame does not decode: {error}") from error


def unpack_bulk(frame: bytes) -> list[BulkLaneItem]:
    try:
        return _bulk_decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"a bulk frame does not decode: {error}") from error
