"""What clients ask of one replica, until it is answered: commands that gather, are proposed and wait for apply; reads and
watches that wait for a confirmation of leadership, or rest on a lease.

Invariant: every operation is answered exactly once. What is refused here was never logged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from cluster.empty import NO_ITEMS
from cluster.errors import ClusterError, CodeMissing, InvalidRequest, NotLeader, Overloaded, Unavailable
from cluster.ids import LogIndex, NodeId, ShardId, Term
from cluster.raft.core import Raft
from cluster.raft.effects import Effects
from cluster.raft.events import Event, Propose, Read
from cluster.session.failures import failure_of
from cluster.session.operations import COMMAND_KINDS, Consistency, Kind, Operation, Reply
from cluster.shard.alarms import Alarms
from cluster.shard.apply import Applier
from cluster.shard.asks import Asks
from cluster.shard.commands import Command
from cluster.shard.connections import Connections, anybody
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
from cluster.shard.gathering import Gatherer
from cluster.shard.missing import Missing
from cluster.shard.proposals import Proposals, Proposed
from cluster.shard.reading import Reader, Waiting, WaitingReads, refuse, refuse_with
from cluster.shard.turn import NOBODY, StreamKey, Turn

READ_KINDS = frozenset((Kind.READ, Kind.WATCH, Kind.ARGUMENTS, Kind.PRESENT, Kind.LIST))
CONSISTENCIES = frozenset(Consistency)


class Server(Protocol):
    """The replica, as far as taking operations concerns it."""

    node: NodeId
    raft: Raft
    damaged: str
    halted: str
    diverged: str
    stalled: str

    @property
    def id(self) -> ShardId: ...

    @property
    def leads(self) -> bool: ...

    @property
    def serves(self) -> bool: ...

    @property
    def leader_node(self) -> NodeId | None: ...

    def handle(self, event: Event, now_ms: float, turn: Turn) -> Effects: ...


class Intake:
    """Operations of one replica's clients.

    led_term: the term that this replica leads and has applied an entry of; None while there is none, and commands are refused.
    """

    __slots__ = (
        "_alarms",
        "_applier",
        "_arrived",
        "_asks",
        "_feed",
        "_gatherer",
        "_missing",
        "_proposals",
        "_reader",
        "_reads",
        "_server",
        "_stamped_ms",
        "led_term",
    )

    def __init__(
        self,
        server: Server,
        gatherer: Gatherer,
        applier: Applier,
        reader: Reader,
        feed: Feed,
        stamped_ms: int,
    ) -> None:
        self._server = server
        self._alarms: Alarms | None = None
        """While this replica leads and has applied its own term."""
        self._asks: Asks | None = None
        """The same, once somebody works."""
        self._gatherer = gatherer
        self._applier = applier
        self._reader = reader
        self._feed = feed
        self._arrived: list[tuple[StreamKey, list[Operation]]] = NO_ITEMS
        self._proposals = Proposals()
        self._reads = WaitingReads()
        self._missing: Missing | None = None
        self._stamped_ms = stamped_ms
        """Floor for the time of the next proposal. It may be ahead of what is applied, so apply must never use it."""
        self.led_term: Term | None = None

    @property
    def time_ms(self) -> int:
        """The shard's time: no later proposal may have an earlier one."""
        return max(self._stamped_ms, self._applier.now_ms)

    @property
    def due_ms(self) -> float:
        """When time has something to do here, Unix milliseconds; never while it could not be proposed."""
        if self._alarms is None:
            return math.inf
        due_ms = self._alarms.due_ms
        if self._asks is not None:
            due_ms = min(due_ms, self._asks.due_ms)
        return math.inf if due_ms == math.inf or self._on_their_way else due_ms

    @property
    def deadline_ms(self) -> float:
        """When documents are to be told of connections, by this node's own clock; never while that could not be proposed."""
        deadline_ms = self._reader.connections.deadline_ms if self._reader.connections is not None else math.inf
        if deadline_ms == math.inf or self._on_their_way or not self._server.serves or self._server.stalled:
            return math.inf
        return deadline_ms

    def lead(self, term: Term) -> None:
        """This replica leads and has applied an entry of its term."""
        self.led_term = term
        self._alarms = Alarms(self._gatherer.cache)

    def lead_no_more(self) -> None:
        """Leadership ended, or another begins: commands are refused until `lead`."""
        self.led_term = None
        self._alarms = None

    def close_streams(self, ended: Callable[[StreamKey], bool], *, lost: bool) -> None:
        """Client streams ended: their watches end, those too that are not open yet. lost: they may come back."""
        self._feed.close_streams(ended, lost=lost)
        if self._arrived:
            self._arrived = [(stream, _without_watches(asked) if ended(stream) else asked) for stream, asked in self._arrived]
        self._reads.cancel_streams(ended)
        if self._missing is not None:
            self._missing.cancel_streams(ended)
        if self._reader.connections is not None:
            self._reader.connections.cancel_streams(ended)

    def node_silent(self, node: NodeId, turn: Turn) -> None:
        """Nothing is heard of a node, whose gateway's clients may be gone."""
        if self._reader.connections is not None:
            self._reader.connections.node_silent(node, turn)

    @property
    def watched(self) -> bool:
        """Whether there are watches, open or not."""
        made = self._missing is not None and len(self._missing)
        return bool(len(self._feed) or len(self._reads) or made or self._awaited)

    def changed(self, live: LiveDocument, turn: Turn) -> None:
        """Commands changed this document."""
        if self._alarms is not None:
            self._alarms.changed(live)
            self._look_at_connections(live)
            if self._asks is not None:
                self._asks.changed(live, turn, self.time_ms)

    def _look_at_connections(self, live: LiveDocument) -> None:
        if live.instance is not None and live.instance.told_of_connections:
            self._reader.telling().changed(live)

    def advance_time(self, floor_ms: int) -> None:
        """An installed snapshot says how late it is already."""
        self._stamped_ms = max(self._stamped_ms, floor_ms)

    @property
    def gathers(self) -> bool:
        """Whether commands that waited for the last entries to be committed, or reads whose lease had ended, can go on."""
        waits = self._arrived or self._touched or self._to_look_up or self.tells
        return bool(waits and not self._on_their_way) or self._reads.unasked

    @property
    def _to_look_up(self) -> bool:
        """Whether it is not known yet what is due here."""
        return self._alarms is not None and self._alarms.unread and self._server.serves and not self._server.stalled

    @property
    def _awaited(self) -> bool:
        """Whether watches wait until their documents were told of them."""
        return self._reader.connections is not None and self._reader.connections.awaited

    @property
    def tells(self) -> bool:
        """Whether documents are to be told of connections."""
        urgent = self._reader.connections is not None and self._reader.connections.urgent
        return urgent and self._server.serves and self.led_term is not None and not self._server.stalled

    @property
    def _touched(self) -> bool:
        """Whether there are documents to look at that may get other code."""
        return bool(self._gatherer.cache.touched) and self._server.serves and self.led_term is not None

    @property
    def _on_their_way(self) -> bool:
        server = self._server
        return server.raft.commit_index < server.raft.last_index and server.leads

    @property
    def asks(self) -> bool:
        """Whether reads wait for acknowledged liveness rounds."""
        return self._reads.asked

    def answerable(self, applied: LogIndex) -> bool:
        """Whether `answer_reads` has something to say."""
        return self._feed.unserved or self._reads.answerable(applied)

    # -- taking ------------------------------------------------------------------------------------------------------

    def submit(self, stream: StreamKey, operations: list[Operation]) -> None:
        if not self._arrived:
            self._arrived = []
        self._arrived.append((stream, operations))

    def ask(self, now_ms: float, turn: Turn) -> None:
        """Have leadership confirmed, once for all reads that wait, or at once for those that a lease may answer."""
        if not self._reads.arrived:
            return
        if self._server.raft.lease_holds(now_ms):
            context = self._reads.begin(by_lease=True)
            if context is not None:
                self._server.handle(Read(context), now_ms, turn)
        if not self._reads.asked:
            context = self._reads.begin()
            if context is not None:
                self._server.handle(Read(context, by_lease=False), now_ms, turn)

    def take(self, now_ms: float, wall_ms: int, turn: Turn) -> None:
        """Propose what may be proposed, and let reads wait."""
        if self._asks is not None and self._asks.due_ms <= max(self._stamped_ms, wall_ms):
            self._asks.tick(max(self._stamped_ms, wall_ms), turn)
        something_due = self.due_ms <= max(self._stamped_ms, wall_ms) or self._to_look_up or self.deadline_ms <= now_ms
        if not self._arrived and not self._touched and not something_due:
            return
        arrived, self._arrived = self._arrived, NO_ITEMS
        commands: list[tuple[StreamKey, list[Operation]]] = []
        for stream, operations in arrived:
            wanted = operations
            if not COMMAND_KINDS.issuperset([operation.kind for operation in operations]):
                wanted = [operation for operation in operations if operation.kind in COMMAND_KINDS]
            if wanted:
                commands.append((stream, wanted))
            if len(wanted) != len(operations):
                for operation in operations:
                    if operation.kind not in COMMAND_KINDS:
                        if operation.kind == Kind.WORK:
                            self._take_work(stream, operation, turn, wall_ms)
                        else:
                            self._take_read(stream, operation, turn, now_ms)
        if not commands and not self._touched and not something_due:
            return
        if self._on_their_way:
            self._arrived = commands  # they gather while the last entries are on their way
        else:
            self._propose(commands, now_ms, wall_ms, turn)
            if self._missing is not None:
                self._serve_made(turn.replies.pop(NOBODY, NO_ITEMS), turn)

    def _take_work(self, stream: StreamKey, operation: Operation, turn: Turn, wall_ms: int) -> None:
        refusal = self._refusal()
        if refusal is not None:
            refuse_with([(stream, [operation])], refusal, turn)
            return
        if self._asks is None:
            self._asks = Asks(self._gatherer.cache)
        self._asks.run(stream, operation, max(self._stamped_ms, wall_ms), turn)

    def _take_read(self, stream: StreamKey, operation: Operation, turn: Turn, now_ms: float) -> None:
        if operation.kind == Kind.UNWATCH:
            self._feed.close(stream, operation.id)
            self._reads.cancel(stream, operation.id)
            if self._missing is not None:
                self._missing.cancel(stream, operation.id)
            if self._reader.connections is not None:
                self._reader.connections.cancel(stream, operation.id)
        elif operation.kind not in READ_KINDS or operation.consistency not in CONSISTENCIES:
            error = InvalidRequest(f"no operation has kind {operation.kind} and consistency {operation.consistency}")
            refuse_with([(stream, [operation])], error, turn)
        elif operation.kind == Kind.READ and operation.consistency != Consistency.LINEARIZABLE:
            if self._server.damaged or self._server.diverged:
                refuse_with([(stream, [operation])], Unavailable("this replica's state is damaged", retry_after_ms=100), turn)
            else:
                self._reader.run(stream, operation, turn, now_ms)
        elif not self._server.serves:
            refuse_with([(stream, [operation])], self._not_leader(), turn)
        elif operation.kind == Kind.PRESENT:
            self._reader.run(stream, operation, turn, now_ms)
        elif not self._reads.add(stream, operation):
            refuse_with([(stream, [operation])], Overloaded("too many reads wait", retry_after_ms=50), turn)

    def _propose(self, arrived: list[tuple[StreamKey, list[Operation]]], now_ms: float, wall_ms: int, turn: Turn) -> None:
        refusal = self._refusal()
        if refusal is not None:
            refuse_with(arrived, refusal, turn)
            return
        self._stamped_ms = max(self._stamped_ms, self._applier.now_ms, wall_ms)
        made: list[tuple[Command, int]] = NO_ITEMS
        if self._alarms is not None:
            if self._alarms.unread and anybody(self._gatherer.cache):
                self._reader.telling()
            for name in self._gatherer.cache.touched:
                live = self._gatherer.cache.peek(*name)
                if live is not None:
                    self._alarms.changed(live)
                    self._look_at_connections(live)
            made = [(due, 0) for due in self._alarms.take(self._stamped_ms)]
            if self._reader.connections is not None:
                made += self._reader.connections.take(now_ms)
        entries = self._gatherer.gather(arrived, self._stamped_ms, turn, made)
        if not entries:
            return
        effects = self._server.handle(Propose([payload for payload, _, _ in entries]), now_ms, turn)
        ticket = effects.ticket
        if ticket is None:
            failure = failure_of(effects.refusal or self._not_leader())
            for _, origins, commands in entries:
                self._gatherer.forget_creations(commands)
                if self._alarms is not None:
                    self._alarms.concluded(commands)
                if self._reader.connections is not None:
                    self._reader.connections.refused(commands, now_ms, turn)
                for stream, operation in origins:
                    turn.reply(stream, Reply(operation, 0, 0, b"", failure))
            return
        for place, (_, origins, commands) in enumerate(entries):
            self._proposals.add(Proposed(LogIndex(ticket.first + place), ticket.term, origins, commands))

    def _refusal(self) -> ClusterError | None:
        """Why no command can be proposed here now, if so."""
        server = self._server
        if not server.serves:
            return self._not_leader()
        if self.led_term is None:
            return Unavailable("the new leader is catching up", retry_after_ms=20)
        if server.stalled:
            return CodeMissing(f"shard {server.id} waits: {server.stalled}", retry_after_ms=100)
        if self._proposals.full:
            return Overloaded("too many commands wait to be applied", retry_after_ms=50, bound="commands_waiting_max")
        return None

    def _not_leader(self) -> ClusterError:
        server = self._server
        if server.halted:
            return Unavailable(f"shard {server.id} is halted on this node: {server.halted}", retry_after_ms=500)
        message = f"node {server.node} does not lead shard {server.id}"
        return NotLeader(message, leader=server.leader_node or "", shard=server.id)

    # -- answering ---------------------------------------------------------------------------------------------------

    def confirm_reads(self, effects: Effects, turn: Turn) -> None:
        """Raft says which reads may be answered, and which can not be any more."""
        for context, index in effects.reads_ready:
            self._reads.confirm(context, index)
        for context, index in effects.reads_leased:
            self._reads.confirm(context, index, by_lease=True)
        for context in effects.reads_refused:
            refuse(self._reads.refuse(context), self._server.leader_node or "", turn)

    def answer_reads(self, applied: LogIndex, now_ms: float, turn: Turn, clock: Callable[[], float]) -> None:
        """Answer what may be answered at `applied`. clock: monotonic milliseconds, read after answers by lease are computed."""
        for stream, operation in self._reads.ready(applied):
            self._reader.run(stream, operation, turn, now_ms)
        if self._reader.missing:
            self._make_missing(turn)
        leased = self._reads.ready_by_lease(applied)
        if leased:
            self._answer_by_lease(leased, now_ms, turn, clock)

    def _answer_by_lease(self, reads: list[Waiting], now_ms: float, turn: Turn, clock: Callable[[], float]) -> None:
        """This process may have stood still since the lease was looked at, while another leader was elected and wrote: so the
        answers leave only if the lease holds on a clock that is read now that they are computed (design section 3).
        """
        computed = Turn()
        for stream, operation in reads:
            self._reader.run(stream, operation, computed, now_ms)
        if not self._server.raft.lease_holds(clock()):
            self._reader.missing = NO_ITEMS
            self._reads.ask_again(reads)
            return
        if self._reader.missing:
            self._make_missing(turn)
        for stream, replies in computed.replies.items():
            for reply in replies:
                turn.reply(stream, reply)

    def _make_missing(self, turn: Turn) -> None:
        """Who came to documents that never existed waits until they are made, or is told that they are not."""
        missing, self._reader.missing = self._reader.missing, NO_ITEMS
        for stream, operation, reply in missing:
            try:
                if not self._gatherer.makes(operation.space, operation.key):
                    turn.reply(stream, reply)
                    continue
                if self._missing is None:
                    self._missing = Missing()
                creation = self._missing.wait(stream, operation)
            except ClusterError as error:
                turn.reply(stream, Reply(operation.id, 0, 0, b"", failure_of(error)))
                continue
            if creation is not None:
                self.submit(NOBODY, [creation])

    def _serve_made(self, replies: list[Reply], turn: Turn) -> None:
        """Creations that reads wait for may have been answered: `replies` were given to nobody."""
        assert self._missing is not None, "only asked while something was made"
        for (stream, operation), failure in self._missing.concluded(replies):
            if failure is None and not self._server.serves:
                failure = failure_of(self._not_leader())
            elif failure is None and not self._reads.add(stream, operation):
                failure = failure_of(Overloaded("too many reads wait", retry_after_ms=50))
            if failure is not None:
                turn.reply(stream, Reply(operation.id, 0, 0, b"", failure))

    def _open_told(self, connections: Connections, commands: list[Command], replies: list[Reply], turn: Turn) -> None:
        """Documents may have been told of watches that wait for that."""
        for stream, operation in connections.concluded(commands, replies, turn):
            if not self._reads.add(stream, operation):
                failure = failure_of(Overloaded("too many reads wait", retry_after_ms=50))
                turn.reply(stream, Reply(operation.id, 0, 0, b"", failure))

    def proposed_at(self, index: LogIndex, term: Term) -> Proposed | None:
        """Who waits for entry `index`, which is about to be applied."""
        proposed = self._proposals.at(index)
        assert proposed is None or proposed.term == term, "what this leader proposed is what was committed"
        return proposed

    def applied(self, proposed: Proposed, turn: Turn) -> None:
        """Apply has answered who waited."""
        self._proposals.applied(proposed)
        self._gatherer.forget_creations(proposed.commands)
        replies = turn.replies.pop(NOBODY, NO_ITEMS)
        if self._missing is not None:
            self._serve_made(replies, turn)
        if self._alarms is not None:
            self._alarms.concluded(proposed.commands)
        if self._reader.connections is not None:
            self._open_told(self._reader.connections, proposed.commands, replies, turn)

    def found_damaged(self) -> str:
        """What could not be read while operations were checked, reads answered or what is due looked up, told once."""
        what = self._gatherer.damaged or self._reader.damaged
        self._gatherer.damaged = self._reader.damaged = ""
        for found in (self._alarms, self._asks, self._reader.connections):
            if found is not None:
                what = what or found.damaged
                found.damaged = ""
        return what

    def refuse_reads(self, turn: Turn) -> None:
        """What is here may not be shown any more; who asked finds the next leader."""
        refuse(self._reads.refuse_all(), "", turn)
        if self._missing is not None:
            refuse(self._missing.refuse_all(), "", turn)

    def answer_all(self, turn: Turn) -> None:
        """This replica can no longer say what comes of anything that waits here: nobody may wait for it in vain."""
        self._gatherer.reset()
        self._proposals.lose(turn)
        if self._asks is not None:
            self._asks.end(failure_of(self._not_leader()), turn)
            self._asks = None
        arrived, self._arrived = self._arrived, NO_ITEMS
        never_taken = [(asker, [asked for asked in operations if asked.kind != Kind.UNWATCH]) for asker, operations in arrived]
        refuse_with(never_taken, self._not_leader(), turn)
        refuse(self._reads.refuse_all(), self._server.leader_node or "", turn)
        if self._missing is not None:
            refuse(self._missing.refuse_all(), self._server.leader_node or "", turn)
        if self._reader.connections is not None:
            refuse(self._reader.connections.refuse_all(), self._server.leader_node or "", turn)
            self._reader.connections = None
            if self.led_term is not None:
                self._reader.telling()  # it is unwell, and begins anew when it is not
        if len(self._feed):
            self._feed.end_all(self._not_leader(), turn)


def _without_watches(operations: list[Operation]) -> list[Operation]:
    return [operation for operation in operations if operation.kind != Kind.WATCH]
