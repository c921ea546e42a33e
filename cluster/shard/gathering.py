"""From the operations that arrived while the last entries were on their way to one entry (or a few, when large).

The leader checks what depends on code alone: the payload against the channel's schema. What depends on state (exists,
deleted, gate, sequence) is judged at apply, by everybody alike. The one exception is a document that never existed:
nothing of it can have been applied before, so the refusal is safe and keeps garbage out of the log.

A refusal here was never logged: it consumes no sequence.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.documents.payload import encode, parse
from cluster.documents.repairing import check_order
from cluster.documents.runtime import (
    ANSWER_CHANNEL,
    FORK_CHANNEL,
    HTTP_CHANNEL,
    MISSING_CHANNEL,
    REPAIR_CHANNEL,
    THAW_CHANNEL,
    Settings,
)
from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import (
    ClusterError,
    CodeMissing,
    InvalidName,
    InvalidPayload,
    InvalidRequest,
    StorageDamaged,
    StorageError,
    UnknownDocument,
)
from cluster.ids import DocumentId, Principal, check_channel, check_key, check_space
from cluster.session.failures import failure_of
from cluster.session.operations import Kind, Operation, Reply
from cluster.session.table import SESSION_BYTES
from cluster.shard import forking, thawing
from cluster.shard.apply import PRINCIPALS_KEPT_MAX, Origin
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import (
    COMMANDS_MAX,
    ENTRY_BYTES_MAX,
    SEED_BYTES,
    SEMANTICS,
    Command,
    CommandKind,
    Entry,
    encode_entry,
)
from cluster.shard.directory import Directory
from cluster.shard.missing import creation
from cluster.shard.reading import UNREADABLE, compared
from cluster.shard.turn import NOBODY, StreamKey, Turn
from cluster.shard.upgrades import Upgrades
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE

NO_PARAMETERS = b"{}"
"""What an empty payload means (documents.proto)."""

_KINDS: dict[int, CommandKind] = {
    Kind.CREATE: CommandKind.CREATE,
    Kind.SEND: CommandKind.SEND,
    Kind.DELETE: CommandKind.DELETE,
    Kind.ANSWER: CommandKind.ANSWER,
    Kind.REPAIR: CommandKind.REPAIR,
    Kind.THAW: CommandKind.THAW,
    Kind.FORK: CommandKind.FORK,
}
_ANSWER_MEMBERS = frozenset(("ask", "value"))
_CREATE = Kind.CREATE.value
_SEND = Kind.SEND.value
_ANSWER = Kind.ANSWER.value
_REPAIR, _THAW, _FORK = Kind.REPAIR.value, Kind.THAW.value, Kind.FORK.value


class _Checked:
    """A message that was found sound, for those behind it that differ only in payload and sequence: of a batch from one client
    to one document only these are looked at.
    """

    __slots__ = ("_channel", "_check", "_code_hash", "_key", "_principal", "_session", "_space")

    def __init__(self, operation: Operation, code_hash: bytes, check: Callable[[str, bytes], bytes]) -> None:
        self._space, self._key, self._channel = operation.space, operation.key, operation.channel
        self._principal, self._session = operation.principal, operation.session
        self._code_hash = code_hash
        self._check = check

    def covers(self, operation: Operation) -> bool:
        """Whether what was found of the message before holds for this one."""
        return (
            operation.kind == _SEND
            and operation.key == self._key
            and operation.channel == self._channel
            and operation.session == self._session
            and operation.space == self._space
            and operation.principal == self._principal
            and operation.sequence >= 0
            and operation.acked_through >= 0
        )

    def command(self, operation: Operation) -> Command:
        """Raises what `Program.check` raises."""
        payload = self._check(self._channel, operation.payload or NO_PARAMETERS)
        return Command(
            _SEND,
            self._space,
            self._key,
            self._channel,
            payload,
            self._principal,
            self._session,
            operation.sequence,
            operation.acked_through,
            self._code_hash,
        )


class Gatherer:
    """Makes entries for one shard's leader.

    entropy: n random bytes from the operating system (a seeded stream in simulation). commands_max: in one entry. compiled:
    whether a quorum of the shard's voters reports a code compiled.
    """

    __slots__ = (
        "_channels",
        "_commands_max",
        "_compilations",
        "_creating",
        "_directory",
        "_entropy",
        "_principals",
        "cache",
        "damaged",
        "upgrades",
    )

    def __init__(
        self,
        cache: DocumentCache,
        directory: Directory,
        entropy: Callable[[int], bytes],
        commands_max: int = COMMANDS_MAX,
        compiled: Callable[[bytes], bool] = lambda code_hash: True,
    ) -> None:
        assert 1 <= commands_max <= COMMANDS_MAX
        self.cache = cache
        self._directory = directory
        self._compilations = directory.compilations
        self._entropy = entropy
        self.upgrades = Upgrades(directory, compiled)
        self._commands_max = commands_max
        self.damaged = ""
        """What could not be read while checking an operation; the replica looks at it after every gathering."""
        self._principals: dict[str, None] = NO_ENTRIES
        self._channels: dict[str, None] = NO_ENTRIES
        self._creating: dict[tuple[str, str], bytes] = NO_ENTRIES
        """Code of documents whose creation is proposed but not applied yet: what is pipelined behind it is checked against
        it.
        """

    def forget_creating(self, space: str, key: str) -> None:
        """The creation was applied, or lost."""
        self._creating.pop((space, key), None)

    def forget_creations(self, commands: list[Command]) -> None:
        """These were applied, or refused by Raft."""
        if not self._creating and not self.upgrades.coming:
            return
        for command in commands:
            if command.kind in (CommandKind.CREATE, CommandKind.FORK):
                self.forget_creating(command.space, command.key)
            elif command.kind == CommandKind.UPGRADE:
                self.upgrades.over(command)

    def reset(self) -> None:
        """Leadership ended: nothing is on its way any more."""
        self._creating.clear()
        self.upgrades.reset()

    def look_at_touched(self) -> None:
        """Documents that were read, or are watched, get the code that they should have."""
        touched, self.cache.touched = self.cache.touched, NO_ENTRIES
        for space, key in touched:
            try:
                live = self.cache.find(space, key)
            except CodeMissing:
                continue  # it is being fetched; the next touch finds it
            except StorageDamaged as error:
                self.damaged = error.message
                continue
            if live is not None and live.alive and (space, key) not in self.cache.held:
                self.upgrades.code_of(live)

    def gather(
        self,
        arrived: list[tuple[StreamKey, list[Operation]]],
        now_ms: int,
        turn: Turn,
        made: list[tuple[Command, int]] = NO_ITEMS,
    ) -> list[tuple[bytes, list[Origin], list[Command]]]:
        """Entries as (payload, origins, commands) in arrival order, upgrades before what touched their document. Refused
        operations are answered in `turn`.

        made: commands of the leader itself, which come first, each with the number under which nobody is answered.
        """
        if self.cache.touched:
            self.look_at_touched()
        entries: list[tuple[bytes, list[Origin], list[Command]]] = []
        commands: list[Command] = [*self.upgrades.take()]
        origins: list[Origin] = [(NOBODY, 0)] * len(commands)
        for command, number in made:
            commands.append(command)
            origins.append((NOBODY, number))
        size = 0
        like: _Checked | None = None
        for stream, operations in arrived:
            for operation in operations:
                try:
                    if like is not None and like.covers(operation):
                        command = like.command(operation)
                    else:
                        like = None
                        command = self._command(operation)
                        like = self._checked(operation, command)
                except StorageDamaged as error:
                    self.damaged = error.message
                    turn.reply(stream, Reply(operation.id, 0, 0, b"", failure_of(UNREADABLE)))
                    continue
                except StorageError:
                    raise  # the engine failed: the node ends
                except ClusterError as error:
                    turn.reply(stream, Reply(operation.id, 0, 0, b"", failure_of(error)))
                    continue
                if self.upgrades.queued:
                    for upgrade in self.upgrades.take():
                        commands.append(upgrade)
                        origins.append((NOBODY, 0))
                commands.append(command)
                origins.append((stream, operation.id))
                size += len(command.payload) + 128
                if len(commands) >= self._commands_max or size >= ENTRY_BYTES_MAX:
                    entries.append((self._encode(commands, now_ms), origins, commands))
                    commands, origins, size = [], [], 0
        for upgrade in self.upgrades.take():
            commands.append(upgrade)
            origins.append((NOBODY, 0))
        if commands:
            entries.append((self._encode(commands, now_ms), origins, commands))
        return entries

    def _encode(self, commands: list[Command], now_ms: int) -> bytes:
        return encode_entry(Entry(SEMANTICS, now_ms, self._entropy(SEED_BYTES), commands))

    def _command(self, operation: Operation) -> Command:
        """Check one operation against the code it is for."""
        self._check(operation)
        name = (operation.space, operation.key)
        if self.cache.held and name in self.cache.held:
            raise compared()
        payload = operation.payload
        channel = ""
        kind = operation.kind
        if kind == _CREATE:
            code_hash = self._directory.code_for(operation.space, operation.key)
            channel = operation.channel and MISSING_CHANNEL
            payload = self._directory.program(code_hash).check(channel, payload or NO_PARAMETERS)
            self._creates(name, code_hash)
        elif kind == _FORK:
            channel = FORK_CHANNEL
            check_space(operation.space)
            check_key(operation.key)
            code_hash, payload = forking.check_order(DocumentId(*name), payload, self._directory)
            self._creates(name, code_hash)
        else:
            code_hash = self._code_of(operation)
            if kind == _SEND:
                if operation.channel not in self._channels:
                    self._learn_channel(operation.channel)
                channel = operation.channel
                payload = self._directory.program(code_hash).check(channel, payload or NO_PARAMETERS)
            elif kind == _ANSWER:
                channel = ANSWER_CHANNEL
                payload = self._answer(payload, self._directory.program(code_hash).settings)
            elif kind == _REPAIR:
                channel = REPAIR_CHANNEL
                payload = check_order(payload, self._directory.program(code_hash).settings)
            elif kind == _THAW:
                channel = THAW_CHANNEL
                code_hash, payload = thawing.check_order(self.cache.find(*name), payload, self._directory)
            else:
                payload = NO_PARAMETERS
        return Command(
            _KINDS[kind],
            operation.space,
            operation.key,
            channel,
            payload,
            operation.principal,
            operation.session,
            operation.sequence,
            operation.acked_through,
            code_hash,
        )

    def makes(self, space: str, key: str) -> bool:
        """Whether who comes to this key makes the document, if it never existed. Raises what is wrong with the space's code."""
        return self._directory.program(self._directory.code_for(space, key)).creates_missing

    def _creates(self, name: tuple[str, str], code_hash: bytes) -> None:
        if not self._creating:
            self._creating = {}
        self._creating.setdefault(name, code_hash)  # of several that are on their way the first makes the document

    def _checked(self, operation: Operation, command: Command) -> _Checked | None:
        """What need not be looked at again for messages like this one that come right behind it."""
        if command.kind != _SEND:
            return None
        return _Checked(operation, command.code_hash, self._directory.program(command.code_hash).check)

    def _answer(self, payload: bytes, settings: Settings) -> bytes:
        """An answer to an ask, canonical. Whether it is of the right type is judged at apply: it depends on what was asked."""
        given = parse(payload, bytes_max=settings.payload_bytes_max, depth_max=settings.payload_depth_max)
        if given.keys() != _ANSWER_MEMBERS or given["ask"].__class__ is not str:
            raise InvalidPayload("an answer has `ask`, the id of what it answers, and `value`")
        return encode({"ask": given["ask"], "value": given["value"]})

    def _learn_channel(self, channel: str) -> None:
        """Legal names are remembered, so that each is looked at once."""
        if channel != HTTP_CHANNEL:
            check_channel(channel)
        if not self._channels or len(self._channels) >= PRINCIPALS_KEPT_MAX:
            self._channels = {}
        self._channels[channel] = None

    def _check(self, operation: Operation) -> None:
        """What apply takes for granted. The gateway looked already, but a forwarded operation passed another node's."""
        if operation.kind not in _KINDS:
            raise InvalidRequest(f"operation kind {operation.kind} is not a command")
        if operation.sequence < 0 or operation.acked_through < 0:
            raise InvalidRequest("a sequence is not negative")
        if operation.session and len(operation.session) != SESSION_BYTES:
            raise InvalidRequest(f"a session or idempotency key has {SESSION_BYTES} bytes, not {len(operation.session)}")
        if operation.principal not in self._principals:
            Principal.parse(operation.principal)
            if not self._principals or len(self._principals) >= PRINCIPALS_KEPT_MAX:
                self._principals = {}
            self._principals[operation.principal] = None
        if operation.kind == Kind.CREATE:
            check_space(operation.space)
            check_key(operation.key)
            if operation.space == SYSTEM_SPACE and operation.key != SYSTEM_KEY:
                raise InvalidName(f"the space {SYSTEM_SPACE} has one document, {SYSTEM_KEY}")

    def _code_of(self, operation: Operation) -> bytes:
        """The code that the document runs, or will once its creation on the way is applied."""
        live = self.cache.find(operation.space, operation.key)
        if live is not None and live.alive:
            return live.code_hash if live.settled == self._compilations.revision else self.upgrades.code_of(live)
        creating = self._creating.get((operation.space, operation.key))
        if creating is not None:
            return creating
        code_hash = self._directory.code_for(operation.space, operation.key)
        if live is None or not live.epoch:
            if operation.kind == _SEND and self.makes(operation.space, operation.key):
                self._learn_channel(operation.channel)
                self._directory.program(code_hash).check(operation.channel, operation.payload or NO_PARAMETERS)
                self._creates((operation.space, operation.key), code_hash)
                self.upgrades.queue(creation(operation.space, operation.key, operation.principal, code_hash))
                return code_hash
            raise UnknownDocument(f"{operation.space}/{operation.key} was never created")
        return code_hash
