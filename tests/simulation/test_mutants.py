"""Planted bugs: the hunt finds them, says so when it does not, and leaves the product as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.mutants.hunt import MUTANTS, SEEDS_MAX, Caught, hunt, hunt_all
from chaos.mutants.mutant import Mutant, Patch, collector
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
    "telling": ("read_at_any_replica", "watch_resumes_one_too_late", "watch_resumes_one_too_early"),
}
"""Some that every few seeds show, of three layers. `moot chaos mutants` plants all."""


LAYERS = {
    "elections", "consensus", "membership", "sleeping", "storage", "documents", "snapshots", "telling", "clients",
}  # fmt: skip


@pytest.mark.parametrize("layer", QUICK)
def test_a_planted_bug_is_found(layer: str) -> None:
    """One of each layer, another one in every run, by a seed that passes without it."""
    caught = hunt(chance().choice(QUICK[layer]), FIRST, 60)
    assert caught.caught, f"{caught.name} is missed by 60 seeds from {FIRST}"
    assert caught.layer == layer
    assert caught.seed is not None
    assert caught.seeds == caught.seed - FIRST + 1
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
    with MUTANTS["leader_commits_alone"].planted():
        told = hunt("harmless", 1, 3)
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
    """Nothing is applied twice by the first seed: this bug needs more of them."""
    missed = moot("chaos", "mutants", "--only", "snapshot_must_be_the_one_offered", "--seeds-max", "1", cwd=tmp_path)
    assert missed.code == 1
    assert "missed" in missed.out
    assert "0 of 1" in missed.out


def test_the_command_refuses_a_name_that_no_mutant_has(tmp_path: Path) -> None:
    refused = moot("chaos", "mutants", "--only", "no_such_bug", "--json", cwd=tmp_path)
    assert refused.code == 2
    assert "no_such_bug" in refused.json["error"]["message"]
