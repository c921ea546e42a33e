"""One simulated node: the real pump, turned as `cluster.node.loop` turns it, on a disk and clocks that are made up.

The order of a turn is that of a real node: step, send, write, deliver, sync, persisted, apply. A crash can fall between any two
of them. What ends a real node ends this one; a death that no fault explains is a bug and stops the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from chaos.checkers.violation import Violation
from chaos.sim import drawn
from chaos.sim.disk import Disk
from chaos.sim.faults import Crash
from chaos.sim.randomness import Streams
from cluster.documents.runtime import Loader
from cluster.errors import (
    ClusterError,
    IdentityFenced,
    LogLost,
    OperatorError,
    StorageDamaged,
    StorageError,
    StorageFull,
    SyncFailed,
)
from cluster.ids import NodeId
from cluster.pump.assembly import PumpSurroundings, open_pump
from cluster.pump.lanes import Lane
from cluster.pump.outbox import NOTHING, Output
from cluster.pump.pump import Pump, PumpConfig
from cluster.raft.config import RaftConfig
from cluster.session.operations import Delta, Operation, Reply
from cluster.shard.apply import HandlerFailure
from cluster.shard.commands import Command
from cluster.shard.connections import GRACE_MS
from cluster.shard.replica import CompactionConfig
from cluster.storage.engine import Family

if TYPE_CHECKING:
    from chaos.sim.world import World

Deliver = Callable[[list[Reply | Delta]], None]
WALL_EPOCH_MS = 1_750_000_000_000
FROZEN_AT = "stepped"


class Killed(Exception):
    """The process died here."""


class SimulatedNode:
    """A node's disk and clocks, which last, and its process, which does not.

    lost: why it can never run again, empty while it can. starts: rises with every life of the process.
    """

    def __init__(self, world: World, name: NodeId, place: int, loader: Loader, source: random.Random) -> None:
        limits = world.scenario.limits
        self.world = world
        self.name = name
        self.disk = Disk(world.observe_write(name))
        self.generation = 0
        self.met: dict[NodeId, int] = {}
        self.lives = 0
        self.lost = ""
        self.host_up = True
        self.down_until_ms = 0.0
        self.armed: Crash | None = None
        self._passes_left = 0
        self.sync_slow_ms = 0.0
        self.sync_fails = False
        self.reads_fail: frozenset[Family] = frozenset()
        self.writes_fail = False
        self.disk_full = False
        self.wiped = False
        self.storage_full = ""
        self.wall_jump_ms = limits.skew_ms[place]
        self.pump: Pump
        self.up = False
        self.streams: dict[int, Deliver] = {}
        self.deaths: list[str] = []
        self._own_rate = self._rate = limits.drift[place]
        self._base_ms = source.uniform(0.0, 1e6)
        self._random = source
        self._loader = loader
        self._freezes = 0
        self._stopped_ms: float | None = None
        self._deferred: list[tuple[int, Callable[[], None]]] = []
        self._scheduled = False
        self._timer = 0
        self._timer_due_ms = -1.0
        self._syncing = False
        self._applying_ms = 0.0
        self._entry_cost_ms = limits.entry_cost_ms
        self._entropy = world.streams.named(f"node/{name}/entropy")

    # -- clocks ------------------------------------------------------------------------------------------------------

    @property
    def clock_ms(self) -> float:
        """This node's monotonic clock, as its loop has read it."""
        return self._base_ms + self.world.now_ms * self._rate if self._stopped_ms is None else self._stopped_ms

    @property
    def wall_ms(self) -> int:
        """This node's wall clock."""
        return int(WALL_EPOCH_MS + self.world.now_ms + self.wall_jump_ms)

    def slew(self, rate: float) -> None:
        """Let the monotonic clock go at `rate` of its own speed from now on; it never jumps."""
        slewed = self._own_rate * rate
        self._base_ms += self.world.now_ms * (self._rate - slewed)
        self._rate = slewed

    def _apply_clock(self) -> float:
        """The clock as apply reads it: every look costs."""
        self._applying_ms += self._entry_cost_ms
        return self._base_ms + self.world.now_ms * self._rate + self._applying_ms

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def answers(self) -> bool:
        """Whether the process would answer a handshake now."""
        return self.up and not self._freezes

    def boot(self) -> None:
        """Start the process on what is on the disk."""
        assert not self.up, "one process at a time"
        if self.lost or self.world.now_ms < self.down_until_ms:
            return
        self.generation += 1
        self.lives += 1
        self.host_up = True
        self.disk.fail_reads(self.reads_fail)
        self._deferred.clear()
        self._freezes = 0
        self._stopped_ms = None
        self._scheduled = self._syncing = False
        self._timer_due_ms = -1.0
        self.armed = None
        self.streams.clear()
        self.met.clear()
        try:
            if self.disk.torn:
                raise StorageDamaged(self.disk.torn)
            self.pump = open_pump(self._surroundings())
        except OperatorError as error:
            self._die(error)
            return
        self.up = True
        self.world.booted(self)
        self.wake()

    def _surroundings(self) -> PumpSurroundings:
        limits = self.world.scenario.limits
        election, placed = limits.election_timeout_ms, self.world.scenario.placed
        grace_ms = Streams(self.world.scenario.seed).named("lobby/grace").choice((150, 800, GRACE_MS))  # the same at every boot
        return PumpSurroundings(
            node=self.name,
            engine=self.disk,
            generation=self.generation,
            first_nodes=self.world.names,
            shard_count=limits.shards,
            replication_factor=limits.replication_factor,
            loader=self._loader,
            marker=self,
            on_failure=self._handler_failed,
            clock=self._apply_clock if self.up else self._boot_clock,
            entropy=self._entropy.randbytes,
            random=self._random,
            cache_bytes_max=limits.cache_bytes_max,
            checkpoints=limits.checkpoints,
            raft=RaftConfig(
                election_timeout_ms_min=election,
                election_timeout_ms_max=election * 2,
                stagger_ms=20.0,
                resend_timeout_ms=election / 3,
                snapshot_retry_ms=200.0,
                append_bytes_max=limits.append_bytes_max,
                window_appends=limits.window_appends,
                tail_bytes_max=limits.tail_bytes_max,
                lease_reads=limits.lease_reads,
                lease_drift_ms=limits.lease_drift_ms,
                invariants_checked=limits.invariants_checked,
            ),
            pump=PumpConfig(
                limits.heartbeat_ms,
                election,
                snapshot_chunk_bytes=limits.snapshot_chunk_bytes,
                placement=placed.rules if placed is not None else None,
            ),
            compaction=CompactionConfig(limits.every_entries, limits.kept_entries, limits.lagging_entries),
            commands_max=limits.commands_max,
            connection_grace_ms=grace_ms,
        )

    def _boot_clock(self) -> float:
        return self._apply_clock() if self.up else self.clock_ms

    def kill(self, keep: float, *, host_down: bool = False) -> None:
        """End the process as a crash does. keep: which part of the unsynced batches survives."""
        if not self.up:
            return
        self.up = False
        self.lives += 1
        self.host_up = not host_down
        self.disk = self.disk.after_crash(round(keep * self.disk.unsynced))
        self.world.process_gone(self, host_down)

    def wipe(self) -> None:
        """Start over with an empty directory."""
        self.kill(1.0)
        self.disk = Disk(self.disk.seen)
        self.generation = 0
        self.wiped = True

    def restart(self) -> None:
        """Start the process if it does not run and may."""
        if not self.up:
            self.boot()

    def arm(self, crash: Crash) -> None:
        """Die where `crash` says."""
        self.armed, self._passes_left = crash, crash.passes

    def freeze(self) -> None:
        self._freezes += 1

    def stop(self) -> None:
        """Freeze with the clock just read: the next turn goes by that time, but for what it reads anew."""
        self._stopped_ms = self.clock_ms
        self.freeze()

    def thaw(self, life: int) -> None:
        """End one freeze of this life; what arrived meanwhile is taken in order."""
        if life != self.lives or self._freezes == 0:
            return
        self._freezes -= 1
        if self._freezes == 0:
            deferred, self._deferred = self._deferred, []
            for born, action in deferred:
                if born == self.lives:
                    self._take(action)
            self.wake()

    def _die(self, error: Exception) -> None:
        """The process ends itself because of `error`. Raises Violation when no fault explains it."""
        reason = f"{type(error).__name__}: {error}"
        self.world.note("dies", self.name, reason)
        self.deaths.append(reason)
        if not self._explained(error):
            raise Violation("processes", f"{self.name} ended without a fault that explains it: {reason}") from error
        was_up = self.up
        if was_up:
            self.kill(1.0 if not isinstance(error, SyncFailed) else 0.0)
        if isinstance(error, IdentityFenced | LogLost) or (isinstance(error, StorageDamaged) and not was_up):
            self.lost = reason
            return
        self.sync_fails = False
        self.world.after(self._random.uniform(100, 400), "restart", self)

    def _explained(self, error: Exception) -> bool:
        if isinstance(error, IdentityFenced):
            return self.wiped
        if isinstance(error, StorageDamaged | LogLost):
            return bool(self.disk.rotten or self.disk.torn) or self.wiped
        if isinstance(error, SyncFailed):
            return self.sync_fails
        return isinstance(error, StorageError | StorageFull) and (bool(self.reads_fail) or self.writes_fail or self.disk_full)

    # -- RunningMarker -----------------------------------------------------------------------------------------------

    def note(self, shard: int, index: int, offset: int, command: Command) -> None:
        """A command runs next."""
        self.world.ran(self, shard, index, offset, command)

    def suspected(self, shard: int, index: int) -> int | None:
        """Nothing is suspected: commands of the simulation end no process."""
        return None

    def _handler_failed(self, failure: HandlerFailure) -> None:
        if failure.document.space == drawn.SPACE and drawn.FAULT in failure.traceback:
            self.world.marks["handlers_failed"] += 1
            return
        raise Violation("processes", f"a handler of {failure.document} failed: {failure.traceback}")

    # -- inputs ------------------------------------------------------------------------------------------------------

    def on_frame(self, sender: NodeId, lane: Lane, frame: bytes) -> None:
        if self.up and not self._freezes:
            self._take(partial(self.pump.on_frame, sender, lane, frame, self.clock_ms))
        else:
            self._arrive(lambda: self.pump.on_frame(sender, lane, frame, self.clock_ms))

    def on_connected(self, node: NodeId) -> None:
        self.world.note("connected", self.name, node)
        self._arrive(lambda: self.pump.on_connected(node, self.clock_ms))

    def on_disconnected(self, node: NodeId, refused: bool) -> None:
        self.world.note("refused" if refused else "lost", self.name, node)
        self._arrive(lambda: self.pump.on_disconnected(node, refused, self.clock_ms))

    def ask(self, action: Callable[[Pump, float], None]) -> None:
        """What somebody on this machine asks of the process. Errors that answer it are for `action` to catch."""
        self._arrive(lambda: action(self.pump, self.clock_ms))

    @property
    def gone(self) -> bool:
        """Whether this node will never again be what it was."""
        return bool(self.lost) or self.wiped

    def open_stream(self, deliver: Deliver) -> int:
        stream = self.pump.streams.open()
        self.streams[stream] = deliver
        return stream

    def submit(self, stream: int, operations: list[Operation], grants: list[tuple[int, int]]) -> None:
        """What a gateway takes out of one frame of a client."""

        def take() -> None:
            if stream not in self.streams:
                return
            for watch, credit in grants:
                self.pump.streams.grant(stream, watch, credit)
            if operations:
                self.pump.submit(stream, operations, self.clock_ms)

        self._arrive(take)

    def close_stream(self, stream: int) -> None:
        def close() -> None:
            if self.streams.pop(stream, None) is not None:
                self.pump.close_stream(stream)

        self._arrive(close)

    def _arrive(self, action: Callable[[], None]) -> None:
        if not self.up:
            return
        if self._freezes:
            self._deferred.append((self.lives, action))
        else:
            self._take(action)

    def _take(self, action: Callable[[], None]) -> None:
        if self._survives(action):
            self.wake()

    def _survives(self, action: Callable[[], None]) -> bool:
        """Run it. False when the process is gone afterwards: a crash that was planned, or an end that a fault explains."""
        try:
            action()
        except Killed:
            assert self.armed is not None
            crash, self.armed = self.armed, None
            self.world.note("crash", self.name, crash.point)
            self.kill(crash.keep, host_down=crash.host_down)
        except ClusterError as error:
            self._die(error)
        except (AssertionError, KeyError) as error:
            raise Violation("assertions", f"{self.name}: {type(error).__name__}: {error}") from error
        else:
            return True
        return False

    # -- the turn ----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        if not self._scheduled and self.up:
            self._scheduled = True
            self.world.after(self._random.uniform(0.01, 0.15), "turn", self, self.lives)

    def turn(self, life: int) -> None:
        """One turn of the loop, unless the process that asked for it is gone."""
        if life != self.lives or not self.up:
            return
        self._scheduled = False
        if self._freezes:
            self._deferred.append((life, self.wake))
            return
        if self._survives(self._run_turn):
            self.world.turned(self)

    def _run_turn(self) -> None:
        pump = self.pump
        pump.storage_full = self.storage_full
        if pump.replicas and (site := self.world.sites.visit(self)):
            self.world.marks[f"site_{site}"] += 1
        self._carry(pump.step(self.clock_ms, self.wall_ms), "stepped")
        if pump.needs_sync and not self._syncing:
            self._sync()
        self.world.stepped(self)
        self._applying_ms = 0.0
        applied = pump.apply(self.clock_ms)
        self._stopped_ms = None
        self.world.applied(self)
        self._carry(applied, "applied")
        if pump.fenced:
            raise IdentityFenced(pump.fenced)
        self._schedule()

    def _carry(self, output: Output, point: str) -> None:
        """Send, write, deliver: in this order, as a real node does."""
        armed = self.armed is not None
        if output is NOTHING and not armed:
            return
        if armed:
            self._pass(point)
        for receiver, lane, frame in output.frames:
            if not self.world.send(self, receiver, lane, frame):
                self.pump.on_frame_lost(receiver, lane, self.clock_ms)
            if armed:
                self._pass("sending")
        if armed:
            self._pass("sent")
        if output.write and output.batch:
            self.disk.write(output.batch)
            if armed:
                self._pass("written")
        for stream, events in output.deliveries:
            deliver = self.streams.get(stream)
            if deliver is not None:
                deliver(events)

    def _pass(self, point: str) -> None:
        if self.armed is not None and self.armed.point == point:
            if self._passes_left == 0:
                raise Killed
            self._passes_left -= 1

    def _sync(self) -> None:
        write, batches = self.pump.written, self.disk.batches_written
        limit_ms = self.world.scenario.limits.sync_ms
        delay_ms = limit_ms * self._random.uniform(0.3, 1.7) + self.sync_slow_ms
        if delay_ms == 0.0:
            self._synced(write, batches)
        else:
            self._syncing = True
            self.world.after(delay_ms, "synced", self, self.lives, write, batches)

    def _synced(self, write: int, batches: int) -> None:
        if self.sync_fails:
            self.disk.fail_syncs()
        self.disk.sync_through(batches)
        self._pass("synced")
        self._carry(self.pump.persisted(write, self.clock_ms), "synced")

    def on_synced(self, life: int, write: int, batches: int) -> None:
        """A sync that did not run inline returned."""
        if life != self.lives or not self.up:
            return
        if not self.sync_fails:
            self.disk.sync_through(batches)  # the disk does not wait for a process that stands still

        def returned() -> None:
            self._syncing = False
            self._synced(write, batches)

        if self._freezes:
            self._deferred.append((life, returned))
            return
        if self._survives(returned):
            self.world.stepped(self)
            self.wake()

    def _schedule(self) -> None:
        """Run again at once while there is work, else when something is due."""
        if self.pump.busy or (self.pump.needs_sync and not self._syncing):
            self.wake()
            return
        due_ms = (self.pump.deadline_ms - self._base_ms) / self._rate
        if due_ms == self._timer_due_ms:
            return  # that timer is set
        self._timer += 1
        self._timer_due_ms = due_ms
        delay_ms = max(0.001, due_ms - self.world.now_ms)
        self.world.after(min(delay_ms, 60_000.0), "timer", self, self.lives, self._timer)

    def on_timer(self, life: int, timer: int) -> None:
        if life == self.lives and timer == self._timer and self.up:
            self._timer_due_ms = -1.0
            if not self._scheduled:
                self._scheduled = True
                self.turn(life)
