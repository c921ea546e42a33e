"""Liveness per node pair, not per group.

A heartbeat carries (boot generation, round, digest of the (shard, term) pairs that the sender leads; the list itself when
it changed or the receiver lacks it). A follower believes a group's leader only while the leader node's current generation
lists (group, the follower's own term). The answer names exceptions: groups in which the answerer's durable term is higher
than the listed one.

An acknowledged round counts for a group's CheckQuorum and ReadIndex from its send time, and only if the group was listed
at that term when the round was sent (compare CockroachDB's store liveness; traps 20, 21, 37, 53).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec
from msgspec import Struct

from cluster.ids import NodeId, ReplicaId, ShardId, Term
from cluster.shard.members import Members

NEVER = float("-inf")
ROUNDS_KEPT = 64
LISTED_PER_MS = 100
ROUND_BITS = 32
"""Rounds are numbered on from (boot generation << 32): an answer to the process before never counts for this one."""

Led = tuple[tuple[ShardId, Term], ...]


class Heartbeat(Struct, frozen=True, array_like=True, tag=1):
    """`led` is None when the receiver should still have the list with this digest. `store` names the sender's data
    directory. `urgent`: somebody waits for the acknowledgement; otherwise it may wait for the receiver's own next round.
    `decided`: the version of the system shard's decisions that the sender knows.
    """

    generation: int
    store: bytes
    round: int
    digest: bytes
    led: Led | None
    urgent: bool = False
    decided: int = 0


class HeartbeatReply(Struct, frozen=True, array_like=True, tag=2):
    """`list_needed`: the answerer does not have the list of this digest. `exceptions`: groups with a higher durable term
    here. `promise_ms`: for so long from now on the answerer helps to elect nobody else in the groups of the list; 0 without
    leases. `wall_ms`: the answerer's wall clock, 0 if it does not say.
    """

    generation: int
    store: bytes
    round: int
    list_needed: bool
    exceptions: tuple[ShardId, ...]
    promise_ms: int = 0
    wall_ms: int = 0


class Fenced(Struct, frozen=True, array_like=True, tag=3):
    """Your data directory is not the one I know under your name: you are a new node and must not use the old identity."""

    known_store: bytes


LivenessMessage = Heartbeat | HeartbeatReply | Fenced


def digest_of(led: Led) -> bytes:
    return blake2b(msgspec.msgpack.encode(led), digest_size=8).digest()


@dataclass(slots=True)
class News:
    """What may end what a sleeping group relies on, or brings what it waits for.

    nodes: fell silent, stopped acknowledging, are there again, or were restarted. restarted: of these, the ones whose process
        is another one, and has forgotten what it had not made durable. shards: no longer listed by a node that had listed
        them, newly denied to this node, or no longer vouched for by it.
    """

    nodes: set[NodeId] = field(default_factory=set)
    restarted: set[NodeId] = field(default_factory=set)
    shards: set[ShardId] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.shards)


class _Peer:
    """acking, heard: whether a round was acknowledged, or anything said, within the last election timeout, as far as `look_out`
    and arrivals have told. relied: the newest list, even while it is not believed because a newer one is on its way.
    promise_ms: how long it promised with `acked`. promised: per group that it no longer lists, the term and the time of the
    last acknowledgement that this node gave it.
    """

    __slots__ = (
        "acked",
        "acking",
        "denied",
        "denied_at",
        "digest",
        "exceptions",
        "generation",
        "heard",
        "heard_ms",
        "led",
        "promise_ms",
        "promised",
        "relied",
        "sent_list",
    )

    def __init__(self) -> None:
        self.generation = 0
        self.heard = False
        self.heard_ms = NEVER
        self.acking = False
        self.relied: dict[ShardId, Term] = {}
        self.digest = b""
        self.led: dict[ShardId, Term] = {}
        self.acked: tuple[int, float] = (0, NEVER)
        self.exceptions: frozenset[ShardId] = frozenset()
        self.sent_list = b""
        self.denied: tuple[ShardId, ...] = ()
        self.denied_at: tuple[bytes, int] = (b"", -1)
        self.promise_ms = 0
        self.promised: dict[ShardId, tuple[Term, float]] = {}

    def forget_list(self, *, promised: bool) -> None:
        """Believe nothing of the list any more; what was promised for it stays promised."""
        if promised:
            for shard, term in self.led.items():
                self.promised[shard] = (term, self.heard_ms)
        self.led = {}


class NodeLiveness:
    """This node's side of all its node pairs.

    promise_ms: with leases on, the minimum election timeout of this node's replicas, which each acknowledgement promises;
        else 0.
    """

    def __init__(self, node: NodeId, generation: int, store: bytes, promise_ms: int = 0) -> None:
        self.node = node
        self.generation = generation
        self.store = store
        self.promise_ms = promise_ms
        self._peers: dict[NodeId, _Peer] = {}
        self._led: dict[ShardId, tuple[Term, int]] = {}
        self._terms: dict[ShardId, Term] = {}
        self._floors: dict[ShardId, Term] = {}
        self._refused: set[ShardId] = set()
        self.excepts_unknown = False
        """Whether groups of which this node knows no term are excepted: it may have known one and lost it."""
        self._terms_version = 0
        self._digest = digest_of(())
        self._list: Led = ()
        self._listed = True
        self.silent: set[NodeId] = set()
        """Peers that were heard before and have not been for an election timeout."""
        self._news = News()
        self.silence_due_ms = float("inf")
        """When `look_out` will find somebody if nothing more is heard; seen to once a round."""
        self.round = generation << ROUND_BITS
        """The newest round of heartbeats."""
        self._rounds: deque[tuple[int, float]] = deque(maxlen=ROUNDS_KEPT)
        self.decided = 0
        """The version of the system shard's decisions that this node knows."""

    # -- what this node leads ----------------------------------------------------------------------------------------

    def list_due_ms(self, now_ms: float) -> float:
        """When a group that is newly led should be listed: at once, unless the last round was just before, for a list costs
        what it is long.
        """
        return max(now_ms, self._rounds[-1][1] + len(self._led) / LISTED_PER_MS) if self._rounds else now_ms

    def lead(self, shard: ShardId, term: Term) -> None:
        """List a group from the next round on."""
        known = self._led.get(shard)
        if known is None or known[0] != term:
            self._led[shard] = (term, self.round + 1)
            self._listed = False

    def delist(self, shard: ShardId) -> None:
        """Stop vouching for a group: it is no longer led, or this node can not be trusted with it (hung disk, no quorum)."""
        if self._led.pop(shard, None) is not None:
            self._listed = False
            self._news.shards.add(shard)

    def note_term(self, shard: ShardId, term: Term) -> None:
        """The term of this node's replica of a group: where it is above what a peer lists, this node is an exception."""
        term = max(term, self._floors.get(shard, term))
        if self._terms.get(shard) != term:
            self._terms[shard] = term
            self._terms_version += 1

    def floor_term(self, shard: ShardId, term: Term) -> None:
        """Leaders of lower terms are excepted from now on, whatever replica of the group is or is not here."""
        if term:  # thousands of groups have none
            self._floors[shard] = term
        self.note_term(shard, max(term, self._terms.get(shard, term)))

    def refuse(self, shard: ShardId) -> None:
        """Except a group whoever leads it: what this node's replica promised there is lost."""
        self._refused.add(shard)
        self._terms_version += 1

    def accept(self, shard: ShardId) -> None:
        """The group has another voter here, and its term counts again."""
        self._refused.discard(shard)
        self._terms_version += 1

    def _excepts(self, shard: ShardId, term: Term) -> bool:
        own = self._terms.get(shard)
        return shard in self._refused or (own > term if own is not None else self.excepts_unknown)

    def _relist(self) -> None:
        """Once a round, however many groups changed hands since the last."""
        self._listed = True
        self._list = tuple(sorted((shard, term) for shard, (term, _) in self._led.items()))
        self._digest = digest_of(self._list)

    # -- rounds ------------------------------------------------------------------------------------------------------

    def begin_round(self, peers: list[NodeId], now_ms: float, *, urgent: bool = False) -> list[tuple[NodeId, Heartbeat]]:
        """One heartbeat to each connected peer. urgent: somebody waits for its acknowledgement."""
        if not self._listed:
            self._relist()
        self.round += 1
        self._rounds.append((self.round, now_ms))
        beats = []
        for node in peers:
            peer = self._peer(node)
            led = None if peer.sent_list == self._digest else self._list
            peer.sent_list = self._digest
            beat = Heartbeat(self.generation, self.store, self.round, self._digest, led, urgent, self.decided)
            beats.append((node, beat))
        return beats

    def on_heartbeat(
        self, node: NodeId, beat: Heartbeat, now_ms: float, wall_ms: int = 0
    ) -> tuple[HeartbeatReply | None, bool]:
        """A peer's heartbeat. Returns the answer (None for one of an older generation) and whether the peer was restarted."""
        peer = self._peer(node)
        if beat.generation < peer.generation:
            return None, False
        restarted = beat.generation > peer.generation > 0
        if beat.generation > peer.generation:
            # The process before is gone, and whatever it may have been promised with it.
            peer.generation, peer.digest, peer.led, peer.sent_list = beat.generation, b"", {}, b""
            peer.acked, peer.exceptions, peer.denied_at, peer.promised = (0, NEVER), frozenset(), (b"", -1), {}
            peer.relied, peer.acking = {}, False
            self._news.nodes.add(node)
            if restarted:
                self._news.restarted.add(node)
        if beat.led is not None:
            peer.forget_list(promised=self.promise_ms > 0)
            peer.led = dict(beat.led)
            peer.digest = beat.digest
            self._news.shards.update([shard for shard, _ in peer.relied.items() - peer.led.items()])
            peer.relied = peer.led
        needed = peer.digest != beat.digest
        if needed:
            peer.forget_list(promised=self.promise_ms > 0)
        peer.heard_ms = now_ms
        if not peer.heard:
            peer.heard = True
            self.silent.discard(node)
            self._news.nodes.add(node)
        if needed or peer.denied_at != (peer.digest, self._terms_version):
            peer.denied = tuple([shard for shard, term in peer.led.items() if self._excepts(shard, term)])
            peer.denied_at = (b"", -1) if needed else (peer.digest, self._terms_version)
        reply = HeartbeatReply(self.generation, self.store, beat.round, needed, peer.denied, self.promise_ms, wall_ms)
        return reply, restarted

    def on_reply(self, node: NodeId, reply: HeartbeatReply, now_ms: float) -> float | None:
        """A peer acknowledged a round. Returns the round's send time if this is news."""
        peer = self._peer(node)
        if reply.generation < peer.generation:
            return None
        if reply.list_needed:
            peer.sent_list = b""
        if reply.round <= peer.acked[0]:
            return None
        age = self.round - reply.round  # rounds are numbered without a gap
        if not 0 <= age < len(self._rounds) or reply.list_needed:
            return None
        sent_ms = self._rounds[-1 - age][1]
        peer.acked = (reply.round, sent_ms)
        peer.acking = True
        if reply.exceptions or peer.exceptions:
            exceptions = frozenset(reply.exceptions)
            self._news.shards |= exceptions - peer.exceptions
            peer.exceptions = exceptions
        peer.promise_ms = min(reply.promise_ms, self.promise_ms)
        return sent_ms

    def disconnected(self, node: NodeId) -> None:
        """The connection broke: the peer may have missed the list."""
        self._peer(node).sent_list = b""

    def gone(self, node: NodeId) -> None:
        """The peer's process is said to be gone: nothing it vouched for is believed. Promises wait out their time all the same,
        for a process that takes no connections any more may still answer reads (trap 39).
        """
        peer = self._peer(node)
        peer.forget_list(promised=self.promise_ms > 0)
        peer.digest, peer.heard_ms, peer.denied_at = b"", NEVER, (b"", -1)
        peer.heard, peer.relied = False, {}
        self._news.nodes.add(node)

    def look_out(self, now_ms: float, timeout_ms: float) -> list[NodeId]:
        """Whom this node has not heard, or who has not acknowledged, for `timeout_ms`: news, once. Returns those not heard."""
        lost = []
        for node, peer in self._peers.items():
            if peer.heard and now_ms - peer.heard_ms >= timeout_ms:
                peer.heard = False
                self.silent.add(node)
                self._news.nodes.add(node)
                lost.append(node)
            if peer.acking and now_ms - peer.acked[1] >= timeout_ms:
                peer.acking = False
                self._news.nodes.add(node)
        self.expect(timeout_ms)
        return lost

    def expect(self, timeout_ms: float) -> None:
        """See when who is there now will have been silent for `timeout_ms`."""
        due_ms = float("inf")
        for peer in self._peers.values():
            if peer.heard:
                due_ms = min(due_ms, peer.heard_ms + timeout_ms)
            if peer.acking:
                due_ms = min(due_ms, peer.acked[1] + timeout_ms)
        self.silence_due_ms = due_ms

    def acknowledges(self, node: NodeId) -> bool:
        """Whether a node has acknowledged a round within the last timeout, as far as `look_out` has told."""
        return self._peer(node).acking

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def take_news(self) -> News:
        """Everything since the last call."""
        news, self._news = self._news, News()
        return news

    # -- what the groups ask -----------------------------------------------------------------------------------------

    def leader_of(self, shard: ShardId, nodes: Collection[NodeId]) -> NodeId | None:
        """Which of these nodes vouches for leading a group, in the highest term: for nodes that hold no replica of it."""
        found: tuple[Term, NodeId] | None = None
        for node in nodes:
            peer = self._peers.get(node)
            term = peer.led.get(shard) if peer is not None else None
            if term is not None and (found is None or term > found[0]):
                found = (term, node)
        return found[1] if found is not None else None

    def leader_heard_ms(self, node: NodeId, shard: ShardId, term: Term) -> float:
        peer = self._peers.get(node)
        if peer is None or peer.led.get(shard) != term:
            return NEVER
        return peer.heard_ms

    def acked_sent_ms(self, node: NodeId, shard: ShardId, term: Term) -> float:
        peer = self._peers.get(node)
        listed = self._led.get(shard)
        if peer is None or listed is None or listed[0] != term or peer.acked[0] < listed[1] or shard in peer.exceptions:
            return NEVER
        return peer.acked[1]

    def promised_until_ms(self, node: NodeId, shard: ShardId, term: Term) -> float:
        """Until when a peer promised to help elect nobody else than this node's replica; minus infinity if it did not."""
        peer = self._peers.get(node)
        if peer is None or peer.promise_ms <= 0:
            return NEVER
        return self.acked_sent_ms(node, shard, term) + peer.promise_ms

    def promised_at_ms(self, node: NodeId, shard: ShardId, term: Term) -> float:
        """When this node last promised that to the peer's."""
        peer = self._peers.get(node)
        if peer is None:
            return NEVER
        if peer.led.get(shard) == term:
            return peer.heard_ms
        promised = peer.promised.get(shard)
        return promised[1] if promised is not None and promised[0] == term else NEVER

    def heard_ms(self, node: NodeId) -> float:
        """When anything was last heard from this node's liveness."""
        peer = self._peers.get(node)
        return peer.heard_ms if peer else NEVER

    def _peer(self, node: NodeId) -> _Peer:
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer()
        return peer


