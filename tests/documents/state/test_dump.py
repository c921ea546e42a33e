"""Bytes of state: canonical, the same in every process and on every supported Python, and read by later versions."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.documents.state import FieldOptions, Record, Table

PROGRAM = Path(__file__).with_name("sample_history.py")
DIGEST = "0e3ced8d1907fe6f4c2f663de25577a6"
"""BLAKE2b of every dump and every canonical write of sample_history.py: a change here is a change of the stored format."""


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_dumps_and_writes_are_the_same_in_every_process(hash_seed: str) -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
    ran = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == DIGEST


class Old(Record):
    name: str
    gone: int


class New(Record):
    name: str
    added: int = 7


def test_an_upgrade_renames_drops_and_defaults_fields(make_desk: Any) -> None:
    old = make_desk({"title": (str, "t"), "left": (int, 1), "rows": (Table[Old], FieldOptions(key="name"))})
    old.run(lambda root: root.get("rows").put(Old("x", 3)))
    new = make_desk(
        {"heading": (str, FieldOptions(was="title")), "extra": (int, 5), "rows": (Table[New], FieldOptions(key="name"))}
    )
    with pytest.raises(ValueError, match="not declared"):
        new.root.load(old.root.dump())
    new.root.load(old.root.dump(), upgrade=True)
    assert new.view() == {"heading": "t", "extra": 5, "rows": {"x": {"name": "x", "added": 7}}}
    assert new.reloaded().root.size_bytes() == new.root.size_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x81\xa5count\xa1x",
        b"\x81\xa5other\x00",
        b"\x93\x01\x02\x03",
        b"\xc1",
        b"\x81\xa5count\xcf" + b"\xff" * 8,
        b"\x91" * 5000,
    ],
    ids=range(8),
)
def test_what_is_not_a_dump_is_refused_and_the_state_stays(make_desk: Any, data: bytes) -> None:
    desk = make_desk({"count": (int, 3)})
    before = desk.root.dump()
    with pytest.raises(ValueError, match="not a dump"):
        desk.root.load(data)
    assert desk.root.dump() == before


def test_equal_states_have_equal_bytes_whatever_order_fields_were_set_in(make_desk: Any) -> None:
    first, second = (make_desk({"b": (int, FieldOptions()), "a": (int, FieldOptions())}) for _ in range(2))
    first.run(lambda root: (root.set("a", 1), root.set("b", 2)))
    second.run(lambda root: (root.set("b", 2), root.set("a", 1)))
    assert first.root.dump() == second.root.dump()
    assert hashlib.blake2b(first.root.dump()).digest() == hashlib.blake2b(second.root.dump()).digest()
