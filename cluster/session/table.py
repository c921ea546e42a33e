"""A document's memory of who has sent it what: the server's half of exactly once.

The table is part of the document's record and is judged at apply only, so all replicas judge alike. Sends on one session to one
document carry a sequence that starts at 1; only the next one runs. A repeated one gets its first answer; another payload
under it is KeyReused; a later one is a gap and the client resends from the expected one. Sequence 0 marks an idempotency
key: the session id is the key itself, it runs once, and order is nobody's.

Invariant: only a command that runs changes the table, so two replicas at one position hold equal tables.

Session ids are 16 bytes that begin with a 48-bit big-endian time of creation in Unix milliseconds (the form of UUID
version 7, RFC 9562 5.7). When the table is full the least recently used session goes and `forgotten_before_ms` rises to
its time: what is that old and unknown is OutcomeUnknown, never executed (compare Raft thesis 6.3, which leaves expiry to
the implementer). Idempotency keys are 16 arbitrary bytes; a key that was evicted is unknown and runs again, so a key
protects for as long as `sessions_max` other sessions and keys have not used the document since.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from functools import lru_cache
from zlib import crc32

from msgspec import Struct

SESSION_BYTES = 16
CHANNELS_KEPT_MAX = 4096
"""Channels whose checksum is remembered."""

_FINGERPRINT = struct.Struct(">II")


class Verdict(enum.Enum):
    """What the table says of a command."""

    RUN = "run"
    REPEAT = "repeat"
    REUSED = "reused"
    GAP = "gap"
    UNKNOWN = "unknown"
    INVALID = "invalid"


class Answer(Struct, frozen=True, array_like=True, gc=False):
    """A stored answer. `code` and `body` are the outcome's; epoch and index the position at which it was made."""

    sequence: int
    digest: bytes
    code: int
    body: bytes
    epoch: int
    index: int


class StoredSession(Struct, frozen=True, array_like=True):
    """One session as it stands in a record."""

    session: bytes
    last: int
    answers: list[Answer]


class StoredTable(Struct, frozen=True, array_like=True):
    """A whole table as it stands in a record, least recently used first."""

    forgotten_before_ms: int = 0
    sessions: list[StoredSession] = []


class _Session:
    """answers: of consecutive sequences up to `last`, oldest first."""

    __slots__ = ("answers", "last")

    def __init__(self, last: int, answers: deque[Answer]) -> None:
        self.last = last
        self.answers = answers


def payload_digest(kind: int, channel: str, payload: bytes) -> bytes:
    """What must be equal when a sequence comes back: the kind, the channel and the canonical payload.

    A checksum and the length: it tells a client of its own mistake (sessions and keys belong to one principal), so nobody gains
    by a collision, and every replica pays for it with every command.
    """
    return _FINGERPRINT.pack(crc32(payload, _channel_checksum(kind, channel)), len(payload))


@lru_cache(CHANNELS_KEPT_MAX)
def _channel_checksum(kind: int, channel: str) -> int:
    return crc32(channel.encode(), kind)


def created_ms(session: bytes) -> int:
    """When a session id was made, by its maker's clock."""
    return int.from_bytes(session[:6], "big")


_RUN: tuple[Verdict, Answer | None, int] = (Verdict.RUN, None, 0)


class SessionTable:
    """The sessions of one document, in order of last use."""

    __slots__ = ("_newest", "_sessions", "forgotten_before_ms")

    def __init__(self, stored: StoredTable | None = None) -> None:
        self.forgotten_before_ms = stored.forgotten_before_ms if stored else 0
        self._sessions: dict[bytes, _Session] = {}
        self._newest = b""
        """The session that was used last: the last one of `_sessions`."""
        if stored:
            for entry in stored.sessions:
                self._sessions[entry.session] = _Session(entry.last, deque(entry.answers))

    def __len__(self) -> int:
        return len(self._sessions)

    def judge(self, session: bytes, sequence: int, digest: bytes) -> tuple[Verdict, Answer | None, int]:
        """Say what to do with (session, sequence): the verdict, the stored answer of a repeat, and the expected sequence.

        Changes nothing. An empty session is a command that never asked for exactly once: it always runs.
        """
        if not session:
            return _RUN
        if sequence < 0:
            return Verdict.INVALID, None, 0
        known = self._sessions.get(session)
        if known is None:
            if sequence > 0 and created_ms(session) <= self.forgotten_before_ms:
                return Verdict.UNKNOWN, None, 0
            if sequence > 1:
                return Verdict.GAP, None, 1
            return _RUN
        expected = known.last + 1
        if sequence == expected > 1:
            return _RUN
        place = sequence - known.answers[0].sequence if known.answers else -1
        if 0 <= place < len(known.answers):
            answer = known.answers[place]
            return (Verdict.REPEAT if answer.digest == digest else Verdict.REUSED), answer, expected
        if sequence > 0 and known.last == 0:
            return Verdict.REUSED, None, expected  # an idempotency key: no sequence ever follows it
        if sequence > expected:
            return Verdict.GAP, None, expected
        return Verdict.UNKNOWN, None, expected

    def record(self, session: bytes, acked_through: int, answer: Answer, window: int, sessions_max: int) -> None:
        """Remember the answer of a command that ran, drop what the client has acknowledged, and keep the bounds.

        window: answers kept a session; beyond it the oldest goes (a repeat of it is OutcomeUnknown).
        sessions_max: sessions kept a document; beyond it the least recently used goes.
        """
        if not session:
            return
        if session == self._newest:
            known = self._sessions[session]
        else:
            known = self._sessions.pop(session) if session in self._sessions else _Session(0, deque())
            self._sessions[session] = known
            self._newest = session
        assert answer.sequence in (0, known.last + 1), "only the next sequence runs"
        answers = known.answers
        while answers and (answers[0].sequence <= acked_through or len(answers) >= window):
            answers.popleft()
        known.last = answer.sequence
        answers.append(answer)
        while len(self._sessions) > sessions_max:
            victim = next(iter(self._sessions))
            if victim == self._newest:
                self._newest = b""
            if self._sessions.pop(victim).last > 0:
                self.forgotten_before_ms = max(self.forgotten_before_ms, created_ms(victim))

    def stored(self) -> StoredTable:
        """The table as it goes into the record. Equal tables give equal values."""
        return StoredTable(
            self.forgotten_before_ms,
            [StoredSession(session, known.last, list(known.answers)) for session, known in self._sessions.items()],
        )
