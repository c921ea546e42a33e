"""The timer of a suspicion, and the figures it is made of."""

from __future__ import annotations

import pytest

from cluster.errors import ConfigurationInvalid
from cluster.gossip.config import GossipConfig
from cluster.gossip.messages import ACCUSERS_MAX
from cluster.gossip.suspicion import Suspicion
from tests.gossip.cores import node


def suspicion(*accusers: int, expected: int = 2) -> Suspicion:
    return Suspicion(tuple(map(node, accusers)), now_ms=1000, min_ms=100, max_ms=600, expected=expected)


def test_a_lonely_accuser_waits_longest_and_confirmations_shrink_the_wait_to_the_minimum() -> None:
    one = suspicion(1)
    waits = [one.timeout_ms]
    for confirming in (2, 3):
        assert one.confirm((node(confirming),))
        waits.append(one.timeout_ms)
    assert waits[0] == 600
    assert waits[2] == 100
    assert waits[0] > waits[1] > waits[2]
    assert one.deadline_ms == 1100


def test_the_same_accuser_does_not_confirm_itself() -> None:
    """Trap 13: only different original accusers are independent."""
    one = suspicion(1)
    assert not one.confirm((node(1), node(1)))
    assert one.timeout_ms == 600
    assert one.confirm((node(1), node(2), node(2)))
    assert one.accusers == (node(1), node(2))


def test_confirmations_beyond_the_expected_are_no_news_and_take_no_room() -> None:
    one = suspicion(1, 2, 3)
    assert not one.confirm((node(4),))
    many = Suspicion(tuple(map(node, range(20))), now_ms=0, min_ms=1, max_ms=1, expected=50)
    assert len(many.accusers) == ACCUSERS_MAX
    assert not many.confirm((node(30),))


def test_without_anybody_to_confirm_the_shortest_wait_applies() -> None:
    assert suspicion(1, expected=0).timeout_ms == 100


def test_a_stall_of_this_process_postpones_the_verdict() -> None:
    one = suspicion(1, expected=0)
    one.postpone(2000)
    assert one.deadline_ms == 1000 + 100 + 2000


def test_small_clusters_expect_no_confirmation_and_larger_ones_scale_with_their_size() -> None:
    config = GossipConfig(probe_interval_ms=1000, suspicion_multiplier=4)
    assert [config.confirmations_expected(size) for size in (1, 2, 3, 4, 5, 100)] == [0, 0, 0, 2, 2, 2]
    assert [config.suspicion_min_ms(size) for size in (1, 3, 10, 100, 1000)] == [4000, 4000, 4000, 8000, 12000]
    assert config.suspicion_max_ms(100) == 48_000
    assert [config.transmits_max(size) for size in (1, 3, 100, 1000)] == [4, 4, 12, 16]
    assert [config.sync_interval_scaled_ms(size) for size in (3, 32, 100, 1000)] == [30_000, 30_000, 90_000, 180_000]


@pytest.mark.parametrize(("interval_ms", "timeout_ms"), [(500, 200), (1000, 500), (10, 5), (1000, 100)])
def test_a_helper_gives_up_in_time_for_its_nack_to_count(interval_ms: int, timeout_ms: int) -> None:
    """Trap 1: a helper that waits as long as the asker nacks one round trip too late, every time."""
    config = GossipConfig(probe_interval_ms=interval_ms, probe_timeout_ms=timeout_ms)
    assert timeout_ms + config.helper_timeout_ms < interval_ms
    assert config.helper_timeout_ms < timeout_ms


@pytest.mark.parametrize(
    "settings", [{"probe_interval_ms": 0}, {"probe_timeout_ms": 251}, {"gossip_fanout": -1}, {"confirmations": -1}]
)
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationInvalid):
        GossipConfig(**settings)
