"""One replica of one shard: Raft, its log, its documents and its viewers. The pump calls it; all it wants done goes into a
Turn.

A turn of a replica is: `step` (messages, proposals, reads; may ask to persist), then, after the node's write, `apply`
(committed entries, answers, deltas). Between the two the same bytes go to the followers, to the log and later to apply.

Three ways of being unwell, kept apart (design section 4): `halted` stops apply on this node after a fault that is not an
answer; `damaged` is state that can not be read; `diverged` is state that the majority contradicts. In each the replica goes on
voting and acknowledging but does not lead or serve; state is replaced from the leader, a halt is for an operator.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import ApplyHalted, CodeMissing, InvalidRequest, PositionRewound, StorageDamaged
from cluster.ids import DocumentId, LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.raft.core import Raft
from cluster.raft.effects import LEADER, Effects
from cluster.raft.events import (
    Compact,
    Deadline,
    Event,
    LeaderLost,
    PeerAcked,
    PeerUnreachable,
    Persisted,
    Receive,
    SnapshotFailed,
)
from cluster.raft.messages import AppendReply, Message, SnapshotMeta, TimeoutNow, VoteRequest
from cluster.session.operations import Operation
from cluster.shard.apply import Applier
from cluster.shard.cache import DocumentCache
from cluster.shard.compaction import CompactionConfig as CompactionConfig
from cluster.shard.compaction import safe_floor
from cluster.shard.digest import AppliedDigest
from cluster.shard.directory import Isolated
from cluster.shard.divergence import AppliedItem
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
from cluster.shard.gathering import Gatherer
from cluster.shard.handover import Handover
from cluster.shard.intake import Intake
from cluster.shard.lost_log import lies_on_disk, short_log_of
from cluster.shard.members import Members
from cluster.shard.reading import Reader
from cluster.shard.removal import removal_of, take_leave
from cluster.shard.snapshot import ShardMetadata, StoredShard
from cluster.shard.turn import RaftItem, RemovedItem, StreamKey, Turn
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE, Shard
from cluster.storage.log import ShardLog

_NEVER = float("inf")
APPLY_READ_BYTES = 4 * 1024 * 1024
"""Log bytes read at a time for apply."""


class ShardReplica:
    """Built by `cluster.shard.assembly.open_replica`, which reads its parts from storage."""

    __slots__ = (
        "_applier", "_compact_looked_at", "_compaction", "_contradicted", "_departed", "_messages", "_on_changed", "_stands_in",
        "applied", "broken_snapshots", "cache", "damaged", "diverged", "feed", "halted", "handover", "held_for_snapshots", "id",
        "intake", "leader_told", "log", "lost", "malformed_messages", "members", "node", "raft", "replica", "shard",
        "snapshots_wanted", "stalled", "stored", "suspected_offset",
    )  # fmt: skip

    def __init__(
        self,
        *,
        shard: Shard,
        replica: ReplicaId,
        node: NodeId,
        raft: Raft,
        members: Members,
        log: ShardLog,
        stored: StoredShard,
        cache: DocumentCache,
        gatherer: Gatherer,
        applier: Applier,
        reader: Reader,
        feed: Feed,
        applied: LogIndex,
        compaction: CompactionConfig,
        on_changed: Callable[[LiveDocument, Turn], None] | None = None,
    ) -> None:
        self.shard = shard
        self.id: ShardId = shard.shard
        self.replica = replica
        self.node = node
        self.raft = raft
        self.members = members
        self.log = log
        self.stored = stored
        self.cache = cache
        self.feed = feed
        self.applied = applied
        self.damaged = stored.damaged
        self.halted = ""
        self.diverged = ""
        self.stalled = ""
        self.suspected_offset: int | None = None
        self.malformed_messages = 0
        self.lost = ""
        """Why the log here can not be what this replica acknowledged; it must be taken down then."""
        self.handover = Handover()
        self._contradicted = False
        self._stands_in = False
        """Whether a replica with a shorter log wants to lead, and this one is to campaign although it is unwell."""
        self.leader_told: NodeId | None = None
        """Whom the pump has told others to be the leader."""
        self._applier = applier
        self._on_changed = on_changed
        self._messages: list[tuple[ReplicaId, Message]] = NO_ITEMS
        self._departed = members.adopt(raft.configuration)
        """Members of an earlier configuration: told once it is committed that they are none any more."""
        self.intake = Intake(self, gatherer, applier, reader, feed, stored.metadata().now_ms)
        self._compaction = compaction
        self._compact_looked_at = applied
        self.snapshots_wanted: list[ReplicaId] = NO_ITEMS
        self.held_for_snapshots: dict[ReplicaId, LogIndex] = NO_ENTRIES
        self.broken_snapshots: dict[ReplicaId, LogIndex] = NO_ENTRIES

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self.raft.role is LEADER

    @property
    def serves(self) -> bool:
        """Whether reads and writes may be answered here as leader: it leads, is well, and has applied its own term."""
        return self.leads and not self.unwell

    @property
    def unwell(self) -> str:
        """Why this replica may neither lead nor serve; empty when it may."""
        return self.damaged or self.halted or self.diverged

    @property
    def digest(self) -> AppliedDigest:
        """What apply did here, to be compared."""
        return self._applier.digest

    @property
    def leader_node(self) -> NodeId | None:
        """Where this replica believes the leader is."""
        leader = self.raft.leader
        return self.members.node_of(leader) if leader is not None else None

    @property
    def commands_run(self) -> int:
        return self._applier.commands_run

    @property
    def time_ms(self) -> int:
        """The shard's time: no later proposal may have an earlier one."""
        return self.intake.time_ms

    @property
    def deadline_ms(self) -> float:
        """Raft's next deadline. A replica that is unwell does not campaign and has none until it follows or leads again; one
        that believes nothing any more has none at all. But a replica with a shorter log that asks for votes can not win
        without what is here: then this one campaigns in its stead, brings it up to date and is deposed, since it serves nobody.
        """
        if self._contradicted or (self.unwell and not self.leads and not self._stands_in):
            return _NEVER
        return self.raft.deadline_ms

    @property
    def due_ms(self) -> float:
        """When time has something to do here, Unix milliseconds: alarms ring at the leader."""
        return self.intake.due_ms if self.leads and not (self.unwell or self.stalled) else _NEVER

    @property
    def apply_waits(self) -> bool:
        """Whether there are committed entries that could be applied now."""
        return self.applied < self.raft.commit_index and not (self.damaged or self.halted or self.stalled)

    @property
    def answers_wait(self) -> bool:
        """Whether apply has something to say although nothing needs applying."""
        return self.intake.answerable(self.applied)

    @property
    def needs_housekeeping(self) -> bool:
        """Whether the next housekeeping has something to do although nothing happens until then."""
        return bool(self.cache.unsaved or self.incomplete or self.stalled)

    @property
    def incomplete(self) -> bool:
        """Whether something is to be had from peers: state that is damaged or only partly here, or history."""
        return bool(self.damaged) or self.stored.partial is not None or self.stored.lacking is not None

    @property
    def reads_confirmable(self) -> bool:
        """Whether reads wait for acknowledged liveness rounds."""
        return self.intake.asks

    @property
    def gathers(self) -> bool:
        """Whether something that waited can go on with the next step although nothing arrives."""
        return self.intake.gathers

    # -- inputs: only remembered until the turn ----------------------------------------------------------------------

    def receive(self, sender: ReplicaId, node: NodeId, message: Message) -> None:
        """`node` speaks for `sender`, which `members` admits."""
        self.members.heard(sender, node)
        if not self._messages:
            self._messages = []
        self._messages.append((sender, message))

    def submit(self, stream: StreamKey, operations: list[Operation]) -> None:
        self.intake.submit(stream, operations)

    # -- the turn ----------------------------------------------------------------------------------------------------

    def step(self, now_ms: float, wall_ms: int, turn: Turn) -> None:
        """Take everything that arrived."""
        if self._messages:
            messages, self._messages = self._messages, NO_ITEMS
            for sender, message in messages:
                if type(message) is AppendReply and message.rejected:
                    short = short_log_of(self.raft, self.id, sender, message)
                    node = self.members.node_of(sender)
                    if short is not None and node is not None:
                        turn.send_now(node, short)
                elif type(message) is TimeoutNow and self.unwell:
                    continue  # it would lead and serve nobody; the leader goes on to the next
                elif type(message) is VoteRequest:
                    raft = self.raft
                    asked_with = (message.last_term, message.last_index)
                    self._stands_in = asked_with < (raft.term_of(raft.last_index), raft.last_index)
                self.handle(Receive(sender, message), now_ms, turn)
        if now_ms >= self.deadline_ms:
            self.handle(Deadline(), now_ms, turn)
        self.intake.take(now_ms, wall_ms, turn)
        self._look_for_damage(turn)
        self.intake.ask(now_ms, turn)

    def handle(self, event: Event, now_ms: float, turn: Turn) -> Effects:
        """Step the core and carry its effects into the turn."""
        if self._contradicted:
            return Effects()
        try:
            effects = self.raft.step(event, now_ms)
        except InvalidRequest:
            if type(event) is not Receive:
                raise
            self.malformed_messages += 1
            return Effects()
        except StorageDamaged as error:
            self._contradict(error, turn)
            return Effects()
        persist = effects.persist
        if persist is not None:
            self.log.persist(turn.batch, persist)
            turn.persisted.append((self.id, persist.term, persist.sequence))
        if effects.configuration is not None:
            self._departed = self._departed | self.members.adopt(effects.configuration)
        for receiver, message in effects.send_now:
            node = self.members.node_of(receiver)
            if node is not None:
                turn.send_now(node, RaftItem(self.id, self.replica, receiver, message))
        for receiver, message in effects.send_after_persist:
            node = self.members.node_of(receiver)
            if node is not None:
                turn.send_after_sync(node, RaftItem(self.id, self.replica, receiver, message))
                if type(message) is AppendReply and self.digest.told != self.digest.index:
                    turn.send_after_sync(node, self.tell_applied(receiver))
        if self._departed and effects.committed is not None:
            take_leave(self.raft, self.id, self.leader_node, self._departed, turn)
        if effects.reads_ready or effects.reads_leased or effects.reads_refused:
            self.intake.confirm_reads(effects, turn)
        turn.round_needed |= effects.round_needed
        if effects.snapshot_to:
            self.snapshots_wanted = self.snapshots_wanted + effects.snapshot_to
        if effects.role_changed:
            self.digest.retell()
            self._on_role_change(turn)
        return effects

    def _contradict(self, error: StorageDamaged, turn: Turn) -> None:
        """What is durable here or at a peer contradicts Raft's guarantees: this replica says and believes nothing any more. The
        node's other shards go on.
        """
        self._contradicted = True
        self.halted = error.message
        if lies_on_disk(error):
            self.lost = self.lost or error.message
        self.intake.answer_all(turn)

    def tell_applied(self, leader: ReplicaId) -> AppliedItem:
        """What this replica's apply did, for its leader to compare."""
        digest = self.digest
        digest.told = digest.index
        return AppliedItem(self.id, self.replica, leader, digest.origin, digest.index, digest.total)

    def persisted(self, term: Term, sequence: int, now_ms: float, turn: Turn) -> None:
        self.handle(Persisted(term, sequence), now_ms, turn)

    def peer_acked(self, peer: ReplicaId, term: Term, sent_at_ms: float, now_ms: float, turn: Turn) -> None:
        self.handle(PeerAcked(peer, term, sent_at_ms), now_ms, turn)

    def leader_lost(self, now_ms: float, turn: Turn) -> None:
        self.handle(LeaderLost(), now_ms, turn)

    def peer_unreachable(self, node: NodeId, now_ms: float, turn: Turn) -> None:
        replica = self.members.replica_on(node)
        if replica is not None and replica != self.replica:
            self.handle(PeerUnreachable(replica), now_ms, turn)

    def snapshot_failed(self, peer: ReplicaId, now_ms: float, turn: Turn) -> None:
        self.handle(SnapshotFailed(peer), now_ms, turn)

    def _on_role_change(self, turn: Turn) -> None:
        """Leadership may have been lost: what waits for it is told so. What was proposed may still commit: outcome unknown."""
        self.broken_snapshots.clear()
        if self.leads:
            self._stands_in = False
        if self.leads and self.intake.led_term in (None, self.raft.term):
            return
        self.intake.lead_no_more()
        self.intake.answer_all(turn)

    def hold_for_snapshot(self, peer: ReplicaId, point: LogIndex) -> None:
        """Keep the log behind `point` for a peer that is being sent a snapshot."""
        self.held_for_snapshots = {**self.held_for_snapshots, peer: point}

    def snapshot_broke(self, peer: ReplicaId, point: LogIndex) -> None:
        """Keep it for a while for one whose snapshot broke off."""
        self.broken_snapshots = {**self.broken_snapshots, peer: point}

    # -- members -----------------------------------------------------------------------------------------------------

    def removal_of(self, replica: ReplicaId, node: NodeId) -> RemovedItem | None:
        """What to tell `node` about its `replica` if it is known here that it was removed from the shard."""
        return removal_of(self.raft, self.id, self.leader_node, replica, node)

    def stop(self, turn: Turn) -> None:
        """This replica is taken down: whoever waits here is sent on. It must not be used again."""
        self._contradicted = True
        self.intake.answer_all(turn)

    # -- apply -------------------------------------------------------------------------------------------------------

    def apply(self, now_ms: float, turn: Turn, expired: Callable[[], bool], clock: Callable[[], float]) -> None:
        """Apply committed entries until there are none or `expired()`; answer reads; serve viewers. clock: monotonic
        milliseconds, read after answers that rest on a lease are computed.
        """
        self.cache.fresh = NO_ENTRIES  # what the last turn created is written by now
        while self.apply_waits:
            if not self._apply_some(now_ms, turn, expired) or expired():
                break
        self.feed.flush(turn)
        if not self.unwell:
            self.intake.answer_reads(self.applied, now_ms, turn, clock)
            self._look_for_damage(turn)
        if self.leads and self.intake.led_term is None and self.raft.term_of(self.applied) == self.raft.term:
            self.intake.lead(self.raft.term)
        if self.applied - self._compact_looked_at >= self._compaction.every_entries:
            self.compact(now_ms, turn)

    def _apply_some(self, now_ms: float, turn: Turn, expired: Callable[[], bool]) -> bool:
        first = LogIndex(self.applied + 1)
        try:
            runs = self.raft.entries(first, self.raft.commit_index, APPLY_READ_BYTES)
        except StorageDamaged as error:
            self._contradict(error, turn)
            return False
        for run in runs:
            for place, payload in enumerate(run.payloads):
                index = LogIndex(run.first_index + place)
                if payload and not self._apply_entry(index, run.term, payload, now_ms, turn):
                    return False
                self.applied = index
                self.raft.applied_to(index)
                if expired():
                    return False
        return True

    def _apply_entry(self, index: LogIndex, term: Term, payload: bytes, now_ms: float, turn: Turn) -> bool:
        proposed = self.intake.proposed_at(index, term)
        try:
            changed = self._applier.apply(index, payload, proposed.origins if proposed else None, turn, now_ms)
        except CodeMissing as error:
            self.stalled = error.message
            return False
        except StorageDamaged as error:
            self.found_unreadable(error.message, turn)
            return False
        except ApplyHalted as error:
            self.halted = error.message
            suspect = error.details.get("suspect")
            self.suspected_offset = int(suspect) if suspect is not None else None
            self.intake.answer_all(turn)
            return False
        if proposed is not None:
            self.intake.applied(proposed, turn)
        for live in changed:
            self.feed.changed(live)
            self.intake.changed(live, turn)
            if self._on_changed is not None and live.id.key == SYSTEM_KEY:
                self._on_changed(live, turn)
        return True

    def found_unreadable(self, what: str, turn: Turn) -> None:
        """State here can not be read: stop serving; whoever waits asks the next leader."""
        self.damaged = what
        self.intake.answer_all(turn)

    def found_diverged(self, what: str, document: DocumentId, turn: Turn) -> None:
        """The majority has another state of this document. Commands on their way are still answered: they are in the log, and
        all other documents' answers are right. Those who watch the document start over: what they were shown may be
        contradicted.
        """
        self.diverged = what
        self.intake.refuse_reads(turn)
        self.feed.end_document(document, PositionRewound(f"{document} is taken over from its other replicas"), turn)

    def _look_for_damage(self, turn: Turn) -> None:
        """Checking and reading answer those who asked; that the state is damaged concerns all."""
        what = self.intake.found_damaged()
        if what:
            self.found_unreadable(what, turn)

    # -- housekeeping ------------------------------------------------------------------------------------------------

    def housekeep(self, now_ms: float, turn: Turn) -> None:
        """About once a second while there is anything unsaved or in memory."""
        self.stalled = ""
        if self._applier.within_entry:
            return
        try:
            if self._on_changed is not None:
                self._on_changed(self.cache.get(SYSTEM_SPACE, SYSTEM_KEY), turn)
        except CodeMissing:
            pass  # asked for; the next look finds it
        except StorageDamaged as error:
            self.found_unreadable(error.message, turn)
            return
        self.cache.housekeep(now_ms, turn.batch, self.feed.documents)

    def decisions_changed(self, isolated: list[Isolated]) -> bool:
        """New code or isolated commands: look again at what apply waits for. A halt in the middle of an entry needs a restart.
        Says whether there is anything to look at.

        A replica that had run a command before it was isolated has a state that others will not have: it is damaged, and is
        rebuilt from one that has not.
        """
        if any(item.shard == self.id and item.index <= self.applied for item in isolated):
            self.damaged = self.damaged or "it had passed a command that is isolated now"
        waited = bool(self.stalled or self.halted or self.damaged)
        self.stalled = ""
        if not self._applier.within_entry and not self._contradicted:
            self.halted = ""
        return waited

    def save_all(self, turn: Turn) -> None:
        """Bring the stored shard to the applied index. Nothing is written where apply stopped within an entry: a record would
        claim the whole of it.
        """
        if self._applier.within_entry or self.damaged:
            return
        self.cache.save_all(turn.batch)
        self.stored.save_metadata(ShardMetadata(self.time_ms), turn)

    def install(self, meta: SnapshotMeta, metadata: ShardMetadata, *, resets_log: bool, turn: Turn) -> None:
        """Make a received generation this replica's state. Apply goes on behind `meta`."""
        assert not self.leads, "a leader's state comes from its own log"
        self.stored.switch(meta, metadata, applied=self.applied, resets_log=resets_log, turn=turn)
        self.applied = meta.index
        self._compact_looked_at = meta.index
        self._applier.now_ms = 0
        self.intake.advance_time(metadata.now_ms)
        self.damaged = self.halted = self.diverged = self.stalled = ""
        self._applier.within_entry = False
        self.digest.restart(meta.index)

    def compact(self, now_ms: float, turn: Turn) -> None:
        """Cut the log below what every record holds, keeping some for followers that are a little behind."""
        self._compact_looked_at = self.applied
        floor = LogIndex(self.applied - self._compaction.kept_entries)
        if floor <= self.log.snapshot.index or self.cache.doubted:  # no snapshot is sent meanwhile: voters need the log
            return
        self.cache.save_older_than(floor, turn.batch)
        behind = [*self.raft.progress.values(), *self.broken_snapshots.values()] if self.leads else []
        held = self.held_for_snapshots.values() if self.leads else ()
        floor = safe_floor(floor, self.cache.oldest_unsaved(), behind, held, self._compaction)
        if floor > self.log.snapshot.index:
            self.stored.save_metadata(ShardMetadata(self.time_ms), turn)
            self.handle(Compact(floor), now_ms, turn)
