"""What gossip says on the wire.

    packet = crc32 (u32, little-endian) msgpack([version, version_min, version_max, cluster, sender, generation, messages])

The same packet goes into datagrams and into streams; only the size bound differs. Every bound of every field is part of its
type, so that one C call decodes and checks a packet. The first three fields keep their place in every version: they say how
the rest is written and which versions the sender speaks, so that two releases know why they do not understand each other.

What a member says about itself has three classes, each repeated for its own sake: `Alive` (identity, addresses, tags) is
membership, `Hints` (which shards it leads) and `Load` change often and are worth nothing when old. They do not touch the
incarnation.

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

VERSION: Final = 2
"""How this release writes packets."""
VERSION_MIN: Final = 2
VERSION_MAX: Final = 2
"""Which packets this release reads. A change that the former release can not read raises VERSION; VERSION_MIN follows once no
node of the release before is left."""
INCARNATION_MAX: Final = 1 << 62
GENERATION_MAX: Final = 1 << 62
HINTS_BYTES_MAX: Final = 256
ACCUSERS_MAX: Final = 4
BUCKETS: Final = 64
"""Parts into which a table is cut for comparing, by a hash of the node id."""
BUCKET_HASH_BYTES: Final = 8
RECORDS_MAX: Final = 2048
"""Records of one frame. The largest of them is under 2 KB, so that a full frame fits a stream."""
STREAM_BYTES_MAX: Final = 4 * 1024 * 1024
MESSAGES_MAX: Final = 255

Node = Annotated[NodeId, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z")]
Generation = Annotated[int, Meta(ge=0, le=GENERATION_MAX)]
Incarnation = Annotated[int, Meta(ge=0, le=INCARNATION_MAX)]
Sequence64 = Annotated[int, Meta(ge=0, le=1 << 62)]
Port = Annotated[int, Meta(ge=0, le=65535)]
HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:%-]{1,253}\Z")]
Label = Annotated[str, Meta(pattern=r"^[ -~]{0,63}\Z")]
Permille = Annotated[int, Meta(ge=0, le=1000)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
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


class Tags(Struct, frozen=True, array_like=True):
    """What a node is, as far as others care. `host` and `zone` are what placement spreads replicas over, and what accusers
    are counted by; `version` is its release. Empty when not set.
    """

    host: Label = ""
    zone: Label = ""
    version: Label = ""


class Path(enum.IntFlag):
    """By which ways an accuser did not reach its suspect."""

    DIRECT = 1
    INDIRECT = 2
    STREAM = 4
    DATA = 8
    """The connections of the data path, that is of Raft."""

    @property
    def names(self) -> list[str]:
        return [str(path.name).lower() for path in Path if path in self]


class Accuser(Struct, frozen=True, array_like=True):
    """Who raised a suspicion by itself, and what it had tried. Those who pass a suspicion on are no accusers."""

    node: Node
    paths: Annotated[int, Meta(ge=0, le=15)] = 0


Accusers = Annotated[tuple[Accuser, ...], Meta(max_length=ACCUSERS_MAX)]


class Alive(Struct, frozen=True, array_like=True, tag=5):
    """A member about itself. Only the subject raises its own incarnation; a newer generation is a newer process."""

    node: Node
    generation: Generation
    incarnation: Incarnation
    address: Address
    tags: Tags

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


class Hints(Struct, frozen=True, array_like=True, tag=12):
    """What a member believes of shards: opaque to gossip, for example (shard, leader, term). The highest sequence counts."""

    node: Node
    generation: Generation
    sequence: Sequence64
    data: Annotated[bytes, Meta(max_length=HINTS_BYTES_MAX)]


class Load(Struct, frozen=True, array_like=True, tag=13):
    """How busy a member is, and which versions of the shared decisions it knows. The highest sequence counts.

    map_version, members_epoch: of the shard map and the list of members that it has. leaders, replicas: shards that it leads
    and copies that it holds. cpu_permille, disk_permille: of its processor and disk in use.
    """

    node: Node
    generation: Generation
    sequence: Sequence64
    map_version: Count = 0
    members_epoch: Count = 0
    leaders: Count = 0
    replicas: Count = 0
    cpu_permille: Permille = 0
    disk_permille: Permille = 0


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
    """Please ping this member for me; say Nack if it does not answer you within `patience_ms` either.

    The asker sets the patience, because it alone knows when it will judge: a nack that comes later is worth nothing.
    """

    sequence: Sequence64
    node: Node
    generation: Generation
    address: Address
    patience_ms: Annotated[int, Meta(ge=1, le=1 << 20)]


class Nack(Struct, frozen=True, array_like=True, tag=4):
    """The helper is fine, but got no answer. Tells a sick prober from a dead target (Lifeguard)."""

    sequence: Sequence64


class DigestEntry(Struct, frozen=True, array_like=True):
    """The identity and state of one member, without the rest. `hints`: the sequence of the hints that are held."""

    node: Node
    generation: Generation
    incarnation: Incarnation
    state: State
    hints: Sequence64 = 0


class SyncRecord(Struct, frozen=True, array_like=True):
    """All that one node holds about a member. `age_ms`: for how long it has been in this state there."""

    alive: Alive
    state: State
    accusers: Accusers
    age_ms: AgeMs
    hints: Hints | None = None
    load: Load | None = None


Entries = Annotated[list[DigestEntry], Meta(max_length=MEMBERS_MAX + 1)]
Records = Annotated[list[SyncRecord], Meta(max_length=RECORDS_MAX)]
Names = Annotated[list[Node], Meta(max_length=RECORDS_MAX)]


class SyncRequest(Struct, frozen=True, array_like=True, tag=9):
    """Opens a comparison: the hashes of the buckets of the sender's table, and itself in full. `known`: how many it holds."""

    sender: Alive
    hashes: Annotated[bytes, Meta(min_length=BUCKETS * BUCKET_HASH_BYTES, max_length=BUCKETS * BUCKET_HASH_BYTES)]
    known: Count


