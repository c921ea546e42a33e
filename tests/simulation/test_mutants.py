"""Planted bugs: the hunt finds them, says so when it does not, and leaves the product as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.mutants import hunt as hunting
from chaos.mutants.hunt import MUTANTS, SEEDS_MAX, Caught, fails_by_itself, hunt, hunt_all
from chaos.mutants.mutant import Mutant, Patch, collector
from chaos.mutants.reach import WIPES
from chaos.mutants.results import markdown
from chaos.sim.faults import Wipe
from chaos.sim.run import run
from chaos.sim.scenario import draw
from cluster.shard.cache import DocumentCache
from tests.cli.terminal import moot
from tests.simulation.fresh import chance, first_seed

FIRST = first_seed()
"""Other seeds in every run: a bug must not be found by a seed that somebody chose."""

QUICK = {
    "consensus": ("vote_told_before_sync", "append_acked_before_sync", "leader_commits_alone", "contradicted_entries_kept"),
    "documents": ("replay_not_skipped", "record_without_sessions", "evicted_without_saving", "time_read_at_apply"),
    "waiting": ("cancelled_alarm_rings", "rung_again_after_a_restart", "answered_twice"),
    "telling": ("read_at_any_replica", "watch_resumes_one_too_late", "watch_resumes_one_too_early"),
}
"""Some that every few seeds show, of three layers. `moot chaos mutants` plants all."""


LAYERS = {
    "elections", "consensus", "leases", "membership", "placement", "sleeping", "storage", "documents", "snapshots", "telling",
    "clients", "upgrades", "waiting", "passing", "connections", "by_hand",
}  # fmt: skip


@pytest.mark.parametrize("layer", QUICK)
def test_a_planted_bug_is_found(layer: str) -> None:
    """One of each layer, another one in every run, by a seed that passes without it."""
    caught = hunt(chance().choice(QUICK[layer]), FIRST, 60)
    assert caught.caught, f"{caught.name} is missed by 60 seeds from {FIRST}"
    assert caught.layer == layer
    assert caught.seed is not None
    assert caught.seeds <= caught.seed - FIRST + 1, "seeds that it can not show in are passed over"
    assert caught.checker
    assert not run(draw(caught.seed)).failed, "the seed fails because of the bug alone"


def test_what_no_checker_sees_is_told_as_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not as caught, whatever the seeds do without it."""
    harmless = Mutant("harmless", "documents", "a cache as large as ever", lambda patch: None)
    monkeypatch.setitem(MUTANTS, "harmless", harmless)
    missed = hunt("harmless", FIRST, 3)
    assert (missed.caught, missed.seeds, missed.seed, missed.checker) == (False, 3, None, "")
    assert missed.row()["caught"] is False


def test_a_seed_that_fails_without_the_bug_does_not_catch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told instead, for it is about the product."""
    harmless = Mutant("harmless", "documents", "", lambda patch: None)
    monkeypatch.setitem(MUTANTS, "harmless", harmless)
    fails_by_itself.cache_clear()
    with MUTANTS["leader_commits_alone"].planted():
        told = hunt("harmless", 1, 3)
    fails_by_itself.cache_clear()
    assert not told.caught
    assert told.sick


def test_a_mutant_that_breaks_by_itself_catches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the planting code is not a broken promise."""
    found, mutant = collector()

    @mutant("stumbles")
    def stumbles(patch: Patch) -> None:
        def get(*arguments: object) -> object:
            raise NameError("the planting code is wrong")

        patch.set(DocumentCache, "get", get)

    monkeypatch.setitem(MUTANTS, "stumbles", found[0])
    with pytest.raises(AssertionError, match="stumbles over its own code"):
        hunt("stumbles", 1, 2)


def test_planted_bugs_are_taken_out_again() -> None:
    before = run(draw(5)).trace
    for mutant in MUTANTS.values():
        with mutant.planted():
            pass
    assert run(draw(5)).trace == before


def test_a_bug_is_never_planted_where_nothing_grows() -> None:
    """A method that was renamed would leave its mutant without effect."""
    patch = Patch()
    with pytest.raises(KeyError):
        patch.set(DocumentCache, "no_such_method", None)
    with pytest.raises(AssertionError, match="stands in no table"):
        patch.handler({"role": {}}, print, print)


def test_every_mutant_has_a_name_a_layer_and_a_story() -> None:
    assert len(MUTANTS) >= 20
    for mutant in MUTANTS.values():
        assert mutant.name.isidentifier()
        assert mutant.story
        assert mutant.layer in LAYERS
    stories = [mutant.story for mutant in MUTANTS.values()]
    assert len(set(stories)) == len(stories), "no bug is planted twice under two names"


def test_results_come_in_the_order_of_the_names() -> None:
    told: list[Caught] = []
    names = ["watch_resumes_one_too_early", "time_read_at_apply"]
    found = hunt_all(names, 2, 1, 20, told.append)
    assert [one.name for one in found] == names
    assert {one.name for one in told} == set(names)


