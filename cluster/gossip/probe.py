"""Whom to probe next, and what is under way: direct probe, then k helpers and a stream, then the verdict.

    started          ping to the target
    + timeout        no answer: helpers are asked, the target is tried over a stream, the owner of the data path is asked
    + interval       still none: the prober accuses the target

The timeout follows the round trips of each peer; interval and timeout grow with local health. Whoever stood still while a
probe was under way learns nothing from its silence, and accuses nobody.

An answer counts only for its (sequence, target, generation), and only from the target or a helper that was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cluster.gossip.config import GossipConfig
from cluster.gossip.effects import Endpoint
from cluster.gossip.health import LocalHealth
from cluster.gossip.member import Member, accusation
from cluster.gossip.members import Members
from cluster.gossip.messages import Ack, Nack, Path, Ping, PingRequest, Refusal, State
from cluster.gossip.outbox import Outbox
from cluster.ids import NodeId

if TYPE_CHECKING:
    import random

RELAY_MS_MAX: Final = 10_000
"""No asker's patience is longer: health 8 of the default period is half of this."""
RTT_UNKNOWN: Final = 0.25
"""Of the probe timeout: what a round trip is taken for before one was measured."""
RELAYS_MAX: Final = 1024
"""Pings on behalf of others that one node has under way; beyond it a request is refused with a nack at once."""


class ProbeSchedule:
    """Round robin over a shuffled list (paper, section 4.3): at most 2n - 1 periods between two probes of one member.

    A new member enters at a random place, so that many joining at once are not probed in step by everybody.
    """

    __slots__ = ("_listed", "_next", "_order", "_random")

    def __init__(self, source: random.Random) -> None:
        self._order: list[NodeId] = []
        self._listed: set[NodeId] = set()
        self._next = 0
        self._random = source

    def add(self, node: NodeId) -> None:
        if node not in self._listed:
            self._listed.add(node)
            self._order.insert(self._random.randint(0, len(self._order)), node)

    def take(self, count: int, wanted: Callable[[NodeId], bool]) -> list[NodeId]:
        """Up to `count` different members. Those that are not `wanted` any more leave the list."""
        taken: list[NodeId] = []
        for _ in range(len(self._order)):
            if len(taken) == count:
                break
            if self._next >= len(self._order):
                self._order = [node for node in self._order if wanted(node)]
                self._listed = set(self._order)
                self._random.shuffle(self._order)
                self._next = 0
                if not self._order:
                    break
            node = self._order[self._next]
            self._next += 1
            if wanted(node) and node not in taken:
                taken.append(node)
        return taken


class Probe:
    """One probe under way. `deadline_ms` is when the direct answer is missed; afterwards, when the verdict is due.

    paths: what was tried in vain so far. stalled: this process stood still meanwhile.
    """

    __slots__ = (
        "deadline_ms", "generation", "helpers", "indirect", "nacks", "node", "paths", "stalled", "started_ms", "verdict_ms"
    )  # fmt: skip

    def __init__(self, node: NodeId, generation: int, now_ms: int, timeout_ms: int, interval_ms: int) -> None:
        assert timeout_ms <= interval_ms
        self.node = node
        self.generation = generation
        self.started_ms = now_ms
        self.deadline_ms = now_ms + timeout_ms
        self.verdict_ms = now_ms + interval_ms
        self.indirect = False
        self.stalled = False
        self.helpers: frozenset[NodeId] = frozenset()
        self.nacks: set[NodeId] = set()
        self.paths = Path.DIRECT

    def answered_by(self, sender: NodeId, node: NodeId, generation: int) -> bool:
        """Whether an ack about `node`, sent by `sender`, settles this probe."""
        return (node, generation) == (self.node, self.generation) and (sender == self.node or sender in self.helpers)

    def postpone(self, stalled_ms: int) -> None:
        self.stalled = True
        self.deadline_ms += stalled_ms
        self.verdict_ms += stalled_ms


class Relay:
    """A ping on behalf of `asker`: its answer is passed on, or a nack when the time is up."""

    __slots__ = ("asker", "deadline_ms", "generation", "node", "sequence")

    def __init__(self, asker: Endpoint, sequence: int, node: NodeId, generation: int, deadline_ms: int) -> None:
        self.asker = asker
        self.sequence = sequence
        self.node = node
        self.generation = generation
        self.deadline_ms = deadline_ms


