"""From a committed entry to new document states, answers, changes and history.

Each command runs atomically: either its handler ends well, or the document is as it was. Its answer comes only from author
code or from counted limits; anything else (ApplyHalted) stops this shard's apply on this node.

Invariant: a command runs on a document exactly once, wherever the node crashes: its effect is in the record if and only if the
entry index is at most the record's applied_through, and replay skips just those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from cluster.documents.runtime import DELETE_CHANNEL, Code, Invocation, Outcome
from cluster.empty import NO_ENTRIES
from cluster.errors import (
    ApplyHalted,
    ClusterError,
    DocumentDeleted,
    DocumentExists,
    DocumentFrozen,
    InvalidRequest,
    KeyReused,
    OutcomeUnknown,
    RejectedError,
    SequenceGap,
    UnknownChannel,
    UnknownDocument,
)
from cluster.ids import DocumentId, LogIndex, Principal, ShardId
from cluster.session.failures import failure_of
from cluster.session.operations import Reply
from cluster.session.table import Answer, Verdict, payload_digest
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import (
    CHAIN_MARK_BYTES,
    Command,
    CommandKind,
    Entry,
    HistoryRow,
    command_seed,
    decode_entry,
    encode_row,
)
from cluster.shard.digest import AppliedDigest
from cluster.shard.directory import Directory
from cluster.shard.document import FREEZE_AFTER_POISON, LiveDocument
from cluster.shard.failures import failure_of_outcome
from cluster.shard.turn import StreamKey, Turn
from cluster.storage.history import HistoryStore

PRINCIPALS_KEPT_MAX = 4096
"""Parsed principals kept a shard: a cache of a pure function, so losing it changes nothing."""

_CREATE, _SEND, _DELETE = int(CommandKind.CREATE), int(CommandKind.SEND), int(CommandKind.DELETE)
_OK = Code.OK

Origin = tuple[StreamKey, int]
"""Who waits for a command's answer: the client stream and the operation's id there."""


@dataclass(frozen=True, slots=True)
class HandlerFailure:
    """A bug in an author's code as operators see it."""

    error_id: str
    document: DocumentId
    epoch: int
    index: int
    channel: str
    sender: str
    time_ms: int
    traceback: str


class RunningMarker(Protocol):
    """Notes which command runs, where it survives the death of the process, and knows which ones ended it before."""

    def note(self, shard: int, index: int, offset: int, command: Command) -> None:
        """This command runs next."""
        ...

    def suspected(self, shard: int, index: int) -> int | None:
        """The offset in this entry of a command that ended the process twice, if there is one."""
        ...


