"""A day with a local cluster, typed: started, used, hurt, repaired, stopped, and there again the next morning."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.cli.local import LocalCluster
from cluster.cli.local_commands import EXAMPLES
from cluster.cli.output import Exit
from tests.cli.terminal import Finished, called, environment, moot

GUESTBOOK = '''
from cluster import Command, Document, Refused, anyone, field, on


class Full(Refused):
    """No page is left."""


class Guestbook(Document, version=1):
    gate = anyone
    names: list[str] = field.public()

    @on.construct
    def open(self, ctx: Command) -> None:
        self.names = []

    @on.message
    def sign(self, ctx: Command, name: str) -> str:
        if len(self.names) == 3:
            raise Full()
        self.names.append(name)
        return f"{name} {ctx.random.below(10**6)}"

    @on.message
    def tear(self, ctx: Command, page: int) -> str:
        return self.names[page]
'''
IMPURE = "import time\n" + GUESTBOOK

LIFECYCLE = {"up", "down", "kill", "pause", "restart"}
Typed = Callable[..., Finished]


@pytest.fixture(scope="module", name="home")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a running cluster of three nodes in .moot, on ports that nobody else uses."""
    home = tmp_path_factory.mktemp("home")
    LocalCluster.create(home / ".moot", 3, shards=2)
    (home / "guestbook.py").write_text(GUESTBOOK)
    try:
        started = moot("up", "--detach", "--json", cwd=home)
        assert started.code == Exit.DONE, started.err
        assert started.json["healthy"]
        assert set(started.json["deployed"]) == set(EXAMPLES)
        yield home
    finally:
        moot("down", cwd=home)


@pytest.fixture(name="typed")
def commands_in_its_home(home: Path) -> Typed:
    """`moot ...` typed there; what starts and ends nodes in a process of its own, which ends before they do."""

    def type_there(*arguments: str, **options: str) -> Finished:
        run = moot if arguments[0] in LIFECYCLE else called
        return run(*arguments, cwd=home, **options)

    return type_there


def test_starting_it_again_starts_nothing_and_deploys_nothing(typed: Typed) -> None:
    again = typed("up", "--detach", "--json").json
    assert (again["started"], again["deployed"]) == ([], [])
    assert typed("up", "--nodes", "5", "--detach").code == Exit.USAGE


def test_document_from_code_to_replay_without_a_cluster(typed: Typed, home: Path) -> None:
    assert typed("space", "deploy", "guestbook", "guestbook.py", "--json").json["changed"] is True
    assert typed("space", "deploy", "guestbook", "guestbook.py", "--json").json["changed"] is False
    assert "sign" in typed("space", "show", "guestbook").out
    assert typed("doc", "create", "guestbook/party", "--as", "alice@acme").code == Exit.DONE
    assert typed("doc", "create", "guestbook/party").code == Exit.REFUSED
    for name in ("ann", "ben", "cleo"):
        answer = typed("doc", "send", "guestbook/party", "sign", json.dumps({"name": name}), "--json").json
        assert answer["answer"].startswith(name)
    refused = typed("doc", "send", "guestbook/party", "sign", "-", "--json", stdin='{"name": "late"}')
    assert refused.code == Exit.REFUSED
    assert (refused.json["error"]["reason"], refused.json["error"]["details"]["name"]) == ("HANDLER_REFUSED", "Full")
    view = typed("doc", "read", "guestbook/party", "--json").json
    assert (view["view"], view["position"]) == ({"names": ["ann", "ben", "cleo"]}, {"epoch": 1, "index": 5})
    log = typed("doc", "log", "guestbook/party", "--json").json
    assert [row["code"] for row in log["commands"]] == ["OK", "OK", "OK", "OK", "REFUSED"]
    page = typed("doc", "log", "guestbook/party", "--from", "2", "--limit", "2", "--json").json
    assert page["commands"] == log["commands"][1:3]
    assert typed("doc", "inspect", "guestbook/party", "--json").json["equal"] is True
    listed = typed("doc", "list", "guestbook", "--json").json
    assert [row["document"] for row in listed["documents"]] == ["guestbook/party"]

    assert typed("doc", "log", "guestbook/party", "--export", "party.json").code == Exit.DONE
    exported = json.loads((home / "party.json").read_text())
    verdict = typed("doc", "replay", "party.json", "--json")
    assert verdict.code == Exit.DONE
    assert (verdict.json["equal"], verdict.json["commands"], verdict.json["chain"]) == (True, 5, "verified")

    exported["commands"][2]["answer"] = '"ben 7"'
    (home / "forged.json").write_text(json.dumps(exported))
    forged = typed("doc", "replay", "forged.json", "--json")
    assert forged.code == Exit.NO
    assert [row["position"] for row in forged.json["differences"]] == ["1.3"]

    exported["commands"][2]["answer"] = log["commands"][2]["answer"]
    exported["commands"][1]["time_ms"] += 1
    (home / "forged.json").write_text(json.dumps(exported))
    assert typed("doc", "replay", "forged.json", "--json").json["chain"] == "differs", "what no answer shows, the chain does"


