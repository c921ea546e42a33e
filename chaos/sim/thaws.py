"""An operator who decides what a document is that no majority could: the steps of `moot doc thaw`, without its network.

Some time after a document froze every replica that can be asked is asked what it has, one is drawn, and its record is
ordered to be taken over, in an epoch behind all that were told. An order is sent until it is answered, without an idempotency
key; one that is refused is followed by another, for somebody may have been asked who knew less. Some are sent once more when
all is done.

What an order did is read off the log by `divergence`: whoever ordered it may never hear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from chaos.checkers.violation import Violation
from chaos.sim.clients import UnaryCall
from chaos.sim.workload import Work
from cluster.errors import CodeMissing, StorageDamaged
from cluster.ids import Principal
from cluster.session.operations import Kind, Operation, Reply
from cluster.shard.document import decode_record
from cluster.shard.thawing import ThawOrder

if TYPE_CHECKING:
    from chaos.sim.world import World

LOOKS_MS = (5.0, 1_500.0)
"""For so long an operator looks at a frozen document."""
AGAIN_MS = 60.0
LATE = 0.5
"""Share of orders that are sent once more, later."""
_WHO = str(Principal("thawer", "sim"))


class Thaws:
    """What is thawed in one run, if the scenario says so."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._source = world.streams.named("thaws")
        self._busy: set[str] = set()

    def froze(self, space: str, key: str) -> None:
        """A document was frozen because its replicas differ."""
        if self._world.scenario.thaws and key not in self._busy:
            self._busy.add(key)
            client = self._source.randrange(len(self._world.clients))
            self._world.clients[client].do(Work(self._world.now_ms, client, Kind.WATCH, space, key))
            self._world.after(self._source.uniform(*LOOKS_MS), "call", self._try, space, key)

    def unfinished(self) -> list[str]:
        """What is still owed."""
        return [f"{key} is frozen, and not thawed yet" for key in sorted(self._busy)]

    def _try(self, space: str, key: str) -> None:
        if not self._world.planted.undecided((space, key)):
            self._busy.discard(key)
            return
        found = self._ask(space, key)
        if not found:
            self._again(space, key)
            return
        if not any(decode_record(record).frozen for _, record in found.values()):
            self._busy.discard(key)  # those who had not heard of it have become a majority
            return
        chosen = self._source.choice(sorted(found))
        epoch = 1 + max(epoch for epoch, _ in found.values())
        record = found[chosen][1]
        order = msgspec.json.encode(ThawOrder(chosen, "somebody must", epoch, record))
        self._world.note("thaws", f"{space}/{key}", f"as on {chosen}, epoch {epoch}, of {sorted(found)}")
        self._send(space, key, order, epoch, decode_record(record).index + 1)

    def _ask(self, space: str, key: str) -> dict[str, tuple[int, bytes]]:
        """(epoch, record) of the document on each node that answers and has it."""
        found = {}
        for node in self._world.nodes.values():
            shard = node.pump.router.shard_of(space, key) if node.answers else None
            replica = node.pump.replicas.get(shard) if shard is not None and self._world.welcomes(node) else None
            if replica is None or replica.damaged or replica.halted:
                continue
            try:
                live = replica.cache.get(space, key)
            except (CodeMissing, StorageDamaged):
                continue
            if live.alive:
                found[str(node.name)] = live.epoch, live.record()
        return found

    def _again(self, space: str, key: str) -> None:
        """A command shows a leader that missed it that the others are frozen."""
        self._world.planted.touch_one(key)
        self._world.after(AGAIN_MS * self._source.uniform(0.5, 1.5), "call", self._try, space, key)

    def _send(self, space: str, key: str, order: bytes, epoch: int, index: int) -> None:
        operation = Operation(0, Kind.THAW, space, key, _WHO, "", order)

        def answered(reply: Reply) -> None:
            if reply.failure is not None:
                self._world.note("thaws", f"{space}/{key}", f"{reply.failure.reason}: {reply.failure.message}")
                self._again(space, key)
                return
            if (reply.epoch, reply.index) != (epoch, index):
                raise Violation("thaws", f"{space}/{key} goes on at {reply.epoch}.{reply.index}, ordered was {epoch}.{index}")
            self._busy.discard(key)
            self._world.planted.thawed(key, epoch)
            if self._source.random() < LATE:
                self._world.after(self._source.uniform(0.0, 500.0), "call", late)

        def late() -> None:
            UnaryCall(self._world, self._source, operation, refused).start()

        def refused(reply: Reply) -> None:
            if reply.failure is None:
                raise Violation("thaws", f"{space}/{key} was thawed to epoch {epoch} twice, at {reply.epoch}.{reply.index}")

        UnaryCall(self._world, self._source, operation, answered).start()
