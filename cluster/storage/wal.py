"""A look at RocksDB's write-ahead logs before RocksDB opens them: is the end torn, or is the middle damaged?

RocksDB checks the checksum of each record, but a damaged header can end its reading early and pass for a torn end: it then
opens with everything after it gone. One flipped bit in the type of the first record lost 300 synced entries of 300, without
an error; the same bit further on made it read for ever. So the chain of headers is walked here first: where it breaks, an
intact record further on proves damage (FAST'18, protocol-aware recovery); without one it is a torn end, which was never
reported durable.

Format: blocks of 32 KiB; records of crc32c:u32le length:u16le type:u8 and payload; a record does not cross a block (types:
1 whole, 2 first, 3 middle, 4 last part); fewer than 7 bytes at a block's end are filling. A payload is a batch: sequence:u64le
count:u32le and that many changes. Logs are never recycled here, so no other types occur.

Invariant: nothing is written. Several damaged bytes of the very last record can not be told from a torn write.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import StorageDamaged

BLOCK_BYTES = 32 * 1024
_HEADER = struct.Struct("<IHB")
_BATCH = struct.Struct("<QI")
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


@dataclass(slots=True)
class Walk:
    """One log, as far as its chain of headers goes.

    broken: where the chain breaks, None if it reaches the end. first_sequence, next_sequence: RocksDB's numbers of the first
    change and of the one after the last whole batch; None where no batch shows them.
    """

    broken: int | None = None
    first_sequence: int | None = None
    next_sequence: int | None = None


def verify_logs(directory: Path) -> None:
    """Walk every write-ahead log of a RocksDB directory, oldest first. Raises StorageDamaged, naming file and offset; touches
    nothing."""
    torn: tuple[str, Walk] | None = None
    for path in sorted(directory.glob("*.log")):
        data = path.read_bytes()
        walk = walk_log(data)
        if walk.broken is not None and not _torn(data, walk.broken):
            raise StorageDamaged(
                f"write-ahead log {path.name} is damaged at byte {walk.broken}, and that is not a torn end",
                file=path.name,
                offset=walk.broken,
            )
        if torn is not None and walk.first_sequence is not None:
            # Left behind by an earlier crash, the torn log is followed without a gap. Torn by this one, it may not be: then
            # changes of the newer log would be applied over a hole.
            name, before = torn
            if before.next_sequence is None or before.next_sequence != walk.first_sequence:
                raise StorageDamaged(f"write-ahead log {name} is torn, but {path.name} goes on after it", file=name)
            torn = None
        if walk.broken is not None:
            torn = path.name, walk


def walk_log(data: bytes) -> Walk:
    """Follow the chain of headers from the beginning. Checks no checksums: RocksDB does."""
    walk = Walk()
    position, size, inside, following = 0, len(data), False, None
    while position < size:
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < _HEADER.size:
            position += left
            continue
        if size - position < _HEADER.size:
            walk.broken = position
            break
        _, length, kind = _HEADER.unpack_from(data, position)
        end = position + _HEADER.size + length
        fits = _HEADER.size + length <= left and end <= size
        follows = kind in (_MIDDLE, _LAST) if inside else kind in (_WHOLE, _FIRST)
        if not fits or not follows:
            walk.broken = position
            break
        if not inside:
            following = None
            if length >= _BATCH.size:
                sequence, count = _BATCH.unpack_from(data, position + _HEADER.size)
                following = sequence + count
                if walk.first_sequence is None:
                    walk.first_sequence = sequence
        inside = kind in (_FIRST, _MIDDLE)
        if not inside:
            walk.next_sequence = following
        position = end
    if inside and walk.broken is None:
        walk.broken = size
    return walk


def _torn(data: bytes, broken: int) -> bool:
    """Whether what starts at `broken` can be what a crash leaves of the last write.

    It can not when the header is whole but of no known type (RocksDB may read such a log in circles), when the bytes up to the
    end are a whole record of which only the length is wrong, or when an intact record starts later. Offsets of the broken block
    are tried one by one, since its record boundaries are lost; later blocks start with a header.
    """
    size = len(data)
    block_end = min(size, (broken // BLOCK_BYTES + 1) * BLOCK_BYTES)
    if broken + _HEADER.size <= size:
        if data[broken + 6] > _LAST:
            return False
        if block_end == size and _sums_up(data, broken, size):
            return False
    later = itertools.chain(range(broken + 1, block_end), range(block_end, size, BLOCK_BYTES))
    return not any(_intact(data, position) for position in later)


def _intact(data: bytes, position: int) -> bool:
    if position + _HEADER.size > len(data) or not _WHOLE <= data[position + 6] <= _LAST:
        return False
    length: int = _HEADER.unpack_from(data, position)[1]
    end = position + _HEADER.size + length
    fits = length > 0 and end <= min(len(data), (position // BLOCK_BYTES + 1) * BLOCK_BYTES)
    return fits and _sums_up(data, position, end)


def _sums_up(data: bytes, position: int, end: int) -> bool:
    """Whether the record at `position` has the right checksum if its payload ends at `end`."""
    stored: int = _HEADER.unpack_from(data, position)[0]
    crc = 0xFFFFFFFF
    for byte in data[position + 6 : end]:  # the type is part of what is summed
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return stored == (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
