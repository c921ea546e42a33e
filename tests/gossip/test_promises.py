"""What gossip promises, over many seeds: everybody who died is found out about, nobody who lives is buried, all agree again.

Whole clusters of real cores under virtual time, hurt by `chaos.gossip`. A seed that fails is replayed by its number.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.gossip.crowd import bytes_per_member
from chaos.gossip.network import Network
from chaos.gossip.run import Plan, Simulation, simulate
from cluster.gossip.config import GossipConfig
from cluster.gossip.effects import Leave, Removed
from cluster.gossip.messages import State
from tests.gossip.cores import node

CONFIG = GossipConfig()
LIGHT = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@LIGHT
@given(
    nodes=st.integers(3, 12),
    loss=st.floats(0, 0.1),
    duplication=st.floats(0, 0.2),
    reordering=st.floats(0, 0.2),
    skew=st.floats(0, 0.01),
    zones=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_the_dead_are_found_out_about_and_nobody_else_is_buried(
    nodes: int, loss: float, duplication: float, reordering: float, skew: float, zones: int, seed: int
) -> None:
    """Strong completeness and no false death: with loss, duplicates, disorder and clocks that run apart, one node that stands
    still for two seconds, and one that can not send to another. Trap 24: probes alone pass fixtures and fail lossy clusters.
    """
    simulation = Simulation(Plan(nodes, 16.0, loss, duplication, reordering, skew, zones, seed=seed))
    simulation._calm()
    simulation._faults()
    assert simulation._crash(), "everybody finds out"
    assert simulation._false_deaths() == []


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_small_cluster_keeps_its_promises_over_seeds(nodes: int) -> None:
    """Trap 28: tests that say ten and run forty."""
    found = simulate(Plan(nodes=nodes, seconds=20.0, loss=0.1), seeds=6)
    assert found["nodes"] == nodes
    assert (found["false_deaths"], found["converged"], found["seeds_failed"]) == (0, True, [])
    assert found["met"]["calm_bytes"]
    assert found["met"]["peak_bytes"]


def test_a_hundred_nodes_agree_within_a_second_of_the_first_who_knows_and_cost_little() -> None:
    """Trap 28: assert the size."""
    simulation = Simulation(Plan(nodes=100, seconds=4.0, loss=0.02, join=True))
    assert len(simulation.network.hosts) == 100
    joined_s = simulation._join()
    assert joined_s is not None
    assert joined_s <= 5.0
    assert max(simulation._calm()) < 1_000
    assert simulation._crash()
    (times,) = simulation._detections()
    assert len(times) == 99
    assert max(times) <= 8_000
    assert max(times) - min(times) <= 1_000
    assert simulation.peak_bytes <= 10_000


def test_a_member_takes_at_most_two_kilobytes() -> None:
    assert bytes_per_member(1_000) <= 2_048


@LIGHT
@given(seed=st.integers(0, 10_000), script=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), max_size=14))
def test_identities_only_rise_removed_ids_stay_away_and_all_agree_again(seed: int, script: list[tuple[int, int]]) -> None:
    """Incarnations are monotone, nobody is resurrected (traps 19 and 21), queues are bounded, and after all that everybody sees
    everybody who is there.
    """
    network = Network(6, seed, loss=0.05, duplication=0.05, reordering=0.05, met=True)
    network.run(2_000)
    removed, gone = False, set()
    highest: dict[tuple[str, str], tuple[int, int]] = {}
    for act, number in script:
        if act == 0 and number not in gone:
            network.crash(number)
            gone.add(number)
        elif act == 1 and number in gone:
            network.restart(number, move=number % 2 == 0)
            gone.discard(number)
        elif act == 2:
            network.partition(range(3), range(3, 6), one_way=number % 2 == 0)
        elif act == 3:
            network.heal()
        elif act == 4 and number not in gone:
            network.inject(number, Leave())
            network.run(500)
            network.crash(number)
            gone.add(number)
        elif act == 5 and not removed:
            removed = True
            network.crash(5)
            for other in range(5):
                network.inject(other, Removed([node(5)], 1))
        network.run(400 * number + 100)
        for host in network.running():
            for view in host.core.members():
                key = (f"{host.name}{host.generation}", view.node)
                assert (view.generation, view.incarnation) >= highest.get(key, (0, 0))
                highest[key] = (view.generation, view.incarnation)
                assert not (removed and view.node == node(5) and host.name != node(5))
            assert host.core.news_waiting <= 3 * 6
    network.heal()
    for number in gone:
        network.restart(number)
        if removed:
            network.inject(number, Removed([node(5)], 1))
    present = [network[number] for number in range(5 if removed else 6)]

    def agreed() -> bool:
        return all(network.holds(a, b) is State.ALIVE for a in present for b in present if a is not b)

    assert network.run(60_000, agreed) is not None
    if removed:
        assert all(host.core.member(node(5)) is None for host in present)


def test_a_rack_that_lost_its_uplink_does_not_hurry_the_burial_of_the_others() -> None:
    """Confirmations are counted by zone: many accusers behind one broken switch are one witness."""
    network = Network(12, 5, zones=3, met=True)
    network.run(3_000)
    rack = [number for number in range(12) if number % 3 == 0]
    network.partition(rack, [number for number in range(12) if number % 3])
    network.run(5 * CONFIG.suspicion_min_ms(12) // 2)
    buried_by_rack = [death for death in network.deaths() if int(death[1][1:]) % 3 == 0]
    buried_by_others = [death for death in network.deaths() if int(death[1][1:]) % 3]
    assert buried_by_rack == []
    assert buried_by_others != [], "two zones agree that the third is gone"
    network.heal()
    assert network.run(30_000, network.everybody_sees_everybody) is not None
