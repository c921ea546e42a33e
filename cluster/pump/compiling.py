"""Telling peers which code this node has compiled, and asking them: a shard's leader upgrades documents only to code that a
quorum of its voters could run.

A node that learns of a deployment compiles it at once and tells everybody; what was lost on the way, or happened before a
restart, is asked for when a leader wants to go on. Nothing is sent while nobody deploys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from cluster.errors import ApplyHalted, CodeMissing, StorageDamaged
from cluster.ids import NodeId, ShardId
from cluster.pump.schedule import Schedule
from cluster.shard.directory import Directory
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import CompiledItem, CompileRequest, Turn

_NEVER = float("inf")
ASK_AGAIN_MS = 1_000.0


class Holder(Protocol):
    """Who holds this node's replicas."""

    node: NodeId
    peers: list[NodeId]
    connected: set[NodeId]
    directory: Directory
    replicas: dict[ShardId, ShardReplica]


class Compiling:
    """One node's part."""

    def __init__(self, holder: Holder, schedule: Schedule, turn: Turn) -> None:
        self._holder = holder
        self._directory = directory = holder.directory
        self._compilations = directory.compilations
        self._schedule = schedule
        self._turn = turn
        self._known = directory.codes
        self._new: list[bytes] = []
        self._asked: dict[bytes, float] = {}

    @property
    def busy(self) -> bool:
        """Whether there is code to compile."""
        return bool(self._new)

    @property
    def deadline_ms(self) -> float:
        """When peers are to be asked again."""
        if not self._compilations.wanted:
            return _NEVER
        return min(self._asked.get(code_hash, 0.0) for code_hash in self._compilations.wanted) + ASK_AGAIN_MS

    def decided(self) -> None:
        """The decisions changed: compile what is new, and say so."""
        codes = self._directory.codes
        if codes != self._known:
            self._new = sorted(codes - self._known)  # at the next turn: the bundle is only in this turn's batch yet
            self._known = codes
        self._touch_watched()

    def _compile(self, code_hash: bytes) -> bool:
        """Whether this node could run it; whoever is connected is told the first time."""
        try:
            self._directory.program(code_hash)
        except (CodeMissing, ApplyHalted, StorageDamaged):
            return False
        self._compilations.heard(self._holder.node, code_hash)
        if code_hash not in self._compilations.own:
            self._compilations.own.add(code_hash)
            for peer in sorted(self._holder.connected):
                self._turn.send_now(peer, CompiledItem(code_hash))
        return True

    def tick(self, now_ms: float) -> None:
        """Compile what is new, and ask for what leaders here wait for."""
        if self._new:
            new, self._new = self._new, []
            for code_hash in new:
                if not self._compile(code_hash):
                    self._compilations.want(code_hash)
            self._touch_watched()
        if not self._compilations.wanted:
            return
        for code_hash in list(self._compilations.wanted):
            if now_ms - self._asked.get(code_hash, float("-inf")) < ASK_AGAIN_MS:
                continue
            revision = self._compilations.revision
            own = self._compile(code_hash)
            if self._compilations.revision != revision:
                self._touch_watched()
            unheard = [peer for peer in self._holder.peers if not self._compilations.has(peer, code_hash)]
            if own and not unheard:
                self._settle(code_hash)
                continue
            self._asked[code_hash] = now_ms
            for peer in sorted(self._holder.connected.intersection(unheard)):
                self._turn.send_now(peer, CompileRequest(code_hash))

    def _settle(self, code_hash: bytes) -> None:
        self._compilations.wanted.pop(code_hash, None)
        self._asked.pop(code_hash, None)

    def on_request(self, node: NodeId, code_hash: bytes) -> None:
        """A peer's leader wants to know. What no space has is not looked for."""
        if code_hash in self._directory.codes and self._compile(code_hash):
            self._turn.send_now(node, CompiledItem(code_hash))

    def on_compiled(self, node: NodeId, code_hash: bytes) -> None:
        """A peer has it."""
        if code_hash in self._directory.codes and self._compilations.heard(node, code_hash):
            self._touch_watched()

    def disconnected(self, node: NodeId) -> None:
        """It may come back as another."""
        self._compilations.forget_node(node)

    def _touch_watched(self) -> None:
        """An open watch is a touch that lasts."""
        for replica in self._serving():
            for name in replica.feed.documents:
                replica.cache.touch(name)
            self._schedule.ready[replica.id] = None

    def _serving(self) -> Iterable[ShardReplica]:
        return [replica for replica in self._holder.replicas.values() if replica.leads and len(replica.feed)]
