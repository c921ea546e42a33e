"""Planted bugs in apply, in records, and in what documents remember of who sent them what."""

from __future__ import annotations

from typing import Any

from chaos.mutants.mutant import Patch, collector
from cluster.documents import sight
from cluster.documents.instance import DocumentInstance
from cluster.documents.rows import RowsPart
from cluster.documents.state.index import Indexes
from cluster.documents.views import Viewing
from cluster.session import table as session_table
from cluster.session.table import Answer, SessionTable, StoredTable, Verdict, created_ms
from cluster.shard import apply
from cluster.shard.apply import Applier
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import Entry, command_seed
from cluster.shard.document import LiveDocument
from cluster.shard.intake import Intake
from cluster.shard.replica import ShardReplica

MUTANTS, mutant = collector()

# replay


def _replay_through(patch: Patch, change: Any) -> None:
    def load(document: Any, body: bytes, program: Any) -> LiveDocument:
        live: LiveDocument = original.__func__(LiveDocument, document, body, program)
        live.replay_through = change(live.replay_through)
        return live

    original = patch.set(LiveDocument, "load", staticmethod(load))


@mutant("replay runs commands again that the record has already")
def replay_not_skipped(patch: Patch) -> None:
    _replay_through(patch, lambda index: 0)


@mutant("replay runs the last entry of a record a second time (trap 13)")
def replay_off_by_one(patch: Patch) -> None:
    _replay_through(patch, lambda index: index - 1)


@mutant("replay leaves out the entry behind the record")
def replay_skips_one_more(patch: Patch) -> None:
    _replay_through(patch, lambda index: index + 1)


@mutant("a record is stored with the index of the one before, as if the two were written apart (trap 13)")
def applied_index_written_apart(patch: Patch) -> None:
    def record(live: LiveDocument) -> bytes:
        now = live.applied_through
        live.applied_through = before.get(id(live), 0)
        try:
            return bytes(original(live))
        finally:
            before[id(live)] = live.applied_through = now

    before: dict[int, int] = {}
    original = patch.set(LiveDocument, "record", record)


@mutant("a document that leaves memory is not saved first")
def evicted_without_saving(patch: Patch) -> None:
    def forget(cache: DocumentCache, live: LiveDocument, batch: Any) -> None:
        cache.unsaved.pop((live.id.space, live.id.key), None)

    def evict(cache: DocumentCache, batch: Any, pinned: Any) -> None:
        inner = Patch()
        inner.set(DocumentCache, "save", forget)
        try:
            original(cache, batch, pinned)
        finally:
            inner.undo()

    original = patch.set(DocumentCache, "_evict", evict)


@mutant("followers keep the log and do not apply it, so a new leader starts from what it last led")
def followers_do_not_apply(patch: Patch) -> None:
    def apply_entry(replica: ShardReplica, *arguments: Any) -> bool:
        return bool(original(replica, *arguments)) if replica.leads else True

    original = patch.set(ShardReplica, "_apply_entry", apply_entry)


# determinism


@mutant("a handler's time is read when it is applied")
def time_read_at_apply(patch: Patch) -> None:
    ticks = [0]

    def decode(payload: bytes) -> Entry:
        entry = original(payload)
        ticks[0] += 1
        return Entry(entry.semantics, entry.now_ms + ticks[0] * 1_000, entry.seed, entry.commands)

    original = patch.set(apply, "decode_entry", decode)


@mutant("a handler's randomness is made when it is applied")
def seed_made_at_apply(patch: Patch) -> None:
    ticks = [0]

    def seeds(entry: Entry) -> list[bytes]:
        ticks[0] += 1
        return [command_seed(entry.seed, offset + ticks[0]) for offset in range(len(entry.commands))]

    patch.set(apply, "command_seeds", seeds)


@mutant("what a refused handler had written stays written")
def refusal_keeps_writes(patch: Patch) -> None:
    def undo(instance: DocumentInstance, outcome: Any) -> Any:
        if instance._journal.log:
            instance._journal.commit()
            return outcome
        return original(instance, outcome)

    original = patch.set(DocumentInstance, "_undo", undo)


@mutant("the time of a shard starts anew with every leader, from its own clock")
def time_falls_with_a_new_leader(patch: Patch) -> None:
    def apply_entry(applier: Applier, index: Any, payload: bytes, origins: Any, turn: Any, now_ms: float) -> Any:
        applier.now_ms = 0
        changed = original(applier, index, payload, origins, turn, now_ms)
        applier.now_ms = 0
        return changed

    def propose(intake: Intake, *arguments: Any) -> None:
        intake._stamped_ms = 0
        gather(intake, *arguments)

    original = patch.set(Applier, "apply", apply_entry)
    gather = patch.set(Intake, "_propose", propose)


@mutant("a document that is created again goes on in its old epoch")
def epoch_not_raised(patch: Patch) -> None:
    def create(applier: Applier, live: LiveDocument, *arguments: Any) -> Any:
        epoch = live.epoch
        outcome = original(applier, live, *arguments)
        live.epoch = epoch or live.epoch
        return outcome

    original = patch.set(Applier, "_create", create)


@mutant("a creation runs twice at the same key")
def creation_overwrites(patch: Patch) -> None:
    def admit(applier: Applier, live: LiveDocument, command: Any) -> None:
        if command.kind != apply._CREATE:
            original(applier, live, command)

    original = patch.set(Applier, "_admit", admit)


# sessions


@mutant("records do not hold the session table")
def record_without_sessions(patch: Patch) -> None:
    def record(live: LiveDocument) -> bytes:
        kept = live.sessions
        live.sessions = SessionTable()
        try:
            return bytes(original(live))
        finally:
            live.sessions = kept

    original = patch.set(LiveDocument, "record", record)


