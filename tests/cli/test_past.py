"""`moot doc show | diff | why | audit | fork` on a file: the past of a document without any cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.cli.output import Exit
from cluster.examples.cards import Cards
from cluster.examples.poll import Poll
from tests.cli.terminal import called


@pytest.fixture(name="home", scope="module")
def home_with_a_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("past")
    game = Cards.simulate(by="ann@acme", seed=3)
    ann, ben = game.visitor("ann@acme"), game.visitor("ben@acme")
    ben.sit()
    ann.deal()
    ann.draw()
    ben.draw()
    (home / "table.json").write_text(json.dumps(game.history()))
    game.repair([{"op": "replace", "path": "/turn", "value": 0}], reason="it was stuck")
    (home / "repaired.json").write_text(json.dumps(game.history()))
    poll = Poll.simulate(by="ann@acme", question="?", options=["red", "blue"])
    poll.visitor("ann@acme").vote(option="red")
    (home / "poll.json").write_text(json.dumps(poll.history()))
    poll.repair([{"op": "replace", "path": "/question", "value": "??"}], reason="a typo")
    (home / "repaired_poll.json").write_text(json.dumps(poll.history()))
    poll = Poll.simulate(by="ann@acme", question="?", options=["red", "blue"])
    poll.visitor("ann@acme").vote(option="red")
    poll.visitor("ann@acme").send("close")
    (home / "closed.json").write_text(json.dumps(poll.history()))
    return home


def test_show_is_what_a_principal_saw_or_all_of_it(home: Path) -> None:
    seen = called("doc", "show", "table.json", "--at", "3", "--as", "ben@acme", "--json", cwd=home)
    assert seen.code == Exit.DONE, seen.err
    assert seen.json["position"] == {"epoch": 1, "index": 3}
    assert {held["owner"] for held in seen.json["value"]["hands"].values()} == {"ben@acme"}
    assert "stock" not in seen.json["value"]
    whole = called("doc", "show", "table.json", "--json", cwd=home)
    assert len(whole.json["value"]["hands"]) == 12
    assert len(whole.json["value"]["stock"]) == 52 - 11 - 2
    assert "whole state" in called("doc", "show", "table.json", cwd=home).out


def test_diff_and_why_name_what_changed_and_who_did_it(home: Path) -> None:
    changed = called("doc", "diff", "table.json", "--from", "3", "--to", "4", "--as", "ben@acme", "--json", cwd=home)
    assert {each["path"] for each in changed.json["patch"]} == {"/turn", "/counts/ann@acme"}
    causes = called("doc", "why", "table.json", "/turn", "--json", cwd=home).json["causes"]
    assert [(each["sender"], each["channel"], each["after"]) for each in causes[1:]] == [
        ("ann@acme", "draw", 1),
        ("ben@acme", "draw", 2),
    ]
    assert "draw" in called("doc", "why", "table.json", "/turn", cwd=home).out


def test_audit_says_yes_or_no_with_its_exit_code(home: Path) -> None:
    audit = ("--who", "ben@acme", "--secret", "2", "--payload", '{"option": "blue"}')
    hidden = called("doc", "audit", "poll.json", *audit, cwd=home)
    assert (hidden.code, "hidden" in hidden.out) == (Exit.DONE, True)
    seen = called("doc", "audit", "closed.json", *audit, "--json", cwd=home)
    assert (seen.code, seen.json["hidden"], seen.json["first"]) == (Exit.NO, False, {"epoch": 1, "index": 3})
    nothing = called("doc", "audit", "table.json", "--who", "ben@acme", "--secret", "4", cwd=home)
    assert nothing.code == Exit.USAGE
    assert "nothing that could be changed" in nothing.err


def test_fork_is_a_history_that_ends_earlier(home: Path) -> None:
    forked = called("doc", "fork", "table.json", "--at", "3", "--output", "dealt.json", "--json", cwd=home)
    assert forked.json == {
        "document": "simulated/document", "file": "dealt.json", "position": {"epoch": 1, "index": 3}, "commands": 3
    }  # fmt: skip
    assert called("doc", "show", "dealt.json", "--json", cwd=home).json["value"]["turn"] == 0
    assert called("doc", "replay", "dealt.json", "--json", cwd=home).json["equal"]


def test_fork_as_somebody_holds_what_they_saw_and_no_commands(home: Path) -> None:
    forked = called("doc", "fork", "table.json", "--as", "ben@acme", "--output", "seen.json", "--json", cwd=home)
    assert forked.json == {
        "document": "simulated/document", "file": "seen.json", "position": {"epoch": 1, "index": 5}, "commands": 0,
        "as": "ben@acme", "left_out": [],
    }  # fmt: skip
    seen = called("doc", "show", "seen.json", "--json", cwd=home).json["value"]
    assert {held["owner"] for held in seen["hands"].values()} == {"ben@acme"}
    assert seen["stock"] == []
    nowhere = called("doc", "fork", "table.json", cwd=home)
    assert (nowhere.code, "--output FILE, or --to SPACE/KEY" in nowhere.err) == (Exit.USAGE, True)


def test_a_repair_is_tried_on_a_file_and_shown_in_its_past(home: Path) -> None:
    patch = '[{"op": "replace", "path": "/turn", "value": 7}]'
    tried = called(
        "doc", "repair", "table.json", "--patch", patch, "--reason", "stuck", "--dry-run", "--expect-position", "1.5", "--json",
        cwd=home,
    )  # fmt: skip
    assert tried.code == Exit.DONE, tried.err
    assert tried.json == {
        "document": "simulated/document", "position": {"epoch": 1, "index": 5}, "dry_run": True, "patch": json.loads(patch)
    }  # fmt: skip
    (home / "patch.json").write_text(patch)
    told = called("doc", "repair", "table.json", "--patch", "patch.json", "--reason", "stuck", "--dry-run", cwd=home)
    assert "1 places; nothing was changed" in told.out
    causes = called("doc", "why", "repaired.json", "/turn", cwd=home).out
    assert "repair: it was stuck" in causes
    audit = ("--who", "ben@acme", "--secret", "2", "--payload", '{"option": "blue"}', "--json")
    found = called("doc", "audit", "repaired_poll.json", *audit, cwd=home).json
    assert found["repairs"] == [{"position": {"epoch": 1, "index": 3}, "sender": "operator@test", "reason": "a typo"}]


def test_a_repair_that_could_not_be_is_told_before_anything_is_asked(home: Path) -> None:
    fits = '[{"op": "replace", "path": "/turn", "value": 7}]'
    for patch, reason, more, why in (
        ('[{"op": "replace", "path": "/turn", "value": "x"}]', "why", (), "operation 0"),
        ('[{"op": "replace", "path": "/nothing", "value": 1}]', "why", (), "declares no field"),
        (fits, "", (), "needs a reason"),
        (fits, "why", ("--expect-position", "1.1"), "is at 1.5"),
        (fits, "why", ("--expect-position", "here"), "is not a position"),
        ("[", "why", (), "not a JSON array"),
        ("nowhere.json", "why", (), "can not read"),
        ("[]", "why", (), "nothing to do"),
    ):
        refused = called("doc", "repair", "table.json", "--patch", patch, "--reason", reason, "--dry-run", *more, cwd=home)
        assert (refused.code, why in refused.err) == (Exit.USAGE, True), (patch, reason, more, refused.err)


def test_what_is_not_there_is_said_and_changes_nothing(home: Path) -> None:
    for arguments in (
        ("show", "table.json", "--at", "99"),
        ("show", "table.json", "--as", "nobody"),
        ("diff", "table.json", "--from", "1", "--to", "99"),
        ("why", "table.json", "turn"),
        ("fork", "table.json", "--at", "99", "--output", "none.json"),
    ):
        refused = called("doc", *arguments, cwd=home)
        assert refused.code == Exit.USAGE, (arguments, refused.err)
        assert "Traceback" not in refused.err
    (home / "broken.json").write_text("{}")
    assert called("doc", "show", "broken.json", cwd=home).code == Exit.USAGE
    assert not (home / "none.json").exists()
