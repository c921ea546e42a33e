"""Clients of a storm: each does one thing at whatever node is up, and checks every answer it gets."""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.session.operations import Consistency, Delta, Kind, Reply
from tests.pump.tally import session_id
from tests.pump.world import Client, World


class Actor:
    """A client stream at a random node; another one when that node went down or was left."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client: Client | None = None

    def connected(self) -> Client | None:
        """The stream, opened anew when it has to be; None while no node is up."""
        client = self.client
        if client is None or not client.node.up or client.number not in client.node.clients:
            up = [node.name for node in self.world.nodes.values() if node.up]
            if not up:
                return None
            self.client = client = self.world.client(self.world.random.choice(up))
            self.opened()
        return client

    def leave(self) -> None:
        """Go to another node: what was asked here is not heard of again."""
        if self.client is not None:
            self.client.node.pump.close_stream(self.client.number)
            self.client.node.clients.pop(self.client.number, None)
        self.client = None

    def opened(self) -> None:
        """A new stream: what was under way is unknown."""

    def step(self) -> None:
        """Look at what came, and perhaps ask for more."""


class Writer(Actor):
    """Sends its numbers to one document over one session, pipelined, until all are acknowledged."""

    def __init__(self, world: World, key: str, number: int, messages: int) -> None:
        super().__init__(world)
        self.key, self.messages = key, messages
        self.base = 1000 * (number + 1)
        self.session = session_id(number)
        self.acked = 0
        self.at = (0, 0)
        self.waiting: dict[int, int] = {}

    def opened(self) -> None:
        self.waiting = {}

    @property
    def done(self) -> bool:
        return self.acked == self.messages

    def step(self) -> None:
        client = self.connected()
        if client is None:
            return
        for number, sequence in list(self.waiting.items()):
            for reply in client.replies.get(number, []):
                self.waiting.pop(number, None)
                if reply.failure is None and sequence == self.acked + 1:
                    assert (reply.epoch, reply.index) > self.at, "answers of one session rise"
                    self.at = (reply.epoch, reply.index)
                    self.acked = sequence
        chance = self.world.random.random()
        if not self.waiting and chance < 0.1:
            for sequence in range(self.acked + 1, min(self.acked + 3, self.messages) + 1):
                self.waiting[self.submit(sequence)] = sequence
        elif chance > 0.995:
            self.leave()

    def submit(self, sequence: int) -> int:
        assert self.client is not None
        more: dict[str, Any] = {"session": self.session, "sequence": sequence, "acked_through": self.acked}
        return self.client.submit(Kind.SEND, self.key, "add", {"amount": self.base + sequence}, **more)


class Watcher(Actor):
    """Follows one document and rebuilds its numbers from what it is sent, going on where it stood after every loss."""

    def __init__(self, world: World, key: str) -> None:
        super().__init__(world)
        self.key = key
        self.numbers: list[int] = []
        self.at = (0, -1)
        self.watch = 0
        self.seen = 0

    def opened(self) -> None:
        assert self.client is not None
        epoch, index = self.at
        self.watch = self.client.submit(Kind.WATCH, self.key, "", None, epoch=epoch, index=index, credit=self.credit())
        self.seen = 0

    def credit(self) -> int:
        return self.world.random.choice([200, 1 << 20])

    def step(self) -> None:
        client = self.connected()
        if client is None:
            return
        while self.client is client and self.seen < len(client.order):
            event = client.order[self.seen]
            self.seen += 1
            if isinstance(event, Delta):
                self.take(event)
            elif event.failure is not None:
                self.refused(event)
        if self.client is client and self.world.random.random() < 0.002:
            self.leave()

    def take(self, delta: Delta) -> None:
        assert delta.watch == self.watch
        if delta.failure is not None:
            self.ended(delta)
            return
        now = (delta.epoch, delta.index)
        assert now >= self.at, "a position never goes back"
        if delta.reset:
            self.numbers = msgspec.json.decode(delta.body)["numbers"]
        else:
            assert (delta.from_epoch, delta.from_index) == self.at, "a patch starts where the last one ended"
            self.numbers += [operation["value"] for operation in msgspec.json.decode(delta.body)]
        self.at = now
        assert self.client is not None
        self.client.node.pump.streams.grant(self.client.number, self.watch, len(delta.body) + 32)

    def ended(self, delta: Delta) -> None:
        assert delta.failure is not None
        assert delta.failure.reason == "DOCUMENT_DELETED"
        self.leave()

    def refused(self, reply: Reply) -> None:
        assert reply.failure is not None
        assert reply.failure.retryable or reply.failure.reason in ("DOCUMENT_DELETED", "UNKNOWN_DOCUMENT"), reply.failure
        self.leave()


class ReaderOf(Actor):
    """Linearizable reads: whatever was acknowledged before one began is in it."""

    def __init__(self, world: World, key: str, writers: list[Writer]) -> None:
        super().__init__(world)
        self.key, self.writers = key, writers
        self.asked: tuple[int, list[int]] | None = None
        self.answered = 0

    def opened(self) -> None:
        self.asked = None

    def step(self) -> None:
        client = self.connected()
        if client is None:
            return
        if self.asked is not None:
            number, acked = self.asked
            for reply in client.replies.get(number, []):
                self.asked = None
                if reply.failure is None:
                    self.answered += 1
                    numbers = set(msgspec.json.decode(reply.payload)["numbers"])
                    for writer, through in zip(self.writers, acked, strict=True):
                        wanted = range(writer.base + 1, writer.base + through + 1)
                        assert numbers.issuperset(wanted), "a read misses what was acknowledged before it began"
        elif self.world.random.random() < 0.05:
            self.asked = (client.submit(Kind.READ, self.key), [writer.acked for writer in self.writers])
        elif self.world.random.random() < 0.01:
            self.leave()


class Recreator(Actor):
    """Creates, changes and deletes one document in turn, each under an idempotency key that it repeats at random nodes until it
    has an answer: every epoch has exactly these three commands.
    """

    def __init__(self, world: World, key: str, number: int, rounds: int) -> None:
        super().__init__(world)
        self.key, self.rounds = key, rounds
        self.key_base = 10_000 * (number + 1)
        self.place = 0
        self.asked = 0

    def opened(self) -> None:
        self.asked = 0

    @property
    def done(self) -> bool:
        return self.place == 3 * self.rounds

    def step(self) -> None:
        client = self.connected()
        if client is None or self.done:
            return
        if self.asked:
            for reply in client.replies.get(self.asked, []):
                self.asked = 0
                if reply.failure is None:
                    assert (reply.epoch, reply.index) == (self.place // 3 + 1, self.place % 3 + 1), "exactly once"
                    self.place += 1
                else:
                    assert reply.failure.retryable, reply.failure
                if self.world.random.random() < 0.5:
                    self.leave()
        elif self.world.random.random() < 0.1:
            kind = (Kind.CREATE, Kind.SEND, Kind.DELETE)[self.place % 3]
            channel = "add" if kind is Kind.SEND else ""
            more: dict[str, Any] = {"session": session_id(self.key_base + self.place)}
            self.asked = client.submit(kind, self.key, channel, {"amount": 1} if channel else {}, **more)
        elif self.world.random.random() < 0.01:
            self.leave()


class Racer(Actor):
    """One of those who try to create the same documents: of all racers exactly one succeeds at each."""

    def __init__(self, world: World, number: int, keys: int, won: dict[str, int]) -> None:
        super().__init__(world)
        self.number, self.keys, self.won = number, keys, won
        self.place = 0
        self.asked = 0

    def opened(self) -> None:
        self.asked = 0

    @property
    def done(self) -> bool:
        return self.place == self.keys

    def step(self) -> None:
        client = self.connected()
        if client is None or self.done:
            return
        key = f"race-{self.place}"
        if self.asked:
            for reply in client.replies.get(self.asked, []):
                self.asked = 0
                if reply.failure is None:
                    assert key not in self.won, "two created the same document"
                    self.won[key] = self.number
                if reply.failure is None or not reply.failure.retryable:
                    assert reply.failure is None or reply.failure.reason == "DOCUMENT_EXISTS", reply.failure
                    self.place += 1
        elif self.world.random.random() < 0.05:
            identity = session_id(1_000_000 * (self.number + 1) + self.place)
            self.asked = client.submit(Kind.CREATE, key, "", {}, session=identity)
        elif self.world.random.random() < 0.01:
            self.leave()


class FreshReader(Actor):
    """Reads at a position that somebody was told, at any node: never older than that."""

    def __init__(self, world: World, key: str, writer: Writer) -> None:
        super().__init__(world)
        self.key, self.writer = key, writer
        self.asked: tuple[int, tuple[int, int]] | None = None

    def opened(self) -> None:
        self.asked = None

    def step(self) -> None:
        client = self.connected()
        if client is None:
            return
        if self.asked is not None:
            number, at = self.asked
            for reply in client.replies.get(number, []):
                self.asked = None
                if reply.failure is None:
                    assert (reply.epoch, reply.index) >= at
                else:
                    assert reply.failure.retryable, reply.failure
        elif self.writer.acked and self.world.random.random() < 0.05:
            epoch, index = self.writer.at
            more = {"consistency": Consistency.AT_LEAST, "epoch": epoch, "index": index}
            self.asked = (client.submit(Kind.READ, self.key, "", None, **more), self.writer.at)
        elif self.world.random.random() < 0.02:
            self.leave()
