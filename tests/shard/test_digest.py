"""Sums over what apply did: equal for replicas that did the same, wherever each began to count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import LogIndex
from cluster.shard.commands import Command
from cluster.shard.digest import SUMS_KEPT, AppliedDigest, difference
from cluster.storage.engine import Batch
from tests.shard.parts import Parts

STEPS = st.lists(st.tuples(st.integers(1, 5), st.binary(min_size=32, max_size=32)), min_size=1, max_size=30)


def digest_of(steps: list[tuple[int, bytes]], origin: int) -> AppliedDigest:
    """Applied are entries at rising indexes, with gaps of entries that changed nothing; those up to `origin` are not known."""
    digest, index = AppliedDigest(LogIndex(origin)), 0
    for gap, chains in steps:
        index += gap
        if index > origin:
            digest.add(LogIndex(index), chains)
    return digest


def between(digest: AppliedDigest, first: int, last: int) -> int:
    earlier, later = digest.through(LogIndex(first)), digest.through(LogIndex(last))
    assert earlier is not None
    assert later is not None
    return difference(later, earlier)


@given(steps=STEPS, data=st.data())
def test_a_range_has_one_sum_wherever_counting_began(steps: list[tuple[int, bytes]], data: st.DataObject) -> None:
    end = sum(gap for gap, _ in steps)
    one, other = (digest_of(steps, data.draw(st.integers(0, end))) for _ in range(2))
    first = data.draw(st.integers(max(one.origin, other.origin), end))
    last = data.draw(st.integers(first, end + 3))
    assert between(one, first, last) == between(other, first, last)


@given(steps=STEPS, data=st.data())
def test_who_begins_to_count_later_is_as_one_who_never_knew_what_was_before(
    steps: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    """A leader compares nothing that spans the place where its own sums begin."""
    end = sum(gap for gap, _ in steps)
    place = data.draw(st.integers(0, end + 3))
    digest, later = digest_of(steps, 0), digest_of(steps, place)
    changes = 0 < place < digest.index
    assert digest.begin_behind(LogIndex(place)) == changes
    if changes:
        assert (digest.origin, digest.first, digest.told) == (place, place, place)
        assert (digest.index, digest.total) == (later.index, later.total)
        digest.add(LogIndex(end + 1), b"more")
        later.add(LogIndex(end + 1), b"more")
        assert digest.total == later.total
    assert not digest.begin_behind(LogIndex(0)), "what it gave up is not known any more"


@given(steps=STEPS, data=st.data())
def test_one_other_chain_changes_every_sum_over_its_entry_and_no_other(
    steps: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(steps) - 1))
    gap, chains = steps[place]
    wrong = [*steps[:place], (gap, bytes([chains[0] ^ 1]) + chains[1:]), *steps[place + 1 :]]
    right, differing = digest_of(steps, 0), digest_of(wrong, 0)
    at, end = sum(gap for gap, _ in steps[: place + 1]), sum(gap for gap, _ in steps)
    assert between(right, at - 1, at) != between(differing, at - 1, at)
    assert between(right, 0, end) != between(differing, 0, end)
    assert between(right, 0, at - 1) == between(differing, 0, at - 1)
    assert between(right, at, end) == between(differing, at, end)


def test_what_is_too_old_or_was_never_known_has_no_sum() -> None:
    digest = AppliedDigest(LogIndex(10))
    assert digest.through(LogIndex(9)) is None
    for index in range(11, 11 + 3 * SUMS_KEPT):
        digest.add(LogIndex(index), b"chain")
    assert digest.through(LogIndex(11)) is None
    assert digest.through(LogIndex(digest.index - SUMS_KEPT + 1)) is not None
    digest.add(LogIndex(digest.index + 2 * SUMS_KEPT), b"chain")
    assert digest.through(LogIndex(digest.index - 2 * SUMS_KEPT - 1)) is None
    assert between(digest, digest.index - 1, digest.index) != 0


def test_replay_tells_the_same_and_begins_anew_where_a_record_holds_an_entry_already() -> None:
    """An entry of which a command is skipped says nothing: its documents stood elsewhere when the record was written."""

    def entries(parts: Parts) -> list[list[Command]]:
        return [[parts.create("a"), parts.create("b")], [parts.add("a", 1)], [parts.add("b", 2)], [parts.add("a", 3)]]

    first = Parts()
    for commands in entries(first):
        first.apply(*commands)
    replayed = Parts()
    for commands in entries(replayed):
        replayed.apply(*commands)
    assert replayed.applier.digest.total == first.applier.digest.total

    batch = Batch()
    first.cache.save(first.live("a"), batch)
    first.engine.write(batch)
    restarted = Parts(first.engine)
    for commands in entries(restarted)[:3]:
        restarted.replay(*commands)
    assert restarted.applier.digest.origin == 2, "a's first two entries are in its record"
    assert between(restarted.applier.digest, 2, 3) == between(first.applier.digest, 2, 3)
    restarted.replay(*entries(restarted)[3])
    assert restarted.applier.digest.origin == 4
