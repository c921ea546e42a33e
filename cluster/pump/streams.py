"""Client streams that end at this node: where their operations went, which watches they have, what must be told when a
peer is lost.

An operation goes to its shard's leader, here or one hop away; reads that any replica may answer stay here if there is one.
Operations that went to a peer are remembered until answered; if the peer or its leadership is lost, whoever asked is
told that the outcome is unknown, and the session protocol makes the repeat safe.
Watches are kept: they are opened again wherever the leader is, from the last position that passed through here, and the client
only sees its deltas go on.

Invariant: every operation is answered exactly once. A watch's deltas leave in order, each starting where the last one ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from cluster.errors import (
    Applied,
    ClusterError,
    CodeMissing,
    InvalidArguments,
    InvalidRequest,
    NotLeader,
    Overloaded,
    StaleRoute,
    Unavailable,
)
from cluster.ids import NodeId, ShardId
from cluster.pump.pages import next_page, place_of
from cluster.pump.presenting import Presenting
from cluster.pump.watches import ArgumentsChange, Watch, unserved
from cluster.router.router import Router
from cluster.session.failures import failure_of
from cluster.session.operations import COMMAND_KINDS, Consistency, Delta, Kind, Operation, Reply
from cluster.shard.feed import CREDIT_DEFAULT_BYTES

WATCHES_PER_STREAM_MAX = 10_000
WATCH_RETRY_MS, REMOTE_OPERATION_TIMEOUT_MS, REMOTE_LOOK_EVERY_MS = 25.0, 10_000.0, 250.0
_RETRY_REASONS = frozenset((NotLeader.reason, StaleRoute.reason, Unavailable.reason, Overloaded.reason, CodeMissing.reason))


@dataclass(slots=True)
class LocalStream:
    """One client stream. `out_*` is what the current turn delivers to it."""

    watches: dict[int, Watch] = field(default_factory=dict)
    lists: dict[int, ShardId] = field(default_factory=dict)
    arguments: dict[int, ArgumentsChange] = field(default_factory=dict)
    out_deltas: list[Delta] = field(default_factory=list)
    out_replies: list[Reply] = field(default_factory=list)
    nodes: set[NodeId] = field(default_factory=set)


class Streams:
    """All client streams of this node.

    forward: hands operations of a stream to a node (this one included); False when they could not be sent.
    grant: hands credit on likewise.
    locate: where a shard's leader is believed to be, None when nobody is reachable.
    holds: whether this node has a replica, which may answer what need not come from the leader.
    first: number of the first stream. Numbers are not reused over restarts of this node: a leader may still owe answers to
        streams of the process before.
    """

    def __init__(
        self,
        router: Router,
        forward: Callable[[NodeId, ShardId, int, list[Operation]], None],
        grant: Callable[[NodeId, ShardId, int, int, int], None],
        locate: Callable[[ShardId], NodeId | None],
        holds: Callable[[ShardId], bool],
        first: int = 1,
    ) -> None:
        self._router = router
        self._forward = forward
        self._grant = grant
        self._locate = locate
        self._holds = holds
        self._streams: dict[int, LocalStream] = {}
        self._next = first
        self._remote: dict[NodeId, dict[tuple[int, int], tuple[ShardId, float]]] = {}
        """What a peer owes: (stream, operation) -> where and when it went, oldest first."""
        self._remote_looked_at_ms = 0.0
        self._by_shard: dict[ShardId, dict[tuple[int, int], Watch]] = {}
        self._presenting = Presenting(forward)
        self._orphans: dict[tuple[int, int], Watch] = {}
        """In the order in which they are tried again."""
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
        for watch in list(stream.watches):
            self._drop_watch(number, stream, watch)
        return stream.nodes

    def submit(self, number: int, operations: list[Operation], now_ms: float) -> None:
        """Route a batch: one group a shard, in order."""
        stream = self._streams.get(number)
        if stream is None:
            return
        groups: dict[ShardId, list[Operation]] = {}
        space, key = "", ""
        group: list[Operation] | None = None  # where the last command went: mostly the next one is for the same document
        for operation in operations:
            kind = operation.kind
            if group is not None and operation.key == key and operation.space == space and kind in COMMAND_KINDS:
                group.append(operation)
            elif kind == Kind.LIST:
                self._submit_list(number, stream, operation, groups)
            elif kind == Kind.UNWATCH:
                self._unwatch(number, stream, operation, groups)
            elif kind == Kind.ARGUMENTS:
                self._change_arguments(number, stream, operation, groups)
            elif kind == Kind.PRESENT:
                stream.out_replies += self._presenting.route(number, stream.watches, operation, groups, now_ms)
                self._touched.add(number)
            else:
                shard = self._router.shard_of(operation.space, operation.key)
                if kind == Kind.WATCH and not self._register_watch(number, stream, operation, shard, now_ms):
                    continue
                if kind == Kind.READ and operation.consistency != Consistency.LINEARIZABLE and self._holds(shard):
                    self._forward(self._router.node, shard, number, [operation])
                    continue
                group = groups.get(shard)
                if group is None:
                    groups[shard] = [operation]
                else:
                    group.append(operation)
                space, key, group = operation.space, operation.key, groups[shard]
        for shard, gathered in groups.items():
            self._send(number, shard, gathered, now_ms)

    def submit_to(self, number: int, shard: ShardId, operation: Operation, now_ms: float) -> None:
        """Send an operation to a shard's leader whatever it is about."""
        if number in self._streams:
            self._send(number, shard, [operation], now_ms)

    def grant(self, number: int, watch: int, credit_bytes: int) -> None:
        stream = self._streams.get(number)
        known = stream.watches.get(watch) if stream else None
        if known is None:
            return
        known.credit_bytes += max(credit_bytes, 0)
        if known.opening:
            known.withheld_bytes += credit_bytes
        elif known.node is not None:
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
        if not stream.watches and not stream.lists and not stream.arguments:
            stream.out_replies.extend(replies)
            return
        for reply in replies:
            if reply.id in stream.watches:
                self._on_watch_reply(number, stream, node, reply, now_ms)
            elif reply.id in stream.lists:
                stream.out_replies.append(self._page(stream, reply))
            elif reply.id in stream.arguments:
                stream.out_replies.append(self._arguments_answered(number, stream, reply, now_ms))
            elif reply.id:  # 0 is what nobody waits for
                stream.out_replies.append(reply)

    def _take_remote(self, number: int, node: NodeId, replies: list[Reply]) -> list[Reply]:
        """Replies that are still waited for; one that was given up on was answered already. They also teach who leads."""
        owed = self._remote.get(node)
        if not owed:
            return []
        taken = []
        for reply in replies:
            found = owed.pop((number, reply.id), None)
            if found is None:
                continue
            taken.append(reply)
            if reply.failure is not None and reply.failure.reason in (NotLeader.reason, StaleRoute.reason):
                leader = reply.failure.details.get("leader", "")
                self._router.hint(found[0], NodeId(leader) if leader != node else None)
        return taken

    def _on_delta(self, number: int, stream: LocalStream, node: NodeId, delta: Delta, now_ms: float) -> None:
        watch = stream.watches.get(delta.watch)
        if watch is None or watch.node != node:
            return
        if delta.failure is not None:
            if delta.failure.reason in _RETRY_REASONS:
                self._orphan(number, watch, now_ms)
                return
            self._drop_watch(number, stream, delta.watch)
        elif (delta.epoch, delta.index) < (watch.epoch, watch.index):
            self._give_back(node, number, watch, delta)  # of an earlier subscription: the client has more already
            return
        elif not delta.reset and (delta.from_epoch, delta.from_index, delta.from_arguments) != watch.held:
            if (delta.epoch, delta.index, delta.arguments) >= watch.held:
                self._orphan(
                    number, watch, now_ms
                )  # something between was lost; or it was opened twice, and this shows presence
            else:
                self._give_back(node, number, watch, delta)
            return
        watch.epoch, watch.index, watch.version = delta.epoch, delta.index, delta.arguments
        watch.credit_bytes -= delta.credit_bytes
        stream.out_deltas.append(delta)

    def _give_back(self, node: NodeId, number: int, watch: Watch, delta: Delta) -> None:
        """The leader has charged the watch for a delta that the client will not see, and nobody else would ever grant that."""
        self._grant(node, watch.shard, number, delta.watch, delta.credit_bytes)

    def _on_watch_reply(self, number: int, stream: LocalStream, node: NodeId, reply: Reply, now_ms: float) -> None:
        watch = stream.watches[reply.id]
        if watch.node != node:
            return  # of an earlier subscription
        if reply.failure is None:
            watch.opening, watch.asked = False, (node,)
            if watch.withheld_bytes:
                self._grant(node, watch.shard, number, reply.id, watch.withheld_bytes)
                watch.withheld_bytes = 0
            if not watch.answered:
                watch.answered = True
                stream.out_replies.append(reply)
            return
        if reply.failure.reason in _RETRY_REASONS:
            self._orphan(number, watch, now_ms)
            return
        self._drop_watch(number, stream, reply.id)
        if watch.answered:
            at = (watch.epoch, watch.index)
            stream.out_deltas.append(Delta(reply.id, *at, *at, False, b"[]", reply.failure))
        else:
            stream.out_replies.append(reply)

    # -- loss --------------------------------------------------------------------------------------------------------

    def node_lost(self, node: NodeId, now_ms: float) -> None:
        """What `node` owed us may be lost."""
        self._router.forget_node(node)
        owed = self._remote.pop(node, None)
        if owed:
            self._give_up(list(owed))
        for watches in self._by_shard.values():
            self._orphan_where(watches, lambda watch: watch.node == node, now_ms)

    def leader_changed(self, shard: ShardId, leader: NodeId | None, now_ms: float) -> None:
        """A local replica saw another leader: what waits at the old one will not be answered by it."""
        if leader is None:
            return
        self._router.hint(shard, leader)
        for node, owed in self._remote.items():
            if node != leader:
                lost = [key for key, (at, _) in owed.items() if at == shard]
                for key in lost:
                    del owed[key]
                self._give_up(lost)
        watches = self._by_shard.get(shard)
        if watches:
            self._orphan_where(watches, lambda watch: watch.node not in (None, leader), now_ms)

    def tick(self, now_ms: float) -> None:
        """Open orphaned watches again; give up on operations that a peer has sat on for too long."""
        while self._orphans:
            number, identifier = key = next(iter(self._orphans))
            watch = self._orphans[key]
            if watch.retry_ms > now_ms:
                break
            del self._orphans[key]
            if not watch.answered and now_ms >= watch.answer_by_ms:
                self._answer_unserved(number, identifier)
            else:
                self._resubscribe(number, watch, now_ms)
        self._presenting.send_due(now_ms)
        if now_ms - self._remote_looked_at_ms >= REMOTE_LOOK_EVERY_MS:
            self._remote_looked_at_ms = now_ms
            for owed in self._remote.values():
                late = []
                for key, (_, sent_ms) in owed.items():
                    if now_ms - sent_ms <= REMOTE_OPERATION_TIMEOUT_MS:
                        break
                    late.append(key)
                for key in late:
                    del owed[key]
                self._give_up(late)
                for number, identifier in late:
                    stream = self._streams.get(number)
                    unanswered = stream.watches.get(identifier) if stream is not None else None
                    if unanswered is not None:
                        self._orphan(number, unanswered, now_ms)

    def _answer_unserved(self, number: int, identifier: int) -> None:
        """Nobody could open this watch for so long that whoever asked should know."""
        stream = self._streams[number]
        watch = self._drop_watch(number, stream, identifier)
        assert watch is not None, "it was looked up"
        self._end_everywhere(number, watch)
        stream.out_replies.append(Reply(identifier, 0, 0, b"", unserved(watch.shard)))
        self._touched.add(number)

    @property
    def deadline_ms(self) -> float:
        """When `tick` has something to do."""
        retry_ms = next(iter(self._orphans.values())).retry_ms if self._orphans else float("inf")
        return min(retry_ms, self._presenting.deadline_ms)

    def _give_up(self, lost: list[tuple[int, int]]) -> None:
        if not lost:
            return
        why = "the leader was lost while the operation was on its way"
        failure = failure_of(Unavailable(why, applied=Applied.UNKNOWN, retry_after_ms=20))
        for number, operation in lost:
            stream = self._streams.get(number)
            if stream is not None and operation not in stream.watches:
                stream.lists.pop(operation, None)
                changed = stream.arguments.pop(operation, None) is not None  # the watch is opened again with the new ones
                stream.out_replies.append(Reply(operation, 0, 0, b"", None if changed else failure))
                self._touched.add(number)

    def _orphan(self, number: int, watch: Watch, now_ms: float) -> None:
        key = (number, watch.operation.id)
        watch.node = None
        watch.retry_ms = now_ms + WATCH_RETRY_MS
        self._orphans.pop(key, None)
        self._orphans[key] = watch

    def _orphan_where(self, watches: dict[tuple[int, int], Watch], lost: Callable[[Watch], bool], now_ms: float) -> None:
        for (number, _), watch in watches.items():
            if lost(watch):
                self._orphan(number, watch, now_ms)

    def _drop_watch(self, number: int, stream: LocalStream, identifier: int) -> Watch | None:
        """A watch is over."""
        watch = stream.watches.pop(identifier, None)
        if watch is not None:
            self._orphans.pop((number, identifier), None)
            self._presenting.drop(number, identifier)
            del self._by_shard[watch.shard][(number, identifier)]
        return watch

    def _resubscribe(self, number: int, watch: Watch, now_ms: float) -> None:
        node = self._locate(watch.shard)
        if node is None:
            self._orphan(number, watch, now_ms)
            return
        self._send(number, watch.shard, [watch.resubscription()], now_ms)

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
                    watch.ask(node)
                    stream.nodes.add(node)
        if node != self._router.node:
            owed = self._remote.setdefault(node, {})
            for operation in group:
                if operation.kind != Kind.UNWATCH:
                    owed.pop((number, operation.id), None)  # oldest first: a watch that is opened again moves to the end
                    owed[(number, operation.id)] = (shard, now_ms)
        self._forward(node, shard, number, group)

    def _nobody(self, number: int, stream: LocalStream, shard: ShardId, group: list[Operation], now_ms: float) -> None:
        failure = unserved(shard)
        for operation in group:
            watch = stream.watches.get(operation.id)
            if watch is not None:
                self._orphan(number, watch, now_ms)
            else:
                stream.lists.pop(operation.id, None)
                stream.out_replies.append(Reply(operation.id, 0, 0, b"", failure))
        self._touched.add(number)

    def _register_watch(self, number: int, stream: LocalStream, operation: Operation, shard: ShardId, now_ms: float) -> bool:
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
        answer_by_ms = now_ms + REMOTE_OPERATION_TIMEOUT_MS
        watch = Watch(operation, shard, epoch, index, operation.credit, answer_by_ms, operation.sequence)
        stream.watches[operation.id] = watch
        self._by_shard.setdefault(shard, {})[(number, operation.id)] = watch
        return True

    def _unwatch(self, number: int, stream: LocalStream, operation: Operation, groups: dict[ShardId, list[Operation]]) -> None:
        """The operation's id is the watch's. The watch ends here and now; whoever serves it is told and does not answer. If it
        was not open yet, this is its one answer too.
        """
        watch = self._drop_watch(number, stream, operation.id)
        stream.out_replies.append(Reply(operation.id))
        self._touched.add(number)
        if watch is not None and watch.operation in groups.get(watch.shard, ()):
            groups[watch.shard].remove(watch.operation)  # it came with the same frame and has not left
        if watch is not None:
            self._end_everywhere(number, watch)

    def _end_everywhere(self, number: int, watch: Watch) -> None:
        """Whoever serves the watch, or was asked to and may do so yet, is told that it is over."""
        for node in watch.asked:
            self._remote.get(node, {}).pop((number, watch.operation.id), None)
            if node != self._router.node or self._holds(watch.shard):
                self._forward(node, watch.shard, number, [watch.ending()])

    def _change_arguments(
        self, number: int, stream: LocalStream, operation: Operation, groups: dict[ShardId, list[Operation]]
    ) -> None:
        """The operation goes to whoever serves the watch; wherever it is opened next, it is opened with these arguments."""
        watch = stream.watches.get(operation.credit)
        self._touched.add(number)
        if watch is None:
            failure = failure_of(InvalidRequest(f"no watch {operation.credit} is open"))
            stream.out_replies.append(Reply(operation.id, 0, 0, b"", failure))
            return
        subscribed = watch.operation
        change = watch.change(operation)
        if watch.node is None and subscribed not in groups.get(watch.shard, ()):
            stream.out_replies.append(Reply(operation.id))
            return
        stream.arguments[operation.id] = change
        groups.setdefault(watch.shard, []).append(operation)

    def _arguments_answered(self, number: int, stream: LocalStream, reply: Reply, now_ms: float) -> Reply:
        """A leader took the arguments, or refused them; one that does not serve the watch leaves it to the next."""
        change = stream.arguments.pop(reply.id)
        watch = stream.watches.get(change.watch)
        if reply.failure is None or watch is None or watch.operation.sequence != change.version:
            return reply
        if reply.failure.reason == InvalidArguments.reason:
            watch.restore(change)
            return reply
        self._orphan(number, watch, now_ms)
        return Reply(reply.id)

    def _submit_list(
        self, number: int, stream: LocalStream, operation: Operation, groups: dict[ShardId, list[Operation]]
    ) -> None:
        """A listing goes through the shards in order; its page token says where it stands."""
        try:
            shard, token = place_of(operation.payload, self._router.map)
        except InvalidRequest as error:
            stream.out_replies.append(Reply(operation.id, 0, 0, b"", failure_of(error)))
            self._touched.add(number)
            return
        stream.lists[operation.id] = shard
        inner = msgspec.structs.replace(operation, payload=token)
        groups.setdefault(shard, []).append(inner)

    def _page(self, stream: LocalStream, reply: Reply) -> Reply:
        """Point the page's token at the rest of this shard, or at the next shard."""
        shard = stream.lists.pop(reply.id)
        if reply.failure is not None:
            return reply
        return next_page(reply, shard, [item.shard for item in self._router.map.shards])
