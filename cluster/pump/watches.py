"""One watch of a client stream that ends at this node: what it shows, how far it came, and how it is opened again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from cluster.ids import NodeId, ShardId
from cluster.session.operations import Operation


class ArgumentsChange(NamedTuple):
    """A change of a watch's arguments that is not answered yet: what was wanted before, and what now."""

    watch: int
    before: tuple[bytes, int]
    version: int


@dataclass(slots=True)
class Watch:
    """A client's open watch. `node` is where it is subscribed now, None while nobody serves it. An unanswered one is given up
    at `answer_by_ms`. version: of the arguments of the last delta that passed; those wanted are in `operation`.

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

    @property
    def held(self) -> tuple[int, int, int]:
        """Where the client is: epoch, index, and the version of the arguments."""
        return self.epoch, self.index, self.version

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

    def resubscription(self) -> Operation:
        """What opens the watch again where it is: from the start when what the client holds was made with other arguments."""
        epoch, index = (self.epoch, self.index) if self.version == self.operation.sequence else (0, -1)
        return msgspec.structs.replace(self.operation, epoch=epoch, index=index, credit=max(self.credit_bytes, 1))
