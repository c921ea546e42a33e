"""A look at RocksDB's write-ahead logs before RocksDB opens them: is the end torn, or is the middle damaged?

RocksDB checks the checksum of each record, but a damaged header can end its reading early and pass for a torn end: it then
opens with everything after it gone. One flipped bit in the type of the first record lost 300 synced entries of 300, without
an error. So the chain of headers is walked here first: where it breaks, an intact record further on proves damage (FAST'18,
protocol-aware recovery; reference trap 10); without one it is a torn end, which was never reported durable.

Format: blocks of 32 KiB; records of crc32c:u32le length:u16le type:u8 and payload; a record does not cross a block (types:
1 whole, 2 first, 3 middle, 4 last part); fewer than 7 bytes at a block's end are filling. Logs are never recycled here, so
no other types occur.

Invariant: nothing is written. A log whose last record alone was damaged can not be told from a torn one.
"""

from __future__ import annotations

import struct
from pathlib import Path

from cluster.errors import StorageDamaged

BLOCK_BYTES = 32 * 1024
_HEADER = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_MASK_DELTA = 0xA282EAD8
_CASTAGNOLI = 0x82F63B78


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def verify_logs(directory: Path) -> None:
    """Walk every write-ahead log of a RocksDB directory. Raises StorageDamaged, naming file and offset; touches nothing."""
    for path in sorted(directory.glob("*.log")):
        data = path.read_bytes()
        broken = break_of(data)
        if broken is not None and _intact_record_after(data, broken):
            raise StorageDamaged(
                f"write-ahead log {path.name} is damaged at byte {broken}: intact records follow", file=path.name, offset=broken
            )


def break_of(data: bytes) -> int | None:
    """Where the chain of headers breaks, None if it reaches the end of the log."""
    position, size, inside = 0, len(data), False
    while position < size:
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < _HEADER.size:
            position += left
            continue
        if size - position < _HEADER.size:
            return position
        _, length, kind = _HEADER.unpack_from(data, position)
        end = position + _HEADER.size + length
        fits = _HEADER.size + length <= left and end <= size
        follows = kind in (_MIDDLE, _LAST) if inside else kind in (_WHOLE, _FIRST)
        if not fits or not follows:
            return position
        inside = kind in (_FIRST, _MIDDLE)
        position = end
    return None


def _intact_record_after(data: bytes, broken: int) -> bool:
    """Whether a record with a right checksum starts anywhere after `broken`.

    Offsets of the broken block are tried one by one: its record boundaries are lost. Later blocks start with a header.
    """
    block_end = min(len(data), (broken // BLOCK_BYTES + 1) * BLOCK_BYTES)
    if any(_intact(data, position) for position in range(broken + 1, block_end - _HEADER.size + 1)):
        return True
    return any(_intact(data, position) for position in range(block_end, len(data), BLOCK_BYTES))


def _intact(data: bytes, position: int) -> bool:
    if position + _HEADER.size > len(data) or not _WHOLE <= data[position + 6] <= _LAST:
        return False
    stored: int
    length: int
    stored, length, _ = _HEADER.unpack_from(data, position)
    start, end = position + _HEADER.size, position + _HEADER.size + length
    if length == 0 or end > len(data) or end > (position // BLOCK_BYTES + 1) * BLOCK_BYTES:
        return False
    crc = 0xFFFFFFFF
    for byte in data[start - 1 : end]:  # the type is part of what is summed
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return stored == (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
