"""Simulated clients: the real session half over a stream that breaks, and unary calls that are repeated under one key.

The gateway between them and a node is as thin as the real one is for what matters here: it names the principal, keeps the
session that a frame names, and passes operations on in order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from chaos.checkers.history import Call, Name
from chaos.checkers.listings import Row, decode_page
from chaos.sim.workload import Work
from cluster.session.client import ClientSession
from cluster.session.client_events import (
    Answered,
    Changed,
    Connected,
    Consumed,
    Disconnected,
    Ended,
    Event,
    Frame,
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
from cluster.session.identity import RANDOM_BYTES, new_identity
from cluster.session.operations import Delta, Failure, Kind, Operation, Reply

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

WAY_MS = (0.1, 1.0)
"""From a client to its node, and back."""
REDIAL_MS = (5.0, 80.0)
FORGOTTEN = "ASKER_GONE"
"""In place of a reason where the application ended before it was told anything. No error of the cluster."""
UNARY_TIMEOUT_MS = 3_000.0
UNARY_PAUSE_MS = 30.0


class Stream:
    """One client stream to one life of one node, with the gateway's part in between."""

    def __init__(
        self,
        world: World,
        node: SimulatedNode,
        principal: str,
        source: random.Random,
        on_events: Callable[[Stream, list[Reply | Delta]], None],
        on_end: Callable[[Stream], None],
    ) -> None:
        self.node = node
        self.life = node.lives
        self.open = True
        self.identity = b""
        self._world = world
        self._principal = principal
        self._source = source
        self._on_events = on_events
        self._on_end = on_end
        self._up_ms = 0.0
        self._down_ms = 0.0
        self._number = node.open_stream(self._deliver)

    def send(self, frame: Frame) -> None:
        """Frames arrive in the order in which they were sent."""
        self._up_ms = max(self._up_ms, self._world.now_ms + self._source.uniform(*WAY_MS))
        self._world.after(self._up_ms - self._world.now_ms, "call", self._arrived, frame)

    def _arrived(self, frame: Frame) -> None:
        if not self.open or self.life != self.node.lives:
            return
        if frame.session:
            self.identity = frame.session
        operations = []
        for operation in frame.operations:
            session = operation.session or (self.identity if operation.sequence else b"")
            operations.append(msgspec.structs.replace(operation, principal=self._principal, session=session))
        self.node.submit(self._number, operations, frame.grants)

    def _deliver(self, events: list[Reply | Delta]) -> None:
        self._down_ms = max(self._down_ms, self._world.now_ms + self._source.uniform(*WAY_MS))
        self._world.after(self._down_ms - self._world.now_ms, "call", self._received, events)

    def _received(self, events: list[Reply | Delta]) -> None:
        if self.open:
            self._on_events(self, events)

    def close(self) -> None:
        """The client gives the stream up."""
        if self.open:
            self.open = False
            if self.life == self.node.lives:
                self.node.close_stream(self._number)

    def broken(self) -> None:
        """The stream ends under the client."""
        if self.open:
            self.close()
            self._on_end(self)


