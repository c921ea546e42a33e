"""The code of `system/cluster`, behind the same runtime protocol as authors' code.

Channels: construct(shard_map, nodes, replication_factor), deploy(space, bundle), rollback(space), retry(space),
isolate(shard, index, offset, reason), place(shard, configured, replicas), node(do, ...) and placement(...). Only principals
of the authority `moot` pass its gate; gateways never let a client act as one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Hashable
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from cluster.config import REPLICATION_FACTOR_DEFAULT, SHARDS_MAX
from cluster.documents.runtime import (
    CONSTRUCT_CHANNEL,
    AnswersNoRequests,
    ArmsNothing,
    Code,
    Invocation,
    KeepsNoBlobs,
    Loader,
    Outcome,
    Program,
    Projection,
    ReadFailure,
    Settings,
    ShowsNobody,
    TakesNoRepair,
)
from cluster.errors import (
    ClusterError,
    InvalidArguments,
    InvalidBundle,
    InvalidPayload,
    StorageDamaged,
    UnknownChannel,
    UnknownSpace,
)
from cluster.ids import DocumentId, LogIndex, Principal, ShardId, check_node, check_space
from cluster.raft.configuration import MEMBERS_MAX
from cluster.shard.deployments import Space
from cluster.shard.directory import Decisions, Isolated
from cluster.shard.system import nodes, spaces
from cluster.shard.system.spaces import SPACES_MAX, Deploy, Retry, Rollback
from cluster.shardmap.map import BOOTSTRAP_NODES_MAX, SYSTEM_SPACE, MapState, Placement, ShardMap, placed
from cluster.shardmap.nodes import PlacementSettings

SYSTEM_CODE = b"\0" * 31 + b"\1"
OPERATOR = Principal("operator", "moot")
BUNDLE_BYTES_MAX = 4 * 1024 * 1024
ISOLATED_MAX = 1_000
REASON_CHARACTERS_MAX = 1_000
PLACE_MAX = (1 << 53) - 1


class Construct(Struct, forbid_unknown_fields=True):
    """The map that every node computed from the same list, and the list itself."""

    shard_map: str
    nodes: Annotated[tuple[nodes.Register, ...], Meta(max_length=BOOTSTRAP_NODES_MAX)] = ()
    replication_factor: Annotated[int, Meta(ge=1, le=BOOTSTRAP_NODES_MAX)] = REPLICATION_FACTOR_DEFAULT


class Isolate(Struct, forbid_unknown_fields=True):
    """One command that ended nodes, by its place in a shard's log."""

    shard: Annotated[int, Meta(ge=0, le=PLACE_MAX)]
    index: Annotated[int, Meta(ge=0, le=PLACE_MAX)]
    offset: Annotated[int, Meta(ge=0, le=PLACE_MAX)]
    reason: Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)]


