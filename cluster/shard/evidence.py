"""What one replica can say about a document that may differ elsewhere, and how it takes over what the majority has.

Chains are compared at positions of the document, not at log indexes: replicas need not stand at one place for it. History
keeps the start of the chain after every entry and a checksum of every command's writes, so the command at which two replicas
part is found without running anything.

Invariant: a record is taken over whole, with the history behind the parting, in one batch; log entries that it contains
already are skipped like after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cluster.errors import CodeMissing, HistoryTrimmed, StorageDamaged
from cluster.ids import DocumentId, LogIndex, ReplicaId
from cluster.shard.commands import (
    CHAIN_MARK_BYTES,
    CommandKind,
    HistoryRow,
    command_marks,
    command_seed,
    decode_entry,
    decode_row,
)
from cluster.shard.divergence import (
    ChainMark,
    CompareReply,
    CompareRequest,
    Divergence,
    EvidenceReply,
    EvidenceRequest,
    Name,
    VerdictItem,
    first_parting,
    salted,
)
from cluster.shard.document import FREEZE_AFTER_DIVERGENCE, decode_record
from cluster.shard.replica import APPLY_READ_BYTES, ShardReplica
from cluster.shard.turn import Turn

DOCUMENTS_COMPARED_MAX = 1024
"""Documents of one comparison. What is left out differs still when it is touched again."""

MARKS_MAX = 1024
"""Commands back to which the first different one is looked for."""

TAKEN_OVER_BYTES_MAX = 4 * 1024 * 1024
"""A record with its different history above this is not sent alone: the replica takes a snapshot instead."""


def touched(replica: ShardReplica, since: LogIndex, through: LogIndex) -> list[Name]:
    """Documents that commands of the entries (since, through] name, as far as the log still has them."""
    names: dict[Name, None] = {}
    first = max(since, replica.log.snapshot.index) + 1
    while first <= through and len(names) < DOCUMENTS_COMPARED_MAX:
        for run in replica.raft.entries(LogIndex(first), through, APPLY_READ_BYTES):
            for payload in run.payloads:
                if payload:
                    names.update(dict.fromkeys((command.space, command.key) for command in decode_entry(payload).commands))
            first = run.last_index + 1
    return list(names)[:DOCUMENTS_COMPARED_MAX]


def marks_of(replica: ShardReplica, names: list[Name]) -> list[ChainMark]:
    """Where these documents stand here. Raises CodeMissing or StorageDamaged."""
    found = []
    for space, key in names:
        live = replica.cache.get(space, key)
        found.append(ChainMark(space, key, live.epoch, live.index, live.chain[:CHAIN_MARK_BYTES]))
    return found


def compare(replica: ShardReplica, request: CompareRequest) -> CompareReply:
    """Answer a leader. Raises CodeMissing or StorageDamaged."""
    differing = [(mark.space, mark.key) for mark in request.marks if _differs(replica, mark)]
    return CompareReply(replica.id, replica.replica, request.sender, request.round, differing)


def _differs(replica: ShardReplica, mark: ChainMark) -> bool:
    """Whether this document had another chain here at that position. What is no longer known is taken for equal: the next
    command tells.
    """
    live = replica.cache.find(mark.space, mark.key)
    if live is None or (live.epoch, live.index) < (mark.epoch, mark.index):
        return bool(mark.index)
    if (live.epoch, live.index) == (mark.epoch, mark.index):
        return live.chain[:CHAIN_MARK_BYTES] != mark.mark
    found = row_at(replica, live.id, mark.epoch, mark.index)
    if found is None:
        return False
    row, place = found
    # Chains are told as they stand behind a whole entry: a position within one is not where both stood.
    return place != len(row.commands) - 1 or row.after != mark.mark


def row_at(replica: ShardReplica, document: DocumentId, epoch: int, index: int) -> tuple[HistoryRow, int] | None:
    """The history row with the command at a position, and the command's place in it, if it is kept."""
    for first, row in _rows(replica, document, epoch, index, 1):
        return row, index - first
    return None


def _rows(
    replica: ShardReplica, document: DocumentId, epoch: int, from_index: int, limit: int
) -> Iterator[tuple[int, HistoryRow]]:
    """Rows in order, up to the first gap."""
    try:
        for first, _, body in replica.stored.history.read(document, epoch, from_index, limit):
            yield first, decode_row(body)
    except HistoryTrimmed:
        return


def chain_marks(replica: ShardReplica, document: DocumentId, epoch: int, through: int) -> tuple[int, list[bytes]]:
    """(first index, marks of it and each later command) of what is kept of the newest MARKS_MAX commands."""
    earliest = replica.stored.history.earliest_index(document, epoch)
    if earliest is None:
        return 0, []
    start = max(earliest, through - MARKS_MAX + 1)
    marks: list[bytes] = []
    begins = 0
    for first, row in _rows(replica, document, epoch, start, MARKS_MAX):
        begins = begins or first
        marks += command_marks(row)
    return begins, marks


