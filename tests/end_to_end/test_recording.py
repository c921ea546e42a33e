"""Recordings: what is accepted, what is refused, and that the one which is shipped is what its script makes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.demo import recording
from chaos.demo.record import TEXT, record
from chaos.demo.recording import NotARecording, Recording, apply_all
from chaos.demo.schedule import schedule


def test_shipped_recording_is_what_its_script_makes(tmp_path: Path) -> None:
    made = record(seed=7, transactions=3000)
    assert recording.load() == made
    recording.save(made, tmp_path / "again")
    assert recording.load(tmp_path / "again").transactions == made.transactions


def test_shipped_recording_ends_with_the_whole_text_and_has_every_kind_of_edit() -> None:
    shipped = recording.load()
    assert shipped.end == TEXT
    assert len(shipped.transactions) > 2500
    patches = [patch for transaction in shipped.transactions for patch in transaction]
    assert any(deleted and inserted for _, deleted, inserted in patches), "replacements"
    assert any(len(inserted) > 10 for _, _, inserted in patches), "pastes"
    assert any(len(transaction) > 1 for transaction in shipped.transactions), "several patches in one transaction"
    assert not TEXT.isascii(), "code points and bytes are not the same thing"


def test_first_transactions_of_a_recording_are_a_recording() -> None:
    part = recording.load().first(500)
    assert len(part.transactions) == 500
    assert apply_all(part.start, part.transactions) == part.end != ""


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b'{"startContent":"","endContent":"x"}',
        b'{"startContent":"","endContent":"x","txns":[]}',
        b'{"startContent":"","endContent":"x","txns":[{"patches":[[0,0,"y"]]}]}',
        b'{"startContent":"","endContent":"x","txns":[{"patches":[[5,0,"x"]]}]}',
        b'{"startContent":"","endContent":"x","txns":[{"patches":[["0",0,"x"]]}]}',
        b'{"startContent":"","endContent":"x","txns":[{"patches":[[-1,0,"x"]]}]}',
        b"\x1f\x8bbroken",
    ],
)
def test_file_that_is_no_recording_or_contradicts_itself_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(NotARecording):
        recording.load(path)


def test_positions_count_code_points(tmp_path: Path) -> None:
    content = {"startContent": "⚓é", "endContent": "⚓xé", "txns": [{"patches": [[1, 0, "x"]]}]}
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert recording.load(path) == Recording("trace.json.gz", "⚓é", "⚓xé", [[(1, 0, "x")]])


@given(messages=st.integers(9, 100_000), seed=st.integers(0, 2**32))
def test_leaders_die_once_in_the_first_third_and_once_in_the_last(messages: int, seed: int) -> None:
    first, last = schedule(messages, seed)
    assert 1 <= first.message <= messages // 3
    assert 2 * messages // 3 < last.message <= messages
    assert last.hold_at == 2 * messages // 3 < last.message
    assert schedule(messages, seed) == [first, last], "the same seed gives the same moments"


def test_recording_without_thirds_kills_nobody() -> None:
    assert schedule(8, 1) == []
