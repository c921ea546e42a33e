"""Client streams that end at this node: where their operations went, which watches they have, what must be told when a
peer is lost.

An operation goes to its shard's leader, here or one hop away. Operations that went to a peer are remembered until
answered; if the peer or its leadership is lost, whoever asked is told that the outcome is unknown, and the session
protocol makes the repeat safe.
Watches are kept: they are opened again wherever the leader is, from the last position that passed through here, and the client
only sees its deltas go on.

Invariant: every operation is answered exactly once. A watch's deltas leave in order, each starting where the last one ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from cluster.errors import Applied, ClusterError, InvalidRequest, NotLeader, Overloaded, Unavailable
from cluster.ids import NodeId, ShardId
from cluster.router.router import Router
from cluster.session.failures import failure_of
from cluster.session.operations import Delta, Kind, Operation, Reply
from cluster.shard.feed import CREDIT_DEFAULT_BYTES

WATCHES_PER_STREAM_MAX = 10_000
WATCH_RETRY_MS = 25.0
REMOTE_OPERATION_TIMEOUT_MS = 10_000.0
_RETRY_REASONS = frozenset((NotLeader.reason, Unavailable.reason, Overloaded.reason, "CODE_MISSING"))


@dataclass(slots=True)
class Watch:
    """A client's open watch. `node` is where it is subscribed now, None while nobody serves it."""

    operation: Operation
    shard: ShardId
    epoch: int
    index: int
    credit_bytes: int
    node: NodeId | None = None
    answered: bool = False
    retry_ms: float = 0.0


@dataclass(slots=True)
class LocalStream:
    """One client stream. `out_*` is what the current turn delivers to it."""

    watches: dict[int, Watch] = field(default_factory=dict)
    lists: dict[int, ShardId] = field(default_factory=dict)
    out_deltas: list[Delta] = field(default_factory=list)
    out_replies: list[Reply] = field(default_factory=list)
    nodes: set[NodeId] = field(default_factory=set)


