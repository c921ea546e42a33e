"""Where the parts of the core put what they want sent; it becomes packets, and every packet carries news along."""

from __future__ import annotations

from typing import Final

from cluster.gossip.broadcast import BroadcastQueue
from cluster.gossip.config import PACKET_BYTES_MAX
from cluster.gossip.effects import Effects, Endpoint, StreamReply, StreamRequest
from cluster.gossip.messages import STREAM_BYTES_MAX, Message, encode_message, encode_packet, packet_overhead
from cluster.ids import NodeId

REQUESTS_MAX: Final = 64
"""Stream requests under way; beyond it none is started until one ends."""


class Outbox:
    """Packs messages into packets of this node.

    Invariant: no datagram exceeds PACKET_BYTES_MAX, no stream frame STREAM_BYTES_MAX.
    """

    __slots__ = ("_cluster", "_generation", "_last_request", "_news", "_node", "_room", "effects", "requests", "transmits_max")

    def __init__(self, cluster: bytes, node: NodeId, generation: int, news: BroadcastQueue) -> None:
        self.effects = Effects()
        self.requests: dict[int, Endpoint] = {}
        """Stream requests without an answer yet, and where they went."""
        self.transmits_max = 1
        self._cluster = cluster
        self._node = node
        self._generation = generation
        self._news = news
        self._room = PACKET_BYTES_MAX - packet_overhead(node)
        self._last_request = 0

    def begin(self) -> Effects:
        self.effects = Effects()
        return self.effects

    def send(self, target: Endpoint, *messages: Message) -> None:
        """A datagram with these messages, filled up with news."""
        encoded = [encode_message(message) for message in messages]
        room = self._room - sum(map(len, encoded))
        assert room >= 0, "single messages are bounded far below a packet"
        encoded += self._news.take(room, self.transmits_max)
        if encoded:
            self.effects.datagrams.append((target, self._packet(encoded)))

    def request(self, target: Endpoint, message: Message) -> int:
        """Open a stream. Returns its number, or 0 if too many are under way or the message does not fit."""
        data = self._packet([encode_message(message)])
        if len(self.requests) >= REQUESTS_MAX or len(data) > STREAM_BYTES_MAX:
            return 0
        self._last_request += 1
        self.requests[self._last_request] = target
        self.effects.requests.append(StreamRequest(self._last_request, target, data))
        return self._last_request

    def reply(self, stream: int, *messages: Message) -> None:
        """Answer a stream with one packet."""
        data = self._packet([encode_message(message) for message in messages])
        self.effects.replies.append(StreamReply(stream, data if len(data) <= STREAM_BYTES_MAX else b""))

    def ask_data_path(self, node: NodeId) -> None:
        self.effects.data_paths.append(node)

    def hang_up(self, stream: int) -> None:
        self.effects.replies.append(StreamReply(stream, b""))

    def _packet(self, encoded: list[bytes]) -> bytes:
        return encode_packet(self._cluster, self._node, self._generation, encoded)
