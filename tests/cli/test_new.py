"""`moot new` makes a directory whose tests pass and whose code can be deployed, whatever it is called; `moot dev` serves it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.new import Template
from cluster.documents.bundle import from_path
from cluster.documents.loader import BundleLoader
from cluster.errors import InvalidBundle
from tests.cli.terminal import ROOT, called, environment, moot


def finished(folder: Path, *arguments: str) -> str:
    """What Python printed, which has to end well."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(MYPYPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made(folder: Path, name: str, template: Template) -> Path:
    done = called("new", name, "--template", template, cwd=folder)
    assert done.code == 0, done.err
    return folder / name


@pytest.mark.parametrize("template", list(Template))
def test_a_new_directory_passes_its_own_tests_and_can_be_deployed(tmp_path: Path, template: Template) -> None:
    project = made(tmp_path, "my_thing", template)
    assert "2 passed" in finished(project, "-m", "pytest", "-p", "cluster.pytest_plugin")
    program = BundleLoader().load(from_path(project).encode())
    assert program.schema()["document"] == "MyThing"
    written = "".join(path.read_text() for path in project.rglob("*") if path.suffix in (".py", ".md", ".toml"))
    assert "emplate" not in written


def test_what_the_templates_write_passes_strict_type_checking(tmp_path: Path) -> None:
    files = [f"my_{template}/my_{template}.py" for template in Template]
    for template in Template:
        made(tmp_path, f"my_{template}", template)
    assert "no issues found" in finished(tmp_path, "-m", "mypy", "--strict", "--config-file=", *files)


def test_what_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "duel").mkdir()
    refused = called("new", "duel", cwd=tmp_path)
    assert refused.code == 2
    assert "exists already" in refused.err
    assert list((tmp_path / "duel").iterdir()) == []


@pytest.mark.parametrize("name", ["Duel", "../duel", "1st", "class", "json", "cluster", "", "a/b", "düll", "x" * 64, "a\n"])
def test_names_that_can_not_be_a_module_and_a_space_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["new", name]).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_project_names_its_document_and_nothing_outside_of_itself(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("")
    project = made(tmp_path, "duel", Template.COUNTER)
    assert from_path(project) == from_path(project / "duel.py")
    for wrong in ('"../secret.py"', '"/etc/passwd"', '"none.py"', "1", '""', '"tests"'):
        (project / "pyproject.toml").write_text(f"[tool.moot]\ndocument = {wrong}\n")
        with pytest.raises(InvalidBundle, match="document is a Python file"):
            from_path(project)
    (project / "pyproject.toml").write_text("[tool.moot\n")
    with pytest.raises(InvalidBundle, match="can not be read"):
        from_path(project)


def test_the_page_is_served_until_the_command_is_told_to_stop(tmp_path: Path) -> None:
    project = made(tmp_path, "duel", Template.GAME)
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", "dev", ".", "--port", "0", "--json"],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert json.loads(process.stdout.readline()) == {"saves": 1, "findings": ""}
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert b"moot dev" in answer.read()
        port = url.split(":")[2].split("/")[0]
        assert moot("dev", ".", "--port", port, cwd=project).code == 2
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_code_that_would_be_refused_is_refused_by_the_check(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import time\n")
    refused = called("dev", "bad.py", "--check", cwd=tmp_path)
    assert refused.code == 4
    assert "bad.py:1: ambient-time" in refused.err
    assert called("dev", "none.py", "--check", cwd=tmp_path).code == 2
