"""Packing what one turn has for one peer into one frame, and unpacking it: one C call each.

Bodies are msgpack of tagged arrays, type-checked on the way in: a frame of garbage raises InvalidRequest and changes nothing.
"""

from __future__ import annotations

import msgspec

from cluster.errors import InvalidRequest
from cluster.pump.liveness import LivenessMessage
from cluster.shard.turn import AnswerItem, BulkLaneItem, ForwardItem, RaftLaneItem

FRAME_BYTES_SPLIT = 16 * 1024 * 1024
"""What is larger leaves in several frames: a transport takes frames up to a bound, and views can be large and many."""

_encoder = msgspec.msgpack.Encoder()
_liveness_decoder = msgspec.msgpack.Decoder(LivenessMessage)
_raft_decoder = msgspec.msgpack.Decoder(list[RaftLaneItem])
_bulk_decoder = msgspec.msgpack.Decoder(list[BulkLaneItem])


def pack_liveness(message: LivenessMessage) -> bytes:
    return _encoder.encode(message)


def pack_raft(items: list[RaftLaneItem]) -> list[bytes]:
    """One frame, or several in order when it would be larger than FRAME_BYTES_SPLIT."""
    frame = _encoder.encode(items)
    if len(frame) <= FRAME_BYTES_SPLIT:
        return [frame]
    if len(items) > 1:
        middle = len(items) // 2
        return pack_raft(items[:middle]) + pack_raft(items[middle:])
    halves = _halves(items[0])
    return [frame] if halves is None else pack_raft([halves[0]]) + pack_raft([halves[1]])


def _halves(item: RaftLaneItem) -> tuple[RaftLaneItem, RaftLaneItem] | None:
    """An item as two, in order; None for one that can not be divided (each of those has a bound of its own)."""
    if isinstance(item, ForwardItem) and len(item.operations) > 1:
        middle = len(item.operations) // 2
        first, second = item.operations[:middle], item.operations[middle:]
        return ForwardItem(item.shard, item.stream, first), ForwardItem(item.shard, item.stream, second)
    if isinstance(item, AnswerItem):
        deltas, replies = item.deltas, item.replies
        if deltas and replies:
            return AnswerItem(item.stream, deltas, []), AnswerItem(item.stream, [], replies)
        if len(deltas) > 1 or len(replies) > 1:
            deltas_middle, replies_middle = len(deltas) // 2, len(replies) // 2
            return (
                AnswerItem(item.stream, deltas[:deltas_middle], replies[:replies_middle]),
                AnswerItem(item.stream, deltas[deltas_middle:], replies[replies_middle:]),
            )
    return None


def pack_bulk(items: list[BulkLaneItem]) -> list[bytes]:
    """One frame, or several in order when it would be larger than FRAME_BYTES_SPLIT."""
    frame = _encoder.encode(items)
    if len(frame) <= FRAME_BYTES_SPLIT or len(items) == 1:
        return [frame]
    middle = len(items) // 2
    return pack_bulk(items[:middle]) + pack_bulk(items[middle:])


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
