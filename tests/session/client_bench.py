"""One client session on a bench: what it is told, what it sends, and short ways to answer it."""

from __future__ import annotations

from typing import Any

from cluster.errors import StorageFull
from cluster.session.client import ClientSession
from cluster.session.client_events import (
    Answered,
    Connected,
    Effects,
    Intent,
    Settings,
    StreamLimits,
    Submitted,
    TimeReached,
)
from cluster.session.failures import failure_of
from cluster.session.identity import new_identity
from cluster.session.operations import Failure, Kind, Operation, Reply

UNAVAILABLE = Failure("UNAVAILABLE", "", True, "no")
STORAGE_FULL = failure_of(StorageFull("full", retry_after_ms=1000))
SETTINGS = Settings(
    window=3, operation_timeout_ms=1_000, reply_timeout_ms=400, backoff_min_ms=10, backoff_max_ms=100, watch_credit_bytes=1000
)


class Bench:
    """A client session with its time in hand."""

    def __init__(self, settings: Settings = SETTINGS, limits: StreamLimits | None = None) -> None:
        self.made = 0
        self.now_ms = 1000.0
        self.client = ClientSession(self.make_session, lambda: 0.5, settings)
        self.limits = limits or StreamLimits()
        self.tickets = 0

    def make_session(self) -> bytes:
        self.made += 1
        return new_identity(self.made, b"0123456789")

    def step(self, event: Any) -> Effects:
        return self.client.step(event, self.now_ms)

    def connect(self) -> list[Operation]:
        return sent(self.step(Connected(self.limits)))

    def after(self, ms: float) -> Effects:
        self.now_ms += ms
        return self.step(TimeReached())

    def send(self, *payloads: bytes, key: str = "a", kind: Kind = Kind.SEND) -> Effects:
        intents = []
        for payload in payloads:
            self.tickets += 1
            intents.append(Intent(self.tickets, kind.value, "text", key, "say", payload))
        return self.step(Submitted(intents))

    def read(self, key: str = "a", **options: int) -> Effects:
        self.tickets += 1
        return self.step(Submitted([Intent(self.tickets, Kind.READ.value, "text", key, **options)]))  # type: ignore[arg-type]


def sent(effects: Effects) -> list[Operation]:
    return [operation for frame in effects.frames for operation in frame.operations]


def numbers(operations: list[Operation]) -> list[tuple[int, bytes]]:
    return [(operation.sequence, operation.payload) for operation in operations]


def answers(effects: Effects) -> list[tuple[int, str]]:
    """(ticket, reason) of what was answered; the reason is empty for success."""
    return [
        (happened.ticket, happened.reply.failure.reason if happened.reply.failure else "")
        for happened in effects.happened
        if isinstance(happened, Answered)
    ]


def ok(operation: Operation, index: int | None = None) -> Reply:
    return Reply(operation.id, 1, operation.sequence if index is None else index, b"")


def gap(operation: Operation, expected: int) -> Reply:
    return Reply(operation.id, failure=Failure("SEQUENCE_GAP", "", True, "no", 0, {"expected": str(expected)}))