class GroupLiveness:
    """`cluster.raft.events.Liveness` for one group, on top of its node's."""

    __slots__ = ("_liveness", "_members", "_shard")

    def __init__(self, liveness: NodeLiveness, shard: ShardId, members: Members) -> None:
        self._liveness = liveness
        self._shard = shard
        self._members = members

    def leader_heard_ms(self, leader: ReplicaId, term: Term) -> float:
        node = self._members.node_of(leader)
        return self._liveness.leader_heard_ms(node, self._shard, term) if node is not None else NEVER

    def acked_sent_ms(self, peer: ReplicaId, term: Term) -> float:
        node = self._members.node_of(peer)
        return self._liveness.acked_sent_ms(node, self._shard, term) if node is not None else NEVER

    def heard_ms(self, peer: ReplicaId) -> float:
        node = self._members.node_of(peer)
        return self._liveness.heard_ms(node) if node is not None else NEVER

    def promised_until_ms(self, peer: ReplicaId, term: Term) -> float:
        node = self._members.node_of(peer)
        return self._liveness.promised_until_ms(node, self._shard, term) if node is not None else NEVER

    def promised_at_ms(self, leader: ReplicaId, term: Term) -> float:
        node = self._members.node_of(leader)
        return self._liveness.promised_at_ms(node, self._shard, term) if node is not None else NEVER
