"""News: bounded in number, in bytes and in repeats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.gossip.broadcast import BroadcastQueue
from cluster.gossip.messages import MESSAGES_MAX, encode_message
from tests.gossip.cores import alive, dead, node, suspect


def test_news_is_handed_out_a_bounded_number_of_times() -> None:
    queue = BroadcastQueue()
    queue.put(alive(1))
    assert [len(queue.take(1000, 3)) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert len(queue) == 0


def test_later_news_about_a_member_replaces_the_earlier() -> None:
    queue = BroadcastQueue()
    queue.put(suspect(1, 2))
    queue.put(alive(1, incarnation=1))
    assert queue.take(1000, 3) == [encode_message(alive(1, incarnation=1))]


def test_least_sent_goes_first_and_then_the_newest() -> None:
    """Trap 18: news in order of arrival makes a backlog flap."""
    queue = BroadcastQueue()
    queue.put(dead(1))
    queue.take(1000, 3)
    queue.put(dead(2))
    queue.put(dead(3))
    assert queue.take(1000, 3) == [encode_message(dead(number)) for number in (3, 2, 1)]


def test_what_does_not_fit_waits_while_smaller_news_passes() -> None:
    queue = BroadcastQueue()
    small, large = dead(1), alive(2, zone="z" * 63)
    queue.put(small)
    queue.put(large)
    assert queue.take(40, 3) == [encode_message(small)]
    assert len(queue) == 2


@given(numbers=st.lists(st.integers(0, 400), max_size=600), room=st.integers(0, 5000))
def test_a_packet_never_exceeds_its_bytes_or_its_count(numbers: list[int], room: int) -> None:
    """Trap 15: compound packets beyond 255 messages or 64 KB were corrupt."""
    queue = BroadcastQueue()
    for number in numbers:
        queue.put(dead(number))
    assert len(queue) == len({node(number) for number in numbers})
    taken = queue.take(room, 2)
    assert sum(map(len, taken)) <= room
    assert len(taken) <= MESSAGES_MAX - 2


def test_dropped_news_is_gone() -> None:
    queue = BroadcastQueue()
    queue.put(dead(1))
    queue.drop(node(1))
    queue.drop(node(2))
    assert queue.take(1000, 3) == []
