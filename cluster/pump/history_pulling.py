"""Asking for the history that did not come with a snapshot's records.

A replica is useful before it knows the past. Which entries' history it lacks is noted durably (`StoredShard.lacking`); it asks
one peer after the other, the leader first, until one that has all of it has given it. Any peer may give, for history is the
same everywhere (design, invariant 2).

Invariant: one question per shard and PULLS_MAX per node are open; while nobody can answer, rounds of asking are further and
further apart, up to PAUSE_MAX_MS, and never end.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import InvalidName
from cluster.ids import NodeId, ReplicaId, ShardId
from cluster.pump.pacing import Patience
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import HistoryChunk, HistoryPull, Turn

_NEVER = float("inf")
PULLS_MAX = 2
PAUSE_MAX_MS = 60_000.0


@dataclass(slots=True)
class _Search:
    """peer: who is asked, None between two rounds. refused: whom this round need not ask again. ask_at_ms: when a round begins.
    pause_ms: how long the next pause between rounds is.
    """

    replica: ShardReplica
    patience: Patience
    pause_ms: float
    peer: ReplicaId | None = None
    refused: frozenset[ReplicaId] = frozenset()
    ask_at_ms: float = 0.0


class HistoryPulling:
    """History that this node's replicas ask for. patience_ms: about an election timeout."""

    def __init__(self, patience_ms: float) -> None:
        self._patience_ms = patience_ms
        self._searches: dict[ShardId, _Search] = {}

    @property
    def deadline_ms(self) -> float:
        """When `tick` has something to do."""
        if not self._searches:
            return _NEVER
        due = _NEVER
        asking = self._asking
        for search in self._searches.values():
            if search.peer is not None:
                due = min(due, search.patience.ends_ms)
            elif asking < PULLS_MAX:
                due = min(due, search.ask_at_ms)
        return due

    @property
    def _asking(self) -> int:
        return sum(search.peer is not None for search in self._searches.values())

    def look_after(self, replica: ShardReplica, now_ms: float) -> None:
        """At every housekeeping and after a switch: begin to ask for what is lacking."""
        if replica.stored.lacking is not None and replica.id not in self._searches:
            patience = Patience(self._patience_ms, self._patience_ms * 4)
            self._searches[replica.id] = _Search(replica, patience, self._patience_ms, ask_at_ms=now_ms)

    def node_lost(self, node: NodeId, now_ms: float) -> None:
        """Whoever was asked there does not answer."""
        for search in self._searches.values():
            if search.peer is not None and search.replica.members.node_of(search.peer) == node:
                self._refused(search, now_ms)

    def forget(self, shard: ShardId) -> None:
        """This node's replica is gone."""
        self._searches.pop(shard, None)

    def tick(self, now_ms: float, turn: Turn) -> None:
        """Ask where it is time to."""
        for search in self._searches.values():
            if search.peer is not None and search.patience.ends_ms <= now_ms:
                self._refused(search, now_ms)
            if search.peer is None and search.ask_at_ms <= now_ms and self._asking < PULLS_MAX:
                self._ask_somebody(search, now_ms, turn)

    def on_chunk(self, replica: ShardReplica, chunk: HistoryChunk, now_ms: float, turn: Turn) -> None:
        """History, or a refusal, from whom was asked."""
        search, lacking = self._searches.get(replica.id), replica.stored.lacking
        if search is None or lacking is None or search.peer != chunk.sender or lacking.after != chunk.after:
            return
        if chunk.refused or not (chunk.ended or chunk.through > lacking.after):
            self._refused(search, now_ms)
            return
        search.patience.answered(now_ms)
        try:
            replica.stored.write_history(chunk.rows, chunk.through or lacking.after, turn)
        except InvalidName:
            self._refused(search, now_ms)
            return
        if chunk.ended:
            replica.stored.history_complete(turn)
            del self._searches[replica.id]
        else:
            self._pull(search, now_ms, turn)

    def _ask_somebody(self, search: _Search, now_ms: float, turn: Turn) -> None:
        """The leader, then the others in order; after the last a pause."""
        replica = search.replica
        others = [member for member, node in replica.raft.configuration.places if node != replica.node]
        others.sort(key=lambda peer: peer != replica.raft.leader)
        search.peer = next((peer for peer in others if peer not in search.refused), None)
        if search.peer is not None:
            self._pull(search, now_ms, turn)
            return
        search.refused = frozenset()
        search.ask_at_ms = now_ms + search.pause_ms
        search.pause_ms = min(search.pause_ms * 2, PAUSE_MAX_MS)

    def _pull(self, search: _Search, now_ms: float, turn: Turn) -> None:
        replica, peer = search.replica, search.peer
        lacking = replica.stored.lacking
        assert lacking is not None, "only what is lacking is asked for"
        assert peer is not None, "somebody is asked"
        search.patience.asked(now_ms)
        node = replica.members.node_of(peer)
        if node is not None:
            head = (replica.id, replica.replica, peer)
            turn.send_after_sync(node, HistoryPull(*head, lacking.first, lacking.last, lacking.after))

    def _refused(self, search: _Search, now_ms: float) -> None:
        assert search.peer is not None, "somebody was asked"
        search.refused |= {search.peer}
        search.peer = None
        search.ask_at_ms = now_ms
