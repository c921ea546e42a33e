"""Single cores for tests that hand them packets themselves."""

from __future__ import annotations

import random
from collections.abc import Sequence

from chaos.gossip.network import CLUSTER
from cluster.gossip.broadcast import BroadcastQueue
from cluster.gossip.config import GossipConfig
from cluster.gossip.core import Gossip
from cluster.gossip.effects import Datagram, Effects, Endpoint, Event, StreamRequested, Tick
from cluster.gossip.health import LocalHealth
from cluster.gossip.members import Members
from cluster.gossip.messages import (
    STREAM_BYTES_MAX,
    Accuser,
    Address,
    Alive,
    Dead,
    Hints,
    Left,
    Load,
    Message,
    Packet,
    Suspect,
    Tags,
    cluster_tag,
    decode,
    encode_message,
    encode_packet,
)
from cluster.ids import NodeId

TAG = cluster_tag(CLUSTER)
ME = NodeId("n0")


def node(number: int) -> NodeId:
    return NodeId(f"n{number}")


def endpoint(number: int) -> Endpoint:
    return f"host-n{number}", 7402


def alive(number: int, *, generation: int = 1, incarnation: int = 0, zone: str = "z") -> Alive:
    return Alive(node(number), generation, incarnation, Address(*endpoint(number)), Tags("h", zone))


def hints(number: int, data: bytes = b"", *, generation: int = 1, sequence: int = 1) -> Hints:
    return Hints(node(number), generation, sequence, data)


def load(number: int, *, generation: int = 1, sequence: int = 1, map_version: int = 1) -> Load:
    return Load(node(number), generation, sequence, map_version)


def accusers(*numbers: int) -> tuple[Accuser, ...]:
    return tuple(Accuser(node(number)) for number in numbers)


def suspect(number: int, *by: int, generation: int = 1, incarnation: int = 0) -> Suspect:
    return Suspect(node(number), generation, incarnation, accusers(*by))


def dead(number: int, *by: int, generation: int = 1, incarnation: int = 0) -> Dead:
    return Dead(node(number), generation, incarnation, accusers(*by))


def left(number: int, *, generation: int = 1, incarnation: int = 0) -> Left:
    return Left(node(number), generation, incarnation)


def table(members: int = 0, config: GossipConfig | None = None) -> Members:
    """The opinions of n0 about n1 .. n<members>, all alive."""
    made = Members(alive(0), config or GossipConfig(), BroadcastQueue(), LocalHealth())
    for number in range(1, members + 1):
        made.hear(alive(number), 0)
    made.changes.clear()
    return made


def packet(number: int, *messages: Message, generation: int = 1, cluster: bytes = TAG) -> bytes:
    return encode_packet(cluster, node(number), generation, [encode_message(message) for message in messages])


class Core:
    """n0, with its own clock that tests move by hand."""

    def __init__(
        self,
        members: int = 0,
        *,
        config: GossipConfig | None = None,
        seeds: tuple[Endpoint, ...] = (),
        seed: int = 1,
        generation: int = 1,
        zone: str = "z",
    ) -> None:
        self.now_ms = 1_000_000
        self.gossip = Gossip(
            cluster_id=CLUSTER,
            node=ME,
            boot_generation=generation,
            address=Address(*endpoint(0)),
            tags=Tags("h0", zone),
            seeds=seeds,
            config=config or GossipConfig(),
            source=random.Random(seed),
            now_ms=self.now_ms,
        )
        for number in range(1, members + 1):
            self.hear(number, alive(number))

    def step(self, event: Event) -> Effects:
        return self.gossip.step(event, self.now_ms)

    def hear(self, number: int, *messages: Message, generation: int = 1) -> Effects:
        """A datagram of node `number`."""
        return self.step(Datagram(endpoint(number), packet(number, *messages, generation=generation)))

    def asked(self, number: int, *messages: Message, generation: int = 1) -> list[Message]:
        """A stream of node `number`, and what it is answered."""
        effects = self.step(StreamRequested(7, packet(number, *messages, generation=generation)))
        (reply,) = [reply for reply in effects.replies if reply.stream == 7]
        return list(read(reply.data).messages) if reply.data else []

    def tick(self) -> Effects:
        """Move the clock to the next deadline and step there."""
        self.now_ms = max(self.now_ms, self.gossip.deadline_ms)
        return self.step(Tick())

    def pass_time(self, duration_ms: int) -> list[Effects]:
        """Step at every deadline for this long."""
        end_ms, all_effects = self.now_ms + duration_ms, []
        while self.gossip.deadline_ms <= end_ms:
            all_effects.append(self.tick())
        self.now_ms = end_ms
        return all_effects


def read(data: bytes) -> Packet:
    decoded = decode(data, TAG, STREAM_BYTES_MAX)
    assert isinstance(decoded, Packet)
    return decoded


def sent(effects: Effects | Sequence[Effects], number: int | None = None) -> list[Message]:
    """The messages of all datagrams, or of those to one node."""
    several = [effects] if isinstance(effects, Effects) else effects
    return [
        message
        for one in several
        for target, data in one.datagrams
        if number is None or target == endpoint(number)
        for message in read(data).messages
    ]