class SyncReply(Struct, frozen=True, array_like=True, tag=10):
    """The buckets that differ (a bit each) and what the answerer holds in them; or, for who knows nobody, records at once.

    more: there are more records than fit; ask again.
    """

    buckets: Annotated[int, Meta(ge=0)]
    entries: Entries
    records: Records
    more: bool


class SyncDelta(Struct, frozen=True, array_like=True, tag=11):
    """Closes a comparison: what the sender holds in a newer version, and the members of which it would like to know more."""

    records: Records
    wanted: Names


class SyncRecords(Struct, frozen=True, array_like=True, tag=14):
    """The records that were wanted."""

    records: Records


Opinion = Alive | Suspect | Dead | Left
Note = Hints | Load
Sync = SyncRequest | SyncReply | SyncDelta | SyncRecords
Message = Ping | Ack | PingRequest | Nack | Alive | Suspect | Dead | Left | Hints | Load | Sync


class Packet(Struct, frozen=True, array_like=True):
    """Messages of one sender, of one process."""

    version: int
    version_min: int
    version_max: int
    cluster: bytes
    sender: Node
    generation: Generation
    messages: Annotated[list[Message], Meta(max_length=MESSAGES_MAX)]


class _Envelope(Struct, frozen=True, array_like=True):
    """A packet whose messages are encoded already."""

    version: int
    version_min: int
    version_max: int
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


class ForeignVersion(Struct, frozen=True):
    """A packet that this release can not read, of a sender that speaks these versions: a typed refusal for operators."""

    version_min: int
    version_max: int


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
    envelope = _Envelope(
        VERSION, VERSION_MIN, VERSION_MAX, cluster, sender, generation, [msgspec.Raw(message) for message in messages]
    )
    body = _encoder.encode(envelope)
    return _CHECKSUM.pack(zlib.crc32(body)) + body


def packet_overhead(sender: NodeId) -> int:
    """Bytes of a packet beside its messages, at most."""
    return _CHECKSUM.size + 1 + 3 + 10 + 2 + len(sender) + 9 + 3


def decode(data: bytes, cluster: bytes, bytes_max: int) -> Packet | Refusal | ForeignVersion:
    """Read a packet. Garbage and other clusters give a Refusal, versions that are not spoken here a ForeignVersion."""
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
    if not VERSION_MIN <= packet.version <= VERSION_MAX:
        return ForeignVersion(packet.version_min, packet.version_max)
    if packet.cluster != cluster:
        return Refusal.WRONG_CLUSTER
    return packet


def _why_undecodable(body: memoryview) -> Refusal | ForeignVersion:
    """A later version may look different in everything but its first fields."""
    try:
        fields = _version_decoder.decode(body)
        version, low, high = (msgspec.msgpack.decode(field, type=int) for field in fields[:3])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return Refusal.MALFORMED
    if VERSION_MIN <= version <= VERSION_MAX or not 0 < low <= version <= high:
        return Refusal.MALFORMED
    return ForeignVersion(low, high)
