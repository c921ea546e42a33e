"""What a command and its deltas cost as a document, its tables and its viewers grow: `moot bench views`.

One process, no log and no sockets: a document, its ring of changes and the feed of a leader, as they are in a node. Each case
is measured large and small in turns within one run, so its ratio holds on a machine that does other things too:

    text      one keystroke into a text of 1 KB and of 1 MB, for 3 viewers
    rows      one cell of a table of 10 and of 10,000 rows, for 3 viewers: public, behind a policy on each row, and through a
              window of 50 rows behind that policy (where the new value is shown to one of the three)
    viewers   one change that one class of viewers sees, for 3 and for 1,000 viewers of 3 classes

Records and checkpoints are not in it: what a document costs on disk is measured by `moot bench send`.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code, Invocation, Settings
from cluster.ids import DocumentId, NodeId, Principal
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
from cluster.shard.turn import Turn

IMPORTS: Final = "from cluster import Command, Document, Principal, Record, Table, Text, anyone, field, latest, on, read\n"
PAGE: Final = """
class Page(Document):
    gate = anyone
    body: Text = field.public("")

    @on.message
    def fill(self, ctx: Command, start: int, count: int) -> None:
        self.body.append("x" * count)

    @on.message
    def change(self, ctx: Command, n: int, size: int) -> None:
        self.body.splice(n * 7919 % size, 0, "y")
"""
GRID: Final = """
class Cell(Record):
    place: int
    owner: str
    value: int

class Grid(Document):
    gate = anyone

    @read.policy
    def may_see(self, cell: Cell, who: Principal) -> bool:
        return cell.owner == who.agent

    cells: Table[Cell] = field.{visibility}

    @on.message
    def fill(self, ctx: Command, start: int, count: int) -> None:
        for place in range(start, start + count):
            self.cells.put(Cell(place, "first0", 0))

    @on.message
    def change(self, ctx: Command, n: int, size: int) -> None:
        self.cells[size - 1 - n % 5].value = n
"""
BOARD: Final = """
class Board(Document):
    gate = anyone

    @read.policy
    def is_first(self, who: Principal) -> bool:
        return who.agent.startswith("first")

    @read.policy
    def is_second(self, who: Principal) -> bool:
        return who.agent.startswith("second")

    first: int = field.visible(is_first, 0)
    second: int = field.visible(is_second, 0)

    @on.message
    def fill(self, ctx: Command, start: int, count: int) -> None:
        pass

    @on.message
    def change(self, ctx: Command, n: int, size: int) -> None:
        self.first = n
"""
KINDS: Final = {
    "text": (PAGE, 1_000, 1_000_000, 3, 3),
    "row, public": (GRID.replace("{visibility}", 'public(key="place")'), 10, 10_000, 3, 3),
    "row, by policy": (GRID.replace("{visibility}", 'visible(may_see, key="place")'), 10, 10_000, 3, 3),
    "row, in a window": (GRID.replace("{visibility}", 'visible(may_see, key="place", window=latest(50))'), 10, 10_000, 3, 3),
    "viewers": (BOARD, 1, 1, 3, 1_000),
}
"""By name: the document, its size and viewers small and large."""
STREAM: Final = (NodeId("bench"), 1)
CLASSES: Final = ("first", "second", "third")
FILL_AT_ONCE: Final = 50_000
CREDIT_BYTES: Final = 1 << 40
SETTINGS: Final = Settings(steps_max=10_000_000)


class Bench:
    """One document with its viewers. run_us, push_us: what each command, and the deltas after it, took."""

    def __init__(self, source: str, size: int, viewers: int) -> None:
        program = BundleLoader(SETTINGS).load(bundle.from_source(IMPORTS + source).encode())
        self.live = LiveDocument(DocumentId("bench", "one"))
        self.live.epoch, self.live.program = 1, program
        self.live.instance = program.new(self.live.id)
        self.feed = Feed()
        self.size = size
        self.run_us: list[float] = []
        self.push_us: list[float] = []
        self.delta_bytes = 0
        self._command("", {})
        for start in range(0, size, FILL_AT_ONCE):
            self._command("fill", {"start": start, "count": min(FILL_AT_ONCE, size - start)})
        for number in range(viewers):
            who = Principal(f"{CLASSES[number % 3]}{number // 3}", "bench")
            self.feed.open(self.live, STREAM, number + 1, who, None, CREDIT_BYTES, Turn())
        self.viewers = viewers

    def _command(self, channel: str, parameters: dict[str, Any]) -> None:
        live = self.live
        assert live.instance is not None
        seed = (live.index + 1).to_bytes(32, "little")
        who = Principal("first0", "bench")
        invocation = Invocation(channel, msgspec.json.encode(parameters), who, 1_700_000_000_000, seed, live.index + 1)
        began = time.perf_counter_ns()
        outcome = live.instance.run(invocation)
        self.run_us.append((time.perf_counter_ns() - began) / 1000)
        assert outcome.code is Code.OK, outcome
        live.index += 1
        if outcome.changes is not None:
            live.push_change(outcome, SETTINGS.change_ring_bytes)

    def change(self, number: int) -> None:
        """One command, and what its viewers are sent."""
        self._command("change", {"n": number + 1, "size": self.size})
        turn = Turn()
        began = time.perf_counter_ns()
        self.feed.changed(self.live)
        self.feed.flush(turn)
        self.push_us.append((time.perf_counter_ns() - began) / 1000)
        deltas = turn.deltas[STREAM]
        assert len(deltas) == self.viewers
        assert not any(delta.reset for delta in deltas)
        self.delta_bytes = max(len(delta.body) for delta in deltas)

    def forget(self) -> None:
        """What was measured until now was for warming up."""
        self.run_us.clear()
        self.push_us.clear()


def bench_views(tell: Callable[[str], None], *, commands: int = 300) -> dict[str, Any]:
    """Measure every case. tell: takes one line when a case begins."""
    cases = []
    for name, (source, small_size, large_size, few, many) in KINDS.items():
        tell(f"{name}: {small_size:,} and {large_size:,}, {few} and {many:,} viewers")
        small, large = Bench(source, small_size, few), Bench(source, large_size, many)
        gc.collect()
        for number in range(commands + commands // 5):
            if number == commands // 5:
                small.forget()
                large.forget()
            small.change(number)
            large.change(number)
        cases.append({"case": name, "small": _shown(small), "large": _shown(large), "ratio": _ratio(small, large)})
    return {
        "cases": cases,
        "commands": commands,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def _shown(bench: Bench) -> dict[str, Any]:
    run, push = statistics.median(bench.run_us), statistics.median(bench.push_us)
    return {
        "size": bench.size,
        "viewers": bench.viewers,
        "command_us": round(run, 1),
        "deltas_us": round(push, 1),
        "us_per_viewer": round(push / bench.viewers, 2),
        "delta_bytes": bench.delta_bytes,
    }


def _ratio(small: Bench, large: Bench) -> dict[str, float]:
    """How many times more the large case takes than the small one."""
    command = statistics.median(large.run_us) / statistics.median(small.run_us)
    deltas = statistics.median(large.push_us) / statistics.median(small.push_us)
    return {"command": round(command, 2), "deltas": round(deltas, 2)}
