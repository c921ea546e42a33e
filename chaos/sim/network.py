"""Connections between simulated nodes, with the promises of `cluster.transport.peer` and none beyond them.

A directed pair has one connection; its lanes keep their order, each frame comes at most once, and what is on its way is lost
when the connection breaks. A cut link holds frames back as TCP does, until it is whole again or the silence has lasted too
long. A dial that reaches a host without its process is refused, which is evidence; one that reaches nobody is not.

`Unruly` links alone break those promises, for Raft, liveness and snapshots, which must stand that too; operations and answers
of clients are never carried twice, for the session protocol rests on that.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from chaos.sim.faults import Link, Unruly
from cluster.ids import NodeId
from cluster.pump.lanes import Lane

DIAL_MS = (5.0, 60.0)
"""Between two dials of a connection that is down."""
SILENCE_MS = 1_500.0
"""A connection to a host that vanished breaks after this long."""
LANES = len(Lane)


class Clock(Protocol):
    """What the network needs of the world."""

    now_ms: float

    def after(self, delay_ms: float, kind: str, *arguments: object) -> None: ...


class Endpoint(Protocol):
    """What the network needs of a node."""

    name: NodeId
    generation: int
    met: dict[NodeId, int]
    """The newest boot generation met of each peer in this life of the process."""

    @property
    def up(self) -> bool: ...

    @property
    def answers(self) -> bool:
        """Whether the process would finish a handshake now."""
        ...

    @property
    def host_up(self) -> bool: ...

    def on_frame(self, sender: NodeId, lane: Lane, frame: bytes) -> None: ...

    def on_connected(self, node: NodeId) -> None: ...

    def on_disconnected(self, node: NodeId, refused: bool) -> None: ...


@dataclass(slots=True)
class Connection:
    """One directed pair. life: rises with every connect and break, so that late frames of an old connection are known.

    sent: counts the frames that keep their order. due: their numbers by lane, as they were sent. early: those that came to the
    other end before one that was sent before them, which a cut held up.
    """

    sender: NodeId
    receiver: NodeId
    source: random.Random
    delay_ms: float
    up: bool = False
    life: int = 0
    cuts: int = 0
    silence_ms: float = SILENCE_MS
    slow_ms: float = 0.0
    congested: int = 0
    unruly: Unruly | None = None
    held: list[tuple[Lane, bytes, int]] = field(default_factory=list)
    sent: int = 0
    due: list[deque[int]] = field(default_factory=lambda: [deque() for _ in range(LANES)])
    early: dict[int, bytes] = field(default_factory=dict)
    arrives_ms: list[float] = field(default_factory=lambda: [0.0] * LANES)
    dialing: bool = False
    watched: bool = False
    refused: bool = False


class Network:
    """All connections of a cluster. Counts what it did in `frames` and `lost`."""

    def __init__(self, clock: Clock, nodes: dict[NodeId, Endpoint], source_of: dict[Link, random.Random]) -> None:
        self._clock = clock
        self._nodes = nodes
        self.frames = 0
        self.lost = 0
        self.links = {
            (sender, receiver): Connection(sender, receiver, source, source.uniform(0.05, 1.5))
            for (sender, receiver), source in source_of.items()
        }

    # -- frames ------------------------------------------------------------------------------------------------------

    def send(self, sender: NodeId, receiver: NodeId, lane: Lane, frame: bytes, *, orderly: bool) -> bool:
        """As PeerTransport.send. orderly: even an unruly link carries this frame once and in its turn."""
        link = self.links[(sender, receiver)]
        self.frames += 1
        if not link.up or (link.congested and lane is not Lane.LIVENESS):
            self.lost += 1
            return False
        number = 0
        if link.cuts or link.unruly is None or orderly:
            link.sent = number = link.sent + 1
            link.due[lane].append(number)
        if link.cuts:
            self._hold(link, lane, frame, number)
        else:
            self._transmit(link, lane, frame, number)
        return True

    def _transmit(self, link: Connection, lane: Lane, frame: bytes, number: int) -> None:
        """number: of a frame that keeps its order, 0 of one that an unruly link may do anything to."""
        source = link.source
        delay_ms = link.delay_ms * (0.7 + 0.6 * source.random())
        if link.slow_ms:
            delay_ms += source.expovariate(1 / link.slow_ms)
        at_ms = self._clock.now_ms + delay_ms
        if number == 0 and link.unruly is not None:
            rule = link.unruly
            if source.random() < rule.loss:
                self.lost += 1
                return
            if source.random() < rule.duplicates:
                self._clock.after(delay_ms + source.expovariate(1 / rule.late_ms), "frame", link, link.life, lane, frame, 0)
            if source.random() < rule.reordering:
                at_ms += source.expovariate(1 / rule.late_ms)
            else:
                at_ms = link.arrives_ms[lane] = max(at_ms, link.arrives_ms[lane])
        else:
            at_ms = link.arrives_ms[lane] = max(at_ms, link.arrives_ms[lane])
        self._clock.after(at_ms - self._clock.now_ms, "frame", link, link.life, lane, frame, number)

    def arrive(self, link: Connection, life: int, lane: Lane, frame: bytes, number: int) -> None:
        """A frame reached the other end of its link."""
        receiver = self._nodes[link.receiver]
        if life != link.life or not receiver.up:
            self.lost += 1
        elif link.cuts:
            self._hold(link, lane, frame, number)
        elif number == 0:
            receiver.on_frame(link.sender, lane, frame)
        else:
            due, link.early[number] = link.due[lane], frame
            while due and due[0] in link.early and life == link.life:
                receiver.on_frame(link.sender, lane, link.early.pop(due.popleft()))

    def _hold(self, link: Connection, lane: Lane, frame: bytes, number: int) -> None:
        link.held.append((lane, frame, number))
        if not link.watched:
            link.watched = True
            self._clock.after(link.silence_ms, "silence", link, link.life)

    def silence(self, link: Connection, life: int) -> None:
        """Nothing was acknowledged for so long."""
        link.watched = False
        if life == link.life and link.up and (link.cuts or not self._nodes[link.receiver].host_up):
            self.break_off(link)

    # -- connections -------------------------------------------------------------------------------------------------

    def cut(self, pair: Link, silence_ms: float) -> None:
        link = self.links[pair]
        link.cuts += 1
        link.silence_ms = silence_ms

    def mend(self, pair: Link) -> None:
        link = self.links[pair]
        if link.cuts == 0:
            return
        link.cuts -= 1
        if link.cuts == 0 and link.held:
            held, link.held = link.held, []
            for lane, frame, number in sorted(held, key=lambda one: one[2]):
                self._transmit(link, lane, frame, number)

    def break_off(self, link: Connection) -> None:
        """The connection is gone; its sender knows, and dials again."""
        if not link.up:
            return
        self._down(link)
        sender = self._nodes[link.sender]
        if sender.up:
            sender.on_disconnected(link.receiver, False)
            self._dial_later(link)

    def refuse(self, pair: Link) -> None:
        """The receiver's host says that nobody listens there."""
        link = self.links[pair]
        self._down(link)
        self._nodes[link.sender].on_disconnected(link.receiver, True)
        self._dial_later(link)

    def _down(self, link: Connection) -> None:
        link.up = False
        link.life += 1
        self.lost += len(link.held)
        link.held.clear()
        link.early.clear()
        for due in link.due:
            due.clear()
        link.refused = False
        link.arrives_ms = [0.0] * LANES

    def _dial_later(self, link: Connection) -> None:
        if not link.dialing:
            link.dialing = True
            self._clock.after(link.source.uniform(*DIAL_MS), "dial", link)

    def dial(self, link: Connection) -> None:
        """Try to connect."""
        link.dialing = False
        sender, receiver = self._nodes[link.sender], self._nodes[link.receiver]
        if link.up or not sender.up:
            return
        reaches = not link.cuts and not self.links[(link.receiver, link.sender)].cuts
        if not sender.answers or not reaches or not receiver.host_up:
            self._dial_later(link)
        elif not receiver.up:
            if not link.refused:
                link.refused = True
                sender.on_disconnected(link.receiver, True)
            self._dial_later(link)
        elif not receiver.answers or not _introduced(sender, receiver):
            self._dial_later(link)
        else:
            link.up = True
            link.life += 1
            sender.on_connected(link.receiver)

    def process_gone(self, node: NodeId, host_down: bool) -> None:
        """The process of `node` ended: its own connections vanish, those of others break at once or after a silence."""
        for link in self.links.values():
            if link.sender == node:
                self._down(link)
            elif link.receiver == node and link.up:
                if host_down:
                    self._clock.after(SILENCE_MS, "silence", link, link.life)
                else:
                    self._clock.after(link.delay_ms, "reset", link, link.life)

    def process_new(self, node: NodeId) -> None:
        """A new process of `node` listens: connections to the old one are reset, and it dials."""
        for link in self.links.values():
            if link.receiver == node and link.up:
                self.break_off(link)
            elif link.sender == node or (link.receiver == node and self._nodes[link.sender].up):
                self._dial_later(link)

    def reset(self, link: Connection, life: int) -> None:
        """The other end answered with a reset."""
        if life == link.life:
            self.break_off(link)


def _introduced(one: Endpoint, other: Endpoint) -> bool:
    """The handshake: either end refuses a process of an earlier boot generation than it has met."""
    if other.met.get(one.name, 0) > one.generation or one.met.get(other.name, 0) > other.generation:
        return False
    other.met[one.name], one.met[other.name] = one.generation, other.generation
    return True
