"""From what the turns of a node gathered to what its owner carries out: one batch, one frame a peer and lane, one list a client
stream.

Invariant: what depends on a write comes out only after that write, and all before it, are durable (reference trap 5).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cluster.ids import NodeId, ShardId, Term
from cluster.pump import frames
from cluster.pump.lanes import Lane
from cluster.pump.liveness import Heartbeat, HeartbeatReply, LivenessMessage
from cluster.pump.streams import Streams
from cluster.session.operations import Delta, Reply
from cluster.shard.turn import NOBODY, AnswerItem, RaftItem, RaftLaneItem, ResetItem, Turn
from cluster.storage.engine import Batch


@dataclass(slots=True)
class Output:
    """What the owner carries out; deliveries last. `write` numbers the batch (0: nothing to write)."""

    batch: Batch = field(default_factory=Batch)
    write: int = 0
    frames: list[tuple[NodeId, Lane, bytes]] = field(default_factory=list)
    deliveries: list[tuple[int, list[Reply | Delta]]] = field(default_factory=list)


NOTHING = Output()
"""What most turns of an idle node come to. Nobody changes an output."""


@dataclass(slots=True)
class _Unsynced:
    """A written batch that is not durable yet, and what waits for it."""

    write: int
    at_ms: float
    persisted: list[tuple[ShardId, Term, int]]
    items: dict[NodeId, list[RaftLaneItem]]


class Outbox:
    """turn: where everything is gathered. liveness: messages of node pairs that leave with the next output. resets: peers that
    must be told that what this node owed them may be lost. written: the number of the newest batch that was handed out.
    """

    def __init__(self, node: NodeId, turn: Turn, streams: Streams) -> None:
        self._node = node
        self._turn = turn
        self._streams = streams
        self.liveness: list[tuple[NodeId, LivenessMessage]] = []
        self._acknowledgements: dict[NodeId, HeartbeatReply] = {}
        """That nobody waits for: they leave with the next round, so that idle nodes wake each other half as often."""
        self.resets: set[NodeId] = set()
        self.written = 0
        self._unsynced: deque[_Unsynced] = deque()

    def acknowledge(self, node: NodeId, reply: HeartbeatReply, *, at_once: bool) -> None:
        """Answer a peer's heartbeat. A later answer says all that an earlier one says."""
        if at_once:
            self._acknowledgements.pop(node, None)
            self.liveness.append((node, reply))
        else:
            self._acknowledgements[node] = reply

    def beat(self, beats: list[tuple[NodeId, Heartbeat]]) -> None:
        """A liveness round leaves, and with it what waited for one."""
        for node, beat in beats:
            self.liveness.append((node, beat))
            waited = self._acknowledgements.pop(node, None)
            if waited is not None:
                self.liveness.append((node, waited))

    @property
    def needs_sync(self) -> bool:
        """Whether something waits for durability."""
        return bool(self._unsynced)

    def waits_since_ms(self, now_ms: float) -> float:
        """When the oldest batch that is not durable was handed out; now if there is none."""
        return self._unsynced[0].at_ms if self._unsynced else now_ms

    def synced(self, write: int) -> list[tuple[ShardId, Term, int]]:
        """Every batch up to number `write` is durable: what waited for that may leave. Returns whose writes these were."""
        persisted: list[tuple[ShardId, Term, int]] = []
        while self._unsynced and self._unsynced[0].write <= write:
            done = self._unsynced.popleft()
            for node, items in done.items.items():
                self._turn.raft_now.setdefault(node, []).extend(items)
            persisted += done.persisted
        return persisted

    def forget(self, shard: ShardId) -> None:
        """A replica is gone: nobody waits for its writes, they must not be taken for those of its successor here, and what it
        was about to say is not said.
        """
        for persisted in (self._turn.persisted, *[waiting.persisted for waiting in self._unsynced]):
            persisted[:] = [write for write in persisted if write[0] != shard]
        lanes = (self._turn.raft_now, self._turn.raft_after_sync, *[waiting.items for waiting in self._unsynced])
        for items in [items for lane in lanes for items in lane.values()]:
            items[:] = [item for item in items if not (isinstance(item, RaftItem) and item.shard == shard)]

    def emit(self, now_ms: float) -> Output:
        """Turn what was gathered into one output."""
        if self._turn.empty:
            deliveries = self._streams.deliveries()
            if not (self.liveness or deliveries):
                return NOTHING
            output = Output(deliveries=deliveries)
            self._emit_liveness(output)
            return output
        turn = self._turn.take()
        output = Output(turn.batch)
        turn.replies.pop(NOBODY, None)
        for stream, deltas in turn.deltas.items():
            self._answer(stream, deltas, turn.replies.pop(stream, []), turn, now_ms)
        for stream, replies in turn.replies.items():
            self._answer(stream, [], replies, turn, now_ms)
        if turn.batch or turn.persisted:
            self.written += 1
            output.write = self.written
        if turn.persisted or (turn.batch and turn.raft_after_sync):
            self._unsynced.append(_Unsynced(self.written, now_ms, turn.persisted, turn.raft_after_sync))
        elif turn.raft_after_sync:
            waiting = self._unsynced[-1].items if self._unsynced else turn.raft_now
            for node, items in turn.raft_after_sync.items():
                waiting.setdefault(node, []).extend(items)
        self._emit_liveness(output)
        for node, items in turn.raft_now.items():
            if node in self.resets:
                # before what opens anew, or the receiver would close that too
                self.resets.discard(node)
                items.insert(0, ResetItem())
            output.frames.extend((node, Lane.RAFT, frame) for frame in frames.pack_raft(items))
        for node, bulk in turn.bulk.items():
            output.frames.extend((node, Lane.BULK, frame) for frame in frames.pack_bulk(bulk))
        output.deliveries = self._streams.deliveries()
        return output

    def _emit_liveness(self, output: Output) -> None:
        for node, message in self.liveness:
            output.frames.append((node, Lane.LIVENESS, frames.pack_liveness(message)))
        self.liveness.clear()

    def _answer(self, stream: tuple[NodeId, int], deltas: list[Delta], replies: list[Reply], turn: Turn, now_ms: float) -> None:
        node, number = stream
        if node == self._node:
            self._streams.answered(number, node, deltas, replies, now_ms)
        else:
            turn.send_now(node, AnswerItem(number, deltas, replies))
