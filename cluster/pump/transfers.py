"""Moving a whole shard's state to a replica that lacks it, while the shard goes on serving.

A snapshot is not a copy at one instant. The sender first writes every unsaved record: its stored shard then stands at its
applied index S. Records are then read in key order and may meanwhile be rewritten with later entries; the receiver replays
the log from S + 1 and skips, for each document, what its record has already. So nothing is frozen, copied or locked.

    leader                                        follower that lacks what the log no longer has, or whose state is damaged
      SnapshotOpening(point, floor)         ->
                                            <-    SnapshotPull(point, after)      after the sync of what came before
      SnapshotChunk(records, through, end)  ->
      ...                                         the chunk with the end switches generations in one batch
                                            <-    SnapshotClose(done)
    any peer                                <-    HistoryPull(first, last, after)
      HistoryChunk(rows)                    ->    until nothing is lacking

The receiver pulls, so it alone knows how far it is, and it notes that durably. A lost chunk costs one question, a broken
connection or a restart of either side one new opening; then the transfer goes on behind the last stored name.

This module only holds the parts together: giving (`snapshot_sending`), taking (`snapshot_receiving`), history
(`history_pulling`), and the rate at which this node gives (`pacing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.empty import NO_ITEMS
from cluster.errors import InvalidRequest
from cluster.ids import NodeId, ShardId
from cluster.pump.history_pulling import HistoryPulling
from cluster.pump.pacing import TokenBucket
from cluster.pump.snapshot_receiving import SnapshotReceiving
from cluster.pump.snapshot_sending import CHUNK_BYTES, SnapshotSending
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import (
    HistoryPull,
    PullItem,
    SnapshotChunk,
    SnapshotClose,
    SnapshotOpening,
    SnapshotPull,
    SnapshotRequest,
    TransferItem,
    Turn,
)

NUMBER_MAX = 1 << 62
"""Indexes and numbers of peers are below this; a frame can carry larger ones, a store can not."""


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """bytes_per_second: of records and history, for all that this node sends together. patience_ms: how long an answer may take
    before it is asked for again; about an election timeout. chunk_bytes: of records or history sent at a time.
    """

    bytes_per_second: int = 64 * 1024 * 1024
    patience_ms: float = 1_000.0
    chunk_bytes: int = CHUNK_BYTES


class Transfers:
    """All snapshot transfers of one node, in both directions."""

    def __init__(self, config: TransferConfig, now_ms: float) -> None:
        self._bucket = TokenBucket(config.bytes_per_second, config.chunk_bytes, now_ms)
        self._sending = SnapshotSending(self._bucket, config.patience_ms, config.chunk_bytes)
        self._receiving = SnapshotReceiving(config.patience_ms)
        self._history = HistoryPulling(config.patience_ms)

    @property
    def installed(self) -> int:
        """How many snapshots this node has switched to."""
        return self._receiving.installed

    def deadline_ms(self, now_ms: float) -> float:
        """When `tick` has something to do."""
        return min(self._sending.deadline_ms(now_ms), self._receiving.deadline_ms, self._history.deadline_ms)

    def tick(self, now_ms: float, turn: Turn) -> None:
        """Send and ask for what is due."""
        self._sending.tick(now_ms, turn)
        self._receiving.tick(now_ms, turn)
        self._history.tick(now_ms, turn)

    def start(self, replica: ShardReplica, now_ms: float, turn: Turn) -> None:
        """Begin the transfers that a leader's Raft core asked for."""
        wanted, replica.snapshots_wanted = replica.snapshots_wanted, NO_ITEMS
        for peer in wanted:
            self._sending.open(replica, peer, now_ms, turn)

    def look_after(self, replica: ShardReplica, now_ms: float, turn: Turn) -> None:
        """At every housekeeping of a replica whose state is damaged or incomplete."""
        self._receiving.look_after(replica, turn)
        self._history.look_after(replica, now_ms)

    def on_item(self, replica: ShardReplica, item: TransferItem | PullItem, now_ms: float, turn: Turn) -> None:
        """Something about a transfer, from a replica of this shard. Raises InvalidRequest for numbers that can not be one."""
        check_item(item)
        if isinstance(item, SnapshotPull):
            self._sending.on_pull(replica, item, now_ms, turn)
        elif isinstance(item, SnapshotChunk):
            self._receiving.on_chunk(replica, item, now_ms, turn)
            self._history.look_after(replica, now_ms)
        elif isinstance(item, SnapshotOpening):
            self._receiving.on_opening(replica, item, now_ms, turn)
        elif isinstance(item, SnapshotClose):
            self._sending.on_close(replica, item, now_ms, turn)
            self._receiving.on_close(replica, item)
        elif isinstance(item, SnapshotRequest):
            self._sending.on_request(replica, item.sender, now_ms, turn)
        elif isinstance(item, HistoryPull):
            self._sending.on_history_pull(replica, item)
        else:
            self._history.on_chunk(replica, item, now_ms, turn)

    def node_lost(self, node: NodeId, now_ms: float, turn: Turn) -> None:
        """What was on its way to or from that node may be lost."""
        self._sending.node_lost(node, now_ms, turn)
        self._history.node_lost(node, now_ms)

    def sender_lost(self, node: NodeId, replicas: Mapping[ShardId, ShardReplica]) -> None:
        """What that node was sending does not go on."""
        self._receiving.sender_lost(node, replicas)

    def forget(self, shard: ShardId) -> None:
        """This node's replica is gone, and with it what it was sending or receiving."""
        self._sending.forget(shard)
        self._receiving.forget(shard)
        self._history.forget(shard)


def check_item(item: TransferItem | PullItem) -> None:
    """Raise InvalidRequest unless every number can be what it says it is."""
    numbers: list[int] = []
    if isinstance(item, SnapshotOpening):
        numbers = [item.term, item.transfer, item.point, item.floor]
    elif isinstance(item, SnapshotPull):
        numbers = [item.transfer, item.point]
    elif isinstance(item, SnapshotChunk):
        numbers = [item.term, item.transfer, item.through]
    elif isinstance(item, SnapshotClose):
        numbers = [item.transfer]
    elif isinstance(item, HistoryPull):
        numbers = [item.first, item.last]
    if any(not 0 <= number <= NUMBER_MAX for number in numbers):
        raise InvalidRequest(f"numbers of a transfer are 0 to {NUMBER_MAX}")
