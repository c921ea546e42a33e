"""Entries that this leader proposed and has not applied yet, and who waits for them.

Invariant: whoever waits is answered once: by apply when the entry is applied, or by `lose` when this replica can no longer
say what comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.empty import NO_ITEMS
from cluster.errors import Applied, Unavailable
from cluster.ids import LogIndex, Term
from cluster.session.failures import failure_of
from cluster.session.operations import Reply
from cluster.shard.apply import Origin
from cluster.shard.commands import Command
from cluster.shard.turn import Turn

COMMANDS_WAITING_MAX = 65_536
"""Commands proposed here and not applied yet; beyond it further ones are refused. Raft bounds what waits for commit, this what
waits for a slow or stalled apply."""


@dataclass(slots=True)
class Proposed:
    """An entry on its way: who waits for it, and the commands (for what is pipelined behind a creation)."""

    index: LogIndex
    term: Term
    origins: list[Origin]
    commands: list[Command]


class Proposals:
    """In log order. A list, for a deque that is empty takes 600 bytes and most shards propose nothing; a full one is short."""

    __slots__ = (
        "_commands",
        "_waiting",
    )

    def __init__(self) -> None:
        self._waiting: list[Proposed] = NO_ITEMS
        self._commands = 0

    @property
    def full(self) -> bool:
        return self._commands >= COMMANDS_WAITING_MAX

    def add(self, proposed: Proposed) -> None:
        if not self._waiting:
            self._waiting = []
        self._waiting.append(proposed)
        self._commands += len(proposed.commands)

    def at(self, index: LogIndex) -> Proposed | None:
        """The oldest one, if it is entry `index`."""
        return self._waiting[0] if self._waiting and self._waiting[0].index == index else None

    def applied(self, proposed: Proposed) -> None:
        """The oldest one was applied, and everybody answered."""
        assert self._waiting[0] is proposed, "entries are applied in order"
        del self._waiting[0]
        self._commands -= len(proposed.commands)

    def lose(self, turn: Turn) -> None:
        """Tell all who wait that the outcome is unknown: what was proposed may still be committed."""
        error = Unavailable("leadership ended while the command was on its way", applied=Applied.UNKNOWN, retry_after_ms=20)
        failure = failure_of(error)
        for proposed in self._waiting:
            for stream, operation in proposed.origins:
                turn.reply(stream, Reply(operation, 0, 0, b"", failure))
        self._waiting.clear()
        self._commands = 0
