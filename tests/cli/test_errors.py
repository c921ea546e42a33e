"""How commands fail: one exit code for each kind of trouble, what happened, what state it left, what to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import errors
from cluster.cli.app import app
from cluster.cli.output import Exit, failure_of
from cluster.errors import Applied, ClusterError
from tests.cli.terminal import called

runner = CliRunner(env={"MOOT_ADDRESS": "", "COLUMNS": "200"})
NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnknownDocument(), Exit.REFUSED),
        (errors.HandlerRefused(), Exit.REFUSED),
        (errors.Overloaded(retry_after_ms=50), Exit.REFUSED),
        (errors.Unavailable(), Exit.UNREACHABLE),
        (errors.Unavailable(applied=Applied.UNKNOWN), Exit.UNKNOWN),
        (errors.OutcomeUnknown(), Exit.UNKNOWN),
        (errors.ConfigurationInvalid(), Exit.USAGE),
        (errors.StorageDamaged(), Exit.OPERATOR),
        (errors.LogLost(), Exit.OPERATOR),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ClusterError) else str(int(value)),
)
def test_each_kind_of_trouble_has_its_exit_code(error: ClusterError, code: Exit) -> None:
    assert failure_of(error).code is code


def test_what_state_an_error_left_is_never_claimed_wrongly() -> None:
    assert failure_of(errors.OutcomeUnknown()).state == "it may or may not have been applied"
    assert failure_of(errors.KeyReused()).state == "nothing changed"
    assert "50 ms" in failure_of(errors.Overloaded(retry_after_ms=50)).next_step


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("nodes",),
        ("shards", "list"),
        ("where", "chat/lobby"),
        ("space", "list"),
        ("doc", "read", "chat/lobby"),
        ("doc", "inspect", "chat/lobby"),
        ("space", "errors", "chat"),
    ],
    ids=" ".join,
)
def test_cluster_that_is_not_there_is_unreachable_and_the_next_step_is_told(arguments: tuple[str, ...]) -> None:
    failed = runner.invoke(app, [*arguments, "--address", NOBODY])
    assert failed.exit_code == Exit.UNREACHABLE
    assert "moot" in failed.stderr
    told = runner.invoke(app, [*arguments, "--address", NOBODY, "--json"])
    assert told.exit_code == Exit.UNREACHABLE
    answer = json.loads(told.stdout)
    assert arguments == ("status",) or answer["error"]["exit_code"] == Exit.UNREACHABLE
    assert answer.get("reachable", False) is False


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("doc", "read", "nokey"), "space/key"),
        (("doc", "send", "chat/lobby", "say", "{broken"), "JSON"),
        (("doc", "send", "chat/lobby", "say", "[1]"), "object"),
        (("doc", "send", "chat/lobby", "say", "@/nowhere/at/all"), "can not read"),
        (("doc", "read", "chat/lobby", "--as", "nobody"), "agent@authority"),
        (("doc", "read", "chat/lobby", "--at-least", "7"), "position"),
        (("status", "--address", "nowhere"), "host:port"),
        (("space", "deploy", "chat", "/nowhere/at/all.py"), "package"),
        (("space", "deploy", "No Name", "x.py"), "[a-z]"),
        (("bench", "send", "--levels", "1,two"), "two"),
        (("bench", "send", "--against", "redis"), "etcd"),
        (("doc", "replay", "/nowhere/at/all.json"), "can not read"),
        (("demo", "--trace", "/nowhere/at/all.json"), "No such file"),
        (("config", "show", "--shard-count", "many"), "shard_count"),
        (("node", "start", "--node-id", "n1"), "data_dir"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_command_line_is_told_before_anything_is_tried(arguments: tuple[str, ...], word: str) -> None:
    address = () if "--address" in arguments or arguments[0] in ("bench", "demo", "config", "node") else ("--address", NOBODY)
    if arguments[:2] == ("doc", "replay"):
        address = ()
    failed = runner.invoke(app, [*arguments, *address])
    assert failed.exit_code in (Exit.USAGE, Exit.REFUSED)
    assert word in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("name", ["down", "kill 1", "pause 1", "restart 1"])
def test_commands_on_a_local_cluster_say_when_there_is_none(tmp_path: Path, name: str) -> None:
    failed = called(*name.split(), "--data", str(tmp_path / "none"), cwd=tmp_path)
    assert failed.code == Exit.USAGE
    assert "moot up" in failed.err
    assert not (tmp_path / "none").exists(), "asking leaves nothing behind"


def test_errors_are_one_json_value_too(tmp_path: Path) -> None:
    failed = called("doc", "read", "chat/lobby", "--address", NOBODY, "--json", cwd=tmp_path)
    assert failed.code == Exit.UNREACHABLE
    assert set(failed.json["error"]) == {"reason", "message", "state", "next", "exit_code", "details"}
    assert failed.json["error"]["reason"] == "UNAVAILABLE"
    assert failed.err == ""