class Streams:
    """All client streams of this node.

    forward: hands operations of a stream to a node (this one included); False when they could not be sent.
    grant: hands credit on likewise.
    locate: where a shard's leader is believed to be, None when nobody is reachable.
    """

    def __init__(
        self,
        router: Router,
        forward: Callable[[NodeId, ShardId, int, list[Operation]], None],
        grant: Callable[[NodeId, ShardId, int, int, int], None],
        locate: Callable[[ShardId], NodeId | None],
    ) -> None:
        self._router = router
        self._forward = forward
        self._grant = grant
        self._locate = locate
        self._streams: dict[int, LocalStream] = {}
        self._next = 1
        self._remote: dict[tuple[NodeId, ShardId], dict[tuple[int, int], float]] = {}
        self._orphans: dict[tuple[int, int], Watch] = {}
        self._touched: set[int] = set()

    # -- the gateway's side ------------------------------------------------------------------------------------------

    def open(self) -> int:
        number = self._next
        self._next += 1
        self._streams[number] = LocalStream()
        return number

    def close(self, number: int) -> set[NodeId]:
        """Forget a stream; returns the nodes that may hold watches of it."""
        stream = self._streams.pop(number, None)
        if stream is None:
            return set()
        for watch in stream.watches:
            self._orphans.pop((number, watch), None)
        return stream.nodes

    def submit(self, number: int, operations: list[Operation], now_ms: float) -> None:
        """Route a batch: one group a shard, in order."""
        stream = self._streams[number]
        groups: dict[ShardId, list[Operation]] = {}
        for operation in operations:
            kind = operation.kind
            if kind == Kind.LIST:
                self._submit_list(number, stream, operation, groups)
            elif kind == Kind.UNWATCH:
                self._unwatch(number, stream, operation, now_ms)
            else:
                shard = self._router.shard_of(operation.space, operation.key)
                if kind == Kind.WATCH and not self._register_watch(number, stream, operation, shard):
                    continue
                group = groups.get(shard)
                if group is None:
                    groups[shard] = [operation]
                else:
                    group.append(operation)
        for shard, group in groups.items():
            self._send(number, shard, group, now_ms)

    def grant(self, number: int, watch: int, credit_bytes: int) -> None:
        stream = self._streams.get(number)
        known = stream.watches.get(watch) if stream else None
        if known is None:
            return
        known.credit_bytes += max(credit_bytes, 0)
        if known.node is not None:
            self._grant(known.node, known.shard, number, watch, credit_bytes)

    def deliveries(self) -> list[tuple[int, list[Reply | Delta]]]:
        """Everything that became ready for local streams since the last call; deltas before replies."""
        if not self._touched:
            return []
        out: list[tuple[int, list[Reply | Delta]]] = []
        for number in self._touched:
            stream = self._streams.get(number)
            if stream is not None and (stream.out_deltas or stream.out_replies):
                out.append((number, [*stream.out_deltas, *stream.out_replies]))
                stream.out_deltas, stream.out_replies = [], []
        self._touched.clear()
        return out

    # -- answers -----------------------------------------------------------------------------------------------------

    def answered(self, number: int, node: NodeId, deltas: list[Delta], replies: list[Reply], now_ms: float) -> None:
        """What a leader (`node`, possibly this one) has for a stream."""
        stream = self._streams.get(number)
        if stream is None:
            return
        self._touched.add(number)
        for delta in deltas:
            self._on_delta(number, stream, node, delta, now_ms)
        if node != self._router.node:
            replies = self._take_remote(number, node, replies)
        if not stream.watches and not stream.lists:
            stream.out_replies.extend(replies)
            return
        for reply in replies:
            if reply.id in stream.watches:
                self._on_watch_reply(number, stream, reply, now_ms)
            elif reply.id in stream.lists:
                stream.out_replies.append(self._page(stream, reply))
            else:
                stream.out_replies.append(reply)

    def _take_remote(self, number: int, node: NodeId, replies: list[Reply]) -> list[Reply]:
        """Replies that are still waited for; one that was given up on was answered already."""
        tables = [table for (at, _), table in self._remote.items() if at == node]
        return [reply for reply in replies if any(table.pop((number, reply.id), None) is not None for table in tables)]

    def _on_delta(self, number: int, stream: LocalStream, node: NodeId, delta: Delta, now_ms: float) -> None:
        watch = stream.watches.get(delta.watch)
        if watch is None or watch.node != node:
            return
        if delta.failure is not None:
            if delta.failure.reason in _RETRY_REASONS:
                self._orphan(number, watch, now_ms)
                return
            del stream.watches[delta.watch]
        elif not delta.reset and (delta.from_epoch, delta.from_index) != (watch.epoch, watch.index):
            return
        watch.epoch, watch.index = delta.epoch, delta.index
        watch.credit_bytes -= len(delta.body) + 32
        stream.out_deltas.append(delta)

    def _on_watch_reply(self, number: int, stream: LocalStream, reply: Reply, now_ms: float) -> None:
        watch = stream.watches[reply.id]
        if reply.failure is None:
            if not watch.answered:
                watch.answered = True
                stream.out_replies.append(reply)
            return
        if reply.failure.reason in _RETRY_REASONS:
            self._orphan(number, watch, now_ms)
            return
        del stream.watches[reply.id]
        if watch.answered:
            at = (watch.epoch, watch.index)
            stream.out_deltas.append(Delta(reply.id, *at, *at, False, b"[]", reply.failure))
        else:
            stream.out_replies.append(reply)

    # -- loss --------------------------------------------------------------------------------------------------------

    def node_lost(self, node: NodeId, now_ms: float) -> None:
        """What `node` owed us may be lost."""
        self._router.forget_node(node)
        for key in [key for key in self._remote if key[0] == node]:
            self._give_up(self._remote.pop(key))
        self._orphan_where(lambda watch: watch.node == node, now_ms)

    def leader_changed(self, shard: ShardId, leader: NodeId | None, now_ms: float) -> None:
        """A local replica saw another leader: what waits at the old one will not be answered by it."""
        if leader is None:
            return
        self._router.hint(shard, leader)
        for key in [key for key in self._remote if key[1] == shard and key[0] != leader]:
            self._give_up(self._remote.pop(key))
        self._orphan_where(lambda watch: watch.shard == shard and watch.node not in (None, leader), now_ms)

    def tick(self, now_ms: float) -> None:
        """Open orphaned watches again; give up on operations that a peer has sat on for too long."""
        for (number, _), watch in list(self._orphans.items()):
            if watch.retry_ms <= now_ms and number in self._streams:
                self._resubscribe(number, watch, now_ms)
        for table in self._remote.values():
            oldest = next(iter(table), None)
            if oldest is not None and now_ms - table[oldest] > REMOTE_OPERATION_TIMEOUT_MS:
                late = [key for key, sent_ms in table.items() if now_ms - sent_ms > REMOTE_OPERATION_TIMEOUT_MS]
                self._give_up({key: table.pop(key) for key in late})

    @property
    def deadline_ms(self) -> float:
        """When `tick` has something to do."""
        return min((watch.retry_ms for watch in self._orphans.values()), default=float("inf"))

    def _give_up(self, table: dict[tuple[int, int], float]) -> None:
        error = Unavailable(
            "the leader was lost while the operation was on its way", applied=Applied.UNKNOWN, retry_after_ms=20
        )
        failure = failure_of(error)
        for number, operation in table:
            stream = self._streams.get(number)
            if stream is not None and operation not in stream.watches:
                stream.lists.pop(operation, None)
                stream.out_replies.append(Reply(operation, 0, 0, b"", failure))
                self._touched.add(number)

    def _orphan(self, number: int, watch: Watch, now_ms: float) -> None:
        watch.node = None
        watch.retry_ms = now_ms + WATCH_RETRY_MS
        self._orphans[(number, watch.operation.id)] = watch

    def _orphan_where(self, lost: Callable[[Watch], bool], now_ms: float) -> None:
        for number, stream in self._streams.items():
            for watch in stream.watches.values():
                if lost(watch):
                    self._orphan(number, watch, now_ms)

    def _resubscribe(self, number: int, watch: Watch, now_ms: float) -> None:
        node = self._locate(watch.shard)
        if node is None:
            watch.retry_ms = now_ms + WATCH_RETRY_MS
            return
        self._orphans.pop((number, watch.operation.id), None)
        operation = msgspec.structs.replace(
            watch.operation, epoch=watch.epoch, index=watch.index, credit=max(watch.credit_bytes, 1)
        )
        self._send(number, watch.shard, [operation], now_ms)

    # -- sending -----------------------------------------------------------------------------------------------------

    def _send(self, number: int, shard: ShardId, group: list[Operation], now_ms: float) -> None:
        node = self._locate(shard)
        stream = self._streams[number]
        if node is None:
            self._nobody(number, stream, shard, group, now_ms)
            return
        if stream.watches:
            for operation in group:
                watch = stream.watches.get(operation.id)
                if watch is not None:
                    watch.node = node
                    stream.nodes.add(node)
        if node != self._router.node:
            table = self._remote.setdefault((node, shard), {})
            for operation in group:
                table[(number, operation.id)] = now_ms
        self._forward(node, shard, number, group)

    def _nobody(self, number: int, stream: LocalStream, shard: ShardId, group: list[Operation], now_ms: float) -> None:
        failure = failure_of(Unavailable(f"shard {shard} has no reachable leader at the moment", retry_after_ms=50))
        for operation in group:
            watch = stream.watches.get(operation.id)
            if watch is not None:
                self._orphan(number, watch, now_ms)
            else:
                stream.lists.pop(operation.id, None)
                stream.out_replies.append(Reply(operation.id, 0, 0, b"", failure))
        self._touched.add(number)

    def _register_watch(self, number: int, stream: LocalStream, operation: Operation, shard: ShardId) -> bool:
        error: ClusterError | None = None
        if operation.id in stream.watches:
            error = InvalidRequest(f"watch {operation.id} is open already")
        elif len(stream.watches) >= WATCHES_PER_STREAM_MAX:
            error = Overloaded("too many watches on one stream", bound="watches_per_stream_max")
        if error is not None:
            stream.out_replies.append(Reply(operation.id, 0, 0, b"", failure_of(error)))
            self._touched.add(number)
            return False
        epoch, index = (operation.epoch, operation.index) if operation.index >= 0 else (0, -1)
        operation.credit = operation.credit or CREDIT_DEFAULT_BYTES
        stream.watches[operation.id] = Watch(operation, shard, epoch, index, operation.credit)
        return True

    def _unwatch(self, number: int, stream: LocalStream, operation: Operation, now_ms: float) -> None:
        """The operation's id is the watch's."""
        watch = stream.watches.pop(operation.id, None)
        self._orphans.pop((number, operation.id), None)
        if watch is None or watch.node is None:
            stream.out_replies.append(Reply(operation.id))
            self._touched.add(number)
            return
        self._send(number, watch.shard, [operation], now_ms)

    def _submit_list(
        self, number: int, stream: LocalStream, operation: Operation, groups: dict[ShardId, list[Operation]]
    ) -> None:
        """A listing goes through the shards in order; its page token says where it stands."""
        first, _, token = operation.payload.decode("ascii", "replace").partition(":")
        try:
            shard = ShardId(int(first)) if first else self._router.map.shards[1].shard
            if self._router.map.get(shard) is None:
                raise ValueError(first)
        except ValueError:
            failure = failure_of(InvalidRequest("the page token is not one of ours"))
            stream.out_replies.append(Reply(operation.id, 0, 0, b"", failure))
            self._touched.add(number)
            return
        stream.lists[operation.id] = shard
        inner = msgspec.structs.replace(operation, payload=token.encode())
        groups.setdefault(shard, []).append(inner)

    def _page(self, stream: LocalStream, reply: Reply) -> Reply:
        """Point the page's token at the rest of this shard, or at the next shard."""
        shard = stream.lists.pop(reply.id)
        if reply.failure is not None:
            return reply
        page = msgspec.json.decode(reply.payload)
        if page["next_page_token"]:
            page["next_page_token"] = f"{shard}:{page['next_page_token']}"
        else:
            later = [item.shard for item in self._router.map.shards if item.shard > shard]
            page["next_page_token"] = f"{min(later)}:" if later else ""
        reply.payload = msgspec.json.encode(page)
        return reply
