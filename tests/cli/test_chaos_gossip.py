"""`moot chaos gossip`: its figures have stable keys, its exit code says whether every target was met."""

from __future__ import annotations

from pathlib import Path

from cluster.cli.output import Exit
from tests.cli.terminal import called


def test_a_small_cluster_meets_its_targets_and_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    arguments = ("chaos", "gossip", "--nodes", "4", "--seconds", "10", "--loss", "0.05", "--seeds", "2")
    first, second = (called(*arguments, "--json", cwd=tmp_path) for _ in range(2))
    assert first.code == Exit.DONE, first.out
    timed = {"cpu_s", "step_us_p50", "step_us_p99"}
    found, again = ({key: value for key, value in each.json.items() if key not in timed} for each in (first, second))
    assert found == again
    assert (found["nodes"], found["seeds"], found["false_deaths"], found["converged"]) == (4, 2, 0, True)
    assert all(found["met"].values())
    assert "false deaths" in called(*arguments, cwd=tmp_path).out


def test_a_target_that_is_missed_is_an_answer_of_no(tmp_path: Path) -> None:
    arguments = ("chaos", "gossip", "--nodes", "3", "--seconds", "10", "--loss", "0.8", "--seeds", "2", "--json")
    missed = called(*arguments, cwd=tmp_path)
    assert missed.code == Exit.NO
    assert not all(missed.json["met"].values())


def test_one_core_among_a_crowd_of_modelled_peers_is_measured(tmp_path: Path) -> None:
    shown = called("chaos", "gossip", "--modelled", "300", "--seconds", "4", "--json", cwd=tmp_path)
    assert shown.code == Exit.DONE
    assert (shown.json["peers"], shown.json["false_deaths"]) == (300, 0)
    assert shown.json["detection_p50_s"] <= shown.json["detection_s"]
    assert shown.json["bytes_per_member"] <= 2_048


def test_too_many_strangers_are_refused(tmp_path: Path) -> None:
    assert called("chaos", "gossip", "--nodes", "1000", "--join", "--json", cwd=tmp_path).code == Exit.USAGE
