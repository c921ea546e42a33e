"""Fetching code that this node lacks from any peer that has it. Content addresses make every answer checkable."""

from __future__ import annotations

from typing import Protocol

from cluster.errors import InvalidRequest
from cluster.ids import NodeId
from cluster.shard.directory import Directory
from cluster.shard.system.program import bundle_hash
from cluster.shard.turn import BundleRequest, Turn
from cluster.storage.engine import Batch

ASK_EVERY_MS = 200.0


class BundleStorage(Protocol):
    """The node's content-addressed store."""

    def get(self, code_hash: bytes) -> bytes | None: ...

    def put(self, batch: Batch, code_hash: bytes, bundle: bytes) -> None:
        """Raises StorageDamaged when the bytes do not have that hash; nothing is added to the batch then."""
        ...


class BundleFetch:
    """Asks peers in turn, at a measured pace, until everything that is waited for is here."""

    def __init__(self, storage: BundleStorage, directory: Directory) -> None:
        self._storage = storage
        self._directory = directory
        self._asked_ms = float("-inf")
        self._turn = 0

    def get(self, code_hash: bytes) -> bytes | None:
        return self._storage.get(code_hash)

    def ask(self, missing: set[bytes], peers: list[NodeId], now_ms: float, turn: Turn) -> None:
        """Ask one peer for what is missing, at most every ASK_EVERY_MS."""
        if not peers or now_ms - self._asked_ms < ASK_EVERY_MS:
            return
        self._asked_ms = now_ms
        self._turn += 1
        peer = peers[self._turn % len(peers)]
        for code_hash in sorted(missing):
            turn.send_bulk(peer, BundleRequest(code_hash))

    def receive(self, code_hash: bytes, bundle: bytes, batch: Batch) -> bool:
        """Store an answer; says whether it was one we wait for. Raises InvalidRequest when the bytes are not what was
        asked for.
        """
        if not bundle or code_hash not in self._directory.missing:
            return False
        if bundle_hash(bundle) != code_hash:
            raise InvalidRequest("a peer sent other bytes than the bundle that was asked for")
        self._storage.put(batch, code_hash, bundle)
        self._directory.missing.discard(code_hash)
        return True
