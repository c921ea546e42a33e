"""MemoryEngine's crash model: everything synced survives, and a prefix of the rest that the test picks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.errors import Overloaded, StorageError, StorageFull, SyncFailed
from cluster.storage.engine import Batch, Family
from cluster.storage.memory import MemoryEngine

LAST = b"\xff" * 8
Content = dict[tuple[Family, bytes], bytes]
Operation = tuple[str, Family, bytes, bytes]


def content(engine: MemoryEngine) -> Content:
    return {(family, key): value for family in Family for key, value in engine.scan(family, b"", LAST)}


def put(engine: MemoryEngine, key: bytes, value: bytes = b"v") -> None:
    batch = Batch()
    batch.put(Family.LOG, key, value)
    engine.write(batch)


def test_a_crash_loses_what_was_not_synced_and_nothing_else() -> None:
    engine = MemoryEngine()
    put(engine, b"a")
    engine.sync()
    put(engine, b"a", b"overwritten")
    put(engine, b"b")
    assert content(engine.crash()) == {(Family.LOG, b"a"): b"v"}


def test_a_crash_may_keep_a_prefix_of_the_unsynced_batches() -> None:
    engine = MemoryEngine()
    for key in (b"a", b"b", b"c"):
        put(engine, key)
    assert sorted(key for _, key in content(engine.crash(keep=2))) == [b"a", b"b"]


def test_a_sync_covers_what_was_written_when_it_began() -> None:
    engine = MemoryEngine()
    put(engine, b"a")
    began = engine.batches_written
    put(engine, b"b")
    engine.sync_through(began)
    assert sorted(key for _, key in content(engine.crash())) == [b"a"]


def test_a_crashed_engine_is_unusable() -> None:
    engine = MemoryEngine()
    engine.crash()
    with pytest.raises(StorageError):
        engine.get(Family.LOG, b"a")


def test_a_failed_sync_is_final_for_every_use() -> None:
    """Trap 9: an fsync error is never retried."""
    engine = MemoryEngine()
    put(engine, b"a")
    engine.fail_syncs()
    uses: list[Callable[[], object]] = [engine.sync, lambda: put(engine, b"b"), lambda: engine.get(Family.LOG, b"a")]
    for use in (engine.sync, *uses):
        with pytest.raises(SyncFailed):
            use()
    assert content(engine.crash()) == {}


@pytest.mark.parametrize("refusal", [Overloaded("stall"), StorageFull("full")])
def test_refused_writes_have_no_effect_and_reads_go_on(refusal: Overloaded | StorageFull) -> None:
    engine = MemoryEngine()
    put(engine, b"a")
    engine.refuse_writes(refusal)
    with pytest.raises(type(refusal)):
        put(engine, b"b")
    assert [key for _, key in content(engine)] == [b"a"]
    engine.refuse_writes(None)
    put(engine, b"b")
    assert sorted(key for _, key in content(engine)) == [b"a", b"b"]


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "range"]), st.sampled_from(list(Family)), KEYS, KEYS), max_size=6
)


class CrashModel(RuleBasedStateMachine):
    """The engine against a list of whole contents: what is durable, then one more for each unsynced batch."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = MemoryEngine()
        self.states: list[Content] = [{}]

    @rule(operations=OPERATIONS)
    def write(self, operations: list[Operation]) -> None:
        batch, state = Batch(), dict(self.states[-1])
        for number, (kind, family, key, other) in enumerate(operations):
            if kind == "put":
                value = b"%d.%d" % (len(self.states), number)
                batch.put(family, key, value)
                state[family, key] = value
            elif kind == "delete":
                batch.delete(family, key)
                state.pop((family, key), None)
            else:
                batch.delete_range(family, key, other)
                state = {place: v for place, v in state.items() if place[0] != family or not key <= place[1] < other}
        self.engine.write(batch)
        self.states.append(state)

    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        through = data.draw(st.integers(0, len(self.states) - 1))
        self.engine.sync_through(self.engine.batches_written - (len(self.states) - 1) + through)
        del self.states[:through]

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        keep = data.draw(st.integers(0, len(self.states) - 1))
        self.engine = self.engine.crash(keep)
        self.states = [self.states[keep]]

    @invariant()
    def shows_what_was_written(self) -> None:
        assert content(self.engine) == self.states[-1]


TestCrashModel = CrashModel.TestCase
TestCrashModel.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
