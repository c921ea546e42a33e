"""What every shard of a node knows of the cluster's decisions: spaces and their code, the shard map, isolated commands, nodes.

The system shard decides; each node keeps this cache of the decisions, stored beside its data, so the data path never waits
for the system shard. A newer version replaces an older one whole.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import msgspec
from msgspec import Struct

from cluster.documents.runtime import Loader, Program
from cluster.errors import ApplyHalted, CodeMissing, InvalidBundle, UnknownSpace
from cluster.shard.compilations import Compilations
from cluster.shard.deployments import Space
from cluster.shardmap.map import SYSTEM_SPACE, MapState
from cluster.shardmap.nodes import Nodes, PlacementSettings

PROGRAMS_MAX = 256
"""Compiled programs kept in memory; the least recently used goes and is compiled again when needed."""


class Isolated(Struct, frozen=True, array_like=True):
    """A command that an operator isolated: it answers `Poisoned` everywhere and its document is frozen."""

    shard: int
    index: int
    offset: int
    reason: str
    by: str


class Decisions(Struct, frozen=True, array_like=True):
    """Everything the system shard has decided. `version` rises with every change, `members_epoch` when it is one of nodes."""

    version: int = 0
    shard_map: MapState | None = None
    spaces: tuple[Space, ...] = ()
    isolated: tuple[Isolated, ...] = ()
    nodes: Nodes = ()
    members_epoch: int = 0
    placement: PlacementSettings = PlacementSettings()


class Bundles(Protocol):
    """Where compiled code comes from."""

    def get(self, code_hash: bytes) -> bytes | None: ...


GRACE_MS = 5_000
"""A connection whose watch is lost is disconnected after this, unless the watch is opened again. By its leader's own clock."""


class Directory:
    """The decisions as this node knows them, and compiled code by content hash.

    missing: bundles that something waits for; the pump asks peers for them. compilations: who has compiled what.
    """

    def __init__(self, bundles: Bundles, loader: Loader, builtin: dict[bytes, Program]) -> None:
        self._bundles = bundles
        self._loader = loader
        self._builtin = builtin
        self._programs: OrderedDict[bytes, Program] = OrderedDict()
        self.missing: set[bytes] = set()
        self.decisions = Decisions()
        self._spaces: dict[str, Space] = {}
        self.newly_isolated: list[Isolated] = []
        self._isolated: dict[tuple[int, int, int], Isolated] = {}
        self.compilations = Compilations()
        self.connection_grace_ms = GRACE_MS

    @property
    def codes(self) -> frozenset[bytes]:
        """What documents may be moved to, or stand at, by the timelines of all spaces."""
        return frozenset(deployment.code_hash for space in self._spaces.values() for deployment in space.walked)

    def absorb(self, decisions: Decisions) -> bool:
        """Take newer decisions; says whether they were newer. What they isolate is in `newly_isolated` until the next ones."""
        if decisions.version <= self.decisions.version:
            return False
        known = self._isolated
        self.newly_isolated = [item for item in decisions.isolated if (item.shard, item.index, item.offset) not in known]
        self.decisions = decisions
        if decisions.spaces != tuple(self._spaces.values()):
            self._spaces = {space.name: space for space in decisions.spaces}
            self.compilations.keep(self.codes)
        self._isolated = {(item.shard, item.index, item.offset): item for item in decisions.isolated}
        return True

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self.decisions)

    def absorb_encoded(self, data: bytes) -> bool:
        return self.absorb(msgspec.msgpack.decode(data, type=Decisions))

    def space(self, name: str) -> Space:
        """The deployed space. Raises UnknownSpace."""
        space = self._spaces.get(name)
        if space is None:
            known = ", ".join(sorted(self._spaces)) or "none"
            raise UnknownSpace(f"no space {name!r} is deployed (deployed: {known})", space=name[:63])
        return space

    def code_for(self, space: str, key: str) -> bytes:
        """The code that a new document gets. Raises UnknownSpace."""
        if space == SYSTEM_SPACE:
            return next(iter(self._builtin))
        return self.space(space).code_for(key)

    def find_space(self, name: str) -> Space | None:
        """The deployed space, None where there is none, or the system's."""
        return self._spaces.get(name)

    def isolates(self, shard: int, index: int) -> bool:
        """Whether any command of an entry is isolated."""
        return any(place[:2] == (shard, index) for place in self._isolated)

    def isolated(self, shard: int, index: int, offset: int) -> Isolated | None:
        return self._isolated.get((shard, index, offset))

    def version_of(self, code_hash: bytes) -> int:
        """The version that code declares; 0 when the bundle is not on this node."""
        try:
            return int(self.program(code_hash).schema().get("version", 0))
        except CodeMissing:
            return 0

    def program(self, code_hash: bytes) -> Program:
        """Compiled code. Raises CodeMissing, and remembers to fetch the bundle, when it is not on this node; ApplyHalted when
        this release does not take what was deployed.
        """
        program = self._builtin.get(code_hash)
        if program is not None:
            return program
        program = self._programs.get(code_hash)
        if program is not None:
            self._programs.move_to_end(code_hash)
            return program
        bundle = self._bundles.get(code_hash)
        if bundle is None:
            self.missing.add(code_hash)
            raise CodeMissing(f"the bundle {code_hash.hex()[:12]} is not on this node yet", retry_after_ms=50)
        try:
            program = self._loader.load(bundle)
        except InvalidBundle as error:
            # An earlier release took it, or it would not have been deployed: not a fault of whoever asks.
            raise ApplyHalted(f"this release can not run the bundle {code_hash.hex()[:12]}: {error.message}") from error
        self._programs[code_hash] = program
        if len(self._programs) > PROGRAMS_MAX:
            self._programs.popitem(last=False)
        self.missing.discard(code_hash)
        return program
