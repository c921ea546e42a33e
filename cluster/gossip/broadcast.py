"""News on its way: opinions and notes that ride on every packet until they have been sent often enough.

Each class of news has a share of every packet that the others can not take: at a thousand nodes the records of membership
alone would fill all packets, and what a router needs to know would never leave. A share that its class does not use is free.
"""

from __future__ import annotations

import enum
from typing import Final

from cluster.errors import TooLarge
from cluster.gossip.messages import MESSAGES_MAX, Hints, Load, Note, Opinion, encode_message
from cluster.ids import NodeId


class NewsClass(enum.IntEnum):
    """What news is about."""

    MEMBERSHIP = 0
    HINTS = 1
    LOAD = 2


RESERVED_BYTES: Final = {NewsClass.MEMBERSHIP: 640, NewsClass.HINTS: 368, NewsClass.LOAD: 160}
"""Of every datagram. Each share fits the largest piece of its class, so that none can be starved, and all of them fit a packet
beside a ping."""
MISSES_MAX: Final = 8
"""Pieces that do not fit are passed over for smaller ones, but only so many in a packet."""


class _Queue:
    """News of one class: at most one piece per member, in tiers by how often it was sent, the newest last in each."""

    __slots__ = ("_tier", "_tiers")

    def __init__(self) -> None:
        self._tiers: list[dict[NodeId, bytes]] = [{}]
        self._tier: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self._tier)

    def put(self, node: NodeId, encoded: bytes) -> None:
        self.drop(node)
        self._tiers[0][node] = encoded
        self._tier[node] = 0

    def drop(self, node: NodeId) -> None:
        tier = self._tier.pop(node, None)
        if tier is not None:
            del self._tiers[tier][node]

    def take(self, room: int, count_max: int, transmits_max: int, taken: dict[NodeId, bytes]) -> int:
        """Add to `taken` what fits, least often sent first, then newest first; nobody twice. Returns the bytes added."""
        added, misses = 0, 0
        chosen: list[tuple[NodeId, int]] = []
        for tier, news in enumerate(self._tiers):
            for node in reversed(news):
                if misses > MISSES_MAX or len(taken) >= count_max:
                    break
                if node in taken:
                    continue
                size = len(news[node])
                if added + size > room:
                    misses += 1
                    continue
                added += size
                taken[node] = news[node]
                chosen.append((node, tier))
        for node, tier in reversed(chosen):  # reversed: what was the newest stays the newest in its next tier
            encoded = self._tiers[tier].pop(node)
            if tier + 1 >= transmits_max:
                del self._tier[node]
                continue
            if tier + 1 == len(self._tiers):
                self._tiers.append({})
            self._tiers[tier + 1][node] = encoded
            self._tier[node] = tier + 1
        return added


class BroadcastQueue:
    """At most one piece of news per member and class: a later one replaces the earlier.

    Invariant: bounded by the number of members; each piece is handed out at most `transmits_max` times; no piece is larger
    than the share of its class.
    """

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues = {news_class: _Queue() for news_class in NewsClass}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def waiting(self, news_class: NewsClass) -> int:
        return len(self._queues[news_class])

    def put(self, news: Opinion | Note) -> None:
        """Raises TooLarge for what could never be sent; nothing was changed."""
        news_class = _class_of(news)
        encoded = encode_message(news)
        if len(encoded) > RESERVED_BYTES[news_class]:
            raise TooLarge(
                f"news of class {news_class.name} has at most {RESERVED_BYTES[news_class]} bytes, not {len(encoded)}"
            )
        self._queues[news_class].put(news.node, encoded)

    def drop(self, node: NodeId) -> None:
        for queue in self._queues.values():
            queue.drop(node)

    def take(self, bytes_max: int, transmits_max: int, without: NodeId | None = None) -> list[bytes]:
        """Encoded news that fits into `bytes_max`: each class within its share first, then whatever else fits.

        Newest first because old news is often outdated news; in arrival order a backlog makes members flap.
        without: what is held of this member is in the packet already.
        """
        count_max = MESSAGES_MAX - 2  # a packet carries up to two messages of its own beside the news
        taken: list[bytes] = []
        chosen: dict[NewsClass, dict[NodeId, bytes]] = {news_class: {} for news_class in NewsClass}
        if without is not None:
            chosen[NewsClass.MEMBERSHIP][without] = b""
        for news_class, share in ((NewsClass.HINTS, True), (NewsClass.LOAD, True), (NewsClass.MEMBERSHIP, False),
                                  (NewsClass.HINTS, False), (NewsClass.LOAD, False)):  # fmt: skip
            queue = self._queues[news_class]
            if queue:
                room = min(bytes_max, RESERVED_BYTES[news_class]) if share else bytes_max
                before = len(chosen[news_class])
                bytes_max -= queue.take(room, count_max - len(taken) + before, transmits_max, chosen[news_class])
                taken += [*chosen[news_class].values()][before:]
        return taken


def _class_of(news: Opinion | Note) -> NewsClass:
    if isinstance(news, Hints):
        return NewsClass.HINTS
    return NewsClass.LOAD if isinstance(news, Load) else NewsClass.MEMBERSHIP
