"""Packets: what is read is within its bounds, what is not is refused by name."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gossip.config import PACKET_BYTES_MAX
from cluster.gossip.messages import (
    ACCUSERS_MAX,
    HINTS_BYTES_MAX,
    INCARNATION_MAX,
    STREAM_BYTES_MAX,
    Ack,
    Address,
    Alive,
    DigestEntry,
    Labels,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Refusal,
    State,
    SyncDelta,
    SyncRecord,
    SyncReply,
    SyncRequest,
    decode,
    encode_message,
    encode_packet,
    packet_overhead,
)
from cluster.ids import NodeId
from tests.gossip.cores import TAG, alive, dead, left, node, packet, suspect

EVERY_MESSAGE: list[Message] = [
    Ping(1, node(2), 3),
    Ack(1, node(2), 3),
    PingRequest(1, node(2), 3, Address("h", 1, 2, 3)),
    Nack(9),
    alive(1, generation=5, incarnation=7, hints=b"\x00\xff"),
    suspect(1, 2, 3),
    dead(1, 2),
    left(1),
    SyncRequest(alive(1), [DigestEntry(node(1), 1, 0, State.ALIVE), DigestEntry(node(2), 1, 0, State.LEFT)]),
    SyncReply([SyncRecord(alive(1), State.DEAD, (node(2),), 5)], [node(3)]),
    SyncDelta([]),
]


def with_checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little") + body


def test_every_message_comes_back_as_it_was_sent() -> None:
    decoded = decode(packet(1, *EVERY_MESSAGE), TAG, STREAM_BYTES_MAX)
    assert isinstance(decoded, Packet)
    assert decoded.messages == EVERY_MESSAGE
    assert (decoded.sender, decoded.generation) == (node(1), 1)


@given(garbage=st.binary(max_size=300))
def test_garbage_is_refused_and_never_raises(garbage: bytes) -> None:
    assert isinstance(decode(garbage, TAG, PACKET_BYTES_MAX), Refusal)
    assert isinstance(decode(with_checksum(garbage), TAG, PACKET_BYTES_MAX), Refusal)


@given(position=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_flipped_bit_is_refused(position: int, bit: int) -> None:
    data = bytearray(packet(1, *EVERY_MESSAGE))
    data[position % len(data)] ^= 1 << bit
    assert decode(bytes(data), TAG, PACKET_BYTES_MAX) is Refusal.CHECKSUM_MISMATCH


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=6),
        max_leaves=30,
    )
)
def test_wellformed_nonsense_is_refused_and_never_raises(value: object) -> None:
    body = msgspec.msgpack.encode([1, TAG, "n1", 1, value])
    result = decode(with_checksum(body), TAG, PACKET_BYTES_MAX)
    assert isinstance(result, Refusal) or result.messages == []


@pytest.mark.parametrize(
    "message",
    [
        Ping(-1, node(1), 1),
        Ping(1, NodeId("No Name"), 1),
        Ping(1, NodeId("n1\n"), 1),
        Ack(1, node(1), -1),
        alive(1, incarnation=INCARNATION_MAX + 1),
        alive(1, hints=bytes(HINTS_BYTES_MAX + 1)),
        Alive(node(1), 1, 0, Address("", 1), Labels()),
        Alive(node(1), 1, 0, Address("h\u00e9", 1), Labels()),
        Alive(node(1), 1, 0, Address("h", 65536), Labels()),
        Alive(node(1), 1, 0, Address("h", 1), Labels("x" * 64)),
        suspect(1, *range(2, 3 + ACCUSERS_MAX)),
        SyncDelta([SyncRecord(alive(1), 9, (), 0)]),  # type: ignore[arg-type]
    ],
)
def test_a_field_beyond_its_bound_is_refused(message: Message) -> None:
    """Trap 25: validate before applying; one bad value must not spread."""
    assert decode(packet(1, message), TAG, STREAM_BYTES_MAX) is Refusal.MALFORMED


def test_another_cluster_and_a_later_version_are_told_apart() -> None:
    assert decode(packet(1, Nack(1), cluster=b"somebody"), TAG, 1400) is Refusal.WRONG_CLUSTER
    assert decode(with_checksum(msgspec.msgpack.encode([2, TAG, "n1", 1, []])), TAG, 1400) is Refusal.VERSION_MISMATCH
    assert decode(with_checksum(msgspec.msgpack.encode([2, {"all": "new"}])), TAG, 1400) is Refusal.VERSION_MISMATCH


def test_a_packet_beyond_its_bound_is_refused_unread() -> None:
    data = packet(1, *[alive(number) for number in range(1, 60)])
    assert decode(data, TAG, PACKET_BYTES_MAX) is Refusal.TOO_LARGE
    assert isinstance(decode(data, TAG, STREAM_BYTES_MAX), Packet)


def test_the_overhead_of_a_packet_is_not_underestimated() -> None:
    sender = NodeId("n" * 63)
    messages = [encode_message(Nack(number)) for number in range(255)]
    data = encode_packet(TAG, sender, 1 << 62, messages)
    assert len(data) - sum(map(len, messages)) <= packet_overhead(sender)


def test_the_largest_possible_record_fits_a_datagram() -> None:
    """Trap 14: a record too large for a packet would silently never be gossiped."""
    name = NodeId("n" * 63)
    address = Address("h" * 253, 65535, 65535, 65535)
    largest = Alive(
        name, 1 << 62, INCARNATION_MAX, address, Labels("\U0001f310" * 63, "\U0001f310" * 63), bytes(HINTS_BYTES_MAX)
    )
    data = encode_packet(TAG, name, 1 << 62, [encode_message(largest)])
    assert isinstance(decode(data, TAG, PACKET_BYTES_MAX), Packet)