@mutant("a record forgets which session was used last, so replicas that loaded it evict others (trap 54)")
def record_forgets_the_order_of_sessions(patch: Patch) -> None:
    def stored(table: SessionTable) -> StoredTable:
        found: StoredTable = original(table)
        return StoredTable(found.forgotten_before_ms, sorted(found.sessions, key=lambda entry: entry.session[::-1]))

    original = patch.set(SessionTable, "stored", stored)


@mutant("a numbered command that comes again runs again")
def repeat_runs_again(patch: Patch) -> None:
    def judge(table: SessionTable, session: bytes, sequence: int, digest: bytes) -> Any:
        found = original(table, session, sequence, digest)
        return session_table._RUN if sequence and found[0] is Verdict.REPEAT else found

    def record(table: SessionTable, session: bytes, acked: int, answer: Answer, window: int, most: int) -> None:
        known = table._sessions.get(session)
        if known is not None and answer.sequence:
            known.last = answer.sequence - 1
        remember(table, session, acked, answer, window, most)

    original = patch.set(SessionTable, "judge", judge)
    remember = patch.set(SessionTable, "record", record)


@mutant("an idempotency key that was used runs again")
def key_not_remembered(patch: Patch) -> None:
    def judge(table: SessionTable, session: bytes, sequence: int, digest: bytes) -> Any:
        found = original(table, session, sequence, digest)
        return (Verdict.RUN, None, 0) if sequence == 0 and found[0] is Verdict.REPEAT else found

    original = patch.set(SessionTable, "judge", judge)


@mutant("a sequence that skips others runs")
def gap_runs(patch: Patch) -> None:
    def judge(table: SessionTable, session: bytes, sequence: int, digest: bytes) -> Any:
        found = original(table, session, sequence, digest)
        return (Verdict.RUN, None, 0) if found[0] is Verdict.GAP else found

    def record(table: SessionTable, session: bytes, acked: int, answer: Any, window: int, most: int) -> None:
        known = table._sessions.get(session)
        if known is not None and answer.sequence:
            known.last = answer.sequence - 1
        elif answer.sequence > 1:
            kept.append(session)
            return
        remember(table, session, acked, answer, window, most)

    kept: list[bytes] = []
    original = patch.set(SessionTable, "judge", judge)
    remember = patch.set(SessionTable, "record", record)


@mutant("a command that was refused leaves its answer out of the session table")
def refusal_not_remembered(patch: Patch) -> None:
    def record(table: SessionTable, session: bytes, acked: int, answer: Any, window: int, most: int) -> None:
        if answer.code == 0:
            remember(table, session, acked, answer, window, most)

    remember = patch.set(SessionTable, "record", record)


@mutant("of a session's answers only the newest is kept, whatever the client has acknowledged")
def only_the_newest_answer_kept(patch: Patch) -> None:
    def record(table: SessionTable, session: bytes, acked: int, answer: Answer, window: int, most: int) -> None:
        remember(table, session, max(acked, answer.sequence - 1), answer, window, most)

    remember = patch.set(SessionTable, "record", record)


@mutant("a session that was evicted is taken for a new one")
def evicted_session_runs_again(patch: Patch) -> None:
    def record(table: SessionTable, session: bytes, acked: int, answer: Answer, window: int, most: int) -> None:
        before = table.forgotten_before_ms
        remember(table, session, acked, answer, window, most)
        table.forgotten_before_ms = before

    assert created_ms(bytes(16)) == 0
    remember = patch.set(SessionTable, "record", record)


@mutant("deletion forgets the document's sessions")
def deletion_forgets_sessions(patch: Patch) -> None:
    def conclude(applier: Applier, live: LiveDocument, command: Any, outcome: Any, digest: bytes) -> None:
        original(applier, live, command, outcome, digest)
        if not live.alive:
            live.sessions = SessionTable()

    original = patch.set(Applier, "_conclude", conclude)


# who sees what


@mutant("a policy on a row is not asked again when the row has changed")
def rows_not_asked_again(patch: Patch) -> None:
    def admits(part: RowsPart, row: Any, viewing: Any, who: Any) -> bool:
        return row._slot in part.shown or bool(original(part, row, viewing, who))

    original = patch.set(RowsPart, "_admits", admits)


@mutant("a field that is hidden inside a record is shown with the record")
def hidden_fields_shown(patch: Patch) -> None:
    def show(lens: Any, value: Any, ask: Any) -> Any:
        return original(lens, value, lambda policy, record: True)

    original = patch.set(sight._RecordLens, "show", show)


@mutant("viewers share one view although each has its own")
def viewers_share_a_view(patch: Patch) -> None:
    patch.set(Viewing, "visibility_class", lambda viewing, who: None)


@mutant("a window goes on showing a row that went out of sight")
def window_keeps_hidden_rows(patch: Patch) -> None:
    def gone(part: RowsPart, name: Any) -> dict[str, Any]:
        operation: dict[str, Any] = original(part, name)
        path = operation["path"]
        return {"op": "add", "path": path, "value": {}} if "/rows/" in path else operation

    original = patch.set(RowsPart, "_gone", gone)


@mutant("a row that is undone stays in its index")
def index_not_undone(patch: Patch) -> None:
    def insert(indexes: Indexes, name: Any, row: Any, journal: Any) -> None:
        original(indexes, name, row, None)

    def delete(indexes: Indexes, name: Any, row: Any, journal: Any) -> None:
        for field in indexes.by_field:
            indexes.by_field[field].get(row.__dict__[field], {}).pop(name, None)

    original = patch.set(Indexes, "insert", insert)
    patch.set(Indexes, "delete", delete)
