"""Recordings of people writing: a start, an end, and the transactions in between, each a list of (position, deleted, inserted).

Positions count Unicode code points. Applying every patch in order to the start must give the end; a recording that does not is
refused, because what it would be compared with means nothing.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DEFAULT: Final = Path(__file__).parent / "recording.json.gz"
BYTES_MAX: Final = 256 * 1024 * 1024


class NotARecording(Exception):
    """The file is not a recording, or contradicts itself."""


Patch = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Recording:
    """What somebody wrote, transaction by transaction."""

    name: str
    start: str
    end: str
    transactions: list[list[Patch]]

    @property
    def count(self) -> int:
        """Transactions."""
        return len(self.transactions)

    def first(self, count: int) -> Recording:
        """The recording of only its first transactions."""
        transactions = self.transactions[:count]
        return Recording(self.name, self.start, apply_all(self.start, transactions), transactions)


def apply_all(text: str, transactions: list[list[Patch]]) -> str:
    """The text after these transactions. Raises NotARecording for a position outside of the text."""
    for number, patches in enumerate(transactions):
        for at, deleted, inserted in patches:
            if not 0 <= at <= at + deleted <= len(text):
                raise NotARecording(f"transaction {number} edits {at}..{at + deleted} of a text of {len(text)}")
            text = text[:at] + inserted + text[at + deleted :]
    return text


def load(path: Path = DEFAULT) -> Recording:
    """Read `{startContent, endContent, txns: [{patches: [[position, deleted, inserted], ...]}]}`, gzipped or not.

    Raises NotARecording, or OSError when the file can not be read.
    """
    try:
        found = json.loads(unpacked(path))
        transactions = [[_patch(patch) for patch in each["patches"]] for each in found["txns"]]
        start, end = found["startContent"], found["endContent"]
    except (ValueError, KeyError, TypeError) as error:
        raise NotARecording(f"{path} is not a recording: {error!r}") from None
    if not isinstance(start, str) or not isinstance(end, str) or not transactions:
        raise NotARecording(f"{path} is not a recording: it lacks a text or transactions")
    if apply_all(start, transactions) != end:
        raise NotARecording(f"{path} contradicts itself: its transactions do not lead to its end")
    return Recording(path.name, start, end, transactions)


def unpacked(path: Path) -> bytes:
    """The bytes of a file, gzipped or not. Raises NotARecording, or OSError when the file can not be read."""
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    unpack = zlib.decompressobj(wbits=31)
    try:
        raw = unpack.decompress(raw, BYTES_MAX)
    except zlib.error as error:
        raise NotARecording(f"{path} is not a recording: {error!r}") from None
    if unpack.unconsumed_tail:
        raise NotARecording(f"{path} has more than {BYTES_MAX} bytes")
    return raw


def _patch(patch: list[Any]) -> Patch:
    at, deleted, inserted = patch
    if not (isinstance(at, int) and isinstance(deleted, int) and isinstance(inserted, str)):
        raise TypeError(f"{patch!r} is not [position, deleted, inserted]")
    return at, deleted, inserted


def save(recording: Recording, path: Path) -> None:
    """Write the file, the same bytes for the same recording."""
    content = {
        "startContent": recording.start,
        "endContent": recording.end,
        "txns": [{"patches": [list(patch) for patch in patches]} for patches in recording.transactions],
    }
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(body, compresslevel=9, mtime=0))
