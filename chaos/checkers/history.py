"""What clients asked and what they were told, in the order of the one clock that only a simulation has."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.session.operations import Consistency, Kind, Reply

Name = tuple[str, str]
"""(space, key) of a document."""
Place = tuple[int, int]
"""(epoch, index) of a document."""
NOWHERE: Place = (0, 0)


@dataclass(slots=True)
class Call:
    """One operation of one client. client: its name. number: its place among all calls.

    floor: newest position of the document that anybody had been told when the call began. own_floor: that this client had.
    patience_ms: after so long the client asks no more and takes the outcome as unknown. attempts: how often a unary call was
    sent, under one key.
    """

    number: int
    client: str
    kind: Kind
    name: Name
    channel: str
    payload: bytes
    consistency: Consistency
    alone: bool
    began_ms: float
    floor: Place
    own_floor: Place
    patience_ms: float = float("inf")
    attempts: int = 1
    ended_ms: float | None = None
    reply: Reply | None = None

    @property
    def ok(self) -> bool:
        return self.reply is not None and self.reply.failure is None

    @property
    def gave_up(self) -> bool:
        """Whether it was the client that ended it, because its time was up."""
        return self.ended_ms is not None and self.ended_ms >= self.began_ms + self.patience_ms

    @property
    def told_unchanged(self) -> bool:
        """Whether the client was told, by its own session, that this write has not run and never will."""
        failure = self.reply.failure if self.reply is not None else None
        return not self.alone and failure is not None and failure.reason == "UNAVAILABLE" and failure.applied == "no"

    @property
    def place(self) -> Place:
        assert self.reply is not None
        return (self.reply.epoch, self.reply.index)

    def __str__(self) -> str:
        what = f"{self.channel}{self.payload.decode()}" if self.channel or self.payload else ""
        text = f"{self.began_ms:8.1f} {self.client:<4} {self.kind.name.lower():<7} {'/'.join(self.name)} {what}"
        if self.reply is None:
            return f"{text} ... no answer"
        failure = self.reply.failure
        told = (
            f"{self.reply.epoch}.{self.reply.index} {self.reply.payload.decode()[:60]}" if failure is None else failure.reason
        )
        return f"{text} -> {self.ended_ms:.1f} {told}"


@dataclass(slots=True)
class History:
    """All calls, and the newest position of each document that anybody, and each client, was told."""

    calls: list[Call] = field(default_factory=list)
    told: dict[Name, Place] = field(default_factory=dict)
    told_to: dict[tuple[str, Name], Place] = field(default_factory=dict)

    def begin(
        self,
        client: str,
        kind: Kind,
        name: Name,
        channel: str,
        payload: bytes,
        consistency: Consistency,
        alone: bool,
        now_ms: float,
        patience_ms: float,
    ) -> Call:
        floor = self.told.get(name, NOWHERE)
        own = self.told_to.get((client, name), NOWHERE)
        call = Call(len(self.calls), client, kind, name, channel, payload, consistency, alone, now_ms, floor, own, patience_ms)
        self.calls.append(call)
        return call

    def end(self, call: Call, reply: Reply, now_ms: float) -> None:
        assert call.reply is None, "a call ends once"
        call.reply, call.ended_ms = reply, now_ms

    def learn(self, client: str, name: Name, place: Place) -> None:
        """`client` was told that the document is at `place`."""
        self.told[name] = max(self.told.get(name, NOWHERE), place)
        key = (client, name)
        self.told_to[key] = max(self.told_to.get(key, NOWHERE), place)

    @property
    def open(self) -> list[Call]:
        return [call for call in self.calls if call.reply is None]
