"""Whole clusters under faults: fresh seeds, seeds that once found a bug, and the honesty of the simulator itself."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.mutants.hunt import MUTANTS
from chaos.sim.batch import Totals, run_seeds, sweep
from chaos.sim.guard import AmbientAccess, sealed
from chaos.sim.marks import MARKS
from chaos.sim.report import failure_lines, lines_of, summary
from chaos.sim.run import Outcome, run
from chaos.sim.scenario import draw
from chaos.sim.shrink import Shrinker
from tests.simulation.fresh import first_seed

ROOT = Path(__file__).parents[2]
FRESH_SEEDS = 300
RARE = {
    "elections", "leader_deaths_with_traffic", "snapshots_installed", "logs_compacted", "logs_truncated", "restarts",
    "moves_done", "leaders_slept", "followers_slept", "leaderless_slept", "woken_by_message", "woken_by_liveness",
    "woken_by_request", "lease_reads_served", "leaders_demoted_by_disk", "leaders_without_quorum", "leaders_deposed",
    "joint_configurations_left", "earlier_terms_committed", "committed_without_own_disk", "replaced_in_flight",
    "campaigns_called", "spaces_deployed_late", "alarms_rung", "asks_answered", "asks_closed", "asks_timed_out",
}  # fmt: skip
"""Paths that so many seeds are certain to take: each is taken by at least one in twenty."""
PROCESSES = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
"""Other tests have the other cores when there are several workers."""

FOUND_BUGS = {
    73: "a read error of the disk was told to a client as STORAGE_ERROR; the node went on",
    406: "a rotten record was told to a client as STORAGE_DAMAGED, while other replicas had it whole",
    498: "a wiped node's vote was counted before its peers had fenced it",
    83: "a delta that the gateway dropped kept its credit: the watch waited for ever",
    109: "the reset after lost frames closed watches that had just been opened again",
    604: "a leader that contradicted its log stayed due for ever, and its node turned without end",
    12122: "doubt about a document withheld the snapshot without which nothing more could be committed or the doubt settled",
    12025: "a leader cut the log that a voter needed to say which of two differing replicas was right",
    12284: "the checker forgot with the nodes' restart that a document had frozen because a voter was away for 30 s",
    158: "a sleeping leader that refused an operator had no timer any more, and never asked its new replica again",
    12228: "the simulator's own: it froze a leader while one follower was damaged and the other needed a snapshot",
    20035: "the simulator's own: it held against a commit that one of those who had acknowledged the entry was wiped since",
    31001: "the simulator's own: one of two voters that could outvote a diverged replica could not be heard for good",
    31067: "a listing answered in the turn that applied a creation did not show it: its record was not written yet",
    1001462: "only the leader knew that a document was in doubt; the next one, itself wrong, made copies of it",
    5005341: "a report said of a voter that has no word what it had said before it became a copy",
    5000591: "a document waited 30 s for the word of a voter that needed the snapshot which doubt withheld",
    1001822: "a sleeping leader woke to replace a lost replica, found that it led no more, and its node ended",
    22021: "a majority that agreed once the wrong one was gone left the report waiting for ever",
    357474087579: "a leader that had taken over what is right stayed unwell, because nobody was right about another document",
    9100016: "the simulator's own: with one replica wrong and another a copy of it there is no majority to know better",
    9300047: "a voter that had given up a leader, which slept, went on promising it not to campaign, and never found it",
    771003: "what was due waited for a clock that was a minute behind its peers', instead of for the time of the shard",
    773006: "credit that a client granted while its watch was being opened again was lost, and it was shown nothing more",
    9400035: "a move took the replacement of a lost replica for its own learner: two voters were left of three, then one",
    6002806: "it was decided who was right; the next leader heard the wrong one alone, forgot that, and froze the document",
    303969651909: "a voter that was only cut off was not waited for, for it had been offered a snapshot that it did not need",
    374295466587: "a later leader's snapshot came for nothing, and the earlier one's was asked on without its generation",
    20000342: "the simulator's own: a message was checked against a document that a lagging leader made again on older code",
    429613448610: "the simulator's own: its operator took the replacement of a lost replica as the end of a move, as 9400035",
    32000145: "a repeat of what a document had answered before it was deleted, made again and upgraded was told KEY_REUSED",
    32000225: "the simulator's own: it asked who had entered a joint configuration of which the log was cut meanwhile",
    32001156: "the simulator's own: it looked at a document whose code its new leader had not fetched yet",
    50001902: "the simulator's own: a key that was forgotten twice let its command run three times, and it knew of two",
    913432073304: "the simulator's own: its operator of forks looked for code at a node that had been wiped",
    60000080: "the simulator's own: a frame overtook another that a cut had met on its way, and a watch outlived its end",
    60010271: "a repeat to a deleted document, by a leader that knew of newer code than it had run, was told KEY_REUSED",
    22842628658: "the simulator's own: its operator created the cluster's document, lost the answer, and found it there",
    80000214: "a report of before a thaw froze again a replica that had come by snapshot, and whose history was on its way",
    2799: "a document froze although the word of the leader that had found it, and was away, stood in the report",
    282148837779: "a watch that was opened twice lost what the second opening brought of cursors: it ended where the first did",
    60020151: "a creation retried behind a deployment changed the code that messages to the first one were checked against",
    82000064: "a restarted node's first heartbeat came behind its watches, and closed them with older ones",
    623996427487: "a copy of a frozen replica and that one outvoted a voter that slept through the freeze, for ever",
}
"""Seeds that failed once, with what they found."""


@pytest.mark.timeout(600)
def test_fresh_seeds_keep_every_promise() -> None:
    """Other seeds in every run. One that fails is printed with the command that replays it."""
    first = first_seed()
    totals = sweep(range(first, first + FRESH_SEEDS), PROCESSES)
    told = "\n\n".join("\n".join(failure_lines(outcome)) for outcome in totals.failures[:3])
    assert not totals.failures, f"{len(totals.failures)} of {totals.seeds} seeds from {first} failed\n{told}"
    assert totals.seeds == FRESH_SEEDS
    assert set(totals.marks) >= RARE, "seeds that go through nothing prove nothing"
    assert len(totals.faults) >= 15, "most kinds of faults took part"


@pytest.fixture(scope="module")
def replayed(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Outcome]]:
    """Runs the seeds that are asked for, in several processes where there are some to be had, while others are judged."""
    if PROCESSES == 1:
        yield lambda seed: run(draw(seed))
        return
    functions = [item for item in request.session.items if isinstance(item, pytest.Function)]
    asked = [str(function.callspec.id) for function in functions if "replayed" in function.fixturenames]
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = {seed: pool.submit(run_seeds, [seed]) for seed in map(int, asked)}
        yield lambda seed: runs[seed].result()[0]
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("seed", FOUND_BUGS, ids=str)
def test_seeds_that_found_bugs_pass(seed: int, replayed: Callable[[int], Outcome]) -> None:
    outcome = replayed(seed)
    assert not outcome.failed, f"{FOUND_BUGS[seed]}\n" + "\n".join(failure_lines(outcome))


def test_the_same_seed_is_the_same_run() -> None:
    """Down to the digest of every event; also where the hashes of strings differ, in processes of their own."""
    seeds = (3, 4, 11, 17)
    code = f"from chaos.sim.run import run; from chaos.sim.scenario import draw; print([run(draw(s)).trace for s in {seeds}])"
    others = []
    for hash_seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        others.append(subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True))
    traces = {str([run(draw(seed)).trace for seed in seeds])}
    for other in others:
        told, _ = other.communicate(timeout=100)
        assert other.returncode == 0
        traces.add(told.strip())
    assert len(traces) == 1


def test_other_seeds_are_other_runs() -> None:
    assert len({run(draw(seed)).trace for seed in (3, 4, 11)}) == 3


def test_a_fault_that_is_taken_away_leaves_the_others_as_they_were() -> None:
    """Or shrinking would look at another story every time."""
    scenario = draw(11)
    fewer = replace(scenario, faults=scenario.faults[1:])
    assert len(scenario.faults) > 3
    assert fewer.faults == scenario.faults[1:]
    assert fewer.work == scenario.work
    assert run(fewer).trace != run(scenario).trace


def test_simulated_code_can_not_reach_the_real_world() -> None:
    with sealed(), pytest.raises(AmbientAccess, match="monotonic"):
        time.monotonic()
    with sealed(), pytest.raises(AmbientAccess, match="urandom"):
        os.urandom(1)
    assert time.monotonic() > 0, "and it is there again afterwards"


def test_a_failing_seed_becomes_a_small_story() -> None:
    with MUTANTS["log_cut_past_unsaved_records"].planted():
        seed = next(seed for seed in range(1, 50) if run(draw(seed)).failed)
        scenario = draw(seed)
        small = Shrinker(scenario, runs_max=60).shrink()
        assert small.outcome.checker == run(scenario).checker
        assert len(small.scenario.faults) <= 3
        assert len(small.scenario.work) < len(scenario.work) / 2
        assert run(small.scenario).trace == small.outcome.trace, "what is left replays"
    assert not run(small.scenario).failed


def test_a_seed_that_passes_can_not_be_shrunk() -> None:
    with pytest.raises(ValueError, match="does not fail"):
        Shrinker(draw(5))


def test_a_failing_seed_tells_its_story_and_how_to_see_it_again() -> None:
    with MUTANTS["quorum_one_short"].planted():
        outcome = run(draw(2))
    assert outcome.failed
    lines = failure_lines(outcome)
    assert outcome.checker in lines[0]
    assert "  replay: moot chaos sim --seed 2" in lines
    whole = lines_of(draw(2), outcome)
    assert len(outcome.ring) == 40
    assert set(outcome.ring) <= {line.removeprefix("  ") for line in whole}


def test_what_no_seed_has_met_is_named() -> None:
    totals = Totals()
    assert summary(totals, 1, 1.0)["marks_unmet"] == sorted(MARKS)
    totals.add(run(draw(3)))
    told = summary(totals, 3, 1.0)
    assert "answers" not in told["marks_unmet"]
    assert set(told["marks_unmet"]) == {mark for mark in MARKS if told["marks"][mark]["count"] == 0}


def test_a_sweep_adds_up() -> None:
    totals = sweep(range(1, 4), 1)
    told = summary(totals, 1, 1.0)
    assert told["seeds"] == 3
    assert told["events"] == sum(run(draw(seed)).events for seed in range(1, 4))
    assert told["faults"] == dict(sorted(totals.faults.items()))
    assert told["failures"] == []
