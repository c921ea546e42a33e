"""The tests that the authors' guide shows are tests that pass, and its document types pass mypy strict."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from mypy import api

from cluster.cli.new import Template, project_files
from cluster.pytest_plugin import Simulate

GUIDE = Path(__file__).parents[2] / "docs" / "authoring"
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
NEW = re.compile(r"^moot new (\w+) --template (\w+)$", flags=re.MULTILINE)
FILE = re.compile(r"# (\w+)\.py\n")


def shown_tests() -> list[tuple[str, str, str]]:
    """(page, name of the test, source of its block)."""
    found = []
    for page in sorted(GUIDE.glob("*.md")):
        for block in BLOCK.findall(page.read_text()):
            found += [
                (page.name, name, block)
                for name in re.findall(r"^def (test_\w+)\((?:simulate: Simulate)?\)", block, flags=re.MULTILINE)
            ]
    return found


def files_of(page: Path, folder: Path) -> list[Path]:
    """The files that a page shows: blocks that begin with a file's name, and the document types that `moot new` makes in it."""
    written = []
    for block in BLOCK.findall(page.read_text()):
        if (name := FILE.match(block)) is not None:
            written.append(folder / f"{name[1]}.py")
            written[-1].write_text(block)
    for project, template in NEW.findall(page.read_text()):
        written.append(folder / f"{project}.py")
        written[-1].write_text(project_files(project, Template(template))[written[-1].name])
    return written


def test_the_guide_shows_tests() -> None:
    assert shown_tests()


@pytest.mark.parametrize(("page", "name", "source"), shown_tests())
def test_shown_test_passes(page: str, name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(GUIDE / page, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for file in files:
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    module: dict[str, Any] = {"__name__": f"guide_{page.partition('.')[0]}"}
    exec(compile(source, page, "exec"), module)
    given = [Simulate(0, tmp_path)] if module[name].__code__.co_argcount else []
    module[name](*given)
    for file in files:
        monkeypatch.delitem(sys.modules, file.stem, raising=False)


def test_document_types_of_the_guide_pass_mypy_strict(tmp_path: Path) -> None:
    files = [str(file) for page in sorted(GUIDE.glob("*.md")) for file in files_of(page, tmp_path)]
    assert files
    said, complaints, status = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent", *files])
    assert status == 0, said + complaints
