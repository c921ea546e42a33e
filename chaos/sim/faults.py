"""Everything that can go wrong, as data: each fault says when it begins and ends, whom it hits and how.

A fault is a value: it can be printed, taken away and made shorter, and a run with the same list is the same run. Times are
milliseconds of the safety phase; a fault without a length has end_ms == start_ms. `world.py` carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from cluster.ids import NodeId
from cluster.storage.engine import Family

SAFETY_MS = 4_000.0
"""Length of the safety phase."""

Link = tuple[NodeId, NodeId]
"""A directed pair: (sender, receiver)."""

CRASH_POINTS = ("anywhere", "stepped", "sending", "sent", "written", "synced", "applied")
"""Where in a turn a crash may fall: between two turns; after the step and before its frames; between two of its frames; between
the frames and the write; after the write; after the sync and before what waited for it; after apply and before its frames."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Begins at start_ms, is over at end_ms."""

    start_ms: float
    end_ms: float

    @property
    def kind(self) -> str:
        """The name under which it is counted."""
        name = type(self).__name__
        return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")

    def __str__(self) -> str:
        own = [(field.name, getattr(self, field.name)) for field in fields(self) if not field.name.endswith("_ms")]
        own += [
            (f.name, getattr(self, f.name))
            for f in fields(self)
            if f.name in ("delay_ms", "by_ms", "period_ms", "late_ms", "lag_ms", "last_ms")
        ]
        return f"{self.start_ms:7.0f}..{self.end_ms:<7.0f} {self.kind} " + " ".join(f"{key}={_short(at)}" for key, at in own)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{sender}>{receiver}" for sender, receiver in value)
    if isinstance(value, float):
        return f"{value:.2f}"
    return value.value if isinstance(value, Family) else str(value)


# processes


@dataclass(frozen=True, slots=True)
class Crash(Fault):
    """The process of `node` dies at `point` and starts again at end_ms.

    keep: which part of the unsynced batches survives (1: the kernel lived on, less: the power failed).
    host_down: nobody answers a dial; otherwise it is refused, which is evidence.
    passes: how often it comes past that point before it dies there.
    """

    node: NodeId
    point: str
    keep: float
    host_down: bool
    passes: int = 0


@dataclass(frozen=True, slots=True)
class PowerLoss(Fault):
    """All nodes lose power at once. keep: as in Crash."""

    keep: float