class SessionClient:
    """One application with one session and its watches."""

    def __init__(self, world: World, number: int) -> None:
        limits = world.scenario.limits
        self.world = world
        self.name = f"c{number}"
        self.principal = world.principals[self.name] = f"c{number % limits.principals}@sim"
        self.stream: Stream | None = None
        self._source = world.streams.named(f"client/{self.name}")
        settings = Settings(
            window=limits.client_window,
            operation_timeout_ms=int(limits.operation_timeout_ms),
            reply_timeout_ms=int(limits.reply_timeout_ms),
            watch_credit_bytes=limits.watch_credit_bytes,
        )
        self._settings = settings
        self._lives = 1
        self.machine = ClientSession(self._make_session, self._source.random, settings)
        self._calls: dict[int, Call] = {}
        self._ticket = 0
        self.watching: dict[Name, int] = {}
        self._wake_ms = float("inf")
        self._next_node = number

    def _make_session(self) -> bytes:
        return new_identity(self.world.true_wall_ms, self._source.randbytes(RANDOM_BYTES))

    def start(self) -> None:
        self._redial()

    def restart(self) -> None:
        """The application's process ends with everything that it knew, and another begins with a session of its own."""
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            self.world.end(call, Reply(0, failure=Failure(FORGOTTEN, "whoever asked is gone", False, "unknown")))
        for watch in self.watching.values():
            self.world.watches.closed(self.name, watch)
        self.watching.clear()
        self._lives += 1
        self.name = f"{self.name.partition('.')[0]}.{self._lives}"
        self.world.principals[self.name] = self.principal
        self.machine = ClientSession(self._make_session, self._source.random, self._settings)
        self._wake_ms = float("inf")
        if self.stream is not None:
            self.stream.close()
            self.stream = None
            self._redial()

    def do(self, work: Work) -> None:
        """What the application wants."""
        name = (work.space, work.key)
        if work.kind is Kind.WATCH:
            if name not in self.watching:
                self._ticket += 1
                self.watching[name] = self._ticket
                self.world.watches.opened(self.name, self._ticket, name)
                self._step(Watched(self._ticket, *name))
        elif work.kind is Kind.UNWATCH:
            watch = self.watching.pop(name, None)
            if watch is not None:
                self.world.watches.closed(self.name, watch)
                self._step(Unwatched(watch))
        elif work.kind is Kind.PRESENT:
            watch = self.watching.get(name)
            if watch is not None:
                self.world.passing.shows(self.name, watch, work.payload)
                self._step(Presented(watch, work.payload))
        else:
            call = self.world.begin(self.name, work)
            self._ticket += 1
            self._calls[self._ticket] = call
            intent = Intent(self._ticket, work.kind, work.space, work.key, work.channel, work.payload, work.consistency)
            if work.consistency:
                intent.epoch, intent.index = call.own_floor
            self._step(Submitted([intent]))
            writes = self.machine._documents.get(name)
            if writes is not None and writes.waiting and len(writes.sent) >= self.world.scenario.limits.client_window:
                self.world.marks["windows_full"] += 1

    # -- the machine -------------------------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        effects = self.machine.step(event, self.world.now_ms)
        for happened in effects.happened:
            if type(happened) is Answered:
                self.world.end(self._calls.pop(happened.ticket), happened.reply)
            elif type(happened) is Changed:
                self.world.changed(self.name, happened.watch, happened.delta)
                size = happened.delta.credit_bytes
                self.world.after(self.world.scenario.limits.consume_ms, "call", self._consume, happened.watch, size)
            elif isinstance(happened, Ended):
                self.world.watch_ended(self.name, happened.watch, happened.failure)
                self.watching = {name: watch for name, watch in self.watching.items() if watch != happened.watch}
        for frame in effects.frames:
            if self.stream is not None:
                self.stream.send(frame)
        if effects.disconnect and self.stream is not None:
            self.world.after(0.0, "call", self.stream.broken)
        wake_ms = self.machine.wake_at_ms
        if wake_ms is not None and wake_ms < self._wake_ms:
            self._wake_ms = wake_ms
            self.world.after(max(0.001, wake_ms - self.world.now_ms), "call", self._on_time, wake_ms)

    def _consume(self, watch: int, size: int) -> None:
        if watch in self.watching.values():
            self._step(Consumed(watch, size))

    def _on_time(self, at_ms: float) -> None:
        if at_ms == self._wake_ms:
            self._wake_ms = float("inf")
            self._step(TimeReached())

    # -- the stream --------------------------------------------------------------------------------------------------

    def _redial(self) -> None:
        self.world.after(self._source.uniform(*REDIAL_MS), "call", self._dial)

    def _dial(self) -> None:
        if self.stream is not None:
            return
        names = self.world.names
        node = self.world.nodes[names[self._next_node % len(names)]]
        self._next_node += 1
        if not self.world.welcomes(node):
            self._redial()
            return
        self.stream = Stream(self.world, node, self.principal, self._source, self._on_events, self._on_end)
        self.stream.identity = self.machine.session
        self.world.opened(self.stream)
        self._step(Connected(StreamLimits()))

    def _on_events(self, stream: Stream, events: list[Reply | Delta]) -> None:
        if stream is self.stream:
            self._step(Received(events))

    def _on_end(self, stream: Stream) -> None:
        if stream is self.stream:
            self.stream = None
            self._step(Disconnected())
            self._redial()