class Prober:
    """The failure detector's half that looks: it accuses, and never concludes."""

    __slots__ = (
        "_config",
        "_health",
        "_members",
        "_outbox",
        "_period_ms",
        "_probes",
        "_random",
        "_relays",
        "_remind_ms",
        "_schedule",
        "_sequence",
        "_streams",
        "failed",
    )

    def __init__(
        self, members: Members, health: LocalHealth, outbox: Outbox, config: GossipConfig, source: random.Random, now_ms: int
    ) -> None:
        self.failed = 0
        """Probes that ended in an accusation."""
        self._members = members
        self._health = health
        self._outbox = outbox
        self._config = config
        self._random = source
        self._schedule = ProbeSchedule(source)
        self._sequence = source.getrandbits(32)
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        self._streams: dict[int, tuple[NodeId, int]] = {}
        """Stream requests of probes, and to which process; the probe may be over before."""
        self._period_ms = now_ms + source.randrange(config.probe_interval_ms)
        self._remind_ms: int | None = None

    def deadline_ms(self) -> int:
        deadline_ms = self._period_ms if self._remind_ms is None else min(self._period_ms, self._remind_ms)
        for waiting in (self._probes, self._relays):
            for one in waiting.values():
                deadline_ms = min(deadline_ms, one.deadline_ms)
        return deadline_ms

    def add(self, node: NodeId) -> None:
        self._schedule.add(node)

    def postpone(self, stalled_ms: int) -> None:
        """This process stood still: answers may be waiting unread, so no probe is judged by that time."""
        for probe in self._probes.values():
            probe.postpone(stalled_ms)

    @property
    def early_ms(self) -> int:
        """From when on the next period may begin if the process is awake anyway."""
        return self._period_ms - self._config.early_ms

    def tick(self, now_ms: int, *, awake: bool = False) -> None:
        for sequence, relay in [item for item in self._relays.items() if item[1].deadline_ms <= now_ms]:
            del self._relays[sequence]
            self._outbox.send(relay.asker, Nack(relay.sequence))
        for sequence, probe in [item for item in self._probes.items() if item[1].deadline_ms <= now_ms]:
            if probe.indirect or probe.verdict_ms <= now_ms:
                del self._probes[sequence]
                self._judge(probe, now_ms)
            else:
                self._ask_helpers(sequence, probe, now_ms)
        if (self.early_ms if awake else self._period_ms) <= now_ms:
            self._start_period(now_ms)
        if self._remind_ms is not None and self._remind_ms <= now_ms:
            self._remind_suspects(now_ms)

    def _remind_suspects(self, now_ms: int) -> None:
        """Tell those whom this node accuses, until they refute or are concluded: one lost packet must not cost a life.

        Only accusers do; there are at most three per suspect, so that a mass failure is no storm.
        """
        own = self._members.own.node
        accused = [member for member in self._members.suspects() if member.suspicion and own in member.suspicion.accusers]
        for member in accused:
            self._outbox.send(endpoint_of(member), accusation(member))
        self._remind_ms = now_ms + self._config.probe_timeout_ms if accused else None

    def _start_period(self, now_ms: int) -> None:
        interval_ms = self._health.scale(self._config.probe_interval_ms)
        self._period_ms = max(now_ms, self._period_ms) + interval_ms
        if self._members.leaving:
            return
        for node in self._schedule.take(self._members.profile.probes_per_period(self._members.size), self._is_live):
            member = self._members.get(node)
            assert member is not None, "the schedule was just asked for live members"
            self._sequence += 1
            timeout_ms = self._health.scale(self._config.probe_timeout_at_rtt_ms(member.reach.rtt_high_ms))
            self._probes[self._sequence] = Probe(node, member.alive.generation, now_ms, timeout_ms, interval_ms)
            self._ping(endpoint_of(member), self._sequence, member)

    def _ping(self, target: Endpoint, sequence: int, member: Member) -> None:
        ping = Ping(sequence, member.alive.node, member.alive.generation)
        if member.state is State.SUSPECT:  # Lifeguard, buddy system: the suspect is the first who must know
            self._outbox.send(target, ping, accusation(member))
        else:
            self._outbox.send(target, ping)

    def _is_live(self, node: NodeId) -> bool:
        member = self._members.get(node)
        return member is not None and member.state <= State.SUSPECT

    def _ask_helpers(self, sequence: int, probe: Probe, now_ms: int) -> None:
        probe.indirect = True
        probe.deadline_ms = probe.verdict_ms
        member = self._members.get(probe.node)
        if member is None:
            return
        member.reach.datagram = False
        helpers = self._members.population.draw(
            self._config.indirect_probes, self._random, lambda other: other is not member and other.state is State.ALIVE
        )
        probe.helpers = frozenset(helper.alive.node for helper in helpers)
        timeout_ms, left_ms = now_ms - probe.started_ms, probe.verdict_ms - now_ms
        for helper in helpers:
            rtt_ms = helper.reach.rtt_high_ms
            rtt_ms = RTT_UNKNOWN * timeout_ms if rtt_ms is None else rtt_ms
            patience_ms = self._config.helper_timeout_ms(timeout_ms + left_ms, timeout_ms, rtt_ms)
            request = PingRequest(sequence, probe.node, probe.generation, member.alive.address, min(patience_ms, RELAY_MS_MAX))
            self._outbox.send(endpoint_of(helper), request)
        if helpers:
            probe.paths |= Path.INDIRECT
        stream = self._outbox.request(endpoint_of(member), Ping(sequence, probe.node, probe.generation))
        if stream:
            probe.paths |= Path.STREAM
            self._streams[stream] = probe.node, probe.generation
        self._outbox.ask_data_path(probe.node)

    def _judge(self, probe: Probe, now_ms: int) -> None:
        """No answer by any path. Helpers that are silent too speak against this node rather than the target."""
        if probe.stalled:
            return
        missing = len(probe.helpers) - len(probe.nacks)
        self._health.adjust(missing if probe.helpers else 1)
        self.failed += 1
        member = self._members.get(probe.node)
        if member is not None and member.reach.data is False:
            probe.paths |= Path.DATA
        self._members.accuse(probe.node, probe.generation, probe.paths, now_ms)
        self._remind_ms = now_ms

    def on_stream_ended(self, request: int, *, answered: bool) -> None:
        """A stream is over, whatever it was for."""
        asked = self._streams.pop(request, None)
        member = self._members.get(asked[0]) if asked is not None else None
        if asked is not None and member is not None and member.alive.generation == asked[1]:
            member.reach.stream = answered

    def on_data_path(self, node: NodeId, generation: int, works: bool) -> None:
        """The owner of the data path says whether it reaches this process."""
        member = self._members.get(node)
        if member is None or member.alive.generation != generation:
            return
        member.reach.data = works
        if works:
            settled = [s for s, probe in self._probes.items() if probe.indirect and probe.node == node]
            for sequence in settled:
                del self._probes[sequence]

    def on_ping(self, source: Endpoint, ping: Ping) -> None:
        answer = self.answer_to(ping)
        if answer is not None:
            self._outbox.send(source, answer)
        elif ping.node == self._members.own.node:
            self._outbox.send(source, self._members.own)

    def answer_to(self, ping: Ping) -> Ack | None:
        """The ack, unless the ping is for another node or for a former process of this one."""
        own = self._members.own
        if (ping.node, ping.generation) == (own.node, own.generation):
            return Ack(ping.sequence, own.node, own.generation)
        self._members.refusals[Refusal.MISDIRECTED] += 1
        return None

    def on_ping_request(self, source: Endpoint, request: PingRequest, now_ms: int) -> None:
        own = self._members.own
        if request.node == own.node:
            self.on_ping(source, Ping(request.sequence, request.node, request.generation))
            return
        if len(self._relays) >= RELAYS_MAX or self._members.is_removed(request.node):
            self._members.refusals[Refusal.TOO_MANY_RELAYS] += len(self._relays) >= RELAYS_MAX
            self._outbox.send(source, Nack(request.sequence))
            return
        self._sequence += 1
        deadline_ms = now_ms + min(request.patience_ms, RELAY_MS_MAX)
        self._relays[self._sequence] = Relay(source, request.sequence, request.node, request.generation, deadline_ms)
        target = (request.address.host, request.address.gossip_port)
        member = self._members.get(request.node)
        if member is not None and member.alive.generation == request.generation:
            self._ping(endpoint_of(member), self._sequence, member)
        else:
            self._outbox.send(target, Ping(self._sequence, request.node, request.generation))

    def on_ack(self, sender: NodeId, ack: Ack, now_ms: int, *, stream: bool = False) -> None:
        relay = self._relays.get(ack.sequence)
        if relay is not None and sender == ack.node and (ack.node, ack.generation) == (relay.node, relay.generation):
            del self._relays[ack.sequence]
            self._outbox.send(relay.asker, Ack(relay.sequence, relay.node, relay.generation))
            return
        probe = self._probes.get(ack.sequence)
        if probe is None or not probe.answered_by(sender, ack.node, ack.generation):
            self._members.refusals[Refusal.UNEXPECTED_ACK] += 1
            return
        del self._probes[ack.sequence]
        self._health.adjust(-1)
        member = self._members.get(ack.node)
        if member is not None and sender == ack.node and not stream and not probe.stalled:
            member.reach.datagram = True
            member.reach.measured(now_ms - probe.started_ms)

    def on_nack(self, sender: NodeId, nack: Nack) -> None:
        probe = self._probes.get(nack.sequence)
        if probe is not None and sender in probe.helpers:
            probe.nacks.add(sender)


def endpoint_of(member: Member) -> Endpoint:
    return member.alive.address.host, member.alive.address.gossip_port
