"""The bytes between two nodes: framing, and the handshake that opens a connection.

    frame     = length (u32) crc32 (u32) payload        little-endian, length = bytes of payload, 1..limit
    dialler   : Hello, then frames for as long as the connection lives
    acceptor  : Hello or Refused, then nothing

Who is no peer yet opens with an Introduction instead (`introduction`).

Connections carry frames one way only, from the node that dialled. Hence no tie has to be broken when two nodes dial each
other at once, a retry never waits for the other side, a fault proxy can treat the directions apart, and each side gets its
own ECONNREFUSED when the other's process is gone.

Invariant: nothing read from a socket raises past this module; a violation is a `Refusal`.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

import msgspec

from cluster.errors import InvalidName
from cluster.ids import NodeId, check_node
from cluster.pump.lanes import Lane
from cluster.transport.peer import Refusal

MAGIC: Final = b"MOOTPEER"
PROTOCOL_VERSION_MIN: Final = 1
PROTOCOL_VERSION_MAX: Final = 1
HELLO_BYTES_MAX: Final = 4096
"""The largest frame that a peer may send before it has said who it is."""

HEADER: Final = struct.Struct("<II")


def frame_header(frame: bytes) -> bytes:
    """The eight bytes that go before `frame`."""
    return HEADER.pack(len(frame), zlib.crc32(frame))


class FrameDecoder:
    """Cuts a byte stream into frames, each checked.

    `failure` is set at the first violation and stays; frames before it are still returned, none after it.
    """

    __slots__ = ("_chunks", "_needed", "_waiting", "failure", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.failure: Refusal | None = None
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._needed = HEADER.size

    def feed(self, data: bytes) -> list[bytes]:
        """Take what the socket gave; return the frames that it completes.

        Work is linear in the bytes received: an incomplete frame is joined once, when its last chunk is there.
        """
        if self.failure is not None:
            return []
        if self._waiting:
            self._chunks.append(data)
            self._waiting += len(data)
            if self._waiting < self._needed:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._waiting = 0
        return self._cut(data)

    def _cut(self, data: bytes) -> list[bytes]:
        frames: list[bytes] = []
        end = len(data)
        offset = 0
        needed = HEADER.size
        while end - offset >= HEADER.size:
            length, checksum = HEADER.unpack_from(data, offset)
            if not 1 <= length <= self.frame_bytes_max:
                self.failure = Refusal.FRAME_TOO_LARGE if length else Refusal.MALFORMED
                return frames
            start = offset + HEADER.size
            if end - start < length:
                needed = HEADER.size + length
                break
            frame = data[start : start + length]
            if zlib.crc32(frame) != checksum:
                self.failure = Refusal.CHECKSUM_MISMATCH
                return frames
            frames.append(frame)
            offset = start + length
        if offset < end:
            self._chunks.append(data[offset:] if offset else data)
            self._waiting = end - offset
        self._needed = needed
        return frames


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Who speaks, and to whom it believes to speak.

    version_min, version_max: protocol versions that the sender speaks; the highest common one is used.
    boot_generation: rises with every start of the process; tells a restarted peer from a reconnecting one.
    dial: rises with every dial of the sending process; of two connections for one lane the later dial is the true one.
    """

    version_min: int
    version_max: int
    cluster_id: str
    node: str
    target: str
    boot_generation: int
    lane: int
    dial: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The acceptor's answer instead of a Hello; it closes the connection after it."""

    refusal: str


class Introduction(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A node that wants to belong to a cluster, or says where it is now.

    cluster_id: as hexadecimal digits; empty for a newcomer. directory: the identity of its data directory, likewise.
    wall_ms: its clock when this was sent.
    """

    version_min: int
    version_max: int
    release: str
    cluster_id: str
    node: str
    directory: str
    host: str
    peer_port: int
    gossip_port: int
    client_port: int
    host_label: str
    zone: str
    wall_ms: int


Opening = Hello | Refused | Introduction
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Opening] = msgspec.msgpack.Decoder(Opening)


def encode_opening(message: Opening) -> bytes:
    """A handshake message as a complete frame, header included."""
    payload = MAGIC + _encoder.encode(message)
    assert len(payload) <= HELLO_BYTES_MAX, "node and cluster names are bounded far below this"
    return frame_header(payload) + payload


def decode_opening(frame: bytes) -> Opening | Refusal:
    """Read a handshake message; garbage gives Refusal.MALFORMED."""
    if not frame.startswith(MAGIC):
        return Refusal.MALFORMED
    try:
        return _decoder.decode(memoryview(frame)[len(MAGIC) :])
    except (msgspec.DecodeError, RecursionError):
        return Refusal.MALFORMED


def judge_hello(hello: Hello, *, cluster_id: str, own_node: NodeId) -> Refusal | None:
    """What an acceptor holds against a dialler's Hello; None if nothing. Versions first: the rest may mean something else."""
    if hello.version_max < PROTOCOL_VERSION_MIN or hello.version_min > PROTOCOL_VERSION_MAX:
        return Refusal.VERSION_MISMATCH
    if hello.cluster_id != cluster_id:
        return Refusal.WRONG_CLUSTER
    if hello.target != own_node or hello.node == own_node:
        return Refusal.WRONG_NODE
    if hello.boot_generation < 0 or not 0 <= hello.lane < len(Lane):
        return Refusal.MALFORMED
    try:
        check_node(hello.node)
    except InvalidName:
        return Refusal.MALFORMED
    return None
