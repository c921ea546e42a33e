"""`Command`: what a write handler may observe beside the state, all of it carried by the command itself.

The random stream is a contract, so that anybody can recompute what a document drew. For purpose P (16 bytes at most) and
counter i = 0, 1, 2, ... block i is

    BLAKE2b(i as 8 bytes little-endian, key=seed, person=P, digest_size=64)

and the stream is the blocks one after the other. `ctx.random` reads purpose `moot.random`, `ctx.new_id` purpose `moot.id`,
row ids of tables purpose `moot.row`, ids of asks purpose `moot.ask`; an integer of n bytes is read little-endian. `below(n)`
reads the fewest whole bytes that hold n - 1, shifts the excess low bits off, and reads again while the value is not below n:
all values are equally likely.

Invariant: equal invocations give equal draws in every process and Python. Nothing here looks at a clock or at the system's
randomness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, MutableSequence, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, Final, TypeVar, TypeVarTuple
from uuid import UUID

from msgspec import Struct

from cluster.documents import emitting
from cluster.documents.armed import EPOCH_MS_MAX, EVERY_MIN, MADE_ID, Armed, milliseconds, moment_ms
from cluster.documents.maybe import Maybe
from cluster.documents.meter import charge, charge_items
from cluster.documents.state import Event
from cluster.ids import Principal

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK_BYTES: Final = 64


class Stream:
    """The counter stream of one seed and purpose."""

    __slots__ = ("_at", "_block", "_counter", "_purpose", "_seed")

    def __init__(self, seed: bytes, purpose: bytes) -> None:
        self._seed = seed
        self._purpose = purpose
        self._counter = 0
        self._block = b""
        self._at = 0

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        taken = self._block[self._at : self._at + count]
        self._at += len(taken)
        while len(taken) < count:
            self._block = hashlib.blake2b(
                self._counter.to_bytes(8, "little"), key=self._seed, person=self._purpose, digest_size=_BLOCK_BYTES
            ).digest()
            self._counter += 1
            self._at = min(count - len(taken), _BLOCK_BYTES)
            taken += self._block[: self._at]
        return taken

    def integer(self, count: int) -> int:
        """The next `count` bytes as a number."""
        return int.from_bytes(self.read(count), "little")


class Random:
    """`ctx.random`: draws from the command's seed. Every draw costs steps; nobody who does not know the seed can guess it."""

    __slots__ = ("_stream",)

    def __init__(self, seed: bytes) -> None:
        self._stream = Stream(seed, b"moot.random")

    def below(self, stop: int) -> int:
        """A number in 0 .. stop - 1, each equally likely. Raises ValueError when stop is not positive."""
        if stop <= 0:
            raise ValueError("the range to draw from is empty")
        bits = (stop - 1).bit_length()
        count = (bits + 7) // 8
        charge(2 + count // 8)
        excess = count * 8 - bits
        while True:
            drawn = self._stream.integer(count) >> excess
            if drawn < stop:
                return drawn
            charge(1)

    def integer(self, low: int, high: int) -> int:
        """A number in low .. high, both included."""
        return low + self.below(high - low + 1)

    def random(self) -> float:
        """A number in [0, 1) with 53 random bits."""
        charge(2)
        return float(self._stream.integer(7) >> 3) / (1 << 53)

    def bytes(self, count: int) -> bytes:
        """`count` random bytes."""
        charge_items(16 + count)
        return self._stream.read(count)

    def choice(self, items: Sequence[T]) -> T:
        """One of the items. Raises IndexError when there is none."""
        if not items:
            raise IndexError("nothing to choose from")
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Put the items in a random order, in place (Fisher and Yates, from the end)."""
        for at in range(len(items) - 1, 0, -1):
            other = self.below(at + 1)
            items[at], items[other] = items[other], items[at]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order. Raises ValueError when there are not that many."""
        if not 0 <= count <= len(items):
            raise ValueError("there are not so many items to choose from")
        charge_items(len(items))
        pool = list(items)
        for at in range(count):
            other = at + self.below(len(pool) - at)
            pool[at], pool[other] = pool[other], pool[at]
        return pool[:count]


class Command:
    """The running command.

    sender: who sent it. now: the position's time, aware, UTC. index: the document's command counter. random: see Random.
    cause: the id of the alarm that rings or of the ask that is answered, the name of the connection that came or went; empty
        in other handlers.
    """

    __slots__ = ("_armed", "_asks", "_ids", "_made", "_now_ms", "_random", "_seed", "cause", "index", "sender")

    def __init__(
        self, sender: Principal, now_ms: int, seed: bytes, index: int, armed: Armed | None = None, cause: str = ""
    ) -> None:
        self.sender = sender
        self.index = index
        self.cause = cause
        self._now_ms = now_ms
        self._seed = seed
        self._armed = armed
        self._made = 0
        self._random: Random | None = None
        self._ids: Stream | None = None
        self._asks: Stream | None = None

    @property
    def now(self) -> datetime:
        """The position's time, aware, UTC: the same in every replay."""
        return EPOCH + timedelta(milliseconds=self._now_ms)

    @property
    def random(self) -> Random:
        """Random numbers from the command's seed."""
        if self._random is None:
            self._random = Random(self._seed)
        return self._random

    def new_id(self) -> UUID:
        """A fresh id (a version 8 UUID) that follows from the seed."""
        charge(4)
        if self._ids is None:
            self._ids = Stream(self._seed, b"moot.id")
        return _uuid(self._ids)

    # Time

    def after(
        self,
        delay: timedelta,
        handler: Callable[[Command, *Arguments], object],
        *args: *Arguments,
        id: str | None = None,
    ) -> str:
        """Have an @on.alarm handler run `delay` from now, with these arguments. Returns the alarm's id.

        id: a name of your own; arming it again replaces the alarm. Without one each call arms another alarm.
        Rolled back with the command; when it fires it is a command of its own. Raises TypeError or ValueError.
        """
        return self._arm(self._now_ms + milliseconds(delay), 0, handler, args, id)

    def at(
        self,
        moment: datetime,
        handler: Callable[[Command, *Arguments], object],
        *args: *Arguments,
        id: str | None = None,
    ) -> str:
        """As `after`, at a moment with a time zone; one that is past is due at once."""
        return self._arm(moment_ms(moment, EPOCH), 0, handler, args, id)

    def every(
        self,
        interval: timedelta,
        handler: Callable[[Command, *Arguments], object],
        *args: *Arguments,
        id: str | None = None,
    ) -> str:
        """As `after`, again and again until it is cancelled: first one interval from now. Beats that were missed are not made
        up for. Raises ValueError below 100 ms.
        """
        every_ms = milliseconds(interval)
        if interval < EVERY_MIN:
            raise ValueError(f"an alarm rings at most every {EVERY_MIN // timedelta(milliseconds=1)} ms")
        return self._arm(self._now_ms + every_ms, every_ms, handler, args, id)

    def cancel(self, what: str | Callable[..., object]) -> int:
        """Disarm an alarm or an ask by its id, or all of a handler's. Returns how many there were."""
        charge(4)
        return 0 if self._armed is None else self._armed.cancel(what)

    def _arm(self, due_ms: int, every_ms: int, handler: Callable[..., object], args: tuple[object, ...], id: str | None) -> str:
        charge(8)
        if self._armed is None:
            raise TypeError("an @on.alarm handler of this document is needed, such as self.name")
        if not due_ms <= EPOCH_MS_MAX:
            raise ValueError("an alarm rings before the year 10000")
        self._made += 1
        return self._armed.arm(max(due_ms, 0), every_ms, handler, args, id, f"{MADE_ID}{self.index}.{self._made}")

    # The outside world

    def ask(
        self,
        to: Principal,
        request: object,
        then: Callable[Concatenate[Command, Maybe[Any], ...], object],
        within: timedelta,
    ) -> str:
        """Ask somebody for something. The @on.answer handler `then` gets the first answer, or an empty Maybe when none came
        `within` that time. Returns the ask's id, which nobody can guess.

        request: a Record, or a plain value. Rolled back with the command. Raises TypeError or ValueError.
        """
        charge(8)
        due_ms = self._now_ms + milliseconds(within)
        if not self._now_ms < due_ms <= EPOCH_MS_MAX:
            raise ValueError("an answer is waited for longer than no time, and at most until the year 9999")
        if self._armed is None:
            raise TypeError("an @on.answer handler of this document is needed, such as self.name")
        if self._asks is None:
            self._asks = Stream(self._seed, b"moot.ask")
        id = str(_uuid(self._asks))
        self._armed.ask(to, request, then, due_ms, id)
        return id

    # Passing by

    def emit(self, event: Event, to: Callable[..., bool] | None = None) -> None:
        """Show something once to those who watch now, when this command has ended well; nothing stores it.

        event: of a class of yours that derives from Event; viewers get its name and fields, with this command's position.
        to: a @read.policy, (self, who) or (self, event, who), asked of the state when it is delivered; None is for all who
        watch. A command emits at most 32 events and 16 KiB: budget `events`. Raises TypeError.
        """
        emitting.emit(event, to)


def _uuid(stream: Stream) -> UUID:
    return UUID(int=stream.integer(16) & ~(0xF000 << 64) & ~(0xC000 << 48) | 0x8000 << 64 | 0x8000 << 48)


class RowIds(Struct, gc=False):
    """Where a journal takes its row ids from; costs next to nothing until one is needed."""

    seed: bytes
    stream: Stream | None = None

    def __call__(self) -> int:
        if self.stream is None:
            self.stream = Stream(self.seed, b"moot.row")
        return self.stream.integer(8)
