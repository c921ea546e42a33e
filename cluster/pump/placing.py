"""Keeping the shard map after the shards: whoever leads a shard tells the system shard where its replicas are now.

The shard's own committed configuration is the truth and the map a cache of it, so nobody needs to remember that a move took
place: the leader's node compares the two whenever the shard did something, and proposes until the map agrees. The map takes
only what is newer, by the index of the entry that made the configuration: late and repeated proposals change nothing.

Invariant: only committed configurations that are not joint are proposed.
"""

from __future__ import annotations

import msgspec

from cluster.ids import LogIndex
from cluster.pump.streams import Streams
from cluster.router.router import Router
from cluster.session.operations import Kind, Operation
from cluster.shard.replica import ShardReplica
from cluster.shard.system.program import OPERATOR, PLACE_CHANNEL
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE, Placement


class Placing:
    """Compares the shards that this node leads with its map. streams: how proposals get to the system shard."""

    def __init__(self, streams: Streams, router: Router) -> None:
        self._streams = streams
        self._router = router
        self._stream = 0
        self._proposed = 0

    def look_at(self, replica: ShardReplica, now_ms: float) -> bool:
        """At a housekeeping: propose where the replicas of a shard are if the map is behind. Says whether it is."""
        if not replica.leads:
            return False
        index = replica.raft.committed_configured_index
        known = self._router.map.get(replica.id)
        if index == 0 or known is None or index <= known.configured:
            return False
        committed = replica.raft.committed_configuration
        places = dict(committed.places)
        placements = tuple([Placement(voter, places[voter]) for voter in committed.voters])
        if committed.outgoing or placements == known.replicas:
            return False  # a learner came or went; or the final configuration follows
        self._propose(replica, index, placements, now_ms)
        return True

    def _propose(self, replica: ShardReplica, index: LogIndex, placements: tuple[Placement, ...], now_ms: float) -> None:
        if not self._stream:
            self._stream = self._streams.open()
        self._proposed += 1
        payload = msgspec.json.encode({"shard": replica.id, "configured": index, "replicas": placements})
        who = str(OPERATOR)
        place = Operation(self._proposed, Kind.SEND, SYSTEM_SPACE, SYSTEM_KEY, who, PLACE_CHANNEL, payload)
        self._streams.submit(self._stream, [place], now_ms)
