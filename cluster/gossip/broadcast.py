"""News on its way: opinions that ride on every packet until they have been sent often enough."""

from __future__ import annotations

from cluster.gossip.messages import MESSAGES_MAX, Opinion, encode_message
from cluster.ids import NodeId


class _News:
    __slots__ = ("encoded", "number", "transmits")

    def __init__(self, encoded: bytes, number: int) -> None:
        self.encoded = encoded
        self.number = number
        self.transmits = 0


class BroadcastQueue:
    """At most one piece of news per member: a later opinion about it replaces the earlier one.

    Invariant: bounded by the number of members; each piece is handed out at most `transmits_max` times.
    """

    __slots__ = ("_news", "_number")

    def __init__(self) -> None:
        self._news: dict[NodeId, _News] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._news)

    def put(self, opinion: Opinion) -> None:
        self._number += 1
        self._news[opinion.node] = _News(encode_message(opinion), self._number)

    def drop(self, node: NodeId) -> None:
        self._news.pop(node, None)

    def take(self, bytes_max: int, transmits_max: int, without: NodeId | None = None) -> list[bytes]:
        """Encoded opinions that fit into `bytes_max`: least often sent first, then newest first.

        Newest first because old news is often outdated news; in arrival order a backlog makes members flap.
        without: news about this member is in the packet already.
        """
        taken: list[bytes] = []
        spent: list[NodeId] = []
        for node, news in sorted(self._news.items(), key=lambda item: (item[1].transmits, -item[1].number)):
            if node == without or len(news.encoded) > bytes_max:
                continue
            bytes_max -= len(news.encoded)
            taken.append(news.encoded)
            news.transmits += 1
            if news.transmits >= transmits_max:
                spent.append(node)
            if len(taken) >= MESSAGES_MAX - 2:  # a packet carries up to two messages of its own beside the news
                break
        for node in spent:
            del self._news[node]
        return taken
