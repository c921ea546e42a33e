"""What gossip says on the wire.

    packet = crc32 (u32, little-endian) msgpack([version, cluster, sender, generation, messages])

The same packet goes into datagrams and into streams; only the size bound differs. Every bound of every field is part of its
type, so that one C call decodes and checks a packet.

Invariant: `decode` never raises. What it returns is within all bounds, of this version and this cluster.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from cluster.gossip.config import MEMBERS_MAX
from cluster.ids import NodeId

VERSION: Final = 1
INCARNATION_MAX: Final = 1 << 62
GENERATION_MAX: Final = 1 << 62
HINTS_BYTES_MAX: Final = 256
ACCUSERS_MAX: Final = 4
STREAM_BYTES_MAX: Final = 4 * 1024 * 1024
MESSAGES_MAX: Final = 255

Node = Annotated[NodeId, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z")]
Generation = Annotated[int, Meta(ge=0, le=GENERATION_MAX)]
Incarnation = Annotated[int, Meta(ge=0, le=INCARNATION_MAX)]
Sequence64 = Annotated[int, Meta(ge=0, le=1 << 62)]
Port = Annotated[int, Meta(ge=0, le=65535)]
HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:%-]{1,253}\Z")]
Label = Annotated[str, Meta(max_length=63)]
Accusers = Annotated[tuple[Node, ...], Meta(max_length=ACCUSERS_MAX)]
AgeMs = Annotated[int, Meta(ge=0, le=1 << 53)]


class State(enum.IntEnum):
    """What a node holds of a member. Of two opinions about one identity the higher value wins."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Address(Struct, frozen=True, array_like=True):
    """Where a node is reached. A port of 0 says that it does not offer that service."""

    host: HostName
    gossip_port: Port
    peer_port: Port = 0
    client_port: Port = 0


class Labels(Struct, frozen=True, array_like=True):
    """What placement spreads replicas over. Empty when not set."""

    host: Label = ""
    zone: Label = ""


class Alive(Struct, frozen=True, array_like=True, tag=5):
    """A member about itself. Only the subject raises its own incarnation; a newer generation is a newer process.

    hints: opaque to gossip, for example leaders and load.
    """

    node: Node
    generation: Generation
    incarnation: Incarnation
    address: Address
    labels: Labels
    hints: Annotated[bytes, Meta(max_length=HINTS_BYTES_MAX)] = b""

    @property
    def identity(self) -> tuple[int, int]:
        return self.generation, self.incarnation


class Suspect(Struct, frozen=True, array_like=True, tag=6):
    """Somebody could not reach the member. Names the original accusers: only different ones confirm each other."""

    node: Node
    generation: Generation
    incarnation: Incarnation
    accusers: Accusers


class Dead(Struct, frozen=True, array_like=True, tag=7):
    """A suspicion ran out unrefuted."""

    node: Node
    generation: Generation
    incarnation: Incarnation
    accusers: Accusers


class Left(Struct, frozen=True, array_like=True, tag=8):
    """The member said good-bye itself."""

    node: Node
    generation: Generation
    incarnation: Incarnation


class Ping(Struct, frozen=True, array_like=True, tag=1):
    """Are you there? Answered only by the process that is meant."""

    sequence: Sequence64
    node: Node
    generation: Generation


class Ack(Struct, frozen=True, array_like=True, tag=2):
    """`node` of `generation` answered ping `sequence` of the receiver. Sent by itself or by a helper."""

    sequence: Sequence64
    node: Node
    generation: Generation


class PingRequest(Struct, frozen=True, array_like=True, tag=3):
    """Please ping this member for me; say Nack if it does not answer you either."""

    sequence: Sequence64
    node: Node
    generation: Generation
    address: Address


class Nack(Struct, frozen=True, array_like=True, tag=4):
    """The helper is fine, but got no answer. Tells a sick prober from a dead target (Lifeguard)."""

    sequence: Sequence64


class DigestEntry(Struct, frozen=True, array_like=True):
    """The identity and state of one member, without the rest."""

    node: Node
    generation: Generation
    incarnation: Incarnation
    state: State


class SyncRecord(Struct, frozen=True, array_like=True):
    """All that one node holds about a member. `age_ms`: for how long it has been in this state there."""

    alive: Alive
    state: State
    accusers: Accusers
    age_ms: AgeMs


