"""The client's half of the protocol against the server's real table: whatever the network does, each write runs at most once,
in order, and is answered exactly once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cluster.session.client import ClientSession
from cluster.session.client_events import (
    Answered,
    Connected,
    Disconnected,
    Effects,
    Event,
    Frame,
    Intent,
    Received,
    Settings,
    StreamLimits,
    Submitted,
    TimeReached,
)
from cluster.session.identity import new_identity
from cluster.session.operations import Failure, Kind, Operation, Reply
from cluster.session.table import Answer, SessionTable, Verdict, payload_digest

KEYS = ("a", "b")
FATES = ("run", "run", "run", "unavailable", "overloaded", "lost answer", "swallow")
OK, REFUSED = 0, 1
SESSIONS_MAX = 8
WINDOW = 4


@dataclass
class ServerDocument:
    """A document as its shard judges it: the real table, and what ran, in order."""

    table: SessionTable = field(default_factory=SessionTable)
    ran: list[bytes] = field(default_factory=list)
    index: int = 0


@dataclass
class Server:
    """Runs what reaches it. `late`: copies that are still on their way when their connection is gone."""

    documents: dict[str, ServerDocument] = field(default_factory=lambda: {key: ServerDocument() for key in KEYS})
    late: deque[Operation] = field(default_factory=deque)

    def run(self, operation: Operation) -> Reply:
        if operation.payload.startswith(b"bad"):
            return Reply(operation.id, failure=Failure("INVALID_PAYLOAD", "bad", False, "no"))
        document = self.documents[operation.key]
        if operation.payload.startswith(b"absent"):
            # judged at apply by state, after the table: its number is not used up.
            verdict, _, expected = document.table.judge(operation.session, operation.sequence, b"")
            if verdict is Verdict.RUN:
                return Reply(operation.id, failure=Failure("UNKNOWN_DOCUMENT", "absent", False, "no"))
            return self.verdict(operation, verdict, None, expected)
        digest = payload_digest(operation.kind, operation.channel, operation.payload)
        verdict, stored, expected = document.table.judge(operation.session, operation.sequence, digest)
        if verdict is not Verdict.RUN:
            return self.verdict(operation, verdict, stored, expected)
        document.index += 1
        code = REFUSED if operation.payload.startswith(b"refuse") else OK
        if code == OK:
            document.ran.append(operation.payload)
        answer = Answer(operation.sequence, digest, code, operation.payload, 1, document.index)
        document.table.record(operation.session, operation.acked_through, answer, WINDOW, SESSIONS_MAX)
        return self.stored(operation, answer)

    def verdict(self, operation: Operation, verdict: Verdict, stored: Answer | None, expected: int) -> Reply:
        if verdict is Verdict.REPEAT:
            assert stored is not None
            return self.stored(operation, stored)
        reason, retryable, applied = {
            Verdict.REUSED: ("KEY_REUSED", False, "no"),
            Verdict.GAP: ("SEQUENCE_GAP", True, "no"),
            Verdict.UNKNOWN: ("OUTCOME_UNKNOWN", False, "unknown"),
        }[verdict]
        return Reply(operation.id, failure=Failure(reason, "", retryable, applied, 0, {"expected": str(expected)}))

    @staticmethod
    def stored(operation: Operation, answer: Answer) -> Reply:
        failure = None
        if answer.code == REFUSED:
            failure = Failure("HANDLER_REFUSED", "", False, "no", 0, {"name": "No"})
        return Reply(operation.id, answer.epoch, answer.index, answer.body, failure)

    def forget_sessions(self, key: str, make_session: Callable[[], bytes]) -> None:
        """Other clients push every session of this document out of its table."""
        table = self.documents[key].table
        for _ in range(SESSIONS_MAX):
            table.record(make_session(), 0, Answer(1, b"", OK, b"", 1, 1), WINDOW, SESSIONS_MAX)


class ClientAgainstServer(RuleBasedStateMachine):
    """Everything that a client, a network and a server can do to each other, one step at a time."""

    distinct = True

    @initialize()
    def begin(self) -> None:
        self.made = 0
        self.now_ms = 0.0
        self.settings = Settings(
            window=WINDOW, operation_timeout_ms=5_000, reply_timeout_ms=1_000, backoff_min_ms=10, backoff_max_ms=100
        )
        self.client = ClientSession(self.make_session, lambda: 0.5, self.settings)
        self.server = Server()
        self.connected = False
        self.session = b""
        self.to_server: deque[Operation] = deque()
        self.to_client: deque[Reply] = deque()
        self.submitted: list[Intent] = []
        self.answers: dict[int, Reply] = {}

    def make_session(self) -> bytes:
        self.made += 1
        return new_identity(self.made, b"s" * 10)

    def step(self, event: Event) -> None:
        effects: Effects = self.client.step(event, self.now_ms)
        for happened in effects.happened:
            assert isinstance(happened, Answered)
            assert happened.ticket not in self.answers, "answered twice"
            self.answers[happened.ticket] = happened.reply
        for frame in effects.frames:
            assert self.connected
            self.put(frame)
        if effects.disconnect:
            self.drop(keep=True)

    def put(self, frame: Frame) -> None:
        if frame.session:
            self.session = frame.session
        for operation in frame.operations:
            operation.session = self.session
            assert operation.acked_through < operation.sequence
            self.to_server.append(operation)

    def drop(self, keep: bool) -> None:
        """The connection is gone; what was on its way to the server may still arrive there some time."""
        if keep:
            self.server.late.extend(self.to_server)
        self.to_server.clear()
        self.to_client.clear()
        self.connected = False

    @rule(key=st.sampled_from(KEYS), kind=st.sampled_from(["", "", "", "refuse", "bad", "absent"]), count=st.integers(1, 6))
    def submit(self, key: str, kind: str, count: int) -> None:
        intents = []
        for _ in range(count):
            ticket = len(self.submitted) + 1
            payload = f"{kind} {ticket if self.distinct else 'same'}".strip().encode()
            intent = Intent(ticket, Kind.SEND.value, "text", key, "say", payload)
            self.submitted.append(intent)
            intents.append(intent)
        self.step(Submitted(intents))

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self) -> None:
        self.connected = True
        self.session = self.client.session
        self.step(Connected(StreamLimits(operations_max=3, open_operations_max=64 + 6)))

    @precondition(lambda self: self.to_server)
    @rule(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=8))
    def serve(self, fates: list[str]) -> None:
        """The server takes the next operations, each with a fate."""
        for fate in fates:
            if not self.to_server:
                return
            operation = self.to_server.popleft()
            if fate == "unavailable":
                self.to_client.append(Reply(operation.id, failure=Failure("UNAVAILABLE", "", True, "no")))
            elif fate == "overloaded":
                self.to_client.append(Reply(operation.id, failure=Failure("OVERLOADED", "", True, "no", 20)))
            elif fate == "swallow":
                self.server.late.append(operation)
                self.to_client.append(Reply(operation.id, failure=Failure("UNAVAILABLE", "", True, "unknown")))
            else:
                reply = self.server.run(operation)
                if fate == "lost answer":
                    reply = Reply(operation.id, failure=Failure("OUTCOME_UNKNOWN", "", False, "unknown"))
                self.to_client.append(reply)

    @precondition(lambda self: self.to_client)
    @rule(count=st.integers(1, 8))
    def receive(self, count: int) -> None:
        self.step(Received([self.to_client.popleft() for _ in range(min(count, len(self.to_client)))]))

    @precondition(lambda self: self.connected)
    @rule(keep=st.booleans())
    def disconnect(self, keep: bool) -> None:
        self.drop(keep)
        self.step(Disconnected())

    @precondition(lambda self: self.server.late)
    @rule(data=st.data())
    def late_copy_arrives(self, data: Any) -> None:
        at = data.draw(st.integers(0, len(self.server.late) - 1))
        operation = self.server.late[at]
        del self.server.late[at]
        self.server.run(operation)

    @rule(key=st.sampled_from(KEYS))
    def sessions_are_forgotten(self, key: str) -> None:
        self.server.forget_sessions(key, self.make_session)

    @rule(by_ms=st.sampled_from([1, 10, 50, 300, 1_500]))
    def time_passes(self, by_ms: int) -> None:
        self.now_ms += by_ms
        wake_at_ms = self.client.wake_at_ms
        if wake_at_ms is not None and wake_at_ms <= self.now_ms:
            self.step(TimeReached())

    def teardown(self) -> None:
        """The network heals: everything is answered soon, and what ran is what was said."""
        if not hasattr(self, "client"):
            return
        for _ in range(2000):
            if not self.client.queued:
                break
            if not self.connected:
                self.connect()
            while self.to_server:
                self.serve(["run"])
            while self.to_client:
                self.receive(8)
            self.time_passes(10)
        assert len(self.answers) == len(self.submitted), "not everything was answered after the network healed"
        assert self.client.queued == 0, "something stayed in the books"
        while self.server.late:
            self.server.run(self.server.late.popleft())
        self.check()

    def check(self) -> None:
        for key in KEYS:
            mine = [intent for intent in self.submitted if intent.key == key]
            ran = self.server.documents[key].ran
            order = [intent.payload for intent in mine]
            assert ran == sorted(ran, key=order.index), "writes of one document ran out of order"
            assert len(set(ran)) == len(ran), "a write ran twice"
            for intent in mine:
                failure = self.answers[intent.ticket].failure
                if failure is None:
                    assert intent.payload in ran, "a write was acknowledged and did not run"
                elif failure.applied == "no":
                    assert intent.payload not in ran, "a write was refused and ran"


class SamePayloads(ClientAgainstServer):
    """All payloads alike: then only numbers can be compared, and a late copy passes for the write that took its number."""

    distinct = False

    def check(self) -> None:
        for key in KEYS:
            mine = [intent for intent in self.submitted if intent.key == key and intent.payload == b"same"]
            failures = [self.answers[intent.ticket].failure for intent in mine]
            acknowledged = sum(failure is None for failure in failures)
            unknown = sum(failure is not None and failure.applied == "unknown" for failure in failures)
            ran = len(self.server.documents[key].ran)
            assert acknowledged <= ran <= acknowledged + unknown


TestDistinctPayloads = ClientAgainstServer.TestCase
TestDistinctPayloads.settings = settings(max_examples=100, stateful_step_count=40)
TestSamePayloads = SamePayloads.TestCase
TestSamePayloads.settings = settings(max_examples=80, stateful_step_count=40)


@pytest.mark.parametrize("reason", ["UNAVAILABLE", "OVERLOADED"])
def test_pipelined_writes_keep_their_order_when_the_first_is_refused_for_now(reason: str) -> None:
    """The trap of pipelining: the first is refused, the second accepted. The gap makes the client resend from the first."""
    machine = ClientAgainstServer()
    machine.begin()
    machine.connect()
    machine.submit("a", "", 4)
    first = machine.to_server.popleft()
    machine.to_client.append(Reply(first.id, failure=Failure(reason, "", True, "no")))
    machine.serve(["run"] * 3)
    machine.receive(4)
    machine.teardown()
    assert machine.server.documents["a"].ran == [b"1", b"2", b"3", b"4"]