@dataclass(frozen=True, slots=True)
class Pause(Fault):
    """The process stands still; its connections stay."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Wipe(Fault):
    """The process dies and starts again at end_ms with an empty directory under its old name. It must be fenced."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class TornCrash(Fault):
    """The power of `node` fails, and the write-ahead log keeps an unsynced write without the ones before it. The engine can not
    tell that from damage and does not open again; with at most one unsynced write it is a torn end, which is dropped."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class LeaderCrash(Fault):
    """Whoever leads `shard` by then dies, at `point`, and starts again at end_ms. keep, passes: as in Crash."""

    shard: int
    point: str
    keep: float
    passes: int = 0


# network


@dataclass(frozen=True, slots=True)
class LeaderCut(Fault):
    """Whoever leads `shard` by then is cut off from all others, its clients excepted. rate: of its monotonic clock meanwhile,
    against what it was; a slow one believes for longer that it leads. lag_ms: for so long afterwards only heartbeats reach it,
    as when one lane of a connection is there again before the others. partly: one of the others still reaches it; that one
    restarts after last_ms, if above 0, and is cut off then too. way: "both", or "inward": it hears nobody, but is heard, or
    "outward": the other way. refused: its host says that nobody listens there, which the others take as evidence."""

    shard: int
    rate: float
    lag_ms: float = 0.0
    partly: bool = False
    last_ms: float = 0.0
    way: str = "both"
    refused: bool = False


@dataclass(frozen=True, slots=True)
class LeaderSlow(Fault):
    """Frames from and to whoever leads `shard` by then take `delay_ms` longer on average."""

    shard: int
    delay_ms: float


@dataclass(frozen=True, slots=True)
class LeaderPause(Fault):
    """Whoever leads `shard` by then stands still when it has read its clock, and goes on with that time: one turn long it takes
    what has come meanwhile for new."""

    shard: int


@dataclass(frozen=True, slots=True)
class Partition(Fault):
    """Nothing gets through on these links, in these directions. Connections break after `delay_ms` of silence."""

    links: tuple[Link, ...]
    delay_ms: float


@dataclass(frozen=True, slots=True)
class Flapping(Fault):
    """These links are cut and whole in turns of period_ms."""

    links: tuple[Link, ...]
    period_ms: float


@dataclass(frozen=True, slots=True)
class Slow(Fault):
    """Frames on these links take `delay_ms` longer on average."""

    links: tuple[Link, ...]
    delay_ms: float


@dataclass(frozen=True, slots=True)
class Congested(Fault):
    """The lanes of these links are full: frames are refused, except heartbeats, while the connections stand."""

    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Unruly(Fault):
    """Frames of Raft, liveness and snapshots get lost, come twice or overtake each other: more than a connection may do.

    late_ms: how much later a frame comes that was overtaken, or comes again, on average. breaks: whether the connection breaks
    at the end; otherwise nobody is told of what was lost."""

    links: tuple[Link, ...]
    loss: float
    duplicates: float
    reordering: float
    late_ms: float
    breaks: bool


@dataclass(frozen=True, slots=True)
class Break(Fault):
    """The connections of these links break; what was on its way is lost."""

    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class ClientBreak(Fault):
    """A client's stream breaks."""

    client: int


@dataclass(frozen=True, slots=True)
class ClientRestart(Fault):
    """A client's process ends with everything that it knew, and another begins under the same user with another session."""

    client: int


# disks


@dataclass(frozen=True, slots=True)
class SlowSync(Fault):
    """Syncs take `delay_ms`; above an election timeout the disk counts as hanging."""

    node: NodeId
    delay_ms: float


@dataclass(frozen=True, slots=True)
class SyncFails(Fault):
    """The next sync fails, which ends the node; it starts again at end_ms and has lost what was not synced."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class ReadsFail(Fault):
    """Reads end with an input/output error, of all families or of one, which may end the node; it starts again at end_ms."""

    node: NodeId
    family: Family | None


@dataclass(frozen=True, slots=True)
class WritesFail(Fault):
    """Writes end with an input/output error, which ends the node; it starts again at end_ms."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class DiskFull(Fault):
    """Writes are refused, which ends the node; it starts again at end_ms, with room."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class DiskStalls(Fault):
    """The engine refuses writes for a while and the node waits with everything."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class HighWater(Fault):
    """The disk is nearly full: the node takes no commands."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class BitFlip(Fault):
    """One bit of one stored value of a family rots."""

    node: NodeId
    family: Family


@dataclass(frozen=True, slots=True)
class Misdirected(Fault):
    """What is stored under one key of a family is found under another one too, in place of what belongs there."""

    node: NodeId
    family: Family


# code


@dataclass(frozen=True, slots=True)
class Divergence(Fault):
    """Handlers of a document of its own see on this node what its commands do not say. everywhere: on every node, each
    something else, so that no majority can say what is right.
    """

    node: NodeId
    everywhere: bool = False


# clocks


@dataclass(frozen=True, slots=True)
class ClockJump(Fault):
    """The wall clock of a node is set by so much."""

    node: NodeId
    by_ms: float


@dataclass(frozen=True, slots=True)
class ClockSlew(Fault):
    """The monotonic clock of a node goes at `rate` of its own speed."""

    node: NodeId
    rate: float


def hits(fault: Fault) -> str:
    """The node, or nodes, that a fault is about; for reports."""
    node = getattr(fault, "node", None)
    return str(node) if node is not None else ""