Digest = Annotated[list[DigestEntry], Meta(max_length=MEMBERS_MAX + 1)]
Records = Annotated[list[SyncRecord], Meta(max_length=MEMBERS_MAX + 1)]


class SyncRequest(Struct, frozen=True, array_like=True, tag=9):
    """Opens a comparison: what the sender knows, in short, and itself in full."""

    sender: Alive
    digest: Digest


class SyncReply(Struct, frozen=True, array_like=True, tag=10):
    """What the receiver of the digest knows better, and what it would like to know."""

    records: Records
    wanted: Annotated[list[Node], Meta(max_length=MEMBERS_MAX + 1)]


class SyncDelta(Struct, frozen=True, array_like=True, tag=11):
    """The records that were wanted."""

    records: Records


Opinion = Alive | Suspect | Dead | Left
Message = Ping | Ack | PingRequest | Nack | Alive | Suspect | Dead | Left | SyncRequest | SyncReply | SyncDelta


class Packet(Struct, frozen=True, array_like=True):
    """Messages of one sender, of one process."""

    version: int
    cluster: bytes
    sender: Node
    generation: Generation
    messages: Annotated[list[Message], Meta(max_length=MESSAGES_MAX)]


class _Envelope(Struct, frozen=True, array_like=True):
    """A packet whose messages are encoded already."""

    version: int
    cluster: bytes
    sender: str
    generation: int
    messages: list[msgspec.Raw]


class Refusal(enum.StrEnum):
    """Why a packet, or a part of it, was not taken. Counted by these names."""

    MALFORMED = "malformed"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    TOO_LARGE = "too_large"
    VERSION_MISMATCH = "version_mismatch"
    WRONG_CLUSTER = "wrong_cluster"
    FROM_SELF = "from_self"
    STALE_SENDER = "stale_sender"
    REMOVED = "removed"
    MISDIRECTED = "misdirected"
    UNEXPECTED_ACK = "unexpected_ack"
    IMPLAUSIBLE_INCARNATION = "implausible_incarnation"
    TOO_MANY_MEMBERS = "too_many_members"
    TOO_MANY_RELAYS = "too_many_relays"


_CHECKSUM = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Packet)
_version_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


def cluster_tag(cluster_id: str) -> bytes:
    """Eight bytes that tell clusters apart in every packet, at less cost than the whole id."""
    return hashlib.blake2b(cluster_id.encode(), digest_size=8).digest()


def encode_message(message: Message) -> bytes:
    return _encoder.encode(message)


def encode_packet(cluster: bytes, sender: NodeId, generation: int, messages: Sequence[bytes]) -> bytes:
    """A packet of messages that were encoded with `encode_message`."""
    envelope = _Envelope(VERSION, cluster, sender, generation, [msgspec.Raw(message) for message in messages])
    body = _encoder.encode(envelope)
    return _CHECKSUM.pack(zlib.crc32(body)) + body


def packet_overhead(sender: NodeId) -> int:
    """Bytes of a packet beside its messages, at most."""
    return _CHECKSUM.size + 1 + 1 + 10 + 2 + len(sender) + 9 + 3


def decode(data: bytes, cluster: bytes, bytes_max: int) -> Packet | Refusal:
    """Read a packet. Garbage, other versions and other clusters give a Refusal."""
    if len(data) > bytes_max:
        return Refusal.TOO_LARGE
    if len(data) <= _CHECKSUM.size:
        return Refusal.MALFORMED
    body = memoryview(data)[_CHECKSUM.size :]
    if zlib.crc32(body) != _CHECKSUM.unpack_from(data)[0]:
        return Refusal.CHECKSUM_MISMATCH
    try:
        packet = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _why_undecodable(body)
    if packet.version != VERSION:
        return Refusal.VERSION_MISMATCH
    if packet.cluster != cluster:
        return Refusal.WRONG_CLUSTER
    return packet


def _why_undecodable(body: memoryview) -> Refusal:
    """A later version may look different in everything but its first field."""
    try:
        fields = _version_decoder.decode(body)
        version = msgspec.msgpack.decode(fields[0], type=int) if fields else VERSION
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refusal.MALFORMED
    return Refusal.MALFORMED if version == VERSION else Refusal.VERSION_MISMATCH
