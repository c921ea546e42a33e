"""Real cores under seeded faults: safe after every event, live once the faults end (reference section 4, plan b)."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest

from cluster.raft.config import RaftConfig
from cluster.raft.configuration import members_of
from cluster.raft.effects import Role
from cluster.raft.events import Campaign, ChangeConfiguration, LeaderLost, PeerUnreachable, Propose, Transfer
from tests.raft.network import Cluster, Faults
from tests.raft.node import PAUSE_MS_MAX, Node

SEEDS = 140
SEEDS_PER_TEST = 20
CHANGE_SEEDS = 40
MEMBERS_MAX = 7
STEPS = 120
ELECTION_SEEDS = 20
LEASE_SEEDS = 20
LEASE_STEPS = 150
ROOMY = RaftConfig(election_timeout_ms_min=150, election_timeout_ms_max=300, stagger_ms=20, resend_timeout_ms=50)
TIGHT = replace(
    ROOMY, append_bytes_max=100, window_bytes_max=200, window_appends=2, tail_bytes_max=200, uncommitted_bytes_max=1_000
)

LEASES = replace(ROOMY, lease_reads=True, lease_drift_ms=10)


def reconfigure(cluster: Cluster, chance: random.Random) -> None:
    """Whoever thinks that it leads is asked for any change: grow, promote, demote, remove, or something that is refused."""
    leading = [node for node in cluster.nodes.values() if node.running and node.core.role is Role.LEADER]
    if not leading:
        return
    node = chance.choice(leading)
    now = node.core.configuration
    voters, learners = set(now.voters), set(now.learners)
    dice = chance.random()
    if dice < 0.25 and len(voters | learners) < MEMBERS_MAX:
        learners.add(cluster.add(max(cluster.nodes) + 1).replica)
    elif dice < 0.55:
        voters |= learners
        learners.clear()
    elif dice < 0.75 and len(voters) > 1:
        moved = set(chance.sample(sorted(voters), chance.randint(1, len(voters) - 1)))
        voters -= moved
        learners |= moved
    elif dice < 0.95:
        learners -= set(chance.sample(sorted(learners), min(len(learners), chance.randint(0, 2))))
    elif voters:
        voters.discard(chance.choice(sorted(voters)))
    effects = node.step(ChangeConfiguration(tuple(sorted(voters)), tuple(sorted(learners))))
    assert (effects.ticket is None) != (effects.refusal is None), "accepted or refused"


def stall(cluster: Cluster, node: Node, chance: random.Random) -> None:
    """A process stands still, a disk finishes no write, or power blinks: what the others notice late or not at all."""
    dice = chance.random()
    if dice < 0.3 and node.running:
        node.stop(chance.uniform(0.0, PAUSE_MS_MAX))
    elif dice < 0.6:
        cluster.hung_disks.add(node.replica)
    elif dice < 0.8:
        cluster.hung_disks.clear()
    elif node.alive:
        cluster.crash(node.replica)
        cluster.restart(node.replica)


def misbehave(cluster: Cluster, chance: random.Random, changes: bool) -> None:
    """One client request or one fault."""
    ids = list(cluster.nodes)
    victim = chance.choice(ids)
    node = cluster.nodes[victim]
    if changes and chance.random() < 0.06:
        stall(cluster, node, chance)
        return
    if changes and chance.random() < 0.2:
        if chance.random() < 0.7:
            reconfigure(cluster, chance)
        elif node.running:
            node.step(Transfer(chance.choice(ids)))
        return
    dice = chance.random()
    if dice < 0.60:
        if cluster.leader is not None:
            cluster.propose(*(b"%d" % chance.getrandbits(64) for _ in range(chance.randint(1, 5))))
    elif dice < 0.68:
        if node.running:
            leading = [replica for replica, other in cluster.nodes.items() if other.running and other.core.role is Role.LEADER]
            cluster.read(chance.choice([victim, *leading]))
    elif dice < 0.72:
        if node.alive:
            cluster.crash(victim)
    elif dice < 0.80:
        if not node.alive:
            cluster.restart(victim)
    elif dice < 0.84 and len(ids) > 1:
        cluster.isolate(*chance.sample(ids, chance.randint(1, len(ids) - 1)))
    elif dice < 0.91:
        cluster.heal()
    elif dice < 0.93 and node.running:
        node.step(LeaderLost())
    elif dice < 0.95 and node.running:
        node.step(PeerUnreachable(chance.choice(ids)))
    elif node.running:
        cluster.compact(victim, max(0, node.core.applied_index - chance.randint(0, 3)))


def storm(seed: int, *, changes: bool = False) -> Cluster:
    chance = random.Random(seed)
    faults = Faults(
        loss=chance.choice([0.0, 0.05, 0.2]),
        duplication=chance.choice([0.0, 0.1]),
        delay_ms=chance.choice([(0.5, 2.0), (0.5, 20.0), (1.0, 60.0)]),
        sync_ms=chance.choice([(0.5, 2.0), (1.0, 60.0)]),
    )
    config = chance.choice([TIGHT, ROOMY])
    if changes and chance.random() < 0.5:
        config = replace(config, lease_reads=True, lease_drift_ms=10)
        faults.pause = chance.choice([0.0, 0.2])
    cluster = Cluster(
        chance.choice([1, 2, 3, 3, 5]), learners=chance.choice([0, 0, 1]), seed=seed, config=config, faults=faults
    )
    for _ in range(STEPS):
        misbehave(cluster, chance, changes)
        cluster.run_ms(chance.choice([0.0, 2.0, 20.0, 200.0]))
    return cluster


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_cluster_is_safe_under_faults_and_converges_once_they_end(first: int) -> None:
    """Figure 3 after every event; then no faults, everybody up, and a new write reaches everybody."""
    for seed in range(first, first + SEEDS_PER_TEST):
        cluster = storm(seed)
        cluster.faults = Faults()
        cluster.heal()
        for replica, node in cluster.nodes.items():
            if not node.alive:
                cluster.restart(replica)
        cluster.run_until(cluster.converged, 30_000.0)
        cluster.propose(b"after the storm %d" % seed)
        cluster.settle()
        machines = [node.machine for node in cluster.nodes.values()]
        assert all(machine == machines[0] for machine in machines)
        assert machines[0][-1][1] == b"after the storm %d" % seed


def accepted(cluster: Cluster, write: bytes) -> bool:
    """Whether somebody leads who is not handing over just now, and has taken `write`."""
    return cluster.leader is not None and cluster.propose(write).ticket is not None


@pytest.mark.parametrize("first", range(0, CHANGE_SEEDS, SEEDS_PER_TEST))
def test_cluster_changes_its_replicas_under_faults_and_converges_once_they_end(first: int) -> None:
    """Paper figure 3; reference traps 12, 23, 36, 38 and 40 to 49 at once: replicas are added, promoted, demoted and removed,
    and leadership is handed over, while messages get lost, replicas crash, processes stand still and disks hang. After every
    event: figure 3, durability at a quorum of the configuration, that every replica's configuration is the newest in its log,
    and that reads, from leases in every other run, see what was committed before."""
    changed = leased = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        cluster = storm(seed, changes=True)
        cluster.faults = Faults()
        cluster.hung_disks.clear()
        cluster.run_ms(PAUSE_MS_MAX)
        cluster.heal()
        for replica, node in cluster.nodes.items():
            if not node.alive:
                cluster.restart(replica)
        cluster.run_until(cluster.converged, 60_000.0)
        write = b"after the storm %d" % seed
        cluster.run_until(partial(accepted, cluster, write))
        cluster.settle()
        assert cluster.leader is not None
        members = members_of(cluster.leader.core.configuration)
        machines = [cluster.nodes[replica].machine for replica in members]
        assert all(machine == machines[0] for machine in machines)
        assert machines[0][-1][1] == write
        leased += cluster.leased_reads
        changed += cluster.leader.core.configuration != cluster.configuration
    assert changed > SEEDS_PER_TEST // 4, "changes did succeed"
    assert leased > SEEDS_PER_TEST // 4, "leases did answer"


def disturb(cluster: Cluster, chance: random.Random) -> None:
    """Everything that could make a lease and the next leader overlap."""
    leading = [node for node in cluster.nodes.values() if node.running and node.core.role is Role.LEADER]
    node = chance.choice(leading or [node for node in cluster.nodes.values() if node.alive] or list(cluster.nodes.values()))
    dice = chance.random()
    if dice < 0.25:
        cluster.isolate(node.replica)
    elif dice < 0.45:
        for other in cluster.nodes.values():
            if other.running and other is not node:
                other.step(LeaderLost())
    elif dice < 0.60 and node.running:
        node.stop(chance.uniform(0.0, PAUSE_MS_MAX))
    elif dice < 0.70 and node.running:
        node.step(Transfer(chance.choice(list(cluster.nodes))))
    elif dice < 0.78 and node.running:
        reconfigure(cluster, chance)
    elif dice < 0.86 and node.alive:
        cluster.crash(node.replica)
    elif dice < 0.94:
        for replica, other in cluster.nodes.items():
            if not other.alive:
                cluster.restart(replica)
    else:
        cluster.heal()


@pytest.mark.parametrize("first", range(0, LEASE_SEEDS, SEEDS_PER_TEST))
def test_leases_never_answer_stale_however_processes_stop(first: int) -> None:
    """Thesis 6.4.1, reference traps 37, 38 and 39. Every answer by lease is compared with what anybody has committed, at the
    moment at which the clock was read after it was computed."""
    answered = thrown_away = leaders = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        chance = random.Random(seed)
        faults = Faults(loss=chance.choice([0.0, 0.1]), delay_ms=(0.5, 15.0), sync_ms=(0.5, 5.0), pause=0.02)
        cluster = Cluster(chance.choice([3, 5]), seed=seed, config=LEASES, faults=faults)
        for _ in range(LEASE_STEPS):
            for node in list(cluster.nodes.values()):
                if node.running and node.core.role is Role.LEADER:
                    cluster.read(node.replica)
                    if node.running:
                        node.step(Propose([b"%d" % chance.getrandbits(64)]))
            if chance.random() < 0.05:
                disturb(cluster, chance)
            elif chance.random() < 0.05:
                cluster.heal()
            cluster.run_ms(chance.choice([2.0, 10.0, 40.0]))
        answered += cluster.leased_reads
        thrown_away += cluster.leased_reads_thrown_away
        leaders += len(cluster.leaders)
    assert answered > 30 * SEEDS_PER_TEST, "leases did answer"
    assert thrown_away > SEEDS_PER_TEST // 4, "and had ended while an answer was computed"
    assert leaders > 2 * SEEDS_PER_TEST, "elections did succeed"


def test_terms_have_one_leader_when_replicas_crash_during_elections() -> None:
    """Paper 5.2, election safety; reference traps 1 and 5: with slow disks, crashes between a vote and its fsync are the common
    case here."""
    leaders = 0
    for seed in range(ELECTION_SEEDS):
        chance = random.Random(seed)
        faults = Faults(loss=0.05, delay_ms=(0.5, 15.0), sync_ms=(1.0, 30.0))
        cluster = Cluster(chance.choice([3, 5]), seed=seed, config=ROOMY, faults=faults)
        for _ in range(STEPS):
            for node in cluster.nodes.values():
                if chance.random() < 0.3:
                    node.step(LeaderLost())
            candidate, victim = chance.choice(list(cluster.nodes)), chance.choice(list(cluster.nodes))
            cluster.nodes[candidate].step(Campaign())
            cluster.run_ms(chance.uniform(0.0, 40.0))
            cluster.crash(victim)
            cluster.restart(victim)
        leaders += len(cluster.leaders)
    assert leaders > ELECTION_SEEDS * 5, "elections did succeed"
