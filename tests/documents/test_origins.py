"""On the author's machine a bundle runs in the author's own files: breakpoints stop there, coverage counts there, tracebacks
name true lines.
"""

from __future__ import annotations

import bdb
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram
from cluster.documents.runtime import Code, Invocation, Outcome
from cluster.ids import DocumentId, Principal

HELP = '''"""Helps."""


def twice(number: int) -> int:
    doubled = number * 2

    return doubled
'''
MAIN = '''"""A package with a helper."""
from cluster import Command, Document, anyone, field, on
from shop.helping import twice


class Shop(Document, version=1):
    gate = anyone
    total: int = field.public(0)

    @on.message
    def add(self, ctx: Command, number: int) -> int:
        for _ in range(2):
            self.total += twice(
                number
            )
        if number > 5:
            raise ValueError("too many")
        return self.total
'''
ADD_LINES = {11, 12, 13, 14, 16, 18}
"""Of the handler, when it goes well."""


@pytest.fixture(name="package")
def author_package(tmp_path: Path) -> Path:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text(f"{MAIN}# {tmp_path.name}\n")  # code that is loaded already keeps its origin
    (package / "helping.py").write_text(HELP)
    return package


def loaded(package: Path) -> DocumentProgram:
    data = bundle.from_path(package).encode()
    return BundleLoader().load(data, bundle.origins(data, package.parent))


def add(program: DocumentProgram, number: int) -> Outcome:
    instance = program.new(DocumentId("shop", "one"))
    payload = program.check("add", b'{"number":%d}' % number)
    return instance.run(Invocation("add", payload, Principal("alice", "acme"), 1_000, bytes(32), 2))


def traced(action: Callable[[], Any], below: Path) -> dict[str, set[int]]:
    """The lines that ran in files below a folder, as coverage tools see them."""
    seen: dict[str, set[int]] = {}

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        filename = frame.f_code.co_filename
        if not filename.startswith(str(below)):
            return None
        if event == "line":
            seen.setdefault(Path(filename).name, set()).add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return seen


def test_lines_that_ran_are_those_of_the_authors_files(package: Path) -> None:
    program = loaded(package)
    seen = traced(lambda: add(program, 3), package)
    assert seen["helping.py"] == {4, 5, 7}, "the budget is charged where the function begins"
    assert seen["__init__.py"] == ADD_LINES


def test_a_breakpoint_in_the_authors_file_stops_the_handler(package: Path) -> None:
    program = loaded(package)

    class Debugger(bdb.Bdb):
        stops: list[tuple[str, int, int]] = []  # noqa: RUF012

        def user_line(self, frame: FrameType) -> None:
            if self.break_here(frame):
                self.stops.append((Path(frame.f_code.co_filename).name, frame.f_lineno, frame.f_locals["doubled"]))
            self.set_continue()

    debugger = Debugger()
    assert debugger.set_break(str(package / "helping.py"), 7) is None
    before = sys.gettrace()
    try:
        debugger.runcall(add, program, 4)
    finally:
        sys.settrace(before)
    assert debugger.stops == [("helping.py", 7, 8), ("helping.py", 7, 8)], "once a call, with the variables of the line"


def test_a_traceback_names_the_line_with_its_source(package: Path) -> None:
    outcome = add(loaded(package), 9)
    assert outcome.code is Code.FAILED
    assert outcome.error.splitlines() == [
        "  shop/__init__.py, line 17, in add",
        '    raise ValueError("too many")',
        "ValueError: too many",
    ]


def test_a_file_that_was_changed_since_is_not_taken_for_the_origin(package: Path) -> None:
    data = bundle.from_path(package).encode()
    (package / "helping.py").write_text(HELP + "# changed\n")
    assert bundle.origins(data, package.parent) == {"shop/__init__.py": str(package / "__init__.py")}


def test_where_there_is_no_origin_lines_are_true_all_the_same(package: Path) -> None:
    """A node has the bundle alone: its tracebacks come from what it registered."""
    (package / "__init__.py").write_text(MAIN + "\n")
    program = BundleLoader().load(bundle.from_path(package).encode())
    assert '    raise ValueError("too many")' in add(program, 9).error
