"""Who votes in each shard, as its own log says: what quorums are counted by, and whether configurations that follow each other
can ever decide apart.

Two configurations of which each has a majority without a member in common can elect two leaders and commit two entries
(Ongaro's correction of single-server changes, 2015). So every committed configuration must overlap with the one before it,
in every pair of quorums; and a replica id that was removed never comes back (reference trap 12).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations

from chaos.checkers.violation import Violation
from cluster.errors import InvalidRequest
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.raft import configuration
from cluster.raft.core import Raft
from cluster.raft.messages import Configuration
from cluster.raft.quorum import majority
from cluster.shardmap.map import ShardMap

FIRST = LogIndex(0)
"""In place of an entry, for the configuration that a shard begins with."""


def is_quorum(replicas: Collection[ReplicaId], of: Configuration) -> bool:
    """Whether these replicas decide in a configuration: a majority of its voters, and of the outgoing ones of a joint one."""
    for voters in (of.voters, of.outgoing):
        if voters and sum(voter in replicas for voter in voters) < majority(len(voters)):
            return False
    return True


def overlap(one: Configuration, other: Configuration) -> bool:
    """Whether every quorum of the one has a member in every quorum of the other. Tries all of them: groups are small."""
    return all(not is_quorum(_rest(other, quorum), other) for quorum in _quorums(one))


def _quorums(of: Configuration) -> Iterator[frozenset[ReplicaId]]:
    voters = configuration.voters_of(of)
    for size in range(1, len(voters) + 1):
        for some in combinations(voters, size):
            if is_quorum(some, of):
                yield frozenset(some)


def _rest(of: Configuration, taken: frozenset[ReplicaId]) -> frozenset[ReplicaId]:
    return frozenset(configuration.voters_of(of)) - taken


class Configurations:
    """All configurations of all shards that were ever written. Its owner says which entries are written and committed."""

    def __init__(self, first: ShardMap) -> None:
        self._written: dict[ShardId, dict[tuple[LogIndex, Term], Configuration]] = {}
        self._committed: dict[ShardId, list[tuple[LogIndex, Configuration]]] = {}
        self._highest: dict[ShardId, ReplicaId] = {}
        for shard in first.shards:
            places = tuple(sorted((place.replica, place.node) for place in shard.replicas))
            voters = tuple([replica for replica, _ in places])
            self._written[shard.shard] = {}
            self._committed[shard.shard] = [(FIRST, Configuration(voters, places=places))]
            self._highest[shard.shard] = max(voters)

    def written(self, shard: ShardId, index: LogIndex, term: Term, payload: bytes) -> None:
        """An entry that is a configuration reaches a disk."""
        try:
            self._written[shard][(index, term)] = configuration.decode(payload)
        except InvalidRequest as error:
            raise Violation("configurations", f"entry {index} of shard {shard}: {error}") from error

    def committed(self, shard: ShardId, index: LogIndex, term: Term) -> None:
        """Such an entry is committed. Called in the order of the log."""
        made = self._written[shard][(index, term)]
        before_index, before = self._committed[shard][-1]
        if not overlap(before, made):
            raise Violation(
                "configurations",
                f"entry {index} of shard {shard} makes {made}, which can decide without entry {before_index}'s {before}",
            )
        born = [member for member in configuration.members_of(made) if member not in configuration.members_of(before)]
        if born and min(born) <= self._highest[shard]:
            raise Violation("configurations", f"entry {index} of shard {shard} brings back one of the replicas {born}")
        self._highest[shard] = max(self._highest[shard], *configuration.members_of(made))
        self._committed[shard].append((index, made))

    def newest(self, shard: ShardId) -> Configuration:
        """The newest committed one."""
        return self._committed[shard][-1][1]

    def of(self, shard: ShardId, raft: Raft, index: LogIndex) -> Configuration:
        """What counted in a replica's log once entry `index` was there."""
        for (at, term), made in sorted(self._written[shard].items(), reverse=True):
            if raft.snapshot.index < at <= index and raft.term_of(at) == term:
                return made
        return self.at_snapshot(shard, raft.snapshot.index)

    def at_snapshot(self, shard: ShardId, index: LogIndex) -> Configuration:
        """What counted at a committed entry, by the one true log."""
        return next(made for at, made in reversed(self._committed[shard]) if at <= index)

    def possible(self, shard: ShardId, index: LogIndex) -> list[Configuration]:
        """By which of them entry `index` can have been committed: the newest in the leader's log counted, whose that was."""
        before = self.at_snapshot(shard, index)
        return [before, *[made for (at, _), made in self._written[shard].items() if at >= index]]

    def node_of(self, shard: ShardId, replica: ReplicaId) -> NodeId | None:
        """Where a replica lives, or lived."""
        for _, made in reversed(self._committed[shard]):
            for member, node in made.places:
                if member == replica:
                    return node
        for made in self._written[shard].values():
            for member, node in made.places:
                if member == replica:
                    return node
        return None
