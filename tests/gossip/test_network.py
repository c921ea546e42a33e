"""Whole clusters of real cores under virtual time: how soon the dead are known, that the living are left alone, that all meet.

Every run is decided by its seed. Times are virtual; the bounds are those of the protocol, not of the machine.
"""

from __future__ import annotations

from functools import partial

import pytest

from chaos.gossip.network import Network
from cluster.gossip.config import GossipConfig
from cluster.gossip.effects import Datagram, Leave, Removed
from cluster.gossip.messages import Ping, State
from tests.gossip.cores import dead, node
from tests.gossip.cores import packet as packet_of

ALIVE, SUSPECT, DEAD, LEFT = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT
CONFIG = GossipConfig()
SIZES = [3, 5, 10, 50]
JOIN_MS_MAX = 5_000
DETECTION_MS_MAX = {3: 3_000, 5: 3_000, 10: 6_000, 50: 6_000}


def joined(count: int, seed: int, **faults: float) -> Network:
    network = Network(count, seed, boot_spread_ms=300, **faults)  # type: ignore[arg-type]
    assert len(network.hosts) == count
    assert network.run(JOIN_MS_MAX, network.everybody_sees_everybody) is not None, "they never met"
    return network


@pytest.mark.parametrize("count", SIZES)
def test_all_meet_within_seconds_whatever_the_order_of_booting(count: int) -> None:
    for seed in range(8 if count <= 10 else 2):
        joined(count, seed)


@pytest.mark.parametrize("count", SIZES)
def test_a_crashed_node_is_dead_to_everybody_in_time_and_nobody_else_is(count: int) -> None:
    for seed in range(8 if count <= 10 else 2):
        network = joined(count, seed)
        network.run(137 * seed)
        network.crash(count - 1)
        assert network.run(DETECTION_MS_MAX[count], partial(network.everybody_holds, count - 1, DEAD)) is not None
        network.run(5_000)
        assert {subject for _, _, subject in network.deaths()} == {node(count - 1)}


