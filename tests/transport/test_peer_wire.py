"""Framing and the opening handshake, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from cluster.transport.peer import Refusal
from cluster.transport.peer_wire import (
    HEADER,
    HELLO_BYTES_MAX,
    MAGIC,
    PROTOCOL_VERSION_MAX,
    FrameDecoder,
    Hello,
    Refused,
    decode_opening,
    encode_opening,
    frame_header,
    judge_hello,
)

frames_strategy = st.lists(st.binary(min_size=1, max_size=300), max_size=12)


def wire(frames: list[bytes]) -> bytes:
    return b"".join(frame_header(frame) + frame for frame in frames)


def hello(**changes: object) -> Hello:
    fields: dict[str, object] = {
        "version_min": 1,
        "version_max": 1,
        "cluster_id": "c",
        "node": "n2",
        "target": "n1",
        "boot_generation": 3,
        "lane": 0,
        "dial": 1,
    }
    return Hello(**(fields | changes))  # type: ignore[arg-type]


@given(frames=frames_strategy, cuts=st.lists(st.integers(min_value=1, max_value=700), max_size=30))
def test_frames_survive_any_cutting_of_the_stream(frames: list[bytes], cuts: list[int]) -> None:
    stream = wire(frames)
    decoder = FrameDecoder(1024)
    received: list[bytes] = []
    offset = 0
    for cut in [*cuts, len(stream) + 1]:
        received += decoder.feed(stream[offset : offset + cut])
        offset += cut
        if offset >= len(stream):
            break
    assert received == frames
    assert decoder.failure is None


@given(frames=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5), data=st.data())
def test_a_flipped_bit_is_never_delivered(frames: list[bytes], data: st.DataObject) -> None:
    stream = bytearray(wire(frames))
    position = data.draw(st.integers(min_value=0, max_value=len(stream) - 1))
    stream[position] ^= 1 << data.draw(st.integers(min_value=0, max_value=7))
    decoder = FrameDecoder(1024)
    received = decoder.feed(bytes(stream))
    assert received == frames[: len(received)]
    assert len(received) < len(frames)


@given(garbage=st.binary(max_size=2000))
def test_garbage_never_raises(garbage: bytes) -> None:
    decoder = FrameDecoder(512)
    for frame in decoder.feed(garbage):
        decode_opening(frame)
    decode_opening(garbage)
    decode_opening(MAGIC + garbage)


def test_an_oversize_length_fails_before_its_bytes_arrive_and_keeps_earlier_frames() -> None:
    decoder = FrameDecoder(100)
    assert decoder.feed(wire([b"good"]) + HEADER.pack(101, 0)) == [b"good"]
    assert decoder.failure is Refusal.FRAME_TOO_LARGE
    assert decoder.feed(wire([b"later"])) == []


def test_zeros_are_not_a_stream_of_empty_frames() -> None:
    decoder = FrameDecoder(100)
    assert decoder.feed(bytes(64)) == []
    assert decoder.failure is Refusal.MALFORMED


def test_opening_messages_come_back_as_they_were_sent() -> None:
    for message in (hello(), Refused("wrong_cluster")):
        (frame,) = FrameDecoder(HELLO_BYTES_MAX).feed(encode_opening(message))
        assert decode_opening(frame) == message


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, None),
        ({"version_min": 0, "version_max": PROTOCOL_VERSION_MAX + 5}, None),
        ({"version_min": PROTOCOL_VERSION_MAX + 1, "version_max": PROTOCOL_VERSION_MAX + 1}, Refusal.VERSION_MISMATCH),
        ({"version_min": 0, "version_max": 0}, Refusal.VERSION_MISMATCH),
        ({"cluster_id": "other"}, Refusal.WRONG_CLUSTER),
        ({"target": "n9"}, Refusal.WRONG_NODE),
        ({"node": "n1"}, Refusal.WRONG_NODE),
        ({"node": "Not A Name"}, Refusal.MALFORMED),
        ({"lane": 3}, Refusal.MALFORMED),
        ({"boot_generation": -1}, Refusal.MALFORMED),
    ],
)
def test_a_hello_is_judged_with_a_typed_reason(changes: dict[str, object], refusal: Refusal | None) -> None:
    assert judge_hello(hello(**changes), cluster_id="c", own_node=NodeId("n1")) is refusal
