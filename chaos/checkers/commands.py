"""What ran: the same command at the same place everywhere, and each numbered command at one place only.

Between a crash and the next synced record a replica runs commands again; that is replay, at the same place. The same (document,
session, sequence) at two places is a command that ran twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.checkers.checker import Checker
from chaos.checkers.violation import Violation
from cluster.ids import ShardId
from cluster.shard.commands import Command

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

Where = tuple[int, int, int]
"""(shard, entry index, offset)."""


class Commands(Checker):
    """See the module. `ran_at`: where each numbered command ran; `order`: the sequences of each session as they ran."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ran_at: dict[tuple[str, str, bytes, int], Where] = {}
        self._at: dict[Where, Command] = {}
        self._last: dict[tuple[str, str, bytes], tuple[Where, int]] = {}
        self._forgotten: dict[tuple[str, str], tuple[Where, set[bytes]]] = {}
        self._users: dict[tuple[str, str], list[bytes]] = {}

    def ran(self, node: SimulatedNode, shard: int, index: int, offset: int, command: Command) -> None:
        where = (shard, index, offset)
        if index not in self.world.consensus.committed.get(ShardId(shard), ()):
            raise Violation("state machine safety", f"{node.name} runs entry {index} of shard {shard}, which is not committed")
        first = self._at.setdefault(where, command)
        if first is not command and first != command:
            raise Violation(
                "state machine safety", f"{node.name} runs another command at shard, entry, offset {where} than others"
            )
        if not command.session or first is not command:
            return
        name = (command.space, command.key, command.session, command.sequence)
        forgotten = self._forgotten.get(name[:2])
        if forgotten is not None and where < forgotten[0] and command.session not in forgotten[1]:
            return
        self._users.setdefault(name[:2], []).append(command.session)
        if self.ran_at.setdefault(name, where) != where and (command.sequence or self._remembered(name[:2], command.session)):
            raise Violation(
                "exactly once",
                f"{node.name} runs {command.channel or command.kind} {command.payload.decode()} of "
                f"{command.space}/{command.key} (sequence {command.sequence}) at {where}; it ran at {self.ran_at[name]} before",
            )
        if command.sequence:
            self._in_order(command, where)

    def forget(self, document: tuple[str, str], where: Where, remembered: set[bytes]) -> None:
        """A document went on as one replica had it: what others ran before that, and it does not remember, has not run."""
        self._forgotten[document] = where, remembered
        gone = [name for name in self.ran_at if name[:2] == document and name[2] not in remembered]
        for name in gone:
            del self.ran_at[name]

    def crowded(self, document: tuple[str, str]) -> bool:
        """Whether more sessions and keys have used a document than its table holds."""
        return len(set(self._users.get(document, ()))) > self.world.scenario.limits.sessions_max

    def _remembered(self, document: tuple[str, str], key: bytes) -> bool:
        """Whether the table still owed the memory of a key that comes again: few enough others have come since."""
        users = self._users[document][:-1]
        since = len(users) - 1 - users[::-1].index(key) if key in users else 0
        return len(set(users[since + 1 :])) < self.world.scenario.limits.sessions_max

    def _in_order(self, command: Command, where: Where) -> None:
        """Seen for the first time: it must be the next of its session at this document."""
        session = (command.space, command.key, command.session)
        last_where, last = self._last.get(session, ((0, 0, 0), 0))
        if where > last_where:
            if command.sequence != last + 1:
                raise Violation(
                    "order", f"sequence {command.sequence} of a session at {command.space}/{command.key} ran after {last}"
                )
            self._last[session] = (where, command.sequence)
