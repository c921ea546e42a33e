"""RocksEngine and MemoryEngine against one dict, through writes, scans and reopenings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from cluster.storage.engine import Batch, Family
from cluster.storage.memory import MemoryEngine
from cluster.storage.rocks import RocksEngine

KEYS = st.binary(min_size=1, max_size=2) | st.sampled_from([b"\x00", b"\xff\xfe", b"a", b"a\x00", b"b"])
FAMILIES = st.sampled_from([Family.LOG, Family.RECORDS])
OPERATIONS = st.lists(st.tuples(st.sampled_from(["put", "delete", "range"]), FAMILIES, KEYS, KEYS), max_size=8)


class Agreement(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="engines-agree-"))
        self.rocks = RocksEngine.open(self.path)
        self.memory = MemoryEngine()
        self.model: dict[tuple[Family, bytes], bytes] = {}
        self.writes = 0

    def teardown(self) -> None:
        self.rocks.close()
        shutil.rmtree(self.path)

    @rule(operations=OPERATIONS)
    def write(self, operations: list[tuple[str, Family, bytes, bytes]]) -> None:
        batch = Batch()
        for kind, family, key, other in operations:
            self.writes += 1
            if kind == "put":
                batch.put(family, key, b"%d" % self.writes)
                self.model[family, key] = b"%d" % self.writes
            elif kind == "delete":
                batch.delete(family, key)
                self.model.pop((family, key), None)
            else:
                batch.delete_range(family, key, other)
                self.model = {p: v for p, v in self.model.items() if p[0] != family or not key <= p[1] < other}
        self.rocks.write(batch)
        self.memory.write(batch)

    @rule(family=FAMILIES, start=KEYS, end=KEYS, limit=st.none() | st.integers(0, 4), reverse=st.booleans())
    def scan(self, family: Family, start: bytes, end: bytes, limit: int | None, reverse: bool) -> None:
        pairs = sorted(((k, v) for (f, k), v in self.model.items() if f == family and start <= k < end), reverse=reverse)
        for engine in (self.rocks, self.memory):
            assert list(engine.scan(family, start, end, limit=limit, reverse=reverse)) == pairs[:limit]

    @rule(family=FAMILIES, key=KEYS)
    def get(self, family: Family, key: bytes) -> None:
        assert self.rocks.get(family, key) == self.memory.get(family, key) == self.model.get((family, key))

    @rule()
    def reopen(self) -> None:
        self.rocks.sync()
        self.memory.sync()
        self.rocks.close()
        self.rocks = RocksEngine.open(self.path)
        self.memory = self.memory.crash()


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)