def test_failing_code_shows_an_id_to_the_client_and_the_traceback_to_the_operator(typed: Typed) -> None:
    typed("space", "deploy", "guestbook", "guestbook.py")
    typed("doc", "create", "guestbook/torn")
    failed = typed("doc", "send", "guestbook/torn", "tear", '{"page": 4}', "--json")
    assert failed.code == Exit.REFUSED
    error_id = failed.json["error"]["details"]["error_id"]
    assert "IndexError" not in failed.out
    found = typed("space", "errors", "guestbook", "--id", error_id, "--json")
    assert "IndexError" in found.json["errors"][0]["traceback"]
    assert typed("space", "errors", "guestbook", "--id", "none").code == Exit.NO


def test_code_that_can_not_run_the_same_everywhere_is_refused_with_its_place(typed: Typed, home: Path) -> None:
    (home / "impure.py").write_text(IMPURE)
    refused = typed("space", "deploy", "impure", "impure.py", "--json")
    assert refused.code == Exit.REFUSED
    assert refused.json["error"]["reason"] == "INVALID_BUNDLE"
    assert "impure.py" in refused.json["error"]["message"]
    assert "impure" not in [row["space"] for row in typed("space", "list", "--json").json["spaces"]]


def test_watch_shows_the_view_and_then_patches_one_line_each(typed: Typed, home: Path) -> None:
    typed("doc", "create", "counter/watched")
    command = [sys.executable, "-m", "cluster", "doc", "watch", "counter/watched", "--count", "3", "--json"]
    with subprocess.Popen(command, cwd=home, env=environment(), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert (first["reset"], first["view"]["total"]) == (True, 0)
        for amount in (5, 6):
            typed("doc", "send", "counter/watched", "add", json.dumps({"amount": amount}))
        steps = [json.loads(watching.stdout.readline()) for _ in range(2)]
        assert watching.wait(timeout=30) == Exit.DONE
    assert [step["patch"] for step in steps] == [
        [{"op": "replace", "path": "/total", "value": 5}],
        [{"op": "replace", "path": "/total", "value": 11}],
    ]


def test_killed_node_is_seen_and_comes_back(typed: Typed) -> None:
    assert typed("kill", "2", "--json").json == {"node_id": "n2", "killed": True, "state": "stopped"}
    assert typed("kill", "n2").code == Exit.NO
    typed("doc", "create", "counter/while-down")
    assert typed("doc", "send", "counter/while-down", "add").code == Exit.DONE
    status = until(lambda: typed("status", "--json"), lambda found: found.json["nodes_alive"] == 2)
    assert status.code == Exit.NO
    assert status.json["failures_tolerated"] == 0
    assert {row["node_id"]: row["process"] for row in status.json["nodes"]}["n2"] == "stopped"
    assert "degraded" in typed("status").out
    why = until(
        lambda: typed("nodes", "--why", "n2", "--json"),
        lambda found: {opinion["state"] for opinion in found.json["opinions"]} == {"dead"},
    )
    assert (why.code, why.json["silent"]) == (Exit.NO, ["n2"])
    for opinion in why.json["opinions"]:
        happenings = {episode["what"]: episode for episode in opinion["episodes"]}
        assert {accuser["node_id"] for accuser in happenings["died"]["accusers"]} <= {"n1", "n3"}
        assert opinion["paths"]["data"] is False
    assert typed("restart", "2", "--json").json["state"] == "running"
    assert typed("status", "--wait-healthy", "--timeout", "30").code == Exit.DONE
    assert typed("doc", "inspect", "counter/while-down").code == Exit.DONE


def test_paused_node_goes_on_when_it_is_restarted(typed: Typed) -> None:
    assert typed("pause", "3", "--json").json["state"] == "paused"
    typed("doc", "create", "counter/while-paused")
    assert typed("doc", "send", "counter/while-paused", "add").code == Exit.DONE
    assert typed("restart", "3", "--json").json["before"] == "paused"
    assert typed("status", "--wait-healthy", "--timeout", "30").code == Exit.DONE


def test_where_and_shards_name_the_same_leader(typed: Typed) -> None:
    where = typed("where", "counter/somewhere", "--json").json
    shards = {row["shard"]: row for row in typed("shards", "list", "--json").json["shards"]}
    assert shards[where["shard"]]["leader"] == where["leader"]
    assert shards[where["shard"]]["hash_begin"] <= where["hash"] < shards[where["shard"]]["hash_end"]
    assert typed("shards", "list", "--halted").code == Exit.DONE


def test_everything_is_there_the_next_morning(typed: Typed, home: Path) -> None:
    typed("doc", "create", "counter/kept")
    typed("doc", "send", "counter/kept", "add", '{"amount": 42}')
    before = LocalCluster.open(home / ".moot").nodes
    assert sorted(typed("down", "--json").json["stopped"]) == ["n1", "n2", "n3"]
    assert typed("status").code == Exit.UNREACHABLE
    assert typed("down", "--json").json["stopped"] == []
    assert typed("up", "--detach", "--json").json["deployed"] == []
    after = LocalCluster.open(home / ".moot").nodes
    assert [node.client_port for node in after] == [node.client_port for node in before]
    assert typed("doc", "read", "counter/kept", "--json").json["view"]["total"] == 42


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_foreground_cluster_stops_its_nodes_when_it_is_told_to(tmp_path: Path, number: int) -> None:
    local = LocalCluster.create(tmp_path / ".moot", 1, shards=1)
    command = [sys.executable, "-m", "cluster", "up", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        started = json.loads(running.stdout.readline())
        assert started["healthy"]
        os.kill(running.pid, number)
        code = running.wait(timeout=60)
    local.refresh()
    left = local.kill_all()
    assert (code, left) == (Exit.DONE, 0)
    log = local.log_path(local.nodes[0]).read_text()
    assert "Traceback" not in log


def test_taken_address_ends_a_node_with_its_exit_code(home: Path, tmp_path: Path) -> None:
    taken = LocalCluster.open(home / ".moot").nodes[0].client_port
    arguments = ("--node-id", "other", "--data-dir", str(tmp_path / "data"), "--client-port", str(taken))
    ended = moot("node", "start", *arguments, "--init", "--replication-factor", "1", "--peer-port", "29998", cwd=tmp_path)
    assert ended.code == Exit.UNREACHABLE
    assert "in use" in ended.err
    assert "free the address" in ended.err


def until(ask: Callable[[], Finished], holds: Callable[[Finished], bool], timeout_s: float = 60) -> Finished:
    """Ask again until it holds; fails with the last answer when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if holds(answer):
            return answer
        assert time.monotonic() < deadline, answer.out
