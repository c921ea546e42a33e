"""Turning the pump: outputs become writes, syncs, frames and deliveries, in the only order that is safe.

One callback runs a turn; whatever arrives wakes it at most once a loop iteration, so work gathers by itself. Syncing
inline wins while the disk is fast (no thread hand-over) and loses when it is slow (everything waits), so `auto` measures
and chooses.

A failed write or sync ends the node: what is durable is then unknown, and only a restart finds out.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.errors import IdentityFenced, Overloaded, StorageFull, Unavailable
from cluster.ids import NodeId
from cluster.node.divergence_log import log_divergences
from cluster.node.marker import PageMarker
from cluster.pump.lanes import Lane
from cluster.pump.outbox import Output
from cluster.pump.pump import Pump
from cluster.session.failures import failure_of
from cluster.session.operations import Delta, Operation, Reply
from cluster.shard.turn import StreamKey
from cluster.storage.engine import Batch, Engine
from cluster.transport.peer import PeerTransport

INLINE_SYNC_MS_MAX = 4.0
"""`auto` syncs inline while the smoothed time of inline syncs is below this: the loop stands still for so long."""

INLINE_PROBE_EVERY = 64
"""While `auto` syncs in the thread, every so many syncs go inline to see whether the disk has become fast again. A sync in
the thread can not tell: its time includes waiting for the interpreter lock.
"""

STALL_RETRY_MS = 5
STALL_RETRIES_MAX = 1000
"""A stall of the storage engine longer than this ends the node."""

DISK_LOOK_EVERY_MS = 1_000.0
GARBAGE_EVERY_TURNS = 512
FULL_GARBAGE_EVERY_TURNS = 20_000
LEADERS_TOLD_MAX = 8
"""Changes of leaders of one turn that are logged one by one. Thousands of groups change theirs within seconds."""
STALL_TOLD_MS = 100.0
"""A turn that takes longer is told to `on_stall`: whoever waits for answers meanwhile must not blame those who gave them."""
IDLE_MS = 20.0
"""Nothing is due for this long: time for a full collection."""
TIMER_LATE_MS = 2
"""Timers count whole milliseconds from a moment cut to one. A timer that rings before its time finds nothing due, so they are
set to ring up to this much after it.
"""
_log = logging.getLogger(__name__)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def monotonic_ms() -> float:
    """Never falls, and goes on while the machine sleeps: a leader that wakes must not take its lease or quorum for fresh."""
    return time.clock_gettime(_CLOCK) * 1000


class NodeLoop:
    """Owns the turn. `fatal` is called once when the node can not go on.

    fsync_mode: auto, inline or thread. disk_full: why commands should be refused now, empty while there is room.
    """

    def __init__(
        self,
        pump: Pump,
        engine: Engine,
        transport: PeerTransport,
        marker: PageMarker,
        fsync_mode: str,
        disk_full: Callable[[], str],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self.pump = pump
        self.syncs = 0
        self.sync_ms = 0.2
        self.turns = 0
        self.lag_ms = 0.0
        self._engine = engine
        self._transport = transport
        self._marker = marker
        self._fsync_mode = fsync_mode
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing = False
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._deliver: dict[int, Callable[[list[Reply | Delta]], None]] = {}
        self._stopped = False
        self._collected_at_turn = 0
        self.on_control: Callable[[StreamKey, Operation], None] = self._refuse_control
        """Takes operators' calls that came from other nodes; set by who can answer them."""
        self._disk_full = disk_full
        self._disk_looked_at_ms = 0.0
        self._decided = -1
        self.on_decisions: Callable[[], None] = lambda: None
        """Called after a turn in which this node learned of something that the cluster decided."""
        self.on_beat: Callable[[], None] = lambda: None
        """Called when a liveness round has left: the process is awake, and its peers are about to be."""
        self.on_stall: Callable[[float], None] = lambda duration_ms: None
        """Told of turns that held everything else up."""

    # -- inputs ------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something arrived: run a turn once the loop has taken everything that is ready."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def on_frame(self, node: NodeId, lane: Lane, frame: bytes) -> None:
        """Tell the pump, then turn it; after what is about liveness only if it asks for that."""
        if self._stopped:
            return
        try:
            self.pump.on_frame(node, lane, frame, monotonic_ms())
        except Exception as error:
            self._fail(error)
        if lane is not Lane.LIVENESS or self.pump.calls_for_turn:
            self.wake()

    def on_connected(self, node: NodeId, boot_generation: int) -> None:
        _log.info("connected to %s (boot %d)", node, boot_generation)
        self._guard(lambda: self.pump.on_connected(node, monotonic_ms()))

    def on_disconnected(self, node: NodeId, refused: bool) -> None:
        _log.info("lost %s (%s)", node, "its process is gone" if refused else "connection broke")
        self._guard(lambda: self.pump.on_disconnected(node, refused, monotonic_ms()))

    def open_stream(self, deliver: Callable[[list[Reply | Delta]], None]) -> int:
        stream = self.pump.streams.open()
        self._deliver[stream] = deliver
        return stream

    def close_stream(self, stream: int) -> None:
        if self._deliver.pop(stream, None) is not None:
            self.pump.close_stream(stream)
            self.wake()

    def answer_control(self, stream: StreamKey, reply: Reply) -> None:
        """Answer a call that `on_control` was given."""
        self.pump.control.answer(stream, reply)
        self.wake()

    def _refuse_control(self, stream: StreamKey, operation: Operation) -> None:
        error = Unavailable("this node is just starting", retry_after_ms=100)
        self.answer_control(stream, Reply(operation.id, failure=failure_of(error)))

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._thread.shutdown(wait=True)

    def _guard(self, event: Callable[[], None]) -> None:
        """Tell the pump, then turn it."""
        if self._stopped:
            return
        try:
            event()
        except Exception as error:
            self._fail(error)
        self.wake()

    # -- the turn ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        try:
            self._run_turn()
        except Exception as error:
            self._fail(error)

    def _run_turn(self) -> None:
        pump = self.pump
        now_ms = monotonic_ms()
        round_before = pump.liveness.round
        self.turns += 1
        if now_ms - self._disk_looked_at_ms > DISK_LOOK_EVERY_MS:
            self._disk_looked_at_ms = now_ms
            pump.storage_full = self._disk_full()
        self._carry(pump.step(now_ms, time.time_ns() // 1_000_000))
        if pump.needs_sync and not self._syncing:
            if self._sync_inline:
                self._sync_now()
            else:
                self._sync_in_thread()
        self._carry(pump.apply(monotonic_ms()))
        self._marker.clear()
        if pump.control:
            for stream, operation in pump.control.take():
                self.on_control(stream, operation)
        if pump.leader_changes:
            self._log_leaders()
        if pump.divergences.reports.news:
            log_divergences(pump.divergences.reports)
        if pump.directory.decisions.version != self._decided:
            self._decided = pump.directory.decisions.version
            self.on_decisions()
        if pump.fenced:
            raise IdentityFenced(pump.fenced)
        if self.turns % GARBAGE_EVERY_TURNS == 0:
            gc.collect(1)
        if pump.liveness.round != round_before:
            self.on_beat()
        self._schedule()
        took_ms = monotonic_ms() - now_ms
        if took_ms > STALL_TOLD_MS:
            self.on_stall(took_ms)

    def _log_leaders(self) -> None:
        changes, self.pump.leader_changes = self.pump.leader_changes, []
        if len(changes) > LEADERS_TOLD_MAX:
            counts = Counter(f"{leader} leads" if leader else "nobody is known to lead" for _, _, leader in changes)
            _log.info("in a turn: %s", ", ".join(f"{what} in {count} shards" for what, count in sorted(counts.items())))
            return
        for shard, term, leader in changes:
            _log.info("shard %d, term %d: %s", shard, term, f"{leader} leads" if leader else "no leader is known")

    @property
    def _sync_inline(self) -> bool:
        if self._fsync_mode != "auto":
            return self._fsync_mode == "inline"
        return self.sync_ms < INLINE_SYNC_MS_MAX or self.syncs % INLINE_PROBE_EVERY == 0

    def _sync_now(self) -> None:
        write, started_ms = self.pump.written, monotonic_ms()
        self._engine.sync()
        self.sync_ms += (monotonic_ms() - started_ms - self.sync_ms) * 0.1
        self._synced(write)

    def _sync_in_thread(self) -> None:
        self._syncing = True
        write = self.pump.written
        future = self._loop.run_in_executor(self._thread, self._engine.sync)
        future.add_done_callback(lambda done: self._on_thread_synced(done, write))

    def _on_thread_synced(self, done: asyncio.Future[None], write: int) -> None:
        self._syncing = False
        if self._stopped:
            return
        error = done.exception()
        if error is not None:
            self._fail(error)
            return
        try:
            self._synced(write)
        except Exception as failure:
            self._fail(failure)
        self.wake()

    def _synced(self, write: int) -> None:
        self.syncs += 1
        self._carry(self.pump.persisted(write, monotonic_ms()))

    def _carry(self, output: Output) -> None:
        """Send, write, deliver. Followers get entries before this node writes them (Raft thesis 10.2.1): whatever has to wait
        for this node's disk comes out of `persisted` and is not in these frames."""
        if output.frames:
            for node, lane, frame in output.frames:
                if not self._transport.send(node, lane, frame):
                    self.pump.on_frame_lost(node, lane, monotonic_ms())
            self._transport.flush()
        if output.write and output.batch:
            self._write(output.batch)
        for stream, events in output.deliveries:
            deliver = self._deliver.get(stream)
            if deliver is not None:
                deliver(events)

    def _write(self, batch: Batch) -> None:
        """Write, waiting out a stall of the engine: nothing that follows may leave before, so the whole node waits with it."""
        for _ in range(STALL_RETRIES_MAX):
            try:
                self._engine.write(batch)
                return
            except Overloaded:
                time.sleep(STALL_RETRY_MS / 1000)
        self._engine.write(batch)

    def _schedule(self) -> None:
        """Run again at once while there is work, else when something is due."""
        if self.pump.busy or (self.pump.needs_sync and not self._syncing):
            self.wake()
            return
        delay_ms = max(0.0, self.pump.deadline_ms - monotonic_ms())
        self._collect_when_idle(delay_ms)
        if self._timer is not None:
            self._timer.cancel()
        late_ms = TIMER_LATE_MS if delay_ms else 0
        self._timer = self._loop.call_later((int(min(delay_ms, 60_000.0)) + late_ms) / 1000, self._on_timer)

    def _collect_when_idle(self, delay_ms: float) -> None:
        """A full collection now and then, when nobody waits for it."""
        if delay_ms > IDLE_MS and self.turns - self._collected_at_turn > FULL_GARBAGE_EVERY_TURNS:
            self._collected_at_turn = self.turns
            gc.collect()

    def _on_timer(self) -> None:
        self._timer = None
        self._turn()

    def _fail(self, error: BaseException) -> None:
        if self._stopped:
            return
        self._stopped = True
        if isinstance(error, StorageFull | Overloaded):
            _log.critical("the disk takes no more writes: %s", error)
        self._fatal(error)