def test_the_command_prints_a_list_and_says_by_its_exit_code_whether_all_were_caught(tmp_path: Path) -> None:
    found = moot("chaos", "mutants", "--only", "time_read_at_apply", "--only", "replay_not_skipped", "--json", cwd=tmp_path)
    assert found.code == 0, found.err
    assert [(row["name"], row["caught"]) for row in found.json] == [("time_read_at_apply", True), ("replay_not_skipped", True)]
    for row in found.json:
        assert 1 <= row["seeds"] <= SEEDS_MAX
        assert row["seconds"] >= 0
        assert row["checker"]


def test_the_command_fails_when_one_is_missed(tmp_path: Path) -> None:
    """This bug needs dozens of seeds, and is given one."""
    missed = moot("chaos", "mutants", "--only", "completion_of_a_replaced_write_counts", "--seeds-max", "1", cwd=tmp_path)
    assert missed.code == 1
    assert "missed" in missed.out
    assert "0 of 1" in missed.out


def test_a_hunt_passes_over_seeds_that_its_bug_can_not_show_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """And counts those that it ran, which have what the table says."""
    found, mutant = collector()

    @mutant("breaks what it meets", WIPES)
    def breaks(patch: Patch) -> None:
        patch.set(DocumentCache, "get", broken)

    def broken(*arguments: object) -> object:
        return MUTANTS["leader_commits_alone"].no_such_field  # type: ignore[attr-defined]

    monkeypatch.setitem(MUTANTS, "breaks", found[0])
    monkeypatch.setattr(hunting, "_stumbled", lambda mutant, outcome: False)
    caught = hunt("breaks", FIRST, 20)
    assert (caught.caught, caught.seeds, caught.reach) == (True, 1, "wiped nodes")
    assert caught.seed is not None
    assert any(isinstance(fault, Wipe) for fault in draw(caught.seed).faults)
    passed = [draw(seed).faults for seed in range(FIRST, caught.seed)]
    assert not any(isinstance(fault, Wipe) for faults in passed for fault in faults)


def test_progress_is_told_without_a_terminal_and_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """A line on standard error for each bug as it is done; what stands in the file is not hunted again."""
    names = ("--only", "time_read_at_apply", "--only", "replay_not_skipped", "--first", "7", "--jobs", "1")
    full = moot("chaos", "mutants", *names, "--output", "found.jsonl", "--json", cwd=tmp_path)
    assert full.code == 0, full.err
    told = full.err.splitlines()
    assert [line.partition(":")[0] for line in told] == ["time_read_at_apply", "replay_not_skipped"]
    assert [line.rpartition(", ")[2] for line in told] == ["1 left", "0 left"]
    assert all("the last " in line and " s, " in line for line in told)

    file = tmp_path / "found.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    file.write_text("".join(lines[:2]) + lines[2][:40])
    resumed = moot("chaos", "mutants", *names, "--resume", "found.jsonl", "--json", cwd=tmp_path)
    assert [line.partition(":")[0] for line in resumed.err.splitlines()] == ["replay_not_skipped"]

    def without_seconds(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{**row, "seconds": 0} for row in rows]

    assert without_seconds(resumed.json) == without_seconds(full.json)
    assert len(file.read_text().splitlines()) == 3


def test_a_file_of_other_seeds_is_not_gone_on_with(tmp_path: Path) -> None:
    """Counts of different seeds do not belong into one table; the file stays as it was."""
    file = tmp_path / "found.jsonl"
    for content in ('{"first": 1, "seeds_max": 300}\n', "no JSON\n", ""):
        file.write_text(content)
        refused = moot(
            "chaos", "mutants", "--only", "time_read_at_apply", "--first", "2", "--resume", "found.jsonl", cwd=tmp_path
        )
        assert refused.code == 2
        assert file.read_text() == content


def test_the_published_table_is_what_the_command_prints(tmp_path: Path) -> None:
    """The page's head and rows have the form, the names, the stories and the seeds of this catalogue."""
    page = (Path(__file__).parents[2] / "docs" / "internals" / "testing.md").read_text().splitlines()
    rows = [
        Caught(name, bug.layer, bug.story, bug.reach.name, True, 1, 1.0, 1, "durability", "") for name, bug in MUTANTS.items()
    ]
    printed = markdown(rows).splitlines()
    assert printed[:2] == page[page.index(printed[0]) :][:2]
    told = [line.split(" | ") for line in page if line.startswith("| `")]
    assert [(cells[0], cells[1], cells[3]) for cells in told] == [
        (cells[0], cells[1], cells[3]) for cells in (line.split(" | ") for line in printed[2:])
    ]
    assert all(1 <= int(cells[2].split()[0]) <= SEEDS_MAX and "missed" not in cells[4] for cells in told)


def test_the_command_refuses_a_name_that_no_mutant_has(tmp_path: Path) -> None:
    refused = moot("chaos", "mutants", "--only", "no_such_bug", "--json", cwd=tmp_path)
    assert refused.code == 2
    assert "no_such_bug" in refused.json["error"]["message"]
