"""Documents whose code changes in the middle of a run: each goes through every version once, and nothing is lost on the way.

What replicas hold is compared elsewhere, as always; here it is judged that a document's upgrades follow one another, that no
message runs on code older than the one it was checked against (unless the document that it was checked for was deleted and made
again meanwhile, by a leader that knew of older code), and that at the end every hook that lay on its way has run once.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

from chaos.checkers.checker import Checker
from chaos.checkers.history import Name
from chaos.checkers.violation import Violation
from cluster.documents.bundle import code_hash
from cluster.errors import StorageDamaged
from cluster.session.operations import Kind, Reply
from cluster.shard.commands import Command, CommandKind
from cluster.shard.replica import ShardReplica

if TYPE_CHECKING:
    from chaos.sim.node import SimulatedNode
    from chaos.sim.world import World

SPACE = "ledger"
Life = tuple[Name, int]
"""A document in one epoch."""


class Upgraded(Checker):
    """See the module. bundles: every version of the space's code, the oldest first, which is deployed from the beginning."""

    def __init__(self, world: World, bundles: list[bytes]) -> None:
        super().__init__(world)
        self._bundles = bundles
        self._versions = {code_hash(bundle): place for place, bundle in enumerate(bundles)}
        self._at: dict[tuple[Life, bytes], tuple[int, int]] = {}
        self._reached: dict[Name, dict[int, int]] = {}
        self._deployed = 1
        self._waiting = 0

    def deploy(self) -> None:
        """The next version, asked for until it is there: an operator waits for one before he deploys another."""
        self._waiting += 1
        if self._waiting == 1:
            self._ask()

    def _ask(self) -> None:
        payload = {"space": SPACE, "bundle": base64.b64encode(self._bundles[self._deployed]).decode()}
        self.world.operate("deploy", Kind.SEND, msgspec.json.encode(payload), self._answered)

    def _answered(self, reply: Reply) -> None:
        # It may have been decided by an attempt whose answer was lost: then nothing changes, which is no failure.
        assert reply.failure is None, reply.failure
        self.world.marks["versions_deployed"] += 1
        self._deployed += 1
        self._waiting -= 1
        if self._waiting:
            self._ask()

    def unfinished(self) -> list[str]:
        """What is not deployed yet."""
        return ["a version is not deployed yet"] if self._waiting else []

    def ran(self, node: SimulatedNode, shard: int, index: int, offset: int, command: Command) -> None:
        if command.space != SPACE or command.kind not in (CommandKind.SEND, CommandKind.UPGRADE):
            return
        live = node.pump.replicas[shard].cache.get(command.space, command.key)  # type: ignore[index]
        here, wanted = self._versions[live.code_hash], self._versions[command.code_hash]
        what = f"{command.space}/{command.key} at {live.epoch}.{live.index + 1} on {node.name}"
        if command.kind == CommandKind.SEND:
            reached = self._reached.setdefault((command.space, command.key), {})
            reached[live.epoch] = max(here, reached.get(live.epoch, 0))
            if wanted > max(version for epoch, version in reached.items() if epoch <= live.epoch):
                raise Violation("upgrades", f"{what}: a message for version {wanted + 1} runs on version {here + 1}")
            if wanted < here:
                self.world.marks["messages_of_older_code"] += 1
            return
        if wanted != here + 1:
            raise Violation("upgrades", f"{what}: an upgrade leads from version {here + 1} to {wanted + 1}")
        step = (((command.space, command.key), live.epoch), command.code_hash)
        if step not in self._at:
            self.world.marks["upgrades"] += 1
        self._reached.setdefault((command.space, command.key), {})[live.epoch] = wanted
        if self._at.setdefault(step, (index, offset)) != (index, offset):
            raise Violation("upgrades", f"{what}: it became version {wanted + 1} twice")

    def finished(self) -> None:
        """Every hook on a document's way has run once, and saw no fewer entries than the one before it."""
        for node in self.world.running():
            for replica in node.pump.replicas.values():
                for name in self.world.documents_of(replica.id) if replica.serves else ():
                    if name[0] == SPACE:
                        self._living(replica, name)

    def _living(self, replica: ShardReplica, name: Name) -> None:
        try:
            live = replica.cache.get(*name)
        except StorageDamaged:
            return  # rot that nobody has read yet
        if live.instance is not None:
            self._content(name, live.epoch, self._versions[live.code_hash])

    def _content(self, name: Name, epoch: int, version: int) -> None:
        view = self.world.final_view(name, self.world.clients[0].name)
        steps: list[int] = view.get("steps", [])
        came = sum(1 for (life, _), _ in self._at.items() if life == (name, epoch))
        if len(steps) != came or came > version:
            raise Violation("upgrades", f"{'/'.join(name)} of version {version + 1} was upgraded {came} times: {steps}")
        if steps != sorted(steps) or (steps and steps[-1] > len(view["entries"])):
            raise Violation("upgrades", f"{'/'.join(name)} lost entries at an upgrade: {steps}, {view['entries']}")
