"""The client's half of the protocol: exactly once, in order, across reconnects and leader deaths. Pure.

`step(event, now_ms) -> Effects`: the application's wishes and the server's frames go in, frames to send and answers to give
come out. It holds no socket and no clock, so the simulator runs it as it is.

Invariants
- Every intent is answered exactly once, at the latest when its time is up.
- The writes of one document run in the order in which they were submitted, each at most once; at most `window` of them are
  unacknowledged.
- A write that failed in a way that may pass is sent again under its number, with all that follow it, in order.
- Positions shown for one document only rise.

Known limit: a write that was answered as refused after an attempt whose fate is unknown is reported as refused, although a late
copy of that attempt may still run; whoever has to know reads the document.

Not here: sockets, addresses and their backoff, JSON, the views that patches apply to (`cluster.client`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from cluster.errors import InvalidArguments, OutcomeUnknown
from cluster.session.client_events import (
    Answered,
    ArgumentsRefused,
    Asked,
    Changed,
    Connected,
    Consumed,
    Disconnected,
    Effects,
    Ended,
    Event,
    Intent,
    Presented,
    Received,
    Settings,
    StreamLimits,
    Submitted,
    TimeReached,
    Unwatched,
    Watched,
)
from cluster.session.client_frames import OutgoingFrames
from cluster.session.client_pauses import Pauses
from cluster.session.client_watch import After, Fit, WatchState
from cluster.session.client_writes import (
    DocumentWrites,
    Pending,
    Verdict,
    out_of_time,
    read_operation,
    refusal,
    write_operation,
)
from cluster.session.failures import failure_of
from cluster.session.operations import Delta, Failure, Kind, Operation, Reply

DEADLINES_SLACK = 4096
UNWATCH_RESERVE = 64
"""Open operations that are left free for the ends of watches."""

_READ = Kind.READ.value


class ClientSession:
    """One client's conversation with a cluster, over as many streams as it takes.

    make_session: makes a fresh session identity (UUID version 7). jitter: uniform in [0, 1).
    """

    def __init__(
        self, make_session: Callable[[], bytes], jitter: Callable[[], float], settings: Settings | None = None
    ) -> None:
        self._settings = settings or Settings()
        self._make_session = make_session
        self.session = make_session()
        self._connected = False
        self._limits = StreamLimits()
        self._outgoing = OutgoingFrames(self._limits, self.session)
        self._last_wire_id = 0
        self._documents: dict[tuple[str, str], DocumentWrites] = {}
        self._busy: dict[DocumentWrites, None] = {}
        self._ready: dict[DocumentWrites, None] = {}
        self._reads: deque[Pending] = deque()
        self._in_flight: dict[int, Pending] = {}
        self._deadlines: deque[Pending] = deque()
        self._queued = 0
        self._watches: dict[int, WatchState] = {}
        self._subscriptions: dict[int, WatchState] = {}
        self._to_watch: dict[WatchState, None] = {}
        self._asked: dict[int, tuple[WatchState, Asked | Presented]] = {}
        self._pauses: Pauses[DocumentWrites | Pending | WatchState] = Pauses(
            self._settings.backoff_min_ms, self._settings.backoff_max_ms, jitter
        )
        self._now_ms = 0.0
        self._effects = Effects()

    @property
    def queued(self) -> int:
        """Intents whose fate is not known yet: without an answer, or answered for want of time and still on their way."""
        return self._queued

    @property
    def wake_at_ms(self) -> float | None:
        """When TimeReached is due, if nothing happens before."""
        times = []
        if (pause_over_ms := self._pauses.next_ms) is not None:
            times.append(pause_over_ms)
        while self._deadlines and self._deadlines[0].settled:
            self._deadlines.popleft()
        if self._deadlines:
            times.append(self._deadlines[0].deadline_ms)
        if self._in_flight:
            times.append(next(iter(self._in_flight.values())).sent_ms + self._settings.reply_timeout_ms)
        return min(times, default=None)

    def renew_session(self) -> None:
        """Replace a session that no gateway has accepted yet: its time was refused."""
        assert not self._connected
        old, self.session = self.session, self._make_session()
        for document in self._documents.values():
            if document.session == old:
                assert not document.sent, "nothing was sent under a session that was never open"
                document.session = self.session

    def step(self, event: Event, now_ms: float) -> Effects:
        """Take one event. now_ms: any clock that only rises."""
        self._now_ms = now_ms
        effects = self._effects = Effects()
        match event:
            case Submitted():
                self._on_submitted(event.intents)
            case Received():
                for item in event.events:
                    if isinstance(item, Reply):
                        self._on_reply(item)
                    else:
                        self._on_delta(item)
            case Connected():
                self._on_connected(event.limits)
            case Disconnected():
                self._on_disconnected()
            case Watched():
                self._on_watched(event)
            case Asked() | Presented():
                self._on_asked(event)
            case Unwatched():
                self._on_unwatched(event.watch)
            case Consumed():
                watch = self._watches.get(event.watch)
                if watch is not None:
                    self._give_credit(watch, watch.consumed(event.size))
            case _:
                assert isinstance(event, TimeReached)
        self._on_time()
        if self._connected:
            self._transmit()
            effects.frames = self._outgoing.take()
        return effects

    # what the application wants

    def _on_submitted(self, intents: list[Intent]) -> None:
        deadline_ms = self._now_ms + self._settings.operation_timeout_ms
        queued_max = self._settings.queued_max
        payload_max = self._limits.payload_bytes_max
        for intent in intents:
            error = refusal(intent, self._queued, queued_max, payload_max)
            if error is not None:
                self._effects.happened.append(Answered(intent.ticket, Reply(0, failure=failure_of(error))))
                continue
            self._queued += 1
            document = self._document(intent.space, intent.key)
            pending = Pending(intent, document, deadline_ms)
            self._deadlines.append(pending)
            if intent.kind == _READ:
                self._reads.append(pending)
            else:
                document.waiting.append(pending)
                self._busy[document] = None
                self._ready[document] = None

        if len(self._deadlines) > 4 * self._queued + DEADLINES_SLACK:
            # one that stays unanswered would keep all that were answered after it.
            self._deadlines = deque(pending for pending in self._deadlines if not pending.settled)

    def _on_watched(self, event: Watched) -> None:
        assert event.watch not in self._watches, "a watch is opened once"
        document = self._document(event.space, event.key)
        document.watches += 1
        watch = WatchState(event, document, self._settings.watch_credit_bytes)
        self._watches[event.watch] = watch
        self._to_watch[watch] = None

    def _on_asked(self, event: Asked | Presented) -> None:
        watch = self._watches.get(event.watch)
        if watch is None:
            return
        self._last_wire_id += 1
        operation = watch.ask(event, self._last_wire_id)
        if operation is not None and self._connected:
            self._asked[operation.id] = (watch, event)
            self._outgoing.add(operation, b"")

    def _on_arguments_answered(self, watch: WatchState, asked: Asked | Presented, failure: Failure | None) -> None:
        if failure is None or self._watches.get(watch.watch) is not watch or not watch.wants(asked):
            return
        if failure.reason == InvalidArguments.reason or (not asked.version and not failure.retryable):
            watch.refuse(asked.version)
            self._effects.happened.append(ArgumentsRefused(watch.watch, asked.version, failure))
        elif watch.shown_version != asked.version and asked.version:
            self._close_subscription(watch)
            self._subscribe_later(watch, failure.retry_after_ms)

    def _on_unwatched(self, name: int) -> None:
        watch = self._watches.pop(name, None)
        if watch is None:
            return  # it has ended while this was on its way
        watch.document.watches -= 1
        self._to_watch.pop(watch, None)
        self._close_subscription(watch)

    def _document(self, space: str, key: str) -> DocumentWrites:
        document = self._documents.get((space, key))
        if document is None:
            if len(self._documents) >= self._settings.documents_max:
                self._forget_idle_documents()
            document = self._documents[space, key] = DocumentWrites(space, key, self.session)
        return document

    def _forget_idle_documents(self) -> None:
        """Numbers of a forgotten document could come again, so whatever is new from here on belongs to another session."""
        self._documents = {name: document for name, document in self._documents.items() if not document.idle}
        self.session = self._make_session()

    # what the stream does

    def _on_connected(self, limits: StreamLimits) -> None:
        assert not self._connected, "one stream at a time"
        self._connected = True
        self._limits = limits
        self._outgoing = OutgoingFrames(limits, self.session)
        self._to_watch.update(dict.fromkeys(watch for watch in self._watches.values() if not watch.wire_id))

    def _on_disconnected(self) -> None:
        self._connected = False
        lost = list(self._in_flight.values())
        self._in_flight.clear()
        for pending in lost:
            pending.wire_id = 0
            if pending.intent.kind == _READ:
                if pending.settled:
                    self._queued -= 1
                else:
                    self._reads.append(pending)
                continue
            pending.ambiguous = True
            pending.document.interrupted(self._now_ms)
        self._ready.update(self._busy)
        self._subscriptions.clear()
        self._asked.clear()
        for watch in self._watches.values():
            watch.wire_id = 0

    # answers

    def _on_reply(self, reply: Reply) -> None:
        pending = self._in_flight.pop(reply.id, None)
        if pending is None:
            watch = self._subscriptions.get(reply.id)
            asked = self._asked.pop(reply.id, None)
            if asked is not None:
                self._on_arguments_answered(*asked, reply.failure)
            elif watch is not None and reply.failure is not None:
                self._subscription_ended(watch, reply.failure)
            return
        pending.wire_id = 0
        if pending.intent.kind == _READ:
            self._on_read_reply(pending, reply)
            return
        document = pending.document
        document.in_flight -= 1
        verdict = document.judge(pending, reply.failure)
        if verdict is Verdict.FINAL:
            document.failures = 0
            sent = document.sent
            if sent[0] is pending:
                sent.popleft()
            else:
                sent.remove(pending)
            self._conclude(pending, reply)
        else:
            self._block(document, reply.failure, verdict)
        self._ready[document] = None

    def _on_read_reply(self, pending: Pending, reply: Reply) -> None:
        if pending.settled:
            self._queued -= 1
            return
        failure = reply.failure
        if failure is not None and failure.retryable:
            self._pauses.add(self._now_ms + self._pauses.length_ms(pending.attempts, failure.retry_after_ms), pending)
            return
        self._conclude(pending, reply)

    def _conclude(self, pending: Pending, reply: Reply) -> None:
        """Its fate is known: out of the books, and answered unless its time was up before."""
        self._queued -= 1
        if not pending.settled:
            self._answer(pending, reply)

    def _answer(self, pending: Pending, reply: Reply) -> None:
        assert not pending.settled
        pending.settled = True
        if reply.failure is None:
            pending.document.saw(reply.epoch, reply.index)
        self._effects.happened.append(Answered(pending.intent.ticket, reply))

    def _block(self, document: DocumentWrites, failure: Failure | None, verdict: Verdict) -> None:
        """Nothing of this document is sent until it may be sent again from its first unanswered write on."""
        if not document.blocked:
            document.blocked = True
            document.failures += 1
        if verdict is Verdict.RESEND_LATER:
            assert failure is not None
            document.resend_at_ms = max(
                document.resend_at_ms, self._now_ms + self._pauses.length_ms(document.failures, failure.retry_after_ms)
            )

    # watches

    def _on_delta(self, delta: Delta) -> None:
        watch = self._subscriptions.get(delta.watch)
        if watch is None:
            return  # of a subscription that was given up
        if delta.failure is not None:
            self._subscription_ended(watch, delta.failure)
            return
        match watch.fit(delta):
            case Fit.SHOW:
                watch.document.saw(delta.epoch, delta.index)
                self._effects.happened.append(Changed(watch.watch, delta))
            case Fit.DUPLICATE:
                self._give_credit(watch, watch.grant(delta.credit_bytes))
            case Fit.GAP:
                self._close_subscription(watch)
                watch.start_over()
                self._subscribe_later(watch, 0)
            case Fit.STALE:
                self._close_subscription(watch)
                self._subscribe_later(watch, 0)

    def _subscription_ended(self, watch: WatchState, failure: Failure) -> None:
        del self._subscriptions[watch.wire_id]
        watch.wire_id = 0
        after = watch.after(failure)
        if failure.reason == InvalidArguments.reason and watch.version != watch.taken[1]:
            self._effects.happened.append(ArgumentsRefused(watch.watch, watch.version, failure))
            watch.refuse(watch.version)
        elif after is After.END:
            del self._watches[watch.watch]
            watch.document.watches -= 1
            self._effects.happened.append(Ended(watch.watch, failure))
            return
        if after is After.START_OVER:
            watch.start_over()
        self._subscribe_later(watch, failure.retry_after_ms)

    def _subscribe_later(self, watch: WatchState, retry_after_ms: int) -> None:
        watch.failures += 1
        self._pauses.add(self._now_ms + self._pauses.length_ms(watch.failures, retry_after_ms), watch)

    def _close_subscription(self, watch: WatchState) -> None:
        if watch.wire_id:
            del self._subscriptions[watch.wire_id]
            operation = watch.close()
            if self._connected:
                self._outgoing.add(operation, b"")

    def _give_credit(self, watch: WatchState, due: int) -> None:
        if due and self._connected:
            self._outgoing.grant(watch.wire_id, due)

    # time

    def _on_time(self) -> None:
        now_ms = self._now_ms
        for what in self._pauses.over(now_ms):
            if isinstance(what, DocumentWrites):
                what.pausing = False
                self._ready[what] = None
            elif isinstance(what, Pending):
                self._reads.append(what)
            elif self._watches.get(what.watch) is what and not what.wire_id:
                self._to_watch[what] = None
        deadlines = self._deadlines
        while deadlines and (deadlines[0].settled or deadlines[0].deadline_ms <= now_ms):
            pending = deadlines.popleft()
            if not pending.settled:
                self._give_up(pending)
        if self._in_flight and self._connected:
            oldest = next(iter(self._in_flight.values()))
            if oldest.sent_ms + self._settings.reply_timeout_ms <= now_ms:
                self._effects.disconnect = True
                self._on_disconnected()

    def _give_up(self, pending: Pending) -> None:
        """Its time is up: say what is known.

        A write that may have run is answered and yet sent again until its fate is known: were its number given to another
        write, a late copy of it could run after what was submitted later.
        """
        failure = out_of_time(pending)
        under_way = bool(pending.wire_id) or pending.ambiguous
        if pending.intent.kind != _READ and not under_way:
            document = pending.document
            (document.sent if pending.attempts else document.waiting).remove(pending)
            self._ready[document] = None
        reply = Reply(0, failure=failure)
        if under_way:
            self._answer(pending, reply)
        else:
            self._conclude(pending, reply)

    # sending

    def _transmit(self) -> None:
        if self._to_watch:
            for watch in self._to_watch:
                self._last_wire_id += 1
                self._outgoing.add(watch.open(self._last_wire_id), b"")
                self._subscriptions[watch.wire_id] = watch
            self._to_watch.clear()
        room = self._limits.open_operations_max - UNWATCH_RESERVE
        while self._reads and len(self._in_flight) < room:
            pending = self._reads.popleft()
            if not pending.settled:
                self._send(pending, read_operation(pending), b"")
        if self._ready:
            ready, self._ready = self._ready, {}
            for document in ready:
                self._send_writes(document, room)

    def _send_writes(self, document: DocumentWrites, room: int) -> None:
        if document.blocked:
            if document.in_flight:
                return  # the answers under way come first; each makes the document ready again
            if document.resend_at_ms > self._now_ms:
                if not document.pausing:
                    document.pausing = True
                    self._pauses.add(document.resend_at_ms, document)
                return
            self._resend(document)
            if document.blocked:
                return
        window = self._settings.window
        sent = document.sent
        waiting = document.waiting
        while waiting and len(sent) < window:
            if len(self._in_flight) >= room:
                self._ready[document] = None
                return
            pending = waiting.popleft()
            pending.sequence = document.next_sequence
            document.next_sequence += 1
            sent.append(pending)
            self._send_write(pending, sent[0].sequence - 1)
        if not sent and not waiting:
            self._busy.pop(document, None)

    def _resend(self, document: DocumentWrites) -> None:
        """Send the unanswered writes again, in order; leaves the document blocked while only the first may go."""
        for pending in document.renumber(self._make_session):
            error = OutcomeUnknown("the write may have run, and the document can not tell any more")
            self._conclude(pending, Reply(0, failure=failure_of(error)))
        sent = document.sent
        probing, document.probing = document.probing and len(sent) > 1, False
        document.blocked = probing
        document.resend_at_ms = 0.0
        if sent:
            acked_through = sent[0].sequence - 1
            for pending in [sent[0]] if probing else sent:
                self._send_write(pending, acked_through)

    def _send_write(self, pending: Pending, acked_through: int) -> None:
        document = pending.document
        operation = write_operation(pending, acked_through)
        document.in_flight += 1
        self._send(pending, operation, document.session)

    def _send(self, pending: Pending, operation: Operation, session: bytes) -> None:
        self._last_wire_id += 1
        operation.id = pending.wire_id = self._last_wire_id
        pending.attempts += 1
        pending.sent_ms = self._now_ms
        self._in_flight[pending.wire_id] = pending
        self._outgoing.add(operation, session)
