"""One watch of a client stream that ends at this node: what it shows, how far it came, and how it is opened again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from cluster.errors import Unavailable
from cluster.ids import NodeId, ShardId
from cluster.session.failures import failure_of
from cluster.session.operations import Failure, Kind, Operation


def unserved(shard: ShardId) -> Failure:
    """What whoever asks is told while nobody leads the shard."""
    return failure_of(Unavailable(f"shard {shard} has no reachable leader at the moment", retry_after_ms=50))


class ArgumentsChange(NamedTuple):
    """A change of a watch's arguments that is not answered yet: what was wanted before, and what now."""

    watch: int
    before: tuple[bytes, int]
    version: int


@dataclass(slots=True)
class Watch:
    """A client's open watch. `node` is where it is subscribed now, None while nobody serves it. An unanswered one is given up
    at `answer_by_ms`. version: of the arguments of the last delta that passed; those wanted are in `operation`.

    asked: nodes that may serve it: `node`, and those that were asked before and have not answered.
    opening: `node` has not said yet that it serves the watch: what is granted meanwhile would be lost there, and is withheld.
    presented_ms: when the connection showed others something last.
    """

    operation: Operation
    shard: ShardId
    epoch: int
    index: int
    credit_bytes: int
    answer_by_ms: float
    version: int
    node: NodeId | None = None
    answered: bool = False
    retry_ms: float = 0.0
    opening: bool = False
    withheld_bytes: int = 0
    presented_ms: float = float("-inf")
    asked: tuple[NodeId, ...] = ()

    @property
    def held(self) -> tuple[int, int, int]:
        """Where the client is: epoch, index, and the version of the arguments."""
        return self.epoch, self.index, self.version

    def ask(self, node: NodeId) -> None:
        """It is sent to be opened there."""
        self.node, self.opening, self.withheld_bytes = node, True, 0
        if node not in self.asked:
            self.asked = (*self.asked, node)

    def show(self, value: bytes) -> None:
        """Show others this from now on, wherever the watch is opened next."""
        self.operation = msgspec.structs.replace(self.operation, channel=value.decode())

    def change(self, wanted: Operation) -> ArgumentsChange:
        """Ask by the arguments of `wanted` from now on; says what was asked before."""
        change = ArgumentsChange(wanted.credit, (self.operation.payload, self.operation.sequence), wanted.sequence)
        self.operation = msgspec.structs.replace(self.operation, payload=wanted.payload, sequence=wanted.sequence)
        return change

    def restore(self, change: ArgumentsChange) -> None:
        """The arguments of a change were refused: those before stand."""
        payload, version = change.before
        self.operation = msgspec.structs.replace(self.operation, payload=payload, sequence=version)

    def ending(self) -> Operation:
        """What ends it wherever it may be open."""
        return msgspec.structs.replace(self.operation, kind=Kind.UNWATCH.value)

    def resubscription(self) -> Operation:
        """What opens the watch again where it is: from the start when what the client holds was made with other arguments."""
        epoch, index = (self.epoch, self.index) if self.version == self.operation.sequence else (0, -1)
        return msgspec.structs.replace(self.operation, epoch=epoch, index=index, credit=max(self.credit_bytes, 1))
