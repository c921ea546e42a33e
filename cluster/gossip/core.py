"""SWIM with Lifeguard as one state machine: `step(event, now_ms) -> Effects`.

Failure detection: every period some members are pinged (`probe`); who answers neither directly, nor through helpers, nor
over a stream is accused. An accusation is a suspicion (`suspicion`) that its subject may refute with a higher incarnation;
unrefuted it becomes a death (`members`). Dissemination: opinions ride on every packet, and on a gossip tick while there is
news (`broadcast`); whole tables are compared at joining, now and then, and with the dead and the seeds so that partitions
heal (`sync`).

Departures from the papers, on purpose: up to five members everybody is probed in every period, and two have to agree on a
death; a stream probe and a question to the data path run beside the indirect probe, so that lost datagrams alone do not accuse;
a process that stood still (a late step, or `Stalled`) postpones every timer by that time, accuses nobody of what it missed, and
loses local health before any answer is missed. News goes to everybody in turn rather than to anybody. Opinions are told as they
change (`Effects.changes`), and published in cuts without flapping members (`stability`).

Invariants: nothing that arrives raises; every queue is bounded (members, news, probes, relays, requests); a step at any time
is legal; after a step `deadline_ms` lies in its future.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from cluster.errors import TooLarge
from cluster.gossip.broadcast import BroadcastQueue
from cluster.gossip.chronicle import Episode
from cluster.gossip.config import MEMBERS_MAX, PACKET_BYTES_MAX, GossipConfig
from cluster.gossip.contacts import Contacts
from cluster.gossip.effects import (
    Awake,
    Datagram,
    DataPath,
    Effects,
    Endpoint,
    Event,
    Leave,
    MemberView,
    Rejoin,
    Remembered,
    Removed,
    SetAddress,
    SetHints,
    SetLoad,
    Stalled,
    StreamFailed,
    StreamReplied,
    StreamRequested,
)
from cluster.gossip.health import LocalHealth
from cluster.gossip.member import Member, OpinionCounters, accusation
from cluster.gossip.members import Members
from cluster.gossip.messages import (
    HINTS_BYTES_MAX,
    STREAM_BYTES_MAX,
    Ack,
    Address,
    Alive,
    Dead,
    ForeignVersion,
    Hints,
    Left,
    Load,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Refusal,
    State,
    Suspect,
    SyncDelta,
    SyncRecord,
    SyncRecords,
    SyncReply,
    SyncRequest,
    Tags,
    cluster_tag,
    decode,
)
from cluster.gossip.outbox import Outbox
from cluster.gossip.probe import Prober, ProbeSchedule, endpoint_of
from cluster.gossip.reach import PathsView
from cluster.gossip.stability import StabilityFilter
from cluster.gossip.sync import answer, compare, reply_to
from cluster.ids import NodeId

if TYPE_CHECKING:
    import random

NEWS_OF_COMPARISON_MAX: Final = 16
"""A comparison that brings more records than this brings no news."""
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
        tags: Tags,
        seeds: tuple[Endpoint, ...],
        config: GossipConfig,
        source: random.Random,
        now_ms: int,
    ) -> None:
        self._config = config
        self._random = source
        self._cluster = cluster_tag(cluster_id)
        self._news = BroadcastQueue()
        self._health = LocalHealth()
        own = Alive(node, boot_generation, 0, address, tags)
        self._members = Members(own, config, self._news, self._health)
        self._outbox = Outbox(self._cluster, node, boot_generation, self._news)
        self._prober = Prober(self._members, self._health, self._outbox, config, source, now_ms)
        self._gossip_ms: int | None = None
        self._audience = ProbeSchedule(source)
        self._contacts = Contacts(self._members, self._outbox, config, seeds, source, now_ms)
        self._stability = StabilityFilter()
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
    def counters(self) -> OpinionCounters:
        """Of this node's opinions, since start."""
        return self._members.counters

    @property
    def stalls(self) -> int:
        """How often this process stood still."""
        return self._health.stalls

    @property
    def members_epoch(self) -> int:
        """Of the newest list of removed ids that was heard of."""
        return self._members.members_epoch

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
    def live(self) -> int:
        """How many others are alive or suspect."""
        return self._members.size - 1

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

    def published(self, node: NodeId) -> State | None:
        """ALIVE, DEAD or LEFT, as the last cut told it; None before the first."""
        return self._stability.published.get(node)

    def why(self, node: NodeId) -> tuple[PathsView, tuple[Episode, ...]] | None:
        """By which ways the member is reached, and what happened to it, oldest first. None for who is not known."""
        member = self._members.get(node)
        return (member.reach.view(), member.episodes) if member is not None else None

    # The one way in.

    def step(self, event: Event, now_ms: int) -> Effects:
        """Take an event and do everything that is due by `now_ms`.

        Raises TooLarge for hints beyond HINTS_BYTES_MAX; nothing was changed. Nothing else raises.
        """
        if isinstance(event, SetHints):
            _check_hints(event.hints)
        effects = self._outbox.begin()
        self._outbox.transmits_max = self._config.transmits_max(self._members.size)
        self._stalled(self.deadline_ms, now_ms)
        self._handle(event, now_ms)
        self._prober.tick(now_ms, awake=isinstance(event, Awake))
        self._members.expire(now_ms)  # after the prober: its accusation may be the confirmation that ends a suspicion
        self._contacts.tick(now_ms)
        self._tick_gossip(now_ms)
        if self._forget_ms <= now_ms:
            self._forget_ms = now_ms + FORGET_INTERVAL_MS
            self._forget(now_ms)
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
                self._prober.on_stream_ended(request, answered=False)
            case DataPath(node, generation, works):
                self._prober.on_data_path(node, generation, works)
            case Stalled(duration_ms):
                self._stalled(now_ms - duration_ms, now_ms)
            case SetHints(hints):
                self._members.set_hints(hints)
            case SetLoad(load):
                self._members.set_load(load)
            case SetAddress(address):
                self._members.restate(address=address)
            case Leave():
                self._members.leave()
            case Rejoin():
                self._members.leaving = False
                self._members.restate()
            case Remembered(members):
                for alive in members:
                    self._members.remember(alive, now_ms)
            case Removed(nodes, members_epoch):
                for node in self._members.remove(nodes, members_epoch):
                    self._accused_ms.pop(node, None)
                    self._stability.forget(node)

    def _stalled(self, since_ms: int, now_ms: int) -> None:
        """This process did not run in that time: what it did not hear is nobody's fault but its own."""
        stalled_ms = self._health.stalled(since_ms, now_ms)
        if stalled_ms:
            self._prober.postpone(stalled_ms)
            self._members.postpone_suspicions(stalled_ms)

    def _forget(self, now_ms: int) -> None:
        self._members.forget_dead(now_ms)
        for node in [node for node in self._stability.published if self._members.get(node) is None]:
            self._stability.forget(node)

    def _report(self, effects: Effects, now_ms: int) -> None:
        members = self._members
        for change in members.changes:
            view, before = change.member, change.before
            if view.state <= State.SUSPECT:
                self._prober.add(view.node)
                self._audience.add(view.node)
            if view.state is not before:
                self._stability.hear(view.node, view.state, now_ms)
            self._contacts.changed(change, now_ms)
        effects.changes, members.changes = members.changes, []
        effects.superseded_by, members.superseded_by = members.superseded_by, 0
        effects.cut = self._stability.publish(now_ms, self.member)

    def _next_deadline_ms(self) -> int:
        deadline_ms = min(self._prober.deadline_ms(), self._contacts.deadline_ms, self._forget_ms)
        if self._gossip_ms is not None:
            deadline_ms = min(deadline_ms, self._gossip_ms)
        for maybe_ms in (self._members.suspicion_deadline_ms(), self._stability.deadline_ms()):
            if maybe_ms is not None:
                deadline_ms = min(deadline_ms, maybe_ms)
        return deadline_ms

    # Packets.

    def _read(self, data: bytes, bytes_max: int) -> Packet | None:
        packet = decode(data, self._cluster, bytes_max)
        if isinstance(packet, Packet):
            self._members.teller = packet.sender
            return packet
        if isinstance(packet, ForeignVersion):
            self._outbox.effects.foreign = packet
            packet = Refusal.VERSION_MISMATCH
        self.refusals[packet] += 1
        return None

    def _on_datagram(self, source: Endpoint, data: bytes, now_ms: int) -> None:
        packet = self._read(data, PACKET_BYTES_MAX)
        if packet is None:
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
                    self._prober.on_ack(packet.sender, message, now_ms)
                case PingRequest():
                    self._prober.on_ping_request(source, message, now_ms)
                case Nack():
                    self._prober.on_nack(packet.sender, message)
                case Alive() | Suspect() | Dead() | Left():
                    self._members.hear(message, now_ms)
                case Hints() | Load():
                    self._members.note(message)
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
        packet = self._read(data, STREAM_BYTES_MAX)
        if packet is None:
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
                self._members.merge(SyncRecord(request.sender, State.ALIVE, (), 0), packet.sender, now_ms)
                self._outbox.reply(stream, reply_to(self._members, request, now_ms))
            case [SyncDelta() as delta]:
                incarnation = self.own.incarnation
                self._merge(delta.records, packet.sender, now_ms)
                wanted = delta.wanted if self.own.incarnation == incarnation else [self.own.node, *delta.wanted]
                self._outbox.reply(stream, SyncRecords(answer(self._members, wanted, now_ms)))
            case _:
                self.refusals[Refusal.MISDIRECTED] += 1
                self._outbox.hang_up(stream)

    def _on_stream_replied(self, request: int, data: bytes, now_ms: int) -> None:
        target = self._outbox.requests.pop(request, None)
        packet = self._read(data, STREAM_BYTES_MAX)
        self._prober.on_stream_ended(request, answered=packet is not None)
        if packet is None or target is None or not self._is_heard(packet):
            return
        for message in packet.messages:
            match message:
                case Ack():
                    self._prober.on_ack(packet.sender, message, now_ms, stream=True)
                case Alive() | Suspect() | Dead() | Left():
                    self._members.hear(message, now_ms)
                case SyncReply():
                    self._on_sync_reply(target, message, packet.sender, now_ms)
                case SyncRecords(records):
                    self._merge(records, packet.sender, now_ms)
                case _:
                    self.refusals[Refusal.MISDIRECTED] += 1

    def _on_sync_reply(self, target: Endpoint, reply: SyncReply, sender: NodeId, now_ms: int) -> None:
        own = self.own
        for entry in reply.entries:
            if entry.node == own.node and (entry.state, entry.generation) != (State.ALIVE, own.generation):
                self._members.hear(Dead(entry.node, entry.generation, entry.incarnation, ()), now_ms)
        self._merge(reply.records, sender, now_ms)
        if reply.more:
            self._contacts.compare_with(target)
        elif reply.buckets:
            delta = compare(self._members, reply, now_ms)
            if delta.records or delta.wanted:
                self._outbox.request(target, delta)

    def _merge(self, records: list[SyncRecord], reporter: NodeId, now_ms: int) -> None:
        """Who learns of a crowd at once is the one who lagged behind, and has no news for the others."""
        news = len(records) <= NEWS_OF_COMPARISON_MAX
        for record in records:
            self._members.merge(record, reporter, now_ms, news=news)

    # What happens by itself.

    def _is_live(self, node: NodeId) -> bool:
        member = self._members.get(node)
        return member is not None and member.state <= State.SUSPECT

    def _tick_gossip(self, now_ms: int) -> None:
        if self._gossip_ms is not None and self._gossip_ms <= now_ms:
            self._gossip_ms = None
            for node in self._audience.take(self._config.gossip_fanout, self._is_live):
                member = self._members.get(node)
                assert member is not None, "the schedule was just asked for live members"
                self._outbox.send(endpoint_of(member))
        if self._gossip_ms is None and self._news and self._members.size > 1:
            self._gossip_ms = now_ms + self._config.gossip_interval_ms


def _opinions_last(message: object) -> int:
    """Alive before suspect before dead: what a packet says for a member is heard before what it says against it."""
    if isinstance(message, Alive):
        return 1
    return 2 if isinstance(message, Suspect | Dead | Left) else 0


def _check_hints(hints: bytes) -> None:
    if len(hints) > HINTS_BYTES_MAX:
        raise TooLarge(f"gossip hints have at most {HINTS_BYTES_MAX} bytes, not {len(hints)}")
