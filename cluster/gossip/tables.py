"""Parts of the table of members that are kept up to date change by change, so that no step has to walk the table."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from cluster.gossip.messages import BUCKET_HASH_BYTES, BUCKETS, State
from cluster.ids import NodeId

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from cluster.gossip.member import Member

_BUCKETS_CACHED: Final = 1 << 16


@lru_cache(maxsize=_BUCKETS_CACHED)
def bucket_of(node: NodeId) -> int:
    """The part of every table that this node is in."""
    return blake2b(node.encode(), digest_size=1).digest()[0] % BUCKETS


def hash_of(node: NodeId, generation: int, incarnation: int, state: State, hints: int) -> int:
    """Eight bytes over what a comparison would transfer."""
    text = f"{node}\n{generation}\n{incarnation}\n{state:d}\n{hints}"
    return int.from_bytes(blake2b(text.encode(), digest_size=BUCKET_HASH_BYTES).digest(), "little")


class BucketHashes:
    """The exclusive or of the hashes of what is held in each bucket. Invariant: independent of the order of changes."""

    __slots__ = ("_buckets", "_held")

    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS
        self._held: dict[NodeId, int] = {}

    def put(self, node: NodeId, hashed: int) -> None:
        """Replace what was held of this node; 0 for nothing."""
        self._buckets[bucket_of(node)] ^= self._held.pop(node, 0) ^ hashed
        if hashed:
            self._held[node] = hashed

    def encoded(self) -> bytes:
        return b"".join(bucket.to_bytes(BUCKET_HASH_BYTES, "little") for bucket in self._buckets)

    def differing(self, encoded: bytes) -> int:
        """The buckets, a bit each, whose hash is another one in `encoded`."""
        found = 0
        for bucket, here in enumerate(self._buckets):
            there = encoded[bucket * BUCKET_HASH_BYTES : (bucket + 1) * BUCKET_HASH_BYTES]
            found |= (here != int.from_bytes(there, "little")) << bucket
        return found


class Population:
    """Who is alive or suspect, for drawing from at random, and in which zones the unsuspected ones live.

    Invariant: `member.place` is its index in the list, -1 for who is not in it.
    """

    __slots__ = ("_list", "unsuspected", "zones")

    def __init__(self) -> None:
        self._list: list[Member] = []
        self.zones: dict[str, int] = {}
        """Unsuspected members by zone."""
        self.unsuspected = 0

    def __len__(self) -> int:
        return len(self._list)

    def live(self) -> list[Member]:
        return self._list

    def moved(self, member: Member, before: State | None, zone_before: str) -> None:
        """The member's state was `before`; None for a new one."""
        if before is State.ALIVE:
            self._count(zone_before, -1)
        if member.state is State.ALIVE:
            self._count(member.alive.tags.zone, 1)
        live = member.state <= State.SUSPECT
        if live and member.place < 0:
            member.place = len(self._list)
            self._list.append(member)
        elif not live:
            self.drop(member)

    def forget(self, member: Member) -> None:
        if member.state is State.ALIVE:
            self._count(member.alive.tags.zone, -1)
        self.drop(member)

    def drop(self, member: Member) -> None:
        if member.place >= 0:
            last = self._list.pop()
            if last is not member:
                self._list[member.place] = last
                last.place = member.place
            member.place = -1

    def draw(self, count: int, source: random.Random, wanted: Callable[[Member], bool]) -> list[Member]:
        """Up to `count` different members. Looks at three times as many before it walks through all."""
        sample = source.sample(self._list, min(3 * count, len(self._list)))
        found = [member for member in sample if wanted(member)][:count]
        if len(found) < count and len(sample) < len(self._list):
            others = [member for member in self._list if wanted(member)]
            found = source.sample(others, min(count, len(others)))
        return found

    def _count(self, zone: str, change: int) -> None:
        self.unsuspected += change
        counted = self.zones.get(zone, 0) + change
        if counted:
            self.zones[zone] = counted
        else:
            del self.zones[zone]
