"""The turn of a node. Pure: bytes and operations in, one write batch, frames and deliveries out.

    drain -> step ready shards -> one write batch, one sync in flight -> one frame a peer -> apply -> one list a client stream

The owner sends an `Output`'s frames (before or after it writes), writes its batch (visible, not durable) and delivers its
answers last. When `needs_sync` it makes everything written durable and says so with `persisted`. What an acknowledgement
depends on is written in an output before, and its frame comes out of `persisted`: an unsafe order can not be written by
accident.

Work of a turn follows what arrived: shards without news, timer or committed entries are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.errors import RejectedError, StaleRoute, StorageFull
from cluster.ids import LogIndex, NodeId, ReplicaId, ShardId, Term
from cluster.placement.move import ConfigurationStatus, Step
from cluster.pump import frames
from cluster.pump.bundles import BundleFetch
from cluster.pump.changes import Changes, status_of
from cluster.pump.clocks import Clocks
from cluster.pump.config import PumpConfig as PumpConfig
from cluster.pump.divergence import Divergences
from cluster.pump.facts import Held, HeldShards
from cluster.pump.holdings import Holdings
from cluster.pump.incoming import Incoming
from cluster.pump.lanes import Lane
from cluster.pump.liveness import Fenced, Heartbeat, HeartbeatReply, NodeLiveness
from cluster.pump.outbox import Outbox, Output
from cluster.pump.routes import Routes, first_stream
from cluster.pump.schedule import Schedule
from cluster.pump.steering import Steering
from cluster.pump.streams import Streams
from cluster.pump.transfers import Transfers
from cluster.pump.waking import Waking
from cluster.raft.messages import Places
from cluster.router.router import Router
from cluster.session.failures import failure_of
from cluster.session.operations import COMMAND_KINDS, Operation, Reply
from cluster.shard.directory import Directory
from cluster.shard.replica import ShardReplica
from cluster.shard.turn import CloseItem, ResetItem, Turn
from cluster.shardmap.map import ShardMap
from cluster.storage.engine import Batch

HOUSEKEEPING_MS = 1_000.0


class Pump:
    """All replicas, streams and node pairs of one node.

    clock: monotonic milliseconds, read to end apply slices and after reads are computed that rest on a lease. fenced: why this
        node must stop, empty while it may run.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        peers: list[NodeId],
        router: Router,
        directory: Directory,
        liveness: NodeLiveness,
        replicas: dict[ShardId, ShardReplica],
        held: HeldShards,
        begin: Callable[[Held, float], ShardReplica],
        blank: bool,
        bundles: BundleFetch,
        transfers: Transfers,
        stores: dict[NodeId, bytes],
        remember_store: Callable[[Batch, NodeId, bytes], None],
        config: PumpConfig,
        clock: Callable[[], float],
        now_ms: float,
    ) -> None:
        self.node = node
        self.router = router
        self.directory = directory
        self.liveness = liveness
        self.replicas = replicas
        self.fenced, self.garbage_frames = "", 0
        self.storage_full = ""
        """Why this node takes no commands at the moment (its disk's high-water mark); reads go on."""
        self.connected: set[NodeId] = set()
        self.peers = peers
        self._bundles, self._transfers = bundles, transfers
        self._stores, self._remember_store = stores, remember_store
        self._config, self._clock, self._now_ms = config, clock, now_ms
        self._turn, self.clocks = Turn(), Clocks()
        self._schedule = Schedule(self.clocks.ahead_ms)
        self.leader_changes: list[tuple[ShardId, Term, NodeId | None]] = []
        """What this node came to believe since the owner last looked (and emptied it): for the log."""
        self._heartbeat_due_ms, self._housekeeping_due_ms = now_ms, now_ms + HOUSEKEEPING_MS
        self._delisted = False
        self.routes = routes = Routes(self, router, self._turn, lambda shard: self._waking.hasten(shard))
        first = first_stream(liveness.generation) + 1
        self.streams = Streams(router, routes.forward, routes.grant, routes.locate, replicas.__contains__, first)
        self._outbox = Outbox(node, self._turn, self.streams)
        self._waking = Waking(self, self._schedule, transfers, self._turn, config.election_timeout_ms)
        self._changes = Changes(self, node, peers, router, self._schedule, self._turn)
        self.steering = Steering(self, self._changes, router, directory, config.placement, self._turn)
        self._holdings = Holdings(
            self, held, begin, self._schedule, transfers, self._outbox, self._turn, self._changes, blank=blank
        )
        self.divergences = Divergences(node, self.connected, replicas)
        self._incoming = Incoming(
            holder=self,
            schedule=self._schedule,
            streams=self.streams,
            router=router,
            bundles=bundles,
            transfers=transfers,
            holdings=self._holdings,
            divergences=self.divergences,
            steering=self.steering,
            turn=self._turn,
        )
        self.control, self.learning = self._incoming.control, self._incoming.learning
        for replica in replicas.values():
            self.look_at(replica, now_ms)

    # -- inputs from peers -------------------------------------------------------------------------------------------

    def on_frame(self, node: NodeId, lane: Lane, frame: bytes, now_ms: float) -> None:
        """A frame from a peer. Garbage is counted and dropped."""
        self._now_ms = now_ms
        try:
            if lane is Lane.LIVENESS:
                self._on_liveness(node, frame, now_ms)
            else:
                self.garbage_frames += self._incoming.on_frame(node, lane, frame, now_ms)
        except RejectedError:
            self.garbage_frames += 1

    def on_frame_lost(self, node: NodeId, lane: Lane, now_ms: float) -> None:
        """A frame that an output named was not accepted for sending (a full lane of a connection that stands). Whoever
        depended on it must not wait: both sides give up what the lane may owe.
        """
        self._now_ms = now_ms
        if lane is Lane.LIVENESS:
            self.liveness.disconnected(node)
        elif lane is Lane.BULK:
            self._transfers.node_lost(node, now_ms, self._turn)
        else:
            self._outbox.resets.add(node)
            self._waking.messages_lost(node, now_ms)

    def on_connected(self, node: NodeId, now_ms: float) -> None:
        """Frames to `node` will be taken from now on."""
        self._now_ms = now_ms
        self.connected.add(node)
        self.liveness.disconnected(node)
        self._turn.send_now(node, ResetItem())
        self._schedule.moved.update(dict.fromkeys(self.divergences.reconnected(node)))
        self._heartbeat_due_ms = min(self._heartbeat_due_ms, now_ms)

    def on_disconnected(self, node: NodeId, refused: bool, now_ms: float) -> None:
        """Evidence about a peer; `refused` says that its process is gone."""
        self._now_ms = now_ms
        self.connected.discard(node)
        self._incoming.disconnected(node)
        self.clocks.forget(node)
        self.liveness.disconnected(node)
        self._waking.messages_lost(node, now_ms)
        if refused:
            self.liveness.gone(node)
            self._waking.process_gone(node, now_ms)
        self._transfers.node_lost(node, now_ms, self._turn)

    def _on_liveness(self, node: NodeId, frame: bytes, now_ms: float) -> None:
        message = frames.unpack_liveness(frame)
        if isinstance(message, Fenced):
            self.fenced = (
                f"{node} knows another data directory under the name {self.node}: this one must not use its identity; "
                "start it under a new name"
            )
            return
        if not self._known_store(node, message.store):
            self._incoming.met.discard(node)
            self._outbox.liveness.append((node, Fenced(self._stores[node])))
            return
        self._incoming.met.add(node)
        if isinstance(message, Heartbeat):
            self.learning.heard(node, message.decided, now_ms)
            reply, restarted = self.liveness.on_heartbeat(node, message, now_ms, self.clocks.wall_ms(now_ms))
            if reply is not None:
                at_once = message.urgent or message.led is not None or reply.list_needed or self._config.hasty
                self._outbox.acknowledge(node, reply, at_once=at_once)
            self._heartbeat_due_ms = self._config.beat_due_ms(self._heartbeat_due_ms, now_ms)
            if restarted:
                self._waking.process_gone(node, now_ms, message.generation)
            return
        assert isinstance(message, HeartbeatReply)
        sent_ms = self.liveness.on_reply(node, message, now_ms)
        if message.list_needed:
            self._heartbeat_due_ms = now_ms
        if sent_ms is not None:
            self.clocks.heard(node, message.wall_ms, sent_ms, now_ms)
            for shard in list(self._schedule.reading):
                self._confirm_reads(self.replicas[shard], node, now_ms)

    def _known_store(self, node: NodeId, store: bytes) -> bool:
        """A wiped node under an old name is a new node: its votes and acknowledgements are not the old one's (trap 11)."""
        known = self._stores.get(node)
        if known is None:
            self._stores[node] = store
            self._remember_store(self._turn.batch, node, store)
            return True
        return known == store

    def _confirm_reads(self, replica: ShardReplica, node: NodeId, now_ms: float) -> None:
        peer = replica.members.replica_on(node)
        if peer is None or not replica.leads:
            return
        sent_ms = self.liveness.acked_sent_ms(node, replica.id, replica.raft.term)
        replica.peer_acked(peer, replica.raft.term, sent_ms, now_ms, self._turn)
        self._schedule.ready[replica.id] = None

    # -- inputs from the gateway -------------------------------------------------------------------------------------

    def submit(self, stream: int, operations: list[Operation], now_ms: float) -> None:
        self._now_ms = now_ms
        self.streams.submit(stream, operations, now_ms)

    def close_stream(self, stream: int) -> None:
        for node in self.streams.close(stream):
            if node == self.node:
                self._schedule.close_stream(self.replicas, (self.node, stream))
            elif node in self.connected:
                self._turn.send_now(node, CloseItem(stream))

    def bundle(self, code_hash: bytes) -> bytes | None:
        """A bundle's bytes if this node has them."""
        return self._bundles.get(code_hash)

    def submit_to_replica(self, shard: ShardId, stream: tuple[NodeId, int], operations: list[Operation]) -> None:
        replica = self.replicas.get(shard)
        if replica is None:
            version, leader = self.router.map.version, self.router.hinted(shard) or ""
            error = StaleRoute(f"node {self.node} has no replica of shard {shard}", shard_map_version=version, leader=leader)
            for operation in operations:
                self._turn.reply(stream, Reply(operation.id, 0, 0, b"", failure_of(error)))
            return
        if self.storage_full:
            operations = self._refuse_commands(stream, operations)
        self._waking.hasten(shard)
        replica.submit(stream, operations)
        self._schedule.ready[shard] = None
        self._schedule.moved[shard] = None

    def _refuse_commands(self, stream: tuple[NodeId, int], operations: list[Operation]) -> list[Operation]:
        """Answer what would write; returns what only reads."""
        failure = failure_of(StorageFull(self.storage_full, retry_after_ms=1000))
        for operation in operations:
            if operation.kind in COMMAND_KINDS:
                self._turn.reply(stream, Reply(operation.id, 0, 0, b"", failure))
        return [operation for operation in operations if operation.kind not in COMMAND_KINDS]

    # -- who belongs to a shard --------------------------------------------------------------------------------------

    def configuration(self, shard: ShardId) -> ConfigurationStatus | None:
        """Who belongs to a shard as this node's replica knows it, committed or not; None when it holds none."""
        replica = self.replicas.get(shard)
        return status_of(replica) if replica is not None else None

    def change_configuration(
        self,
        shard: ShardId,
        expected_index: LogIndex,
        voters: tuple[ReplicaId, ...],
        learners: tuple[ReplicaId, ...],
        places: Places,
        now_ms: float,
    ) -> None:
        """Append a shard's next configuration at its leader, if entry `expected_index` made the newest one. `places` says where
        new replicas run. What was appended may still be rolled back if leadership is lost: see `configuration`.

        Raises NotLeader, StaleRoute, StaleConfiguration, ChangePending, LearnerBehind, Transferring or InvalidRequest; nothing
        changed then.
        """
        self._changes.change(shard, expected_index, voters, learners, places, now_ms)

    def transfer(self, shard: ShardId, to: NodeId, now_ms: float) -> None:
        """Begin to hand the leadership of a shard to the voter at `to`; given up by itself after an election timeout.

        Raises NotLeader, StaleRoute, InvalidRequest, or Transferring when it is being handed to another.
        """
        self._changes.transfer(shard, to, now_ms)

    def move_step(self, shard: ShardId, leaving: NodeId | None, joining: NodeId | None, now_ms: float) -> Step:
        """Do what moving a replica from `leaving` to `joining` needs next, and say what that was. Called at whoever leads until
        it says DONE, from whatever point. Raises NotLeader, StaleRoute or InvalidRequest; nothing changed then.
        """
        return self._changes.move_step(shard, leaving, joining, now_ms)

    # -- the turn ----------------------------------------------------------------------------------------------------

    @property
    def deadline_ms(self) -> float:
        """When `step` must be called next, whatever arrives."""
        return min(  # housekeeping waits for these
            self._heartbeat_due_ms, self._schedule.deadline_ms, self.clocks.at_ms(self._schedule.due_ms),
            self.liveness.silence_due_ms, self.streams.deadline_ms, self._transfers.deadline_ms(self._now_ms),
            self.divergences.deadline_ms, self._incoming.compiling.deadline_ms,
        )  # fmt: skip

    @property
    def calls_for_turn(self) -> bool:
        """Whether what arrived asks for a turn before the next deadline: heartbeats and their answers mostly do not."""
        waits = self.busy or self._outbox.liveness or self.liveness.has_news or not self._turn.empty
        return bool(waits or self.fenced or self._heartbeat_due_ms <= self._now_ms)

    @property
    def needs_sync(self) -> bool:
        """Whether something waits for durability."""
        return self._outbox.needs_sync

    @property
    def written(self) -> int:
        """The number of the newest batch that was handed out."""
        return self._outbox.written

    @property
    def busy(self) -> bool:
        """Whether a further turn has work without anything arriving."""
        return self._schedule.busy or self._waking.busy or self._incoming.compiling.busy

    def step(self, now_ms: float, wall_ms: int) -> Output:
        """Everything that arrived and is due: Raft messages, timers, proposals, reads."""
        self._now_ms = now_ms
        self._waking.tick(now_ms)
        self.clocks.note(now_ms, wall_ms)
        self._schedule.ring(self.replicas, now_ms, wall_ms)
        if self._schedule.ready:
            self._step_ready(now_ms, wall_ms)
        self.streams.tick(now_ms)
        self._incoming.compiling.tick(now_ms)
        self._transfers.tick(now_ms, self._turn)
        for replica in self.divergences.tick(now_ms, self._turn):
            self.look_at(replica, now_ms)
        if now_ms >= self._housekeeping_due_ms:
            self._housekeep(now_ms)
        self.steering.tick(now_ms, wall_ms)
        if now_ms >= self._heartbeat_due_ms or self._turn.round_needed:
            self._beat(now_ms)
        return self._emit(now_ms)

    def _step_ready(self, now_ms: float, wall_ms: int) -> None:
        """Those with news, for one slice. A node that steps thousands at once is deaf meanwhile, and taken for dead."""
        ready = list(self._schedule.take_ready())
        ends_ms = self._clock() + self._config.step_slice_ms
        for done, shard in enumerate(ready, 1):
            replica = self.replicas[shard]
            replica.step(now_ms, self.clocks.stamp(replica, wall_ms), self._turn)
            self.look_at(replica, now_ms)
            if done < len(ready) and self._clock() >= ends_ms:
                self._schedule.put_back(self._schedule.ready, ready[done:])
                break

    def persisted(self, write: int, now_ms: float) -> Output:
        """Every batch up to number `write` is durable."""
        for shard, term, sequence in self._outbox.synced(write):
            replica = self.replicas[shard]
            replica.persisted(term, sequence, now_ms, self._turn)
            self.look_at(replica, now_ms)
        return self._emit(now_ms)

    def apply(self, now_ms: float) -> Output:
        """Apply what is committed, for one slice; answers and deltas come out."""
        waiting = list(self._schedule.take_to_apply())
        ends_ms = self._clock() + self._config.apply_slice_ms if waiting else now_ms
        for done, shard in enumerate(waiting, 1):
            replica = self.replicas[shard]
            self._schedule.moved[shard] = None
            replica.apply(now_ms, self._turn, lambda: self._clock() >= ends_ms, self._clock)
            self.look_at(replica, now_ms)
            if done < len(waiting) and self._clock() >= ends_ms:
                self._schedule.put_back(self._schedule.to_apply, waiting[done:])
                break
        if self.directory.missing:
            self._bundles.ask(self.directory.missing, sorted(self.connected), now_ms, self._turn)
        return self._emit(now_ms)

    def look_at(self, replica: ShardReplica, now_ms: float) -> None:
        """After a replica moved: list it or not, tell streams of another leader, start transfers it wants."""
        if replica.lost:
            self._holdings.losses.found[replica.id] = replica.lost
            return
        if replica.leads and replica.unwell:
            replica.handover.attempt(replica, now_ms, self._turn)
        if replica.gathers:
            self._schedule.ready[replica.id] = None
        self._schedule.look_at(replica)
        if replica.damaged != replica.stored.damaged:
            replica.stored.note_damage(replica.damaged, self._turn.batch)
        self.liveness.note_term(replica.id, replica.raft.term)
        leads = replica.leads
        if leads and not self._delisted and not replica.unwell:
            self.liveness.lead(replica.id, replica.raft.term)
        else:
            self.liveness.delist(replica.id)
        leader = self.node if leads else replica.leader_node
        if leader != replica.leader_told:
            replica.leader_told = leader
            self.leader_changes.append((replica.id, replica.raft.term, leader))
            self.steering.leader_changed(replica.id)
            self.streams.leader_changed(replica.id, leader, now_ms)
            if leader == self.node:
                self._heartbeat_due_ms = min(self._heartbeat_due_ms, self.liveness.list_due_ms(now_ms))
                self.divergences.reports.look_soon()
        if replica.id in self._holdings.absent:
            self._holdings.invite(replica)
        if replica.snapshots_wanted:
            self._transfers.start(replica, now_ms, self._turn)

    def _beat(self, now_ms: float) -> None:
        self._heartbeat_due_ms = now_ms + self._config.heartbeat_ms
        stalled = now_ms - self._outbox.waits_since_ms(now_ms) > self._config.election_timeout_ms
        if stalled != self._delisted:
            self._delisted = stalled
            for replica in self.replicas.values():
                self.look_at(replica, now_ms)
        self._outbox.resets &= self.connected
        for node in sorted(self._outbox.resets):
            self._turn.raft_now.setdefault(node, [])
        peers = [peer for peer in self.peers if peer in self.connected]
        self._holdings.losses.announce(peers)
        urgent = self._turn.round_needed or bool(self._schedule.reading)
        self._outbox.beat(self.liveness.begin_round(peers, now_ms, urgent=urgent))
        self.liveness.expect(self._config.election_timeout_ms)
        if self.clocks.concern():
            for replica in self.replicas.values():
                self.clocks.resign(replica, now_ms, self._turn)
                self._schedule.look_at(replica)

    def _housekeep(self, now_ms: float) -> None:
        self._housekeeping_due_ms = now_ms + HOUSEKEEPING_MS
        self._holdings.inquire(self.connected)
        for shard in self._schedule.take_moved():
            replica = self.replicas[shard]
            if replica.incomplete:
                self._transfers.look_after(replica, now_ms, self._turn)
            if not replica.damaged:
                replica.housekeep(now_ms, self._turn)
                self.divergences.housekeep(replica, now_ms, self._turn)
            if self.steering.look_at(replica, now_ms) or replica.needs_housekeeping:
                self._schedule.moved[shard] = None
            self.look_at(replica, now_ms)

    def new_decisions(self, shard_map: ShardMap | None) -> None:
        """The system shard decided something: stalled and halted replicas look again. Of equal maps this one is kept."""
        if shard_map is not None and (shard_map.version > self.router.map.version or shard_map.state == self.router.map.state):
            self.router.map = shard_map
            self._holdings.map_changed()
        self._incoming.compiling.decided()
        for replica in self.replicas.values():
            if replica.decisions_changed(self.directory.newly_isolated):
                self._schedule.ready[replica.id] = None

    @property
    def lost(self) -> dict[ShardId, Held]:
        """Shards whose replica here lost its log and is not replaced yet."""
        return self._holdings.losses.lost

    def _emit(self, now_ms: float) -> Output:
        self._holdings.losses.take_down()
        if self._turn.round_needed:
            self._heartbeat_due_ms = now_ms
        return self._outbox.emit(now_ms)
