"""A viewer behind a bad network and lagging replicas: every step it is shown is a state that the document had, steps only go
forward, and once the network heals it has the document's present state."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cluster.session.client import ClientSession
from cluster.session.client_events import (
    Changed,
    Connected,
    Consumed,
    Disconnected,
    Effects,
    Event,
    Received,
    Settings,
    StreamLimits,
    TimeReached,
    Unwatched,
    Watched,
)
from cluster.session.identity import new_identity
from cluster.session.operations import DELTA_OVERHEAD_BYTES, Delta, Failure, Kind, Operation, Reply

RING = 4
CREDIT = 1000


class Subscription:
    """What a replica knows of one watch: where the viewer is, and its credit."""

    def __init__(self, operation: Operation) -> None:
        self.id = operation.id
        self.at = (operation.epoch, operation.index)
        self.credit = operation.credit


class ViewerAgainstReplicas(RuleBasedStateMachine):
    """The document's state is the list of all values it was ever given in this epoch; a patch is the list of the new ones."""

    @initialize()
    def begin(self) -> None:
        self.now_ms = 0.0
        self.client = ClientSession(
            lambda: new_identity(1, b"0123456789"),
            lambda: 0.5,
            Settings(watch_credit_bytes=CREDIT, backoff_min_ms=10, backoff_max_ms=50),
        )
        self.histories: dict[int, list[int]] = {1: []}
        self.epoch = 1
        self.values = 0
        self.connected = False
        self.replica = (1, 0)
        self.subscriptions: dict[int, Subscription] = {}
        self.to_server: deque[Operation | tuple[int, int]] = deque()
        self.to_client: deque[Reply | Delta] = deque()
        self.state: list[int] = []
        self.at = (0, -1)
        self.unconsumed = 0
        self.step(Watched(1, "text", "a"))

    @property
    def head(self) -> tuple[int, int]:
        return self.epoch, len(self.histories[self.epoch])

    def step(self, event: Event) -> None:
        effects: Effects = self.client.step(event, self.now_ms)
        for happened in effects.happened:
            assert isinstance(happened, Changed)
            self.show(happened.delta)
        for frame in effects.frames:
            self.to_server.extend(frame.operations)
            self.to_server.extend(frame.grants)

    def show(self, delta: Delta) -> None:
        there = (delta.epoch, delta.index)
        values = json.loads(delta.body)
        if delta.reset:
            self.state = values
        else:
            assert (delta.from_epoch, delta.from_index) == self.at, "a patch was shown on a state that it does not fit"
            self.state = self.state + values
        assert there >= self.at, "the viewer was taken back"
        assert self.state == self.histories[delta.epoch][: delta.index], "the document never was in this state"
        self.at = there
        self.unconsumed += len(delta.body) + DELTA_OVERHEAD_BYTES

    def catch_up(self, subscription: Subscription) -> None:
        """What a replica does for a viewer with credit: the patch from its ring, or the whole view."""
        epoch, index = self.replica
        if subscription.credit <= 0 or subscription.at == self.replica:
            return
        values = self.histories[epoch][:index]
        seen_epoch, seen_index = subscription.at
        patch = seen_epoch == epoch and 0 <= seen_index <= index and index - seen_index <= RING
        body = json.dumps(values[seen_index:] if patch else values).encode()
        self.to_client.append(Delta(subscription.id, seen_epoch, max(seen_index, 0), epoch, index, not patch, body))
        subscription.at = self.replica
        subscription.credit -= len(body) + DELTA_OVERHEAD_BYTES

    def serve(self) -> None:
        item = self.to_server.popleft()
        if isinstance(item, tuple):
            subscription = self.subscriptions.get(item[0])
            if subscription is not None:
                subscription.credit += item[1]
                assert subscription.credit <= CREDIT, "credit was made from nothing"
                self.catch_up(subscription)
        elif item.kind == Kind.WATCH:
            assert 0 < item.credit <= CREDIT
            self.subscriptions[item.id] = Subscription(item)
            self.to_client.append(Reply(item.id, *self.replica))
            self.catch_up(self.subscriptions[item.id])
        else:
            self.subscriptions.pop(item.id, None)
            self.to_client.append(Reply(item.id))

    @rule(count=st.integers(1, 7))
    def document_changes(self, count: int) -> None:
        for _ in range(count):
            self.values += 1
            self.histories[self.epoch].append(self.values)

    @rule()
    def document_begins_again(self) -> None:
        self.epoch += 1
        self.histories[self.epoch] = []

    @rule(data=st.data())
    def replica_applies(self, data: Any) -> None:
        """The replica that serves this stream moves on, not always as far as the head."""
        epoch = data.draw(st.integers(self.replica[0], self.epoch))
        low = self.replica[1] if epoch == self.replica[0] else 0
        self.replica = (epoch, data.draw(st.integers(low, len(self.histories[epoch]))))
        for subscription in self.subscriptions.values():
            self.catch_up(subscription)

    @precondition(lambda self: not self.connected)
    @rule(data=st.data())
    def connect(self, data: Any) -> None:
        """To a replica that may be anywhere in the document's past."""
        epoch = data.draw(st.integers(1, self.epoch))
        self.replica = (epoch, data.draw(st.integers(0, len(self.histories[epoch]))))
        self.open()

    def open(self) -> None:
        self.connected = True
        self.subscriptions.clear()
        self.step(Connected(StreamLimits()))

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self) -> None:
        self.connected = False
        self.to_server.clear()
        self.to_client.clear()
        self.subscriptions.clear()
        self.step(Disconnected())

    @precondition(lambda self: self.to_server)
    @rule(count=st.integers(1, 3))
    def server_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.to_server))):
            self.serve()

    @precondition(lambda self: self.to_client)
    @rule(count=st.integers(1, 4))
    def client_reads(self, count: int) -> None:
        self.step(Received([self.to_client.popleft() for _ in range(min(count, len(self.to_client)))]))

    @precondition(lambda self: self.subscriptions)
    @rule(reason=st.sampled_from(["NOT_LEADER", "HISTORY_TRIMMED", "POSITION_REWOUND"]))
    def server_ends_the_watch(self, reason: str) -> None:
        identifier, _ = self.subscriptions.popitem()
        failure = Failure(reason, "", reason == "NOT_LEADER", "no")
        self.to_client.append(Delta(identifier, 0, 0, 0, 0, failure=failure))

    @precondition(lambda self: self.to_client)
    @rule()
    def a_delta_comes_twice(self) -> None:
        if isinstance(self.to_client[0], Delta) and self.to_client[0].failure is None:
            self.to_client.insert(1, self.to_client[0])

    @rule()
    def application_consumes(self) -> None:
        size, self.unconsumed = self.unconsumed, 0
        self.step(Consumed(1, size))

    @rule(by_ms=st.sampled_from([5, 20, 100]))
    def time_passes(self, by_ms: int) -> None:
        self.now_ms += by_ms
        self.step(TimeReached())

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        for _ in range(100):
            if self.at == self.head and not self.to_client:
                break
            if not self.connected:
                self.open()
            self.replica = self.head
            for subscription in self.subscriptions.values():
                self.catch_up(subscription)
            while self.to_server:
                self.serve()
            while self.to_client:
                self.client_reads(4)
            self.application_consumes()
            self.time_passes(50)
        assert self.at == self.head, "the viewer did not reach the present after the network healed"
        assert self.state == self.histories[self.epoch]
        self.step(Unwatched(1))


TestViewerAgainstReplicas = ViewerAgainstReplicas.TestCase
TestViewerAgainstReplicas.settings = settings(max_examples=150, stateful_step_count=40)