class Applier:
    """Applies the entries of one shard in order."""

    __slots__ = (
        "_cache",
        "_directory",
        "_history",
        "_marker",
        "_on_failure",
        "_principals",
        "_shard",
        "commands_run",
        "digest",
        "now_ms",
        "within_entry",
    )

    def __init__(
        self,
        shard: ShardId,
        cache: DocumentCache,
        history: HistoryStore,
        directory: Directory,
        marker: RunningMarker,
        on_failure: Callable[[HandlerFailure], None],
        digest: AppliedDigest,
    ) -> None:
        self._shard = shard
        self.digest = digest
        self._cache = cache
        self._history = history
        self._directory = directory
        self._marker = marker
        self._on_failure = on_failure
        self._principals: dict[str, Principal] = NO_ENTRIES
        self.now_ms = 0
        self.commands_run = 0
        self.within_entry = False
        """An entry was begun and not finished: documents in memory are between two entries and must never be written."""

    def apply(
        self, index: LogIndex, payload: bytes, origins: list[Origin] | None, turn: Turn, now_ms: float
    ) -> list[LiveDocument]:
        """Apply one entry; `origins` are those who wait, in command order. Returns the documents that changed.

        Raises CodeMissing, StorageDamaged or ApplyHalted (a suspected poison) before anything ran: the entry can be tried
        again. ApplyHalted from a handler's run comes in the middle: nobody was answered, and this shard then stops until the
        node restarts.
        """
        entry = decode_entry(payload)
        assert origins is None or len(origins) == len(entry.commands), "one origin a command"
        self._check_suspect(index)
        documents = [self._prepare(command) for command in entry.commands]
        assert entry.now_ms >= self.now_ms, "the shard's time never falls"
        self.now_ms = entry.now_ms
        rows: dict[tuple[int, int], tuple[LiveDocument, int, HistoryRow]] = {}
        replies: list[Reply] | None = None if origins is None else []
        isolates = self._directory.isolates(self._shard, index)
        skipped = False
        self.within_entry = True
        for offset, command in enumerate(entry.commands):
            live = documents[offset]
            if index <= live.replay_through:
                assert origins is None, "a leader never proposes into its own past"
                skipped = True
                continue
            live.touched_ms = now_ms
            self._command(live, command, index, offset, entry, rows, replies, isolates)
        self.within_entry = False
        if origins is not None and replies is not None:
            for (stream, reply_id), reply in zip(origins, replies, strict=True):
                reply.id = reply_id
                turn.reply(stream, reply)
        changed: dict[int, LiveDocument] = {}
        for (identity, epoch), (live, first_index, row) in rows.items():
            self._history.append(turn.batch, live.id, epoch, first_index, len(row.commands), encode_row(row))
            now = any(command.kind != _SEND for command in row.commands)
            self._cache.save_if_due(live, turn.batch, now=now)
            changed[identity] = live
        if skipped:
            self.digest.restart(index)
        elif changed:
            self.digest.add(index, b"".join([live.chain for live in changed.values()]))
        return list(changed.values())

    def _check_suspect(self, index: LogIndex) -> None:
        """A command that ended this process twice is not tried a third time."""
        offset = self._marker.suspected(self._shard, index)
        if offset is not None and self._directory.isolated(self._shard, index, offset) is None:
            raise ApplyHalted(
                f"command {offset} of entry {index} of shard {self._shard} ended this node twice; isolate it with "
                f"`moot shards isolate {self._shard} {index} {offset} --reason ...`",
                suspect=offset,
            )

    def _prepare(self, command: Command) -> LiveDocument:
        """Have the document and its code at hand before anything of the entry runs."""
        if command.kind == _CREATE:
            self._directory.program(command.code_hash)
        return self._cache.get(command.space, command.key)

    def _command(
        self,
        live: LiveDocument,
        command: Command,
        index: LogIndex,
        offset: int,
        entry: Entry,
        rows: dict[tuple[int, int], tuple[LiveDocument, int, HistoryRow]],
        replies: list[Reply] | None,
        isolates: bool,
    ) -> None:
        """Judge, run and remember one command; its reply is made only where somebody waits (`replies`).

        isolates: whether some command of this entry is isolated.
        """
        digest = payload_digest(command.kind, command.channel, command.payload) if command.session else b""
        verdict, stored, expected = live.sessions.judge(command.session, command.sequence, digest)
        if verdict is not Verdict.RUN:
            if replies is not None:
                replies.append(_reply_of_verdict(live, verdict, stored, expected))
            return
        sender = self._principals.get(command.principal)
        if (
            sender is None
            or command.kind != _SEND
            or live.instance is None
            or live.frozen
            or command.code_hash != live.code_hash
        ):
            try:
                sender = self._sender(command)
                self._admit(live, command)
            except ClusterError as error:
                if replies is not None:
                    replies.append(Reply(0, live.epoch, live.index, b"", failure_of(error)))
                return
        seed = command_seed(entry.seed, offset)
        if isolates and self._directory.isolated(self._shard, index, offset) is not None:
            outcome = Outcome(Code.POISONED, b"{}")
            live.frozen = FREEZE_AFTER_POISON
        else:
            self._marker.note(self._shard, index, offset, command)
            outcome = self._run(live, command, sender, seed)
        self.commands_run += 1
        ok = outcome.code is _OK
        if outcome.code is Code.FAILED:
            self._report(live, command, outcome)
        self._conclude(live, command, seed, outcome, digest)
        self._cache.changed(live, index, len(command.payload) + 64)
        row = rows.get((id(live), live.epoch))  # an entry may delete a document and create it again
        if row is None:
            row = (live, live.index, HistoryRow(index, self.now_ms, entry.seed, [], [], [], [], []))
            rows[(id(live), live.epoch)] = row
        history = row[2]
        history.offsets.append(offset)
        history.commands.append(command)
        history.codes.append(int(outcome.code))
        history.answers.append(outcome.answer)
        history.chains.append(live.chain[:CHAIN_MARK_BYTES])
        if replies is not None:
            failure = None if ok else failure_of_outcome(outcome.code, outcome.answer)
            replies.append(Reply(0, live.epoch, live.index, outcome.answer, failure))

    def _report(self, live: LiveDocument, command: Command, outcome: Outcome) -> None:
        error_id = msgspec.json.decode(outcome.answer).get("error_id", "")
        place = (live.id, live.epoch, live.index + 1, command.channel, command.principal, self.now_ms)
        self._on_failure(HandlerFailure(error_id, *place, outcome.error))

    def _admit(self, live: LiveDocument, command: Command) -> None:
        """Raise what the document's existence, or code that changed since the payload was checked, says against it."""
        if command.kind == _CREATE:
            if live.alive:
                raise DocumentExists(f"{live.id} exists")
            return
        if not live.alive:
            if live.epoch:
                raise DocumentDeleted(f"{live.id} was deleted")
            raise UnknownDocument(f"{live.id} was never created")
        if live.frozen:
            raise DocumentFrozen(f"{live.id} is frozen: {live.frozen}", why=live.frozen)
        if command.code_hash != live.code_hash and command.kind == _SEND:
            assert live.program is not None
            if live.program.check(command.channel, command.payload) != command.payload:
                raise RejectedError("the payload was made for other code")

    def _sender(self, command: Command) -> Principal:
        """Who sends it. Raises InvalidName, alike on all replicas, for what no leader should have let into the log."""
        sender = self._principals.get(command.principal)
        if sender is None:
            if not self._principals or len(self._principals) >= PRINCIPALS_KEPT_MAX:
                self._principals = {}
            sender = self._principals[command.principal] = Principal.parse(command.principal)
        return sender

    def _run(self, live: LiveDocument, command: Command, sender: Principal, seed: bytes) -> Outcome:
        if command.kind == _CREATE:
            return self._create(live, command, sender, seed)
        assert live.instance is not None
        if command.kind == _DELETE:
            return self._delete(live, command, sender, seed)
        return live.instance.run(Invocation(command.channel, command.payload, sender, self.now_ms, seed, live.index + 1))

    def _delete(self, live: LiveDocument, command: Command, sender: Principal, seed: bytes) -> Outcome:
        """Ask the document's code; a class that does not say who may delete lets nobody."""
        assert live.instance is not None
        try:
            return live.instance.run(Invocation(DELETE_CHANNEL, command.payload, sender, self.now_ms, seed, live.index + 1))
        except UnknownChannel:
            return Outcome(Code.DENIED, b"{}")

    def _create(self, live: LiveDocument, command: Command, sender: Principal, seed: bytes) -> Outcome:
        """Construct; a refusal leaves nothing and the key free, though its answer is remembered."""
        program = self._directory.program(command.code_hash)
        instance = program.new(live.id)
        outcome = instance.run(Invocation("", command.payload, sender, self.now_ms, seed, 1))
        if outcome.code is _OK:
            live.program, live.instance = program, instance
            live.code_hash = command.code_hash
            live.epoch += 1
            live.index = 0
            live.frozen = ""
            live.clear_ring()
        return outcome

    def _conclude(self, live: LiveDocument, command: Command, seed: bytes, outcome: Outcome, digest: bytes) -> None:
        """Advance the position, the chain, the session table and the ring. Existence changes happen here for deletion."""
        live.index += 1
        live.extend_chain(command, self.now_ms, seed, outcome)
        program = live.program if live.program is not None else self._directory.program(command.code_hash)
        settings = program.settings
        if command.session:
            answer = Answer(command.sequence, digest, int(outcome.code), outcome.answer, live.epoch, live.index)
            live.sessions.record(command.session, command.acked_through, answer, settings.session_window, settings.sessions_max)
        if outcome.code is _OK and command.kind == _DELETE:
            live.instance = None
            live.program = None
            live.clear_ring()
        else:
            live.push_change(outcome, settings.change_ring_bytes)


def _reply_of_verdict(live: LiveDocument, verdict: Verdict, stored: Answer | None, expected: int) -> Reply:
    if verdict is Verdict.REPEAT:
        assert stored is not None
        failure = failure_of_outcome(stored.code, stored.body)
        return Reply(0, stored.epoch, stored.index, stored.body, failure)
    error: ClusterError
    if verdict is Verdict.INVALID:
        error = InvalidRequest("a sequence is not negative")
    elif verdict is Verdict.REUSED:
        error = KeyReused("this sequence or key was used before with a different payload", expected=expected)
    elif verdict is Verdict.GAP:
        error = SequenceGap(f"the session's next sequence here is {expected}", expected=expected)
    else:
        error = OutcomeUnknown("the session's memory of this command is gone", expected=expected)
    return Reply(0, live.epoch, live.index, b"", failure_of(error))
