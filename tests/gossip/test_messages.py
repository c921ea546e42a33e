"""Packets: what is read is within its bounds, what is not is refused by name."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gossip.broadcast import RESERVED_BYTES, NewsClass
from cluster.gossip.config import MEMBERS_MAX, PACKET_BYTES_MAX
from cluster.gossip.messages import (
    ACCUSERS_MAX,
    BUCKET_HASH_BYTES,
    BUCKETS,
    HINTS_BYTES_MAX,
    INCARNATION_MAX,
    RECORDS_MAX,
    STREAM_BYTES_MAX,
    VERSION,
    VERSION_MAX,
    VERSION_MIN,
    Accuser,
    Ack,
    Address,
    Alive,
    DigestEntry,
    ForeignVersion,
    Hints,
    Load,
    Message,
    Nack,
    Note,
    Opinion,
    Packet,
    Ping,
    PingRequest,
    Refusal,
    State,
    Suspect,
    SyncDelta,
    SyncRecord,
    SyncRecords,
    SyncReply,
    SyncRequest,
    Tags,
    decode,
    encode_message,
    encode_packet,
    packet_overhead,
)
from cluster.ids import NodeId
from tests.gossip.cores import TAG, accusers, alive, dead, hints, left, load, node, packet, suspect

EVERY_MESSAGE: list[Message] = [
    Ping(1, node(2), 3),
    Ack(1, node(2), 3),
    PingRequest(1, node(2), 3, Address("h", 1, 2, 3), 99),
    Nack(9),
    alive(1, generation=5, incarnation=7),
    hints(1, b"\x00\xff"),
    load(1),
    suspect(1, 2, 3),
    dead(1, 2),
    left(1),
    SyncRequest(alive(1), bytes(BUCKETS * BUCKET_HASH_BYTES), 3),
    SyncReply(1 << 63, [DigestEntry(node(1), 1, 0, State.ALIVE), DigestEntry(node(2), 1, 0, State.LEFT, 7)], [], True),
    SyncDelta([SyncRecord(alive(1), State.DEAD, accusers(2), 5, hints(1), load(1))], [node(3)]),
    SyncRecords([]),
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
    assert isinstance(decode(with_checksum(garbage), TAG, PACKET_BYTES_MAX), Refusal | ForeignVersion)


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
    body = msgspec.msgpack.encode([VERSION, VERSION_MIN, VERSION_MAX, TAG, "n1", 1, value])
    result = decode(with_checksum(body), TAG, PACKET_BYTES_MAX)
    assert isinstance(result, Refusal) or (isinstance(result, Packet) and result.messages == [])


@pytest.mark.parametrize(
    "message",
    [
        Ping(-1, node(1), 1),
        Ping(1, NodeId("No Name"), 1),
        Ping(1, NodeId("n1\n"), 1),
        Ack(1, node(1), -1),
        alive(1, incarnation=INCARNATION_MAX + 1),
        hints(1, bytes(HINTS_BYTES_MAX + 1)),
        Load(node(1), 1, 1, cpu_permille=1001),
        PingRequest(1, node(2), 3, Address("h", 1, 2, 3), 0),
        SyncRequest(alive(1), b"short", 3),
        SyncReply(-1, [], [], False),
        Alive(node(1), 1, 0, Address("", 1), Tags()),
        Alive(node(1), 1, 0, Address("h\u00e9", 1), Tags()),
        Alive(node(1), 1, 0, Address("h", 65536), Tags()),
        Alive(node(1), 1, 0, Address("h", 1), Tags("x" * 64)),
        Alive(node(1), 1, 0, Address("h", 1), Tags("\n")),
        suspect(1, *range(2, 3 + ACCUSERS_MAX)),
        SyncRecords([SyncRecord(alive(1), 9, (), 0)]),  # type: ignore[arg-type]
    ],
)
def test_a_field_beyond_its_bound_is_refused(message: Message) -> None:
    """Trap 25: validate before applying; one bad value must not spread."""
    assert decode(packet(1, message), TAG, STREAM_BYTES_MAX) is Refusal.MALFORMED


def test_another_cluster_and_a_later_version_are_told_apart() -> None:
    assert decode(packet(1, Nack(1), cluster=b"somebody"), TAG, 1400) is Refusal.WRONG_CLUSTER
    later = VERSION_MAX + 1
    for packet_of_later in ([later, VERSION_MAX, later, TAG, "n1", 1, []], [later, VERSION_MAX, later, {"all": "new"}]):
        body = msgspec.msgpack.encode(packet_of_later)
        assert decode(with_checksum(body), TAG, 1400) == ForeignVersion(VERSION_MAX, later)
    assert decode(with_checksum(msgspec.msgpack.encode([later, {"all": "new"}])), TAG, 1400) is Refusal.MALFORMED


def test_a_packet_beyond_its_bound_is_refused_unread() -> None:
    data = packet(1, *[alive(number) for number in range(1, 60)])
    assert decode(data, TAG, PACKET_BYTES_MAX) is Refusal.TOO_LARGE
    assert isinstance(decode(data, TAG, STREAM_BYTES_MAX), Packet)


def test_the_overhead_of_a_packet_is_not_underestimated() -> None:
    sender = NodeId("n" * 63)
    messages = [encode_message(Nack(number)) for number in range(255)]
    data = encode_packet(TAG, sender, 1 << 62, messages)
    assert len(data) - sum(map(len, messages)) <= packet_overhead(sender)


def test_the_largest_news_of_each_class_fits_its_share_and_all_of_them_a_datagram_beside_a_ping() -> None:
    """Trap 14: a record too large for a packet would silently never be gossiped."""
    name, top = NodeId("n" * 63), 1 << 62
    address = Address("h" * 253, 65535, 65535, 65535)
    largest_accusers = tuple(Accuser(name, 15) for _ in range(ACCUSERS_MAX))
    largest: dict[NewsClass, list[Opinion | Note]] = {
        NewsClass.MEMBERSHIP: [
            Alive(name, top, INCARNATION_MAX, address, Tags("z" * 63, "z" * 63, "z" * 63)),
            Suspect(name, top, INCARNATION_MAX, largest_accusers),
        ],
        NewsClass.HINTS: [Hints(name, top, top, bytes(HINTS_BYTES_MAX))],
        NewsClass.LOAD: [Load(name, top, top, 1 << 53, 1 << 53, 1 << 53, 1 << 53, 1000, 1000)],
    }
    for news_class, several in largest.items():
        for message in several:
            assert len(encode_message(message)) <= RESERVED_BYTES[news_class]
            assert isinstance(decode(encode_packet(TAG, name, top, [encode_message(message)]), TAG, PACKET_BYTES_MAX), Packet)
    ping = len(encode_message(Ping(top, name, top)))
    assert packet_overhead(name) + ping + sum(RESERVED_BYTES.values()) <= PACKET_BYTES_MAX


def test_a_full_frame_of_records_fits_a_stream() -> None:
    """Trap 15: state of a join that was too large was dropped whole."""
    name, top = NodeId("n" * 63), 1 << 62
    alive_record = Alive(
        name, top, INCARNATION_MAX, Address("h" * 253, 65535, 65535, 65535), Tags("z" * 63, "z" * 63, "z" * 63)
    )
    largest = SyncRecord(
        alive_record, State.DEAD, tuple(Accuser(name, 15) for _ in range(ACCUSERS_MAX)), 1 << 53,
        Hints(name, top, top, bytes(HINTS_BYTES_MAX)), Load(name, top, top, 1 << 53, 1 << 53, 1 << 53, 1 << 53, 1000, 1000),
    )  # fmt: skip
    assert len(encode_message(largest.alive)) > 500
    assert RECORDS_MAX * len(msgspec.msgpack.encode(largest)) + RECORDS_MAX * 65 < STREAM_BYTES_MAX
    assert (MEMBERS_MAX + 1) * len(msgspec.msgpack.encode(DigestEntry(name, top, top, State.LEFT, top))) < STREAM_BYTES_MAX