class Place(Struct, forbid_unknown_fields=True):
    """Where the voters of a shard are since entry `configured` of its log, as its leader says."""

    shard: Annotated[int, Meta(ge=0, le=SHARDS_MAX)]
    configured: Annotated[int, Meta(ge=1, le=PLACE_MAX)]
    replicas: Annotated[tuple[Placement, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]


PLACE_CHANNEL = "place"
NODE_CHANNEL = "node"
PLACEMENT_CHANNEL = "placement"
_CHANNELS: dict[str, Any] = {
    CONSTRUCT_CHANNEL: Construct,
    "deploy": Deploy,
    "rollback": Rollback,
    "retry": Retry,
    "isolate": Isolate,
    PLACE_CHANNEL: Place,
    NODE_CHANNEL: nodes.NodeRequest,
    PLACEMENT_CHANNEL: nodes.Settings,
}


def bundle_hash(bundle: bytes) -> bytes:
    """The content address of a bundle: BLAKE2b-256."""
    return blake2b(bundle, digest_size=32).digest()


class SystemProgram:
    """Implements `cluster.documents.runtime.Program`. `loader` compiles a bundle before it is accepted into the log."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    @property
    def code_hash(self) -> bytes:
        return SYSTEM_CODE

    @property
    def settings(self) -> Settings:
        return Settings(payload_bytes_max=2 * BUNDLE_BYTES_MAX)

    @property
    def creates_missing(self) -> bool:
        return False

    def schema(self) -> dict[str, Any]:
        return {"channels": sorted(_CHANNELS)}

    def check(self, channel: str, payload: bytes) -> bytes:
        """Canonical payload; a bundle is compiled here, on the leader, so that code that can not run is never logged."""
        if channel not in _CHANNELS:
            raise UnknownChannel(f"the system document has no channel {channel!r}")
        try:
            request = msgspec.json.decode(payload, type=_CHANNELS[channel])
        except msgspec.DecodeError as error:
            raise InvalidPayload(str(error)) from error
        if isinstance(request, Deploy):
            check_space(request.space)
            if request.space == SYSTEM_SPACE:
                raise InvalidPayload("the space name `system` is reserved")
            program = self._loader.load(_bundle_of(request))
            request = replace(request, version=int(program.schema().get("version", 0)))
        elif isinstance(request, Construct):
            _map_of(request)
            nodes.first_nodes(request.nodes, 0)
        elif isinstance(request, nodes.Register | nodes.SetStanding):
            nodes.check(request)
        elif isinstance(request, Place):
            _check_places(request)
        return msgspec.json.encode(request)

    def upgrade(
        self, document: DocumentId, state: bytes, before: Program, invocation: Invocation
    ) -> tuple[SystemInstance | None, Outcome]:
        """The system's code is part of the release, and no space names it."""
        return None, Outcome(Code.DENIED, b"{}")

    def new(self, document: DocumentId) -> SystemInstance:
        return SystemInstance(Decisions())

    def load(self, document: DocumentId, state: bytes) -> SystemInstance:
        try:
            return SystemInstance(msgspec.msgpack.decode(state, type=Decisions))
        except msgspec.DecodeError as error:
            raise StorageDamaged(f"the system document does not decode: {error}") from error


def _map_of(request: Construct) -> MapState:
    """The map that a new cluster starts with. Raises InvalidPayload: one that is none would end every node that applies it."""
    try:
        return ShardMap.decode(base64.b64decode(request.shard_map, validate=True)).state
    except (binascii.Error, msgspec.DecodeError, AssertionError, IndexError) as error:
        raise InvalidPayload(f"that is not a shard map: {error}") from error


def _check_places(request: Place) -> None:
    """Raises InvalidName or InvalidPayload."""
    for place in request.replicas:
        check_node(place.node)
    ids = [place.replica for place in request.replicas]
    if ids[0] < 1 or ids != sorted(set(ids)) or len({place.node for place in request.replicas}) != len(ids):
        raise InvalidPayload("replicas are sorted, each with an id and a node of its own")


def _bundle_of(request: Deploy) -> bytes:
    try:
        bundle = base64.b64decode(request.bundle, validate=True)
    except binascii.Error as error:
        raise InvalidPayload("the bundle is not base64") from error
    if not 1 <= len(bundle) <= BUNDLE_BYTES_MAX:
        raise InvalidBundle(f"a bundle has 1 to {BUNDLE_BYTES_MAX} bytes, not {len(bundle)}")
    return bundle


class SystemInstance(AnswersNoRequests, ArmsNothing, KeepsNoBlobs, ShowsNobody, TakesNoRepair):
    """The decisions in memory. `new_bundles` are (hash, bytes) that commands brought and the replica has not stored yet."""

    def __init__(self, decisions: Decisions) -> None:
        self.decisions = decisions
        self.new_bundles: list[tuple[bytes, bytes]] = []

    def run(self, invocation: Invocation) -> Outcome:
        if not self.admits(invocation.sender):
            return Outcome(Code.DENIED, b"{}")
        if invocation.channel not in _CHANNELS:
            return Outcome(Code.DENIED, b"{}")
        try:
            request = msgspec.json.decode(invocation.payload, type=_CHANNELS[invocation.channel])
            answer = self._decide(request, invocation)
        except (ClusterError, msgspec.DecodeError, ValueError) as error:
            body = {"name": type(error).__name__, "message": str(error), "arguments": {}}
            return Outcome(Code.REFUSED, msgspec.json.encode(body))
        writes = self.dump()
        return Outcome(Code.OK, msgspec.json.encode(answer), writes, writes, len(writes), 1)

    def _decide(self, request: Struct, invocation: Invocation) -> dict[str, Any]:
        now = self.decisions
        if isinstance(request, Construct):
            first = nodes.first_nodes(request.nodes, invocation.now_ms)
            placement = PlacementSettings(replication_factor=request.replication_factor)
            self.decisions = Decisions(1, _map_of(request), nodes=first, members_epoch=1, placement=placement)
            return {"version": 1}
        version = now.version + 1
        if isinstance(request, Deploy):
            return self._deploy(request, invocation, version)
        if isinstance(request, Rollback | Retry):
            before = self._space(request.space)
            by, now_ms = str(invocation.sender), invocation.now_ms
            after = spaces.roll_back(request, before, by, now_ms) if isinstance(request, Rollback) else before.retried()
            self._put(after, version)
            return {"version": version, "changed": True}
        if isinstance(request, Place):
            return self._place(request, version)
        if isinstance(request, nodes.Register | nodes.SetStanding):
            return self._change_nodes(request, version, invocation.now_ms)
        if isinstance(request, nodes.Settings):
            return self._settle(request, version)
        assert isinstance(request, Isolate)
        if len(now.isolated) >= ISOLATED_MAX:
            raise ValueError(f"a cluster isolates at most {ISOLATED_MAX} commands")
        item = Isolated(request.shard, request.index, request.offset, request.reason, str(invocation.sender))
        self.decisions = replace(now, version=version, isolated=(*now.isolated, item))
        return {"version": version}

    def _deploy(self, request: Deploy, invocation: Invocation, version: int) -> dict[str, Any]:
        now = self.decisions
        bundle = _bundle_of(request)
        code_hash = bundle_hash(bundle)
        before = next((space for space in now.spaces if space.name == request.space), None)
        if before is None and len(now.spaces) >= SPACES_MAX:
            raise ValueError(f"a cluster has at most {SPACES_MAX} spaces")
        after = spaces.deploy(request, code_hash, before, str(invocation.sender), invocation.now_ms)
        if after is not before:
            self._put(after, version)
        self.new_bundles.append((code_hash, bundle))
        return {"version": self.decisions.version, "changed": after is not before}

    def _space(self, name: str) -> Space:
        found = next((space for space in self.decisions.spaces if space.name == name), None)
        if found is None:
            raise UnknownSpace(f"no space {name!r} is deployed", space=name[:63])
        return found

    def _put(self, space: Space, version: int) -> None:
        now = self.decisions
        known = {each.name: each for each in now.spaces} | {space.name: space}
        sorted_spaces = tuple(known[name] for name in sorted(known))
        self.decisions = replace(now, version=version, spaces=sorted_spaces)

    def _place(self, request: Place, version: int) -> dict[str, Any]:
        now = self.decisions
        if now.shard_map is None or ShardMap(now.shard_map).get(ShardId(request.shard)) is None:
            raise ValueError(f"the map has no shard {request.shard}")
        shard_map = placed(now.shard_map, ShardId(request.shard), LogIndex(request.configured), request.replicas)
        changed = shard_map is not now.shard_map
        if changed:
            self.decisions = replace(now, version=version, shard_map=shard_map)
        return {"version": self.decisions.version, "shard_map_version": shard_map.version, "changed": changed}

    def _change_nodes(self, request: nodes.NodeRequest, version: int, now_ms: int) -> dict[str, Any]:
        now = self.decisions
        after = nodes.decide(request, now.nodes, now.members_epoch, now.shard_map, now_ms)
        changed = after is not now.nodes
        if changed:
            self.decisions = replace(now, version=version, nodes=after, members_epoch=now.members_epoch + 1)
        return {"version": self.decisions.version, "members_epoch": self.decisions.members_epoch, "changed": changed}

    def _settle(self, request: nodes.Settings, version: int) -> dict[str, Any]:
        after = nodes.settle(request, self.decisions.placement)
        changed = after != self.decisions.placement
        if changed:
            self.decisions = replace(self.decisions, version=version, placement=after)
        return {"version": self.decisions.version, "changed": changed}

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(self.decisions)

    def size_bytes(self) -> int:
        return 1024 + 128 * (len(self.decisions.spaces) + len(self.decisions.isolated) + len(self.decisions.nodes))

    def admits(self, who: Principal) -> bool:
        return who.authority == OPERATOR.authority

    classes_vary = False

    def arguments(self, raw: bytes) -> bytes:
        if raw not in (b"", b"{}"):
            raise InvalidArguments("this document has no views")
        return b""

    def visibility_class(self, who: Principal) -> Hashable:
        return None

    def view(self, who: Principal, arguments: bytes = b"") -> bytes:
        shown = [
            {"name": space.name, "code_hash": space.code_hash.hex(), "deployments": space.deployments}
            for space in self.decisions.spaces
        ]
        return msgspec.json.encode({"version": self.decisions.version, "spaces": shown})

    def projection(self, who: Principal, arguments: bytes = b"") -> Projection:
        return _Whole(self, who)

    def read_failures(self) -> list[ReadFailure]:
        return []

    def patch_since(self, changes: list[Any], who: Principal) -> bytes | None:
        return None


class _Whole:
    """A projection that replaces everything: decisions are few and small."""

    def __init__(self, instance: SystemInstance, who: Principal) -> None:
        self._instance = instance
        self._who = who

    def fork(self) -> Projection:
        return self

    def advance(self, changes: list[Any], who: Principal | None = None, arguments: bytes | None = None) -> bytes:
        return b'[{"op":"replace","path":"","value":' + self.full() + b"}]"

    def full(self) -> bytes:
        return self._instance.view(self._who)