@pytest.mark.parametrize("count", [10, 30])
def test_several_crashes_at_once_are_all_detected_under_loss(count: int) -> None:
    network = joined(count, 5, loss=0.1)
    crashed = range(count - count // 3, count)
    for number in crashed:
        network.crash(number)
    assert network.run(20_000, lambda: all(network.everybody_holds(number, DEAD) for number in crashed)) is not None
    assert {subject for _, _, subject in network.deaths()} == set(map(node, crashed))


@pytest.mark.parametrize("count", [3, 5, 10, 30])
@pytest.mark.parametrize("streams", [True, False], ids=["with streams", "datagrams only"])
def test_nobody_dies_falsely_at_ten_percent_loss(count: int, streams: bool) -> None:
    """Trap 24: probes without dissemination give false deaths although unit fixtures pass. Test on a lossy cluster."""
    network = joined(count, 2, loss=0.1)
    network.streams = streams
    network.run(120_000 if count <= 5 else 40_000)
    assert network.deaths() == []
    suspicions = [c for host in network.hosts.values() for _, c in host.changes if c.member.state is SUSPECT]
    assert bool(suspicions) is not streams, "loss alone accuses nobody while streams work, and does when they do not"


def test_a_frozen_node_accuses_nobody_when_it_thaws_and_refutes_at_once() -> None:
    """Lifeguard, and trap 23: one starved node must not drag healthy ones down."""
    for count in (3, 10):
        network = joined(count, 4)
        network.pause(0)
        network.run(20_000)
        assert network.everybody_holds(0, DEAD)
        before = len(network.deaths())
        network.resume(0)
        assert network.run(3_000, network.everybody_sees_everybody) is not None
        network.run(20_000)
        assert len(network.deaths()) == before
        assert network[0].core.refutations >= 1
        assert network[0].core.own.incarnation >= 1


@pytest.mark.parametrize("seed", range(10))
def test_a_freeze_shorter_than_the_suspicion_kills_nobody(seed: int) -> None:
    network = joined(3, seed, loss=0.05)
    network.run(seed * 111)
    network.pause(seed % 3)
    network.run(CONFIG.suspicion_min_ms(3))
    network.resume(seed % 3)
    network.run(10_000)
    assert network.deaths() == []
    assert network.everybody_sees_everybody()


@pytest.mark.parametrize("move", [False, True], ids=["same address", "new address"])
@pytest.mark.parametrize("down_ms", [0, 20_000])
def test_a_restarted_node_is_alive_again_as_its_new_process(move: bool, down_ms: int) -> None:
    """Traps 2, 4, 11, 12 and 21: stale records, old timers and old news must not touch the new process."""
    for count in (3, 10):
        network = joined(count, 6)
        network.crash(1)
        network.run(down_ms)
        network.restart(1, move=move)
        assert network.run(5_000, network.everybody_sees_everybody) is not None
        at_ms = network.now_ms
        network.run(60_000)
        assert [death for death in network.deaths() if death[0] > at_ms] == []
        generations = {host.core.member(node(1)).generation for host in network.hosts.values() if host is not network[1]}  # type: ignore[union-attr]
        assert generations == {2}


def test_a_restart_in_the_middle_of_a_suspicion_survives_it() -> None:
    """Trap 11: the old timer killed the rejoined node."""
    network = joined(3, 7)
    network.crash(1)
    assert network.run(5_000, lambda: network.holds(network[0], network[1]) is SUSPECT) is not None
    network.restart(1)
    network.run(20_000)
    assert network.everybody_sees_everybody()
    assert network.deaths() == []


@pytest.mark.parametrize(("count", "lasting_ms"), [(4, 20_000), (4, 600_000), (10, 120_000), (20, 20_000)])
def test_the_halves_of_a_partition_come_together_after_it_heals(count: int, lasting_ms: int) -> None:
    """Trap 6: a dead node that is never contacted again keeps both halves apart until a restart."""
    network = joined(count, 3)
    halves = range(count // 2), range(count // 2, count)
    network.partition(*halves)
    network.run(lasting_ms)
    for near, far in (halves, halves[::-1]):
        for one in near:
            assert all(network.holds(network[one], network[other]) is DEAD for other in far)
            assert all(network.holds(network[one], network[other]) is ALIVE for other in near if other != one)
    at_ms = network.now_ms
    network.heal()
    assert network.run(15_000, network.everybody_sees_everybody) is not None
    network.run(30_000)
    assert network.everybody_sees_everybody()
    assert [death for death in network.deaths() if death[0] > at_ms] == []


def test_a_node_that_is_not_heard_but_hears_is_detected_and_returns() -> None:
    network = joined(5, 8)
    network.partition([0], range(1, 5), one_way=True)
    assert network.run(15_000, lambda: network.everybody_holds(0, DEAD)) is not None
    network.heal()
    assert network.run(15_000, network.everybody_sees_everybody) is not None


def test_one_broken_path_between_two_nodes_kills_neither() -> None:
    """Indirect probes (paper, section 3.1): what one node can not reach others may."""
    network = joined(4, 9)
    network.partition([0], [1])
    network.run(60_000)
    assert network.deaths() == []


def test_a_leaving_node_has_left_and_is_not_dead() -> None:
    network = joined(5, 10)
    network.inject(2, Leave())
    assert network.run(2_000, lambda: network.everybody_holds(2, LEFT)) is not None
    network.crash(2)
    network.run(60_000)
    assert network.everybody_holds(2, LEFT)
    assert network.deaths() == []


def test_a_removed_node_stays_removed_although_others_still_know_it() -> None:
    """Trap 19: erased members were learnt again from those that had not erased them yet."""
    network = joined(5, 11)
    network.crash(4)
    network.run(10_000)
    for number in range(4):
        network.inject(number, Removed([node(4)], 1))
        network.run(40_000)
        for earlier in range(number + 1):
            assert network[earlier].core.member(node(4)) is None


def test_two_nodes_that_hold_each_other_dead_make_up_with_few_packets() -> None:
    """Trap 7: two nodes that each held the other down answered each other forever."""
    network = joined(3, 12)
    network.run(20_000)
    before = network[0].datagrams_sent + network[1].datagrams_sent
    network.inject(0, Datagram(network[2].endpoint, packet_of(2, dead(1, 2))))
    network.inject(1, Datagram(network[2].endpoint, packet_of(2, dead(0, 2))))
    assert network.holds(network[0], network[1]) is network.holds(network[1], network[0]) is DEAD
    assert network.run(2_000, network.everybody_sees_everybody) is not None
    network.run(10_000)
    assert network.everybody_sees_everybody()
    assert network[0].datagrams_sent + network[1].datagrams_sent - before < 2 * 12 * 10


def test_a_second_process_under_one_name_silences_the_first_which_is_told() -> None:
    network = joined(3, 13)
    old = network[1].core
    network.restart(1, move=True)
    assert network.run(5_000, network.everybody_sees_everybody) is not None
    network.run(CONFIG.accusation_interval_ms)  # what the first process had under way was answered once
    effects = network[0].core.step(Datagram(("host-n1", 7402), packet_of(1, Ping(1, node(0), 1))), network.now_ms)
    replies = [old.step(Datagram(network[0].endpoint, data), network.now_ms) for _, data in effects.datagrams]
    assert [reply.superseded_by for reply in replies if reply.superseded_by] == [2]
    assert network.everybody_sees_everybody()


@pytest.mark.parametrize("count", [3, 10, 30])
def test_a_quiet_cluster_sends_less_than_a_kilobyte_a_second_and_node(count: int) -> None:
    network = joined(count, 14)
    network.run(60_000)
    before = sum(host.bytes_sent for host in network.hosts.values())
    network.run(60_000)
    after = sum(host.bytes_sent for host in network.hosts.values())
    assert (after - before) / count / 60 < 1_000
    assert all(host.core.news_waiting == 0 for host in network.hosts.values())


def test_a_run_is_decided_by_its_seed() -> None:
    def run(seed: int) -> list[object]:
        network = Network(6, seed, loss=0.2, boot_spread_ms=300)
        network.run(5_000)
        network.crash(2)
        network.run(10_000)
        return [(host.name, host.changes, host.bytes_sent) for host in network.hosts.values()]

    assert run(1) == run(1)
    assert run(1) != run(2)