class Listing:
    """All pages of one space, one after the other, each asked for until it is answered."""

    def __init__(self, world: World, source: random.Random, call: Call, principal: str, page_rows: int) -> None:
        self._world = world
        self._source = source
        self._call = call
        self._principal = principal
        self._page_rows = page_rows
        self._known = world.listings.began(call.name[0])
        self._rows: list[Row] = []
        self._pages: list[int] = []

    def ask(self, token: str = "") -> None:
        """Ask for the page behind `token`."""
        call = self._call
        operation = Operation(0, Kind.LIST, call.name[0], "", self._principal, "", token.encode(), credit=self._page_rows)
        patience_ms = call.began_ms + call.patience_ms - self._world.now_ms
        UnaryCall(self._world, self._source, operation, self._answered, patience_ms=patience_ms).start()

    def _answered(self, reply: Reply) -> None:
        if reply.failure is not None:
            self._world.end(self._call, reply)
            return
        page = decode_page(reply.payload)
        self._rows += page.documents
        self._pages.append(len(page.documents))
        if page.next_page_token:
            self.ask(page.next_page_token)
            return
        self._world.end(self._call, Reply(0, payload=b"%d documents" % len(self._rows)))
        self._world.listings.ended(self._call, self._known, self._rows, self._pages)
        self._world.marks["listings_of_pages" if len(self._pages) > 1 else "listings_of_one_page"] += 1


class UnaryCall:
    """One operation on a stream of its own, repeated under its idempotency key until it is answered for good."""

    def __init__(
        self,
        world: World,
        source: random.Random,
        operation: Operation,
        on_reply: Callable[[Reply], None],
        *,
        once: bool = False,
        patience_ms: float = float("inf"),
    ) -> None:
        self._world = world
        self._on_reply = on_reply
        self._source = source
        self._operation = operation
        self._once = once
        self._stream: Stream | None = None
        self._gives_up_ms = world.now_ms + patience_ms
        self.attempts = 0
        self.done = False
        self._next_node = source.randrange(len(world.names))

    def start(self) -> None:
        """Try at the next node."""
        if self.done:
            return
        if self._world.now_ms >= self._gives_up_ms:
            self.done = True
            self._on_reply(Reply(0, failure=Failure("OUTCOME_UNKNOWN", "its time is up", False, "unknown")))
            return
        names = self._world.names
        node = self._world.nodes[names[self._next_node % len(names)]]
        self._next_node += 1
        if not self._world.welcomes(node):
            self._again()
            return
        self.attempts += 1
        self._stream = Stream(self._world, node, self._operation.principal, self._source, self._on_events, self._on_end)
        self._world.opened(self._stream)
        self._world.after(UNARY_TIMEOUT_MS, "call", self._overdue, self.attempts)
        self._stream.send(Frame(b"", [msgspec.structs.replace(self._operation, id=1)], []))

    def _again(self) -> None:
        self._world.after(self._source.uniform(0.5, 1.5) * UNARY_PAUSE_MS, "call", self.start)

    def _retry(self, failure: Failure) -> None:
        """Again, unless that could run it twice."""
        if self._once and failure.applied != "no":
            self.done = True
            self._on_reply(Reply(0, failure=failure))
        else:
            self._again()

    def _overdue(self, attempt: int) -> None:
        if not self.done and attempt == self.attempts and self._stream is not None:
            self._on_end(self._stream)

    def _on_end(self, stream: Stream) -> None:
        if stream is self._stream:
            stream.close()
            self._stream = None
            self._retry(Failure("OUTCOME_UNKNOWN", "the stream broke", False, "unknown"))

    def _on_events(self, stream: Stream, events: list[Reply | Delta]) -> None:
        reply = events[0]
        if self.done or stream is not self._stream or not isinstance(reply, Reply):
            return
        stream.close()
        self._stream = None
        if reply.failure is not None and reply.failure.retryable:
            self._retry(reply.failure)
            return
        self.done = True
        self._on_reply(reply)
