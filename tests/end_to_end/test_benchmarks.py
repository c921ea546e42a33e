"""Demo and benchmarks as commands: what they print for programs, and that they leave nothing running."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.bench.h2load import percentile
from chaos.bench.load import PAYLOAD_BYTES, payload, windows
from cluster.cli.output import Exit
from tests.cli.terminal import called, moot


def nodes_below(folder: Path) -> list[psutil.Process]:
    """Node processes whose configuration is below a folder."""
    processes = psutil.process_iter(["cmdline"])
    return [each for each in processes if any(str(folder) in part for part in each.info["cmdline"] or ())]


def test_demo_prints_what_it_found_and_exits_with_zero_only_for_nothing_lost(tmp_path: Path) -> None:
    shown = moot("demo", "--messages", "150", "--seed", "4", "--json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert shown.code == Exit.DONE, shown.out
    found = shown.json
    assert set(found) >= {
        "messages", "kills", "lost", "duplicated", "text_matches", "watcher_matches", "watcher_resets", "hashes_equal",
        "unavailable_ms", "seconds", "messages_per_s", "after_restart", "seed", "passed",
    }  # fmt: skip
    assert (found["messages"], found["lost"], found["duplicated"], found["watcher_resets"]) == (150, 0, 0, 0)
    assert "killed" in shown.err, "progress goes to stderr, line by line"
    assert nodes_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_send_measures_every_level_with_the_cpu_of_every_process(tmp_path: Path) -> None:
    arguments = ("--levels", "1,32", "--seconds", "0.5", "--repeat", "1", "--documents", "8")
    shown = moot("bench", "send", *arguments, "--json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert shown.code == Exit.DONE, shown.err
    levels = shown.json["levels"]
    assert [level["in_flight"] for level in levels] == [1, 32]
    for level in levels:
        for way in ("session", "unary"):
            found = level[way]
            assert found["acked_per_s"] > 0
            assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
            assert set(found["cpu_us_per_message"]) == {"n1", "n2", "n3", "client"}
    assert levels[1]["session"]["acked_per_s"] > levels[0]["session"]["acked_per_s"], "more in flight is more done"
    assert nodes_below(tmp_path) == []


def test_recovery_brings_everything_back_by_replay_alone(tmp_path: Path) -> None:
    shown = moot("bench", "recover", "--messages", "2000", "--json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert shown.code == Exit.DONE, shown.err
    found = shown.json
    assert (found["messages"], found["lost"]) == (2000, 0)
    assert found["replayed_per_s"] > 0
    assert 0 < found["restart_to_gateway_s"] <= found["restart_to_read_s"] <= found["restart_to_all_replicas_s"]


def test_failover_measures_how_long_no_write_is_acknowledged_and_that_none_is_lost(tmp_path: Path) -> None:
    arguments = ("--kills", "1", "--kinds", "kill,transfer", "--seed", "1")
    shown = moot("bench", "failover", *arguments, "--json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert shown.code == Exit.DONE, shown.err
    assert set(shown.json["kinds"]) == {"kill", "transfer"}
    for kind in ("kill", "transfer"):
        measured = shown.json["kinds"][kind]["moot"]
        assert 0 < measured["min_ms"] <= measured["p50_ms"] <= measured["max_ms"]
        assert len(measured["gaps_ms"]) == 1
    assert nodes_below(tmp_path) == []


def test_gossip_measures_how_soon_a_killed_node_is_held_dead_by_both_others(tmp_path: Path) -> None:
    shown = moot("bench", "gossip", "--rounds", "1", "--seed", "1", "--json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert shown.code == Exit.DONE, shown.err
    assert (shown.json["members"], shown.json["rounds"]) == (3, 1)
    assert 1_000 < shown.json["moot"]["p50_ms"] == shown.json["moot"]["max_ms"]
    assert nodes_below(tmp_path) == []
    assert moot("bench", "gossip", "--against", "etcd", "--json", cwd=tmp_path).code == Exit.USAGE


def test_what_is_no_kind_of_failover_is_refused(tmp_path: Path) -> None:
    shown = moot("bench", "failover", "--kinds", "kill,burn", "--json", cwd=tmp_path)
    assert (shown.code, "pause" in shown.out + shown.err) == (Exit.USAGE, True)


def test_idle_groups_have_leaders_and_are_measured_beside_a_cluster_with_few(tmp_path: Path) -> None:
    arguments = ("--groups", "60", "--seconds", "1", "--wakes", "2")
    shown = moot("bench", "idle", *arguments, "--json", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert shown.code == Exit.DONE, shown.err
    found = shown.json
    assert (found["groups"], found["nodes"]) == (60, 3)
    names = {"n1", "n2", "n3"}
    for figure in ("cpu_percent", "cpu_percent_baseline", "bytes_per_group", "rss_bytes", "rss_bytes_baseline"):
        assert set(found[figure]) == names, figure
    assert found["replicas"] == dict.fromkeys(names, 61), "the system shard comes on top"
    assert 0 < found["start_s"] <= found["leaders_s"] <= found["quiet_s"]
    assert len(found["first_use_ms"]) == 2
    assert "of 61" in shown.err, "how many groups have leaders is told meanwhile"
    assert nodes_below(tmp_path) == []


@given(in_flight=st.integers(1, 5000), documents=st.integers(1, 200))
def test_load_is_spread_evenly_and_is_exactly_what_was_asked(in_flight: int, documents: int) -> None:
    shares = windows(in_flight, documents)
    assert sum(shares) == in_flight
    assert len(shares) <= documents
    assert max(shares) - min(shares) <= 1
    assert min(shares) >= 1


@given(values=st.lists(st.floats(0, 1000), min_size=1), percent=st.sampled_from([0.1, 50, 99, 100]))
def test_percentile_is_the_nearest_rank(values: list[float], percent: float) -> None:
    ascending = sorted(values)
    found = percentile(ascending, percent)
    assert found in ascending
    assert sum(value <= found for value in ascending) >= len(ascending) * percent / 100
    assert sum(value < found for value in ascending) < max(1.0, len(ascending) * percent / 100)


def test_payload_has_the_size_that_results_name() -> None:
    assert len(payload()) == PAYLOAD_BYTES == 100


@pytest.mark.parametrize("levels", ["", "0", "1,", "-5"])
def test_levels_that_are_no_numbers_of_messages_are_refused(levels: str, tmp_path: Path) -> None:
    assert called("bench", "send", "--levels", levels, cwd=tmp_path).code == Exit.USAGE
