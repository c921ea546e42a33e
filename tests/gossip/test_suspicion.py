"""The timer of a suspicion, and the figures it is made of."""

from __future__ import annotations

import pytest

from cluster.errors import ConfigurationInvalid
from cluster.gossip.config import GossipConfig
from cluster.gossip.messages import ACCUSERS_MAX, Accuser
from cluster.gossip.suspicion import NEVER_MS, Suspicion
from tests.gossip.cores import accusers, node


def suspicion(*accusers: int, expected: int = 2) -> Suspicion:
    """In a cluster of one zone, with as many witnesses as are expected."""
    made = Suspicion(zoned(*accusers), now_ms=1000, min_ms=100, max_ms=600, expected=expected)
    weigh(made, expected=expected)
    return made


def zoned(*numbers: int, zone: str = "z") -> list[tuple[Accuser, str]]:
    return [(accuser, zone) for accuser in accusers(*numbers)]


def weigh(one: Suspicion, *, zones: int = 1, expected: int = 2, agreement: int = 1) -> int:
    """How long the suspect has from its accusation on."""
    one.weigh(zones=zones, expected=expected, agreement=agreement)
    return one.deadline_ms - 1000


def test_a_lonely_accuser_waits_longest_and_confirmations_shrink_the_wait_to_the_minimum() -> None:
    one = suspicion(1)
    waits = [weigh(one)]
    for confirming in (2, 3):
        assert one.confirm(zoned(confirming), 1000)
        waits.append(weigh(one))
    assert waits[0] == 600
    assert waits[2] == 100
    assert waits[0] > waits[1] > waits[2]
    assert one.deadline_ms == 1100


def test_the_same_accuser_does_not_confirm_itself() -> None:
    """Trap 13: only different original accusers are independent."""
    one = suspicion(1)
    assert not one.confirm(zoned(1, 1), 1000)
    assert weigh(one) == 600
    assert one.confirm(zoned(1, 2, 2), 1000)
    assert list(one.accusers) == [node(1), node(2)]


def test_confirmations_beyond_the_expected_are_no_news_and_take_no_room() -> None:
    one = suspicion(1, 2, 3)
    assert not one.confirm(zoned(4), 1000)
    many = Suspicion(zoned(*range(20)), now_ms=0, min_ms=1, max_ms=1, expected=50)
    assert len(many.accusers) == ACCUSERS_MAX
    assert not many.confirm(zoned(30), 1000)


def test_without_anybody_to_confirm_the_shortest_wait_applies() -> None:
    assert weigh(suspicion(1, expected=0), expected=0) == 100


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


@pytest.mark.parametrize(
    ("interval_ms", "timeout_ms", "rtt_ms"), [(500, 200, 1), (1000, 500, 100), (10, 5, 1), (1000, 100, 50), (500, 250, 120)]
)
def test_a_helper_gives_up_in_time_for_its_nack_to_count(interval_ms: int, timeout_ms: int, rtt_ms: int) -> None:
    """Trap 1: a helper that waits as long as the asker nacks one round trip too late, every time."""
    patience_ms = GossipConfig.helper_timeout_ms(interval_ms, timeout_ms, rtt_ms)
    assert timeout_ms + patience_ms + rtt_ms < interval_ms
    assert patience_ms < timeout_ms


@pytest.mark.parametrize(("rtt_ms", "timeout_ms"), [(None, 200), (0.5, 100), (70, 140), (110, 220), (400, 250)])
def test_a_probe_waits_longer_for_far_peers_and_never_beyond_half_its_period(rtt_ms: float | None, timeout_ms: int) -> None:
    config = GossipConfig(probe_interval_ms=500, probe_timeout_ms=200)
    assert config.probe_timeout_at_rtt_ms(rtt_ms) == timeout_ms


def test_one_zone_is_one_witness_while_others_could_speak() -> None:
    """A rack that lost its uplink has many accusers of everybody else, and all of them say one thing."""
    one = suspicion(1)
    assert one.confirm(zoned(2, 3), 1000)
    assert weigh(one, zones=1) == 100
    assert weigh(one, zones=2) == 600
    assert one.confirm(zoned(4, zone="y"), 1000), "a new zone matters although there are enough accusers"
    assert len(one.accusers) == 3
    assert weigh(one, zones=2) == 100, "of two zones both have spoken"
    assert 100 < weigh(one, zones=3) < 600
    assert weigh(one, zones=1) == 100


def test_without_agreement_there_is_no_verdict() -> None:
    one = suspicion(1)
    assert weigh(one, expected=1, agreement=2) == NEVER_MS - 1000
    one.postpone(5_000)
    assert weigh(one, expected=1, agreement=1) == 600 + 5_000
    assert one.confirm(zoned(2), 9_000)
    assert weigh(one, expected=1, agreement=2) == 100 + 8_000, "from when they agreed"
    assert weigh(one, expected=1, agreement=1) == 100 + 5_000


@pytest.mark.parametrize(
    "settings", [{"probe_interval_ms": 0}, {"probe_timeout_ms": 251}, {"gossip_fanout": -1}, {"confirmations": -1}]
)
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationInvalid):
        GossipConfig(**settings)
