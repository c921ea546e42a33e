"""Rules of this repository that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

PURE = ["documents", "gossip", "placement", "pump", "raft", "router", "session", "shard", "shardmap"]
AMBIENT_CALLS = {"os.urandom", "os.getrandom", "os.environ.get", "os.getenv", "uuid.uuid1", "uuid.uuid4", "os.getpid"}

LONG_FILES: dict[str, str] = {}
"""Path -> why it may exceed FILE_LINES_MAX. Empty is the goal."""
LONG_FUNCTIONS: dict[str, str] = {}
"""path::function -> why it may exceed FUNCTION_LINES_MAX. Empty is the goal."""


def tracked() -> list[Path]:
    """Files of the checkout as git knows them, or, without git, everything outside hidden and generated folders."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30).stdout
        paths = [ROOT / name for name in listing.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        skipped = {"node_modules", "__pycache__", "build", "dist", "data"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if path.is_file() and not any(part.startswith(".") or part in skipped for part in path.relative_to(ROOT).parts[:-1])
        ]
    return sorted(path for path in paths if path.is_file())


TRACKED = tracked()
PYTHON = [path for path in TRACKED if path.suffix == ".py" and not path.is_relative_to(ROOT / "cluster" / "v1")]
MARKDOWN = [path for path in TRACKED if path.suffix == ".md"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_files() -> Iterator[tuple[Path, str]]:
    for path in TRACKED:
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_the_rules_look_at_the_real_tree() -> None:
    assert {"cluster/errors.py", "tests/project/test_tidy.py"} <= {name_of(path) for path in PYTHON}
    assert "README.md" in {name_of(path) for path in MARKDOWN}


def test_files_tell_one_story_of_at_most_500_lines() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in PYTHON}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX and name not in LONG_FILES} == {}


def test_functions_have_at_most_70_lines() -> None:
    long = {}
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                name = f"{name_of(path)}::{node.name}"
                if lines > FUNCTION_LINES_MAX and name not in LONG_FUNCTIONS:
                    long[name] = lines
    assert long == {}


def test_exceptions_to_the_length_rules_are_still_needed() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in PYTHON}
    assert [name for name in LONG_FILES if lengths.get(name, 0) <= FILE_LINES_MAX] == []
    assert [name for name in LONG_FUNCTIONS if name.partition("::")[0] not in lengths] == []


def test_every_module_says_what_it_is_for() -> None:
    assert [name_of(path) for path in PYTHON if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_leftovers() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    found = [
        f"{name_of(path)}:{number}"
        for path, text in text_files()
        if path.suffix in {".py", ".proto", ".md", ".js", ".html", ".toml", ".yaml", ".sh", ""}
        and not path.is_relative_to(ROOT / "cluster" / "v1")
        and path != Path(__file__)
        for number, line in enumerate(text.splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []


def test_no_file_speaks_of_a_particular_machine() -> None:
    """Absolute paths of somebody's home or checkout mean nothing to a stranger."""
    paths = re.compile(r"(?<![\w.])/(?:" + "|".join(("work", "root", "home/[a-z]", "Users")) + r")/[\w.]")
    found = [
        f"{name_of(path)}:{number}: {line.strip()[:80]}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if paths.search(line)
    ]
    assert found == []


def test_modules_are_named_after_nouns_of_the_field() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert [name_of(path) for path in PYTHON if vague & set(re.split(r"[_/.]", name_of(path)))] == []


def test_pure_layers_ask_the_operating_system_nothing() -> None:
    """Imports cannot tell os.path from os.urandom; calls can."""
    found = [
        f"{name_of(path)}:{node.lineno}: {ast.unparse(node.func)}"
        for path in PYTHON
        if (parts := path.relative_to(ROOT).parts)[0] == "cluster" and parts[1] in PURE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in AMBIENT_CALLS
    ]
    assert found == []


def test_coroutines_live_only_at_the_edges() -> None:
    edges = {"transport", "gateway", "node", "cli", "client", "web"}
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in PYTHON
        if (parts := path.relative_to(ROOT).parts)[0] == "cluster" and parts[1] not in edges
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AsyncFunctionDef)
    ]
    assert found == []


def test_no_test_sleeps_without_a_condition() -> None:
    """A sleep that is not inside a loop hopes; wait for a predicate with a bound instead."""
    found: list[str] = []
    for path in PYTHON:
        if path.relative_to(ROOT).parts[0] != "tests":
            continue
        tree = ast.parse(path.read_text())
        looped = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.While | ast.For) for inner in ast.walk(node)}
        found += [
            f"{name_of(path)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep" and id(node) not in looped
        ]
    assert found == []


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_links_of_the_documentation_resolve(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target.partition("#") for target in targets if "://" not in target and not target.startswith("mailto:")]
    broken = []
    for target, _, anchor in local:
        destination = (path.parent / target) if target else path
        if not destination.exists() or (anchor and anchor not in anchors(destination)):
            broken.append(f"{target}#{anchor}" if anchor else target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Heading anchors as code hosts make them: lower case, spaces to hyphens, punctuation dropped."""
    headings = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_decision_record_has_its_five_parts() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert records
    for record in records:
        headings = re.findall(r"^## (.+)$", record.read_text(), flags=re.MULTILINE)
        assert [
            name for name in ("Context", "Decision", "Alternatives", "Consequences", "Evidence") if name not in headings
        ] == []
        assert re.search(r"^Status: (proposed|accepted|superseded by \d{4})", record.read_text(), flags=re.MULTILINE), (
            record.name
        )


def test_every_decision_record_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    records = (ROOT / "docs" / "decisions").glob("[0-9]*.md")
    assert [record.name for record in records if f"decisions/{record.name}" not in index] == []


def project() -> dict[str, dict[str, list[str]]]:
    document: dict[str, dict[str, list[str]]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return document


def lock() -> dict[str, Version]:
    versions = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            versions[requirement.name] = Version(pin.version)
    return versions


def test_lock_names_versions_and_no_place_to_get_them_from() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--|@|\.(com|org|net)\b", text)
    assert len(lock()) > 20


def test_lock_satisfies_every_declared_dependency() -> None:
    document = project()
    versions = lock()
    for line in document["project"]["dependencies"] + document["dependency-groups"]["dev"]:
        requirement = Requirement(line)
        assert requirement.name in versions, line
        assert requirement.specifier.contains(versions[requirement.name]), line


def test_runtime_floors_are_what_the_generated_code_demands() -> None:
    """Generated code refuses an older runtime at import, so the floors of the package must not be lower."""
    floors = {
        requirement.name: min(Version(part.version) for part in requirement.specifier if part.operator == ">=")
        for requirement in map(Requirement, project()["project"]["dependencies"])
    }
    protobuf, grpcio = set(), set()
    for path in (ROOT / "cluster" / "v1").glob("*_pb2.py"):
        protobuf.update(re.findall(r"Protobuf Python Version: ([\d.]+)", path.read_text()))
    for path in (ROOT / "cluster" / "v1").glob("*_pb2_grpc.py"):
        grpcio.update(re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", path.read_text()))
    assert protobuf, "no generated messages"
    assert grpcio, "no generated services"
    assert {Version(version) for version in protobuf} == {floors["protobuf"]}
    assert {Version(version) for version in grpcio} == {floors["grpcio"]}
    assert lock()["grpcio-tools"] == floors["grpcio"]
