"""SWIM with Lifeguard as one state machine: `step(event, now_ms) -> Effects`.

Failure detection: every period some members are pinged (`probe`); who answers neither directly, nor through helpers, nor
over a stream is accused. An accusation is a suspicion (`suspicion`) that its subject may refute with a higher incarnation;
unrefuted it becomes a death (`members`). Dissemination: opinions ride on every packet, and on a gossip tick while there is
news (`broadcast`); whole tables are compared at joining, now and then, and with the dead and the seeds so that partitions
heal (`sync`).

Departures from the papers, on purpose: up to five members everybody is probed in every period; a stream probe runs beside the
indirect one, so that lost datagrams alone do not accuse; a late step (this process stood still) postpones every timer by the
delay and costs local health before any answer is missed.

Invariants: nothing that arrives raises; every queue is bounded (members, news, probes, relays, requests); a step at any time
is legal; after a step `deadline_ms` lies in its future.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from cluster.errors import TooLarge
from cluster.gossip.broadcast import BroadcastQueue
from cluster.gossip.config import MEMBERS_MAX, PACKET_BYTES_MAX, GossipConfig
from cluster.gossip.effects import (
    Awake,
    Datagram,
    Effects,
    Endpoint,
    Event,
    Leave,
    MemberView,
    Rejoin,
    Remove,
    SetAddress,
    SetHints,
    StreamFailed,
    StreamReplied,
    StreamRequested,
)
from cluster.gossip.health import LocalHealth
from cluster.gossip.members import Member, Members, accusation
from cluster.gossip.messages import (
    HINTS_BYTES_MAX,
    STREAM_BYTES_MAX,
    Ack,
    Address,
    Alive,
    Dead,
    Labels,
    Left,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Refusal,
    State,
    Suspect,
    SyncDelta,
    SyncRecord,
    SyncReply,
    SyncRequest,
    cluster_tag,
    decode,
)
from cluster.gossip.outbox import Outbox
from cluster.gossip.probe import Prober, endpoint_of
from cluster.gossip.sync import answer, compare, digest
from cluster.ids import NodeId

if TYPE_CHECKING:
    import random

JOIN_RETRY_FIRST_MS: Final = 250
SYNCS_AFTER_CHANGE: Final = 5
"""The wait before the next comparison starts at sync interval / 2^this whenever membership changed, and doubles from there:
with few members the news may run out before everybody has met."""
STALL_MS_MIN: Final = 100
"""A step that comes this much after its deadline says that the process stood still."""
RECONNECTS_AT_START: Final = 4
"""The first waits between attempts to reach absent seeds are reconnect interval / 2^this, doubling: nodes that boot together
form islands of those that met first, and should not stay so for a whole interval."""
FORGET_INTERVAL_MS: Final = 60_000


class Gossip:
    """The cluster as one node sees it.

    seeds: where to look for a cluster, again and again, whenever one of them is not a live member.
    source: all randomness; the same seed and the same events give the same effects.
    """

    def __init__(
        self,
        *,
        cluster_id: str,
        node: NodeId,
        boot_generation: int,
        address: Address,
        labels: Labels,
        seeds: tuple[Endpoint, ...],
        config: GossipConfig,
        source: random.Random,
        now_ms: int,
        hints: bytes = b"",
    ) -> None:
        _check_hints(hints)
        self._config = config
        self._random = source
        self._seeds = seeds
        self._cluster = cluster_tag(cluster_id)
        self._news = BroadcastQueue()
        self._health = LocalHealth()
        own = Alive(node, boot_generation, 0, address, labels, hints)
        self._members = Members(own, config, self._news, self._health)
        self._outbox = Outbox(self._cluster, node, boot_generation, self._news)
        self._prober = Prober(self._members, self._health, self._outbox, config, source, now_ms)
        self._gossip_ms: int | None = None
        self._sync_ms = now_ms
        self._join_retry_ms = JOIN_RETRY_FIRST_MS
        self._sync_doublings = 0
        self._reconnect_doublings = 0
        self._reconnect_ms = now_ms + self._jittered(config.reconnect_interval_ms >> RECONNECTS_AT_START)
        self._forget_ms = now_ms + FORGET_INTERVAL_MS
        self._accused_ms: dict[NodeId, int] = {}
        self.deadline_ms = now_ms
        """When to step next at the latest."""

    # What the node looks at.

    @property
    def own(self) -> Alive:
        return self._members.own

    @property
    def health(self) -> int:
        """Lifeguard's local health: 0 is healthy; probes take score + 1 times as long."""
        return self._health.score

    @property
    def refusals(self) -> Counter[Refusal]:
        """What was not taken, by reason, since start."""
        return self._members.refusals

    @property
    def refutations(self) -> int:
        """How often this node was accused wrongly."""
        return self._members.refutations

    @property
    def failed_probes(self) -> int:
        return self._prober.failed

    @property
    def early_ms(self) -> int:
        """From when on `Awake` has something to do."""
        return self._prober.early_ms

    @property
    def news_waiting(self) -> int:
        return len(self._news)

    @property
    def alone(self) -> bool:
        """Whether nobody else is there, as far as this node knows: news waits for somebody to come."""
        return not self._members.live()

    def members(self) -> list[MemberView]:
        """Everybody else, the dead and departed included, in no particular order."""
        return [member.view() for member in self._members]

    def member(self, node: NodeId) -> MemberView | None:
        member = self._members.get(node)
        return member.view() if member is not None else None

    # The one way in.

    def step(self, event: Event, now_ms: int) -> Effects:
        """Take an event and do everything that is due by `now_ms`.

        Raises TooLarge for hints beyond HINTS_BYTES_MAX; nothing was changed. Nothing else raises.
        """
        if isinstance(event, SetHints):
            _check_hints(event.hints)
        effects = self._outbox.begin()
        self._outbox.transmits_max = self._config.transmits_max(self._members.size)
        self._notice_stall(now_ms)
        self._handle(event, now_ms)
        self._prober.tick(now_ms, awake=isinstance(event, Awake))
        self._members.expire(now_ms)  # after the prober: its accusation may be the confirmation that ends a suspicion
        self._tick_sync(now_ms)
        self._tick_gossip(now_ms)
        if self._forget_ms <= now_ms:
            self._forget_ms = now_ms + FORGET_INTERVAL_MS
            self._members.forget_dead(now_ms - self._config.dead_retention_ms)
        self._report(effects, now_ms)
        self.deadline_ms = self._next_deadline_ms()
        assert self.deadline_ms > now_ms, "everything due was done"
        return effects

    def _handle(self, event: Event, now_ms: int) -> None:
        match event:
            case Datagram(source, data):
                self._on_datagram(source, data, now_ms)
            case StreamRequested(stream, data):
                self._on_stream_requested(stream, data, now_ms)
            case StreamReplied(request, data):
                self._on_stream_replied(request, data, now_ms)
            case StreamFailed(request):
                self._outbox.requests.pop(request, None)
            case SetHints(hints):
                self._members.restate(hints=hints)
            case SetAddress(address):
                self._members.restate(address=address)
            case Leave():
                self._members.leave()
            case Rejoin():
                self._members.leaving = False
                self._members.restate()
            case Remove(nodes):
                for node in nodes:
                    self._members.remove(node)
                    self._accused_ms.pop(node, None)

    def _notice_stall(self, now_ms: int) -> None:
        stalled_ms = now_ms - self.deadline_ms
        if stalled_ms >= STALL_MS_MIN:
            self._prober.postpone(stalled_ms)
            self._members.postpone_suspicions(stalled_ms)
            self._health.adjust(1)

    def _report(self, effects: Effects, now_ms: int) -> None:
        members = self._members
        for change in members.changes:
            if change.member.state <= State.SUSPECT:
                self._prober.add(change.member.node)
            if change.before is None or State.DEAD in (change.before, change.member.state):
                self._sync_doublings = 0
                self._sync_ms = min(self._sync_ms, now_ms + self._sync_wait_ms())
        effects.changes, members.changes = members.changes, []
        effects.superseded_by, members.superseded_by = members.superseded_by, 0

    def _next_deadline_ms(self) -> int:
        deadline_ms = min(self._prober.deadline_ms(), self._sync_ms, self._reconnect_ms, self._forget_ms)
        if self._gossip_ms is not None:
            deadline_ms = min(deadline_ms, self._gossip_ms)
        suspicion_ms = self._members.suspicion_deadline_ms()
        return deadline_ms if suspicion_ms is None else min(deadline_ms, suspicion_ms)

    # Packets.

    def _on_datagram(self, source: Endpoint, data: bytes, now_ms: int) -> None:
        packet = decode(data, self._cluster, PACKET_BYTES_MAX)
        if isinstance(packet, Refusal):
            self.refusals[packet] += 1
            return
        told = self._judge_sender(packet)
        if told is not None and now_ms >= self._accused_ms.get(packet.sender, now_ms):
            if len(self._accused_ms) > MEMBERS_MAX:
                self._accused_ms.clear()
            self._accused_ms[packet.sender] = now_ms + self._config.accusation_interval_ms
            self._outbox.send(source, accusation(told))
        if not self._is_heard(packet):
            return
        for message in sorted(packet.messages, key=_opinions_last):
            match message:
                case Ping():
                    self._prober.on_ping(source, message)
                case Ack():
                    self._prober.on_ack(packet.sender, message)
                case PingRequest():
                    self._prober.on_ping_request(source, message, now_ms)
                case Nack():
                    self._prober.on_nack(packet.sender, message)
                case Alive() | Suspect() | Dead() | Left():
                    self._members.hear(message, now_ms)
                case _:
                    self.refusals[Refusal.MISDIRECTED] += 1
        if not self._members.leaving and any(map(self._is_accusation, packet.messages)):
            # Also when the charge is an old one: its bearer missed the refutation and must not wait for the news.
            self._outbox.send(source, self.own)

    def _is_accusation(self, message: object) -> bool:
        return isinstance(message, Suspect | Dead | Left) and message.node == self.own.node

    def _judge_sender(self, packet: Packet) -> Member | None:
        """The record that the sender should know of, if it is not the live process that it may think it is."""
        member = self._members.get(packet.sender)
        if member is None or packet.generation > member.alive.generation:
            return None
        if packet.generation < member.alive.generation or member.state in (State.SUSPECT, State.DEAD):
            return member
        return None

    def _is_heard(self, packet: Packet) -> bool:
        """Whether this sender's words count. A former process, a removed node and an echo of ourselves do not."""
        member = self._members.get(packet.sender)
        if packet.sender == self.own.node:
            self.refusals[Refusal.FROM_SELF] += 1
            if packet.generation > self.own.generation:
                self._members.superseded_by = max(self._members.superseded_by, packet.generation)
        elif self._members.is_removed(packet.sender):
            self.refusals[Refusal.REMOVED] += 1
        elif member is not None and packet.generation < member.alive.generation:
            self.refusals[Refusal.STALE_SENDER] += 1
        else:
            return True
        return False

    def _on_stream_requested(self, stream: int, data: bytes, now_ms: int) -> None:
        packet = decode(data, self._cluster, STREAM_BYTES_MAX)
        if isinstance(packet, Refusal):
            self.refusals[packet] += 1
            self._outbox.hang_up(stream)
            return
        if not self._is_heard(packet):
            told = self._judge_sender(packet)
            self._outbox.reply(stream, *([accusation(told)] if told is not None else []))
            return
        match packet.messages:
            case [Ping() as ping] if (ack := self._prober.answer_to(ping)) is not None:
                self._outbox.reply(stream, ack)
            case [Ping()]:
                self._outbox.reply(stream, self.own)
            case [SyncRequest() as request] if request.sender.node == packet.sender:
                self._on_sync_request(stream, request, now_ms)
            case [SyncDelta() as delta]:
                self._merge(delta.records, packet.sender, now_ms)
                self._outbox.reply(stream)
            case _:
                self.refusals[Refusal.MISDIRECTED] += 1
                self._outbox.hang_up(stream)

    def _on_sync_request(self, stream: int, request: SyncRequest, now_ms: int) -> None:
        own = self.own
        for entry in request.digest:
            if entry.node == own.node and (entry.state, entry.generation) != (State.ALIVE, own.generation):
                self._members.hear(Dead(entry.node, entry.generation, entry.incarnation, ()), now_ms)
        self._members.merge(SyncRecord(request.sender, State.ALIVE, (), 0), request.sender.node, now_ms)
        reply = compare(self._members, request.digest, teach_after_ms=self._teach_after_ms(now_ms), now_ms=now_ms)
        self._outbox.reply(stream, reply)

    def _on_stream_replied(self, request: int, data: bytes, now_ms: int) -> None:
        target = self._outbox.requests.pop(request, None)
        packet = decode(data, self._cluster, STREAM_BYTES_MAX)
        if isinstance(packet, Refusal):
            self.refusals[packet] += 1
            return
        if target is None or not self._is_heard(packet):
            return
        for message in packet.messages:
            match message:
                case Ack():
                    self._prober.on_ack(packet.sender, message)
                case Alive() | Suspect() | Dead() | Left():
                    self._members.hear(message, now_ms)
                case SyncReply(records, wanted):
                    self._merge(records, packet.sender, now_ms)
                    if wanted:
                        teach_after_ms = self._teach_after_ms(now_ms)
                        known = answer(self._members, wanted, teach_after_ms=teach_after_ms, now_ms=now_ms)
                        self._outbox.request(target, SyncDelta(known))
                case _:
                    self.refusals[Refusal.MISDIRECTED] += 1

    def _merge(self, records: list[SyncRecord], reporter: NodeId, now_ms: int) -> None:
        for record in records:
            self._members.merge(record, reporter, now_ms)

    # What happens by itself.

    def _tick_sync(self, now_ms: int) -> None:
        live = self._members.live() if min(self._sync_ms, self._reconnect_ms) <= now_ms else []
        if self._sync_ms <= now_ms:
            if live:
                self._join_retry_ms = JOIN_RETRY_FIRST_MS
                self._sync_ms = now_ms + self._sync_wait_ms()
                self._sync_doublings = min(self._sync_doublings + 1, SYNCS_AFTER_CHANGE)
                self._sync_with(endpoint_of(self._random.choice(live)), now_ms)
            else:
                self._sync_ms = now_ms + self._jittered(self._join_retry_ms)
                self._join_retry_ms = min(self._join_retry_ms * 2, self._config.reconnect_interval_ms)
                seeds = self._absent_seeds(live)
                if seeds:
                    self._sync_with(self._random.choice(seeds), now_ms)
        if self._reconnect_ms <= now_ms:
            self._reconnect_doublings = min(self._reconnect_doublings + 1, RECONNECTS_AT_START)
            wait_ms = self._config.reconnect_interval_ms >> (RECONNECTS_AT_START - self._reconnect_doublings)
            self._reconnect_ms = now_ms + self._jittered(wait_ms)
            self._reconnect(live, now_ms)

    def _reconnect(self, live: list[Member], now_ms: int) -> None:
        """Try one of those that are missing; a dead one also by datagram, in case only streams are broken."""
        dead = {endpoint_of(member): member for member in self._members if member.state is State.DEAD}
        targets = list(dict.fromkeys([*dead, *self._absent_seeds(live)]))
        if not targets or self._members.leaving:
            return
        target = self._random.choice(targets)
        if target in dead:
            self._outbox.send(target, accusation(dead[target]))
        self._sync_with(target, now_ms)

    def _sync_wait_ms(self) -> int:
        interval_ms = self._config.sync_interval_scaled_ms(self._members.size)
        return self._jittered(interval_ms >> (SYNCS_AFTER_CHANGE - self._sync_doublings))

    def _absent_seeds(self, live: list[Member]) -> list[Endpoint]:
        present = {endpoint_of(member) for member in live}
        present.add((self.own.address.host, self.own.address.gossip_port))
        return [seed for seed in self._seeds if seed not in present]

    def _sync_with(self, target: Endpoint, now_ms: int) -> None:
        if not self._members.leaving:
            entries = digest(self._members, teach_after_ms=self._teach_after_ms(now_ms))
            self._outbox.request(target, SyncRequest(self.own, entries))

    def _teach_after_ms(self, now_ms: int) -> int:
        return now_ms - self._config.dead_retention_ms // 2

    def _tick_gossip(self, now_ms: int) -> None:
        if self._gossip_ms is not None and self._gossip_ms <= now_ms:
            self._gossip_ms = None
            live = self._members.live()
            for member in self._random.sample(live, min(self._config.gossip_fanout, len(live))):
                self._outbox.send(endpoint_of(member))
        if self._gossip_ms is None and self._news and self._members.size > 1:
            self._gossip_ms = now_ms + self._config.gossip_interval_ms

    def _jittered(self, interval_ms: int) -> int:
        return max(1, int(interval_ms * self._random.uniform(0.75, 1.25)))


def _opinions_last(message: object) -> int:
    """Alive before suspect before dead: what a packet says for a member is heard before what it says against it."""
    if isinstance(message, Alive):
        return 1
    return 2 if isinstance(message, Suspect | Dead | Left) else 0


def _check_hints(hints: bytes) -> None:
    if len(hints) > HINTS_BYTES_MAX:
        raise TooLarge(f"gossip hints have at most {HINTS_BYTES_MAX} bytes, not {len(hints)}")
