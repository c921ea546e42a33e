"""Breakpoints, coverage and tracebacks keep the lines that the author wrote, though what runs has more statements than that.

The document below says of each line of its handlers whether it runs; every tool has to agree.
"""

from __future__ import annotations

import bdb
import importlib
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Refused
from cluster.errors import HandlerFailed
from cluster.simulate import Simulation
from tests.cli.terminal import environment

LEDGER = '''"""A document whose lines are counted."""

from cluster import Command, Document, Record, Refused, Table, anyone, field, on, read


class TooMuch(Refused):
    """It is too much."""


class Entry(Record):
    cents: int
    note: str = ""


class Ledger(Document):
    gate = anyone
    entries: Table[Entry] = field.public()
    total: int = field.public(0)

    @on.message
    def book(self, ctx: Command, cents: int, note: str = "") -> int:
        """Book an amount, with a note."""
        if cents > 100:  # ran
            raise TooMuch()  # ran
        for word in note.split():  # ran
            if word == "skip":  # ran
                continue  # not
            while word.startswith("!"):  # ran
                word = word[1:]  # ran
            note = word  # ran
        try:
            self.entries.put(  # ran
                Entry(
                    cents,
                    note,
                )
            )
        except ValueError:  # not
            note = "never"  # not
        else:
            note = note.upper()  # ran
        finally:
            self.total += cents  # ran
        doubled = [
            entry.cents * 2  # ran
            for entry in self.entries
        ]
        return self._sum(doubled)  # ran

    def _sum(self, cents: list[int]) -> int:
        if not cents:  # ran
            return 0  # not
        return sum(each for each in cents)  # ran

    @on.message
    def fail(self, ctx: Command) -> None:
        numbers = [1, 2, 3]  # ran
        numbers[self.total + 7] = 1  # ran

    @on.message
    def unused(self, ctx: Command) -> None:
        self.total = 0  # not

    @read.view
    def largest(self) -> int:
        return max((entry.cents for entry in self.entries), default=0)  # ran
'''
DRIVE = """
from ledger_of_a_test import Ledger, TooMuch
ledger = Ledger.simulate(seed=1)
ann = ledger.visitor("ann@acme")
ann.book(cents=3, note="!hello there")
ann.view()
for call in (lambda: ann.book(cents=101), ann.fail):
    try:
        call()
    except Exception as error:
        print(type(error).__name__)
"""


def marked(mark: str) -> set[int]:
    """The lines that end with this mark."""
    return {number for number, line in enumerate(LEDGER.splitlines(), 1) if line.endswith(f"# {mark}")}


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(LEDGER.splitlines(), 1) if text in line)


@pytest.fixture(name="file", scope="module")
def author_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests here: code is loaded once in a process, in the file that it first came from."""
    file = tmp_path_factory.mktemp("ledger") / "ledger_of_a_test.py"
    file.write_text(LEDGER)
    sys.path.insert(0, str(file.parent))
    yield file
    sys.path.remove(str(file.parent))
    sys.modules.pop("ledger_of_a_test", None)


def simulated() -> Simulation:
    made: Simulation = importlib.import_module("ledger_of_a_test").Ledger.simulate(seed=1)
    return made


def test_a_tracer_sees_the_lines_that_ran_and_no_others(file: Path) -> None:
    seen: set[int] = set()
    order: list[int] = []

    def trace(frame: types.FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != str(file):
            return None
        if event == "line":
            seen.add(frame.f_lineno)
            order.append(frame.f_lineno)
        return trace

    ledger = simulated()
    ann = ledger.visitor("ann@acme")
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ann.book(cents=3, note="!hello there")
        ann.view()
        with pytest.raises(Refused):
            ann.book(cents=101)
        with pytest.raises(HandlerFailed):
            ann.fail()
    finally:
        sys.settrace(before)
    lines = LEDGER.splitlines()
    handlers = {number for number, line in enumerate(lines, 1) if line.startswith("        ")}
    ran = marked("ran")
    assert ran <= seen, [lines[number - 1] for number in sorted(ran - seen)]
    assert not marked("not") & seen, [lines[number - 1] for number in sorted(marked("not") & seen)]
    unmarked = {lines[number - 1].strip() for number in seen & handlers - ran}
    inner = {"try:", "Entry(", "cents,", "note,", "doubled = [", "for entry in self.entries", "else:", "finally:", ")", "]"}
    assert unmarked <= inner, "a line is only ever one that the author wrote, and part of a statement that ran"
    begins = line_of("def book")
    first = order[order.index(begins) + 1 :][: order[order.index(begins) + 1 :].index(line_of("def _sum"))]
    assert begins not in first, "no line of a handler leads back to where it begins"


class Debugger(bdb.Bdb):
    """Stops at breakpoints and notes the place and the local variables, as pdb would show them."""

    def __init__(self) -> None:
        super().__init__()
        self.stops: list[tuple[int, str, dict[str, Any]]] = []

    def user_line(self, frame: types.FrameType) -> None:
        if self.break_here(frame):
            self.stops.append((frame.f_lineno, frame.f_code.co_name, dict(frame.f_locals)))
        self.set_continue()


def test_a_breakpoint_holds_at_its_line_with_the_variables_of_the_handler(file: Path) -> None:
    ledger = simulated()
    ann = ledger.visitor("ann@acme")
    debugger = Debugger()
    place = line_of("word = word[1:]")
    assert debugger.set_break(str(file), place) is None
    assert debugger.set_break(str(file), line_of("self.total = 0")) is None
    before = sys.gettrace()
    try:
        debugger.runcall(ann.send, "book", {"cents": 3, "note": "!!hello there"})
    finally:
        sys.settrace(before)
    assert [(line, name, found["word"]) for line, name, found in debugger.stops] == [
        (place, "book", "!!hello"),
        (place, "book", "!hello"),
    ]
    assert debugger.stops[0][2]["cents"] == 3
    assert {name for name in debugger.stops[0][2] if not name.isidentifier()} <= {"@n", "@d"}, "ours have no author's names"


def test_tracebacks_name_the_line_and_show_its_text(file: Path) -> None:
    ledger = simulated()
    with pytest.raises(HandlerFailed) as failed:
        ledger.visitor("ann@acme").fail()
    (frames,) = ledger.errors
    assert f"ledger_of_a_test.py, line {line_of('numbers[self.total + 7] = 1')}, in fail" in frames
    assert "numbers[self.total + 7] = 1" in frames
    assert frames in failed.value.__notes__


COUNTED = """
import coverage

counting = coverage.Coverage(include=["ledger_of_a_test.py"], data_file=None)
counting.start()
import drive
counting.stop()
counting.json_report(outfile="report.json")
"""


def test_coverage_reports_the_lines_that_ran(file: Path) -> None:
    (file.parent / "drive.py").write_text(DRIVE)
    (file.parent / "counted.py").write_text(COUNTED)
    done = subprocess.run(
        [sys.executable, "counted.py"],
        cwd=file.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads((file.parent / "report.json").read_text())["files"].values()
    lines = LEDGER.splitlines()
    ran, missing = set(report["executed_lines"]), set(report["missing_lines"])
    assert missing == marked("not"), [lines[number - 1] for number in sorted(missing ^ marked("not"))]
    statements = marked("ran") - {line_of("entry.cents * 2")}  # coverage counts statements, by where they begin
    assert statements <= ran, [lines[number - 1] for number in sorted(statements - ran)]
