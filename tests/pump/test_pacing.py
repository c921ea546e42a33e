"""Pacing of bulk traffic: nothing here knows what is being sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.pump.pacing import Patience, TokenBucket

STEPS = st.lists(st.tuples(st.floats(0, 5_000), st.integers(1, 1_000_000)), min_size=1, max_size=40)


@given(st.integers(1_000, 10_000_000), st.integers(1, 1_000_000), STEPS)
def test_over_any_stretch_no_more_leaves_than_rate_burst_and_one_frame(
    rate: int, burst: int, steps: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    now_ms, sent = 0.0, []
    for pause_ms, size in steps:
        now_ms += pause_ms
        if bucket.ready_at_ms(now_ms) <= now_ms:
            bucket.charge(size, now_ms)
            sent.append((now_ms, size))
    for place, (since_ms, _) in enumerate(sent):
        total = 0
        for at_ms, size in sent[place:]:
            allowed = rate * (at_ms - since_ms) / 1000 + burst
            assert total <= allowed + 1, "what left before this frame fits the rate"
            total += size


@given(st.integers(1_000, 10_000_000), st.integers(1, 1_000_000), st.integers(1, 50_000_000))
def test_a_frame_of_any_size_leaves_and_the_next_one_at_the_time_that_was_named(rate: int, burst: int, size: int) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    assert bucket.ready_at_ms(0.0) == 0.0
    bucket.charge(size, 0.0)
    at_ms = bucket.ready_at_ms(0.0)
    assert bucket.ready_at_ms(at_ms + 0.01) <= at_ms + 0.01
    at_once = TokenBucket(rate, burst, 0.0)
    at_once.charge(size, 0.0)
    early_ms = at_ms - 2_000 / rate
    assert early_ms <= 0 or at_once.ready_at_ms(early_ms) > early_ms, "not earlier, by more than the time of two bytes"


def test_patience_learns_how_long_answers_take_and_doubles_with_every_repeat() -> None:
    patience = Patience(1_000.0, 10_000.0)
    patience.asked(0.0)
    assert patience.ends_ms == 1_000.0
    for _ in range(30):
        patience.asked(0.0)
        patience.answered(800.0)
    patience.asked(0.0)
    assert 2_300.0 < patience.ends_ms <= 2_400.0
    patience.asked(0.0, again=True)
    assert 4_600.0 < patience.ends_ms <= 4_800.0
    for _ in range(40):
        patience.asked(0.0, again=True)
    assert patience.ends_ms == 10_000.0


def test_an_answer_to_a_repeated_question_is_not_measured() -> None:
    """Karn 1987: it may belong to the first question or the second, and either guess can be far off."""
    patience = Patience(10.0, 10_000.0)
    patience.asked(0.0)
    patience.answered(100.0)
    patience.asked(1_000.0)
    patience.asked(2_000.0, again=True)
    patience.answered(2_001.0)
    patience.asked(3_000.0)
    assert patience.ends_ms == 3_300.0
