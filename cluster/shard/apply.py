"""From a committed entry to new document states, answers, changes and history.

Each command runs atomically: either its handler ends well, or the document is as it was. Its answer comes only from author
code or from counted limits; anything else (ApplyHalted) stops this shard's apply on this node.

Invariant: a command runs on a document exactly once, wherever the node crashes: its effect is in the record if and only if the
entry index is at most the record's applied_through, and replay skips just those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from zlib import crc32

import msgspec

from cluster.documents.meter import fixed_decimals
from cluster.documents.runtime import DELETE_CHANNEL, REPAIR_CHANNEL, UPGRADE_CHANNEL, Code, Invocation, Outcome
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
    SequenceGap,
    UnknownChannel,
    UnknownDocument,
)
from cluster.ids import DocumentId, LogIndex, Principal, ShardId
from cluster.session.failures import failure_of
from cluster.session.operations import Failure, Reply
from cluster.session.table import Answer, Verdict, payload_digest
from cluster.shard import forking, passing, repairs, thawing, upgrades
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import (
    Command,
    CommandKind,
    Entry,
    HistoryRow,
    command_seeds,
    decode_entry,
    encode_row,
)
from cluster.shard.digest import AppliedDigest
from cluster.shard.directory import Directory
from cluster.shard.document import FREEZE_AFTER_POISON, LiveDocument, Ran
from cluster.shard.failures import failure_of_outcome
from cluster.shard.turn import StreamKey, Turn
from cluster.storage.history import HistoryStore

PRINCIPALS_KEPT_MAX = 4096
"""Parsed principals kept a shard: a cache of a pure function, so losing it changes nothing."""

_CREATE, _SEND, _DELETE = int(CommandKind.CREATE), int(CommandKind.SEND), int(CommandKind.DELETE)
_UPGRADE, _REPAIR, _THAW = int(CommandKind.UPGRADE), int(CommandKind.REPAIR), int(CommandKind.THAW)
_FORK = int(CommandKind.FORK)
_NAMES_CODE = frozenset((_CREATE, _UPGRADE, _THAW, _FORK))
"""Kinds of commands that need code which their document may not have."""
_FIRING = frozenset(
    (CommandKind.ALARM.value, CommandKind.ANSWER.value, CommandKind.CONNECT.value, CommandKind.DISCONNECT.value)
)
_OK, RUN = Code.OK, Verdict.RUN

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


@dataclass(slots=True)
class _Task:
    """One entry on its way through apply.

    seeds: one a command. replies: likewise, to be filled in; None where nobody waits. isolates: whether some command of the
        entry is isolated. rows: what ran, by document and epoch, in order of the first command.
    """

    index: LogIndex
    entry: Entry
    seeds: list[bytes]
    replies: list[Reply] | None
    isolates: bool
    rows: dict[tuple[int, int], tuple[LiveDocument, Ran]] = field(default_factory=dict)

    def ran(self, live: LiveDocument, now_ms: int, seed: bytes) -> Ran:
        """Where the commands of a document's present epoch are kept; `seed` is the first one's."""
        known = self.rows.get((id(live), live.epoch))
        if known is None:
            known = self.rows[(id(live), live.epoch)] = (live, Ran(live.epoch, live.index, now_ms, seed))
        return known[1]


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
        shares = self._shares(entry.commands)
        assert entry.now_ms >= self.now_ms, "the shard's time never falls"
        self.now_ms = entry.now_ms
        replies = None if origins is None else [Reply(operation) for _, operation in origins]
        task = _Task(index, entry, command_seeds(entry), replies, self._directory.isolates(self._shard, index))
        skipped = False
        self.within_entry = True
        with fixed_decimals():
            for live, offsets in shares:
                if index <= live.replay_through:
                    assert origins is None, "a leader never proposes into its own past"
                    skipped = True
                    continue
                live.touched_ms = now_ms
                self._run_share(live, offsets, task)
        changed = self._remember(task, turn)
        self.within_entry = False
        if origins is not None and replies is not None:
            _answer(origins, replies, turn)
        if skipped:
            self.digest.restart(index)
        elif changed:
            self.digest.add(index, b"".join([live.chain for live in changed]))
        return changed

    def _remember(self, task: _Task, turn: Turn) -> list[LiveDocument]:
        """Extend the chains, keep the history, write the records that are due. Returns the documents that changed."""
        batch, index, entry = turn.batch, task.index, task.entry
        changed: dict[int, LiveDocument] = {}
        for live, ran in task.rows.values():
            live.extend_chain(ran)
            written = [crc32(writes) for writes in ran.writes]
            outcomes = (ran.offsets, ran.commands, ran.codes, ran.answers, written)
            row = HistoryRow(index, ran.now_ms, entry.seed, *outcomes, ran.before, ran.after)
            self._history.append(batch, live.id, ran.epoch, ran.first_index, len(ran.commands), encode_row(row))
            changed[id(live)] = live
        for live, ran in task.rows.values():  # when every chain is what the entry made of it
            self._cache.save_if_due(live, batch, now=ran.existence_touched)
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

    def _shares(self, commands: list[Command]) -> list[tuple[LiveDocument, list[int]]]:
        """Each document with the places of its commands, in order of the first; documents and code are at hand before anything
        of the entry runs. Documents do not see each other, so all of one can run before those of the next.
        """
        shares: dict[tuple[str, str], list[int]] = {}
        offsets: list[int] = []
        space, key = "", ""
        for offset, command in enumerate(commands):
            if command.kind in _NAMES_CODE:
                self._directory.program(command.code_hash)
            if command.key != key or command.space != space:
                space, key = command.space, command.key
                offsets = shares.setdefault((space, key), [])
            offsets.append(offset)
        return [(self._cache.get(*name), offsets) for name, offsets in shares.items()]

    def _run_share(self, live: LiveDocument, offsets: list[int], task: _Task) -> None:
        """Judge, run and remember one document's commands of an entry; replies are filled in only where somebody waits.

        This is the loop that every message passes on every replica: what can be done once for all of them is not in it.
        """
        replies, sessions, note = task.replies, live.sessions, self._marker.note
        shard, index, now_ms, commands = self._shard, task.index, self.now_ms, task.entry.commands
        seeds = task.seeds
        ran: Ran | None = None
        size = 0
        for offset in offsets:
            command, seed = commands[offset], seeds[offset]
            digest = b""
            if command.session:
                digest = payload_digest(command.kind, command.channel, command.payload)
                verdict, stored, expected = sessions.judge(command.session, command.sequence, digest)
                if verdict is not RUN:
                    if verdict is Verdict.REUSED and stored is not None and upgrades.spelt_otherwise(live, command, stored):
                        verdict = Verdict.REPEAT
                    if replies is not None:
                        _fill_verdict(replies[offset], live, verdict, stored, expected)
                    continue
            sender, payload = self._principals.get(command.principal), command.payload
            plain = command.kind == _SEND and command.code_hash == live.code_hash
            if not plain or sender is None or live.instance is None or live.frozen:
                try:
                    sender = self._sender(command)
                    payload = self._admit(live, command, sender)
                except ApplyHalted:
                    raise
                except ClusterError as error:
                    if replies is not None:
                        _fill(replies[offset], live.epoch, live.index, b"", failure_of(error))
                    continue
                if digest and payload != command.payload:
                    digest = payload_digest(command.kind, command.channel, payload)
            if task.isolates and self._directory.isolated(shard, index, offset) is not None:
                outcome = Outcome(Code.POISONED, b"{}")
                live.frozen = FREEZE_AFTER_POISON
            else:
                note(shard, index, offset, command)
                if command.kind == _SEND and live.instance is not None:
                    invocation = Invocation(command.channel, payload, sender, now_ms, seed, live.index + 1)
                    outcome = live.instance.run(invocation)
                else:
                    if command.kind == _THAW and (pending := task.rows.get((id(live), live.epoch))) is not None:
                        live.extend_chain(pending[1])  # what ran before it in this entry is not of the chain that comes
                    outcome = self._run(live, command, sender, seed)
            code, answer = outcome.code, outcome.answer
            if code is Code.FAILED:
                self._report(live, command, outcome)
            self._conclude(live, command, outcome, digest)
            size += len(command.payload) + 64
            if ran is None or ran.epoch != live.epoch:  # an entry may delete a document and create it again
                ran = task.ran(live, now_ms, seed)
            if command.kind != _SEND and command.kind not in _FIRING:
                ran.existence_touched = True
            ran.offsets.append(offset)
            ran.commands.append(command)
            ran.codes.append(int(code))
            ran.answers.append(answer)
            ran.writes.append(outcome.writes)
            if replies is not None:
                reply = replies[offset]
                reply.epoch, reply.index, reply.payload = live.epoch, live.index, answer
                if code is not _OK:
                    reply.failure = failure_of_outcome(code, answer)
        if size:
            self._cache.changed(live, index, size)

    def _report(self, live: LiveDocument, command: Command, outcome: Outcome) -> None:
        error_id = msgspec.json.decode(outcome.answer).get("error_id", "")
        place = (live.id, live.epoch, live.index + 1, command.channel, command.principal, self.now_ms)
        self._on_failure(HandlerFailure(error_id, *place, outcome.error))

    def _admit(self, live: LiveDocument, command: Command, sender: Principal) -> bytes:
        """The payload as the document's code spells it, which may have changed since it was checked. Raises what that code,
        what the document has armed, or its existence says against it.
        """
        if command.kind == _CREATE:
            if live.alive:
                raise DocumentExists(f"{live.id} exists")
            return command.payload
        if command.kind == _THAW:
            thawing.check(live, command)
            return command.payload
        if command.kind == _FORK:
            forking.check(live)
            return command.payload
        if not live.alive:
            if live.epoch:
                raise DocumentDeleted(f"{live.id} was deleted")
            raise UnknownDocument(f"{live.id} was never created")
        if command.kind == _REPAIR:
            repairs.check(live, command, sender, self.now_ms)
            return command.payload
        if live.frozen:
            raise DocumentFrozen(f"{live.id} is frozen: {live.frozen}", why=live.frozen)
        if command.code_hash != live.code_hash and command.kind == _SEND:
            return upgrades.spelt_anew(live, command)
        if command.kind == _UPGRADE:
            upgrades.check_order(live, command)
        elif command.kind in _FIRING:
            assert live.instance is not None
            live.instance.expect(command.channel, command.payload, sender, self.now_ms)
        return command.payload

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
        if command.kind == _THAW:
            return thawing.run(live, command, self._directory.program(command.code_hash))
        if command.kind == _FORK:
            return forking.run(live, command, self._directory.program(command.code_hash))
        assert live.instance is not None
        if command.kind == _DELETE:
            return self._delete(live, command, sender, seed)
        if command.kind == _UPGRADE:
            program = self._directory.program(command.code_hash)
            made_of = Invocation(UPGRADE_CHANNEL, command.payload, sender, self.now_ms, seed, live.index + 1)
            return upgrades.run(live, command, program, made_of)
        if command.kind == _REPAIR:
            order = Invocation(REPAIR_CHANNEL, command.payload, sender, self.now_ms, seed, live.index + 1)
            return repairs.run(live, order)
        invocation = Invocation(command.channel, command.payload, sender, self.now_ms, seed, live.index + 1)
        return live.instance.fire(invocation) if command.kind in _FIRING else live.instance.run(invocation)

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
        outcome = instance.run(Invocation(command.channel, command.payload, sender, self.now_ms, seed, 1))
        if outcome.code is _OK:
            live.program, live.instance = program, instance
            live.code_hash = command.code_hash
            live.epoch += 1
            live.index = 0
            live.frozen = ""
            live.upgraded_index = live.upgrade_failed = live.settled = 0
            live.clear_ring()
        return outcome

    def _conclude(self, live: LiveDocument, command: Command, outcome: Outcome, digest: bytes) -> None:
        """Advance the position, the session table and the ring. Existence changes happen here for deletion."""
        self.commands_run += 1
        live.index += 1
        program = live.program if live.program is not None else self._directory.program(command.code_hash)
        settings = program.settings
        if command.session:
            answer = Answer(command.sequence, digest, int(outcome.code), outcome.answer, live.epoch, live.index)
            live.sessions.record(command.session, command.acked_through, answer, settings.session_window, settings.sessions_max)
        if command.kind == _DELETE and outcome.code is _OK:
            live.instance = None
            live.program = None
            live.clear_ring()
        elif command.kind in (_UPGRADE, _THAW, _FORK) and outcome.code is _OK:
            live.clear_ring()  # what changed before is told in another schema, or of another past
        else:
            live.push_change(outcome, settings.change_ring_bytes)
            if outcome.emitted is not None:
                passing.note(live, outcome.emitted)


def _answer(origins: list[Origin], replies: list[Reply], turn: Turn) -> None:
    """Give every reply to its client stream."""
    waiting: StreamKey | None = None
    lane: list[Reply] = []
    for (stream, _), reply in zip(origins, replies, strict=True):
        if stream != waiting:
            waiting, lane = stream, turn.replies.setdefault(stream, [])
        lane.append(reply)


def _fill(reply: Reply, epoch: int, index: int, payload: bytes, failure: Failure | None) -> None:
    reply.epoch, reply.index, reply.payload, reply.failure = epoch, index, payload, failure


def _fill_verdict(reply: Reply, live: LiveDocument, verdict: Verdict, stored: Answer | None, expected: int) -> None:
    """The answer to what does not run."""
    if verdict is Verdict.REPEAT:
        assert stored is not None
        failure = failure_of_outcome(stored.code, stored.body)
        _fill(reply, stored.epoch, stored.index, stored.body, failure)
        return
    error: ClusterError
    if verdict is Verdict.INVALID:
        error = InvalidRequest("a sequence is not negative")
    elif verdict is Verdict.REUSED:
        error = KeyReused("this sequence or key was used before with a different payload", expected=expected)
    elif verdict is Verdict.GAP:
        error = SequenceGap(f"the session's next sequence here is {expected}", expected=expected)
    else:
        error = OutcomeUnknown("the session's memory of this command is gone", expected=expected)
    _fill(reply, live.epoch, live.index, b"", failure_of(error))
