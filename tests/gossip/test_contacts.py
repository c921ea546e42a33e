"""With whom tables are compared, and when: the missing with growing waits, who came back at once."""

from __future__ import annotations

from itertools import pairwise

from cluster.gossip.config import GossipConfig
from cluster.gossip.contacts import Missing
from cluster.gossip.effects import StreamFailed
from cluster.gossip.messages import SyncRequest
from tests.gossip.cores import Core, alive, dead, endpoint, read

CONFIG = GossipConfig()


def test_each_of_the_missing_is_tried_with_growing_waits_up_to_a_bound() -> None:
    missing = Missing(CONFIG)
    tried = [now_ms for now_ms in range(0, 200_000, 50) if missing.take([endpoint(1)], now_ms) is not None]
    waits = [after - before for before, after in pairwise(tried)]
    assert waits[0] <= CONFIG.reconnect_interval_ms // 8
    assert waits == sorted(waits)
    assert waits[-1] <= CONFIG.reconnect_interval_ms_max + 50
    assert waits[-1] >= CONFIG.reconnect_interval_ms


def test_one_is_tried_at_a_time_and_all_get_their_turn() -> None:
    """Trap 16: hundreds that died together must not be dialled together."""
    missing = Missing(CONFIG)
    several = [endpoint(number) for number in range(1, 11)]
    turns = [missing.take(several, now_ms) for now_ms in range(10)]
    assert set(turns) == set(several)
    assert missing.wait_ms(9) >= missing.first_ms
    assert missing.take([], 10) is None
    assert missing.wait_ms(10) == CONFIG.reconnect_interval_ms


def test_who_comes_back_is_compared_with_at_once_and_a_crowd_only_once_a_second() -> None:
    """Trap 6 and its opposite, trap 16: halves that heal bring each other up to date, without a storm."""
    core = Core(30)
    for number in range(1, 21):
        core.hear(30, dead(number, 30))
    for effects in core.pass_time(1_000):
        for request in effects.requests:
            core.step(StreamFailed(request.request))
    requests = [r for number in range(1, 21) for r in core.hear(number, alive(number, incarnation=1)).requests]
    opened = [request.target for request in requests if isinstance(read(request.data).messages[0], SyncRequest)]
    assert opened == [endpoint(1)]