def testify(replica: ShardReplica, request: EvidenceRequest) -> EvidenceReply:
    """Answer a leader about one document. Raises CodeMissing or StorageDamaged."""
    live = replica.cache.get(request.space, request.key)
    head = (replica.id, replica.replica, request.sender, request.round, live.chain)
    if live.chain == request.chain:
        return EvidenceReply(*head, b"", 0, 0, b"", replica.cache.copied_through)
    first, marks = chain_marks(replica, live.id, request.epoch, request.first + len(request.marks) - 1)
    own = {first + place: mark for place, mark in enumerate(marks)}
    parts_at = first_parting(request.first, request.marks, own)
    code, answer = outcome_at(replica, live.id, request.epoch, parts_at)
    return EvidenceReply(*head, live.record(), parts_at, code, answer, replica.cache.copied_through)


def speechless(replica: ShardReplica, voter: ReplicaId) -> bool:
    """Whether a leader in doubt knows that a voter needs its state, which doubt withholds: it will have no word. One that is
    only away may have one, and so may one whose snapshot was on its way before.
    """
    needs_state = voter in replica.cache.withheld or replica.raft.only_snapshot_helps(voter)
    return needs_state and voter not in replica.held_for_snapshots


def outcome_at(replica: ShardReplica, document: DocumentId, epoch: int, index: int) -> tuple[int, bytes]:
    """(result code, salted digest of the answer) of the command at a position; (-1, nothing) when it is not known."""
    found = row_at(replica, document, epoch, index) if index else None
    if found is None:
        return -1, b""
    row, place = found
    return row.codes[place], salted(row.answers[place], command_seed(row.seed, row.offsets[place]))


def remedy_for(
    replica: ShardReplica, document: DocumentId, epoch: int, from_index: int
) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """(record, history from `from_index` on) for a replica that differs; nothing when that is too large to go alone."""
    record = replica.cache.get(document.space, document.key).record()
    size, history = len(record), []
    try:
        for first, count, body in replica.stored.history.read(document, epoch, from_index, MARKS_MAX):
            history.append((first, count, body))
            size += len(body)
    except HistoryTrimmed:
        pass  # what is kept behind the gap is what the other replica has too, or gets with its next snapshot
    return (record, history) if size <= TAKEN_OVER_BYTES_MAX else (b"", [])


def take_over(replica: ShardReplica, verdict: VerdictItem, turn: Turn) -> bytes | None:
    """Make the majority's record this replica's own; returns the document's chain, None when nothing was changed.

    A record that does not contain what was applied to the document here is late: it is refused, and the leader asks again.
    """
    divergence = verdict.divergence
    document = DocumentId(divergence.space, divergence.key)
    if not verdict.record:
        replica.damaged = replica.damaged or f"{document} differs from the majority's and is too large to be replaced alone"
        return None
    try:
        present = replica.cache.get(document.space, document.key)
        if present.applied_through > decode_record(verdict.record).applied_through:
            return None
        live = replica.cache.adopt(document, verdict.record, turn.batch)
    except (CodeMissing, StorageDamaged):
        return None
    if verdict.history:
        history = replica.stored.history
        history.cut(turn.batch, document, divergence.epoch, verdict.history[0][0])
        for first, count, body in verdict.history:
            history.append(turn.batch, document, divergence.epoch, first, count, body)
    replica.digest.restart(replica.applied)
    return live.chain


def froze(replica: ShardReplica, name: Name, answers: Iterable[EvidenceReply], chain: bytes | None) -> bool:
    """Whether those with this chain froze the document because no majority had said what it is. That nobody undoes but an
    operator: a majority of frozen replicas, of which one may be a copy, knows no better than before. Raises StorageDamaged.
    """
    live = replica.cache.get(*name)
    if live.chain == chain:
        return live.frozen == FREEZE_AFTER_DIVERGENCE
    records = (answer.record for answer in answers if answer.chain == chain)
    return any(decode_record(record).frozen == FREEZE_AFTER_DIVERGENCE for record in records)


def freeze(replica: ShardReplica, report: Divergence, turn: Turn) -> None:
    """No majority says what the document is: it takes no commands here until somebody decides. Late reports change nothing."""
    try:
        live = replica.cache.get(*report.name)
        decided = _thawed_since(replica, live.id, report.epoch, live.epoch)
    except (CodeMissing, StorageDamaged):
        return
    if live.alive and not live.frozen and not decided:
        live.frozen = FREEZE_AFTER_DIVERGENCE
        replica.cache.save(live, turn.batch)


def _thawed_since(replica: ShardReplica, document: DocumentId, epoch: int, present: int) -> bool:
    """Whether an operator has decided since that epoch what the document is: the present one began with it. Where the present
    one's history is still on its way, the record is a copy of what all have behind that decision.
    """
    if present <= epoch:
        return False
    earliest = replica.stored.history.earliest_index(document, present)
    if earliest is None and replica.incomplete:
        return True
    found = row_at(replica, document, present, earliest) if earliest is not None else None
    return found is not None and found[0].commands[found[1]].kind == CommandKind.THAW
