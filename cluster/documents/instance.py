"""`Instance`: one document in memory, and what it means to run a command on it.

A command is armed with its budget, asked at the gate, run inside the journal and either committed or rolled back. What ends a
command is an answer of the author's code or a counted limit; memory, interpreter recursion and faults of ours are none, and
leave as ApplyHalted.

Invariant: after `run` returned anything but OK, `dump()` is what it was before, byte for byte. Nothing of a command survives
it but the state. Views are in views.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cluster.documents import emitting, repairing
from cluster.documents import payload as json
from cluster.documents.armed import Armed
from cluster.documents.blobs import Blobs, unknown_blob
from cluster.documents.connections import Connected
from cluster.documents.context import Command, RowIds
from cluster.documents.declare import Document, anyone
from cluster.documents.meter import METER, Exhausted, Fault, charge
from cluster.documents.refusing import refusal_body
from cluster.documents.responding import respond
from cluster.documents.runtime import (
    ALARM_CHANNEL,
    CONNECT_CHANNEL,
    DELETE_CHANNEL,
    DISCONNECT_CHANNEL,
    MISSING_CHANNEL,
    Code,
    Due,
    Invocation,
    OpenAsk,
    Outcome,
    ReadFailure,
)
from cluster.documents.sizes import measure
from cluster.documents.state import Changes, Journal, Refused, StateRoot
from cluster.documents.tracebacks import traceback_of
from cluster.documents.views import FollowedView, Viewing
from cluster.errors import ApplyHalted, AskClosed, ConnectionUnchanged, InvalidRequest, NotArmed, StorageDamaged
from cluster.ids import DocumentId, Principal

if TYPE_CHECKING:
    from cluster.documents.channels import Channel
    from cluster.documents.program import DocumentProgram
    from cluster.documents.sight import Lens

_DENIED: Final = b"{}"


@dataclass(slots=True, frozen=True)
class Firing:
    """What time, an answer or a connection calls a handler for. conclude: the write after which it is armed no more, or is what
    it was not. gated: whether the gate is asked nevertheless. refusable: whether a refusal undoes that write too. kept: whether
    every other bad end leaves it.
    """

    id: str
    conclude: Callable[[], None]
    gated: bool = False
    refusable: bool = False
    kept: bool = True


class _NotAdmitted(Exception):
    """Who made a document by coming to it does not pass its gate."""


class DocumentInstance:
    """One document under one program. See runtime.Instance.

    printed: what the last command printed, for the document's log.
    """

    __slots__ = (
        "_armed",
        "_blobs",
        "_channels",
        "_connected",
        "_document",
        "_follows",
        "_gate",
        "_id",
        "_journal",
        "_program",
        "_root",
        "_settings",
        "_viewing",
        "printed",
    )

    def __init__(self, program: DocumentProgram, document: DocumentId) -> None:
        declaration = program.declaration
        settings = program.settings
        self._program = program
        self._channels = declaration.channels
        self._settings = settings
        self._id = document
        journal = Journal()
        journal.splices_retained_max = settings.splices_retained_max
        journal.charge = charge
        self._journal = journal
        self._root = StateRoot(declaration.fields, journal)
        self._document: Document = object.__new__(declaration.cls)
        self._document._moot_root = self._root
        arms = bool(declaration.alarms or declaration.answers)
        self._armed = Armed(self._root, declaration, settings) if arms else None
        self._connected = Connected(self._root, settings) if declaration.connect is not None else None
        self._blobs = Blobs(declaration.blobs, self._root, journal) if declaration.blobs.fields else None
        self._gate = None if declaration.gate is anyone else declaration.gate
        self._viewing = Viewing(declaration, settings, self._document, self._root, journal, str(document), program.files)
        self._follows = self._viewing.computed or self._gate is not None or bool(declaration.events or declaration.presence)
        self.printed: list[str] = []

    def restore(self, state: bytes) -> None:
        """Take over a dump. Raises StorageDamaged; for Program.load alone."""
        try:
            self._root.load(state)
            if self._blobs is not None:
                self._blobs.reload()
        except ValueError as error:
            raise StorageDamaged(f"{self._id} can not be loaded: {error}") from error
        if self._armed is not None:
            self._armed.reload()

    def take_over(self, state: bytes, sources: dict[str, str]) -> None:
        """Take over what another version's `dump` gave: `sources` are old names by new ones. Raises StorageDamaged."""
        try:
            self._root.load(state, sources=sources)
            if self._blobs is not None:
                self._blobs.reload(sweep=True)
        except ValueError as error:
            raise StorageDamaged(f"{self._id} can not be loaded: {error}") from error
        if self._armed is not None:
            self._armed.reload()

    @property
    def document(self) -> Document:
        """What handlers know as self."""
        return self._document

    def armed_handlers(self) -> frozenset[str]:
        """Names of handlers that something pending of this document will call."""
        return frozenset() if self._armed is None else self._armed.handlers

    # Running

    def fire(self, invocation: Invocation) -> Outcome:
        """See runtime.Instance."""
        run = invocation
        channel: Channel | None
        if invocation.channel in (CONNECT_CHANNEL, DISCONNECT_CHANNEL):
            channel, firing = self._connection(invocation)
        else:
            channel, run, firing = self._armed_handler(invocation)
        if channel is None:
            outcome = self._failed(LookupError(f"{run.channel} is gone, though it was armed"), invocation)
        else:
            outcome = self.run_channel(channel, run, firing)
        if outcome.code is Code.OK or not firing.kept or (outcome.code is Code.REFUSED and firing.refusable):
            return outcome
        self._journal.begin(index=invocation.index)
        firing.conclude()
        changes = self._journal.commit()
        outcome.writes, outcome.changes, outcome.change_bytes = changes.writes, changes, changes.size
        return outcome

    def check_repair(self, invocation: Invocation) -> None:
        """See runtime.Instance."""
        repairing.write(self._root, self._journal, self._settings, invocation, self._blobs, keep=False)

    def repair(self, invocation: Invocation) -> Outcome:
        """See runtime.Instance."""
        changes = repairing.write(self._root, self._journal, self._settings, invocation, self._blobs, keep=True)
        assert changes is not None, "what is kept is told"
        if self._follows:
            self._viewing.wrote(changes.fields)
        return Outcome(Code.OK, b"null", changes.writes, changes, changes.size)

    def _armed_handler(self, invocation: Invocation) -> tuple[Channel | None, Invocation, Firing]:
        """What an alarm or an answer runs."""
        armed, declaration = self._armed, self._program.declaration
        assert armed is not None, "only what `expect` let pass is fired"
        if invocation.channel == ALARM_CHANNEL:
            id, alarm = armed.alarm(invocation.payload, invocation.now_ms)
            run = msgspec.structs.replace(invocation, channel=alarm.handler, payload=alarm.arguments)
            return declaration.alarms.get(alarm.handler), run, Firing(id, partial(armed.ring, id, invocation.now_ms))
        id, ask = armed.open_ask(invocation.payload, invocation.sender, invocation.now_ms)
        run = msgspec.structs.replace(invocation, channel=ask.handler)
        refusable = "value" in json.decode(invocation.payload)
        return declaration.answers.get(ask.handler), run, Firing(id, partial(armed.conclude, id), refusable=refusable)

    def _connection(self, invocation: Invocation) -> tuple[Channel | None, Firing]:
        """What a connection runs that comes or goes."""
        connected, declaration = self._connected, self._program.declaration
        assert connected is not None, "only what `expect` let pass is fired"
        connection = connected.expect(invocation.channel, invocation.payload, invocation.sender)
        if invocation.channel == CONNECT_CHANNEL:
            come = partial(connected.come, connection, invocation.sender)
            return declaration.connect, Firing(connection, come, gated=True, kept=False)
        return declaration.disconnect, Firing(connection, partial(connected.go, connection))

    @property
    def told_of_connections(self) -> bool:
        """See runtime.Instance."""
        return self._connected is not None

    @property
    def has_connections(self) -> bool:
        """See runtime.Instance."""
        return self._connected is not None and self._connected.any

    def connections(self) -> dict[str, Principal]:
        """See runtime.Instance."""
        return {} if self._connected is None else self._connected.all()

    def is_connected(self, connection: str) -> bool:
        """See runtime.Instance."""
        return self._connected is not None and self._connected.has(connection)

    @property
    def presence_name(self) -> str:
        """See runtime.Instance."""
        presence = self._program.declaration.presence
        return "" if presence is None else presence.name

    def presented(self, payload: bytes) -> bytes:
        """See runtime.Instance."""
        presence = self._program.declaration.presence
        if presence is None:
            raise InvalidRequest("this document has no Presence field")
        return presence.canonical(payload)

    def sees_presence(self, who: Principal) -> bool:
        """See runtime.Instance."""
        presence = self._program.declaration.presence
        return presence is not None and (presence.policy is None or self._viewing.ask(presence.policy, who))

    def run(self, invocation: Invocation) -> Outcome:
        """See runtime.Instance."""
        return self.run_channel(self._channels.get(invocation.channel) or self._handler(invocation), invocation)

    def _handler(self, invocation: Invocation) -> Channel:
        return self._program.handler(invocation.channel, invocation.payload)

    def run_channel(self, channel: Channel, invocation: Invocation, firing: Firing | None = None) -> Outcome:
        """Run a handler; `run` finds it by its name. `firing` is what calls it, if not somebody who has to pass the gate."""
        settings = self._settings
        journal = self._journal
        METER.begin(settings.steps_max, settings.call_depth_max)
        try:
            gated = (firing is None or firing.gated) and (self._gate is not None or channel.allow is not None)
            if gated and channel.gated and not self._may_send(channel, invocation.sender):
                return Outcome(Code.DENIED, _DENIED, steps=METER.end())
            journal.begin(index=invocation.index, new_id=RowIds(invocation.seed))
            try:
                answer = self._call(channel, invocation, firing)
                if invocation.channel == DELETE_CHANNEL and answer != b"true":
                    return self._undo(Outcome(Code.DENIED, _DENIED))
                if METER.limit or METER.refusal is not None or METER.fault is not None:
                    return self._undo(self._swallowed(invocation))
                if not journal.log:
                    journal.end_unchanged()
                    outcome = Outcome(Code.OK, answer, steps=METER.end())
                    if METER.emitted:
                        outcome.emitted = emitting.take(self._viewing)
                    return outcome
                changes = journal.commit()
            except Exhausted as error:
                return self._undo(self._exhausted(error.limit))
            except (MemoryError, RecursionError, SystemError, Fault):
                raise
            except _NotAdmitted:
                return self._undo(Outcome(Code.DENIED, _DENIED))
            except Exception as error:
                if METER.limit or METER.refusal is not None or METER.fault is not None:
                    return self._undo(self._swallowed(invocation))
                ending = self._refused if isinstance(error, Refused) else self._failed
                return self._undo(ending(error, invocation))
            if self._follows:
                self._viewing.wrote(changes.fields)
            outcome = Outcome(Code.OK, answer, changes.writes, changes, changes.size, METER.end())
            if METER.emitted:
                outcome.emitted = emitting.take(self._viewing)
            return outcome
        except (MemoryError, RecursionError, SystemError, Fault) as error:
            METER.emitted = []
            if journal.active:
                journal.rollback()
            raise ApplyHalted(f"{self._id} at {invocation.index}: {type(error).__name__}: {error}") from error
        except BaseException:
            METER.emitted = []
            if journal.active:
                journal.rollback()
            raise
        finally:
            METER.end()
            self.printed = METER.printed

    def _call(self, channel: Channel, invocation: Invocation, firing: Firing | None) -> bytes:
        """Run the handler and return the canonical answer."""
        journal, settings = self._journal, self._settings
        size_before = journal.size
        cause = ""
        if firing is not None:
            firing.conclude()
            cause = firing.id
        command = Command(invocation.sender, invocation.now_ms, invocation.seed, invocation.index, self._armed, cause)
        result = channel.function(self._document, command, **channel.arguments(invocation.payload))
        if not channel.gated:
            if missing := self._root.missing():
                raise AttributeError(f"{channel.name.lstrip('-') or 'construct'} left without a value: {', '.join(missing)}")
            if channel.name == MISSING_CHANNEL and not self._may_send(channel, invocation.sender):
                raise _NotAdmitted
        if self._blobs is not None:
            self._blobs.settle()
        if journal.size > settings.state_bytes_max and journal.size > size_before:
            METER.exhaust("state")
        kind = channel.result
        if kind is None:
            if result is not None:
                raise TypeError(f"{channel.name} answers nothing, but returned {type(result).__name__}")
            return b"null"
        if result.__class__ is not int:
            measure(result)
        admitted = kind.admit(result)
        answer = json.encode(kind.to_json(admitted) if channel.lens is None else self._through(channel.lens, admitted, command))
        if len(answer) > settings.answer_bytes_max:
            METER.exhaust("answer")
        return answer

    def _through(self, lens: Lens, answer: object, command: Command) -> object:
        """An answer without what the sender may not see of the records in it."""
        self._journal.read_only = True
        try:
            return self._viewing.shown_to(lens, answer, command.sender)
        finally:
            self._journal.read_only = False

    def _undo(self, outcome: Outcome) -> Outcome:
        self._journal.rollback()
        METER.emitted = []
        outcome.steps = METER.end()
        return outcome

    def _swallowed(self, invocation: Invocation) -> Outcome:
        """A limit, a refusal or a fault that the handler caught: it stands all the same."""
        if METER.fault is not None:
            raise Fault(str(METER.fault)) from METER.fault
        if METER.limit:
            return self._exhausted(METER.limit)
        assert METER.refusal is not None
        return self._refused(METER.refusal, invocation)

    @staticmethod
    def _exhausted(limit: str) -> Outcome:
        return Outcome(Code.BUDGET, json.encode({"limit": limit}))

    def _refused(self, refusal: Exception, invocation: Invocation) -> Outcome:
        """The answer of a declared refusal; what it carries must be plain."""
        try:
            answer = json.encode(refusal_body(refusal))
        except Exhausted as error:
            return self._exhausted(error.limit)
        except (TypeError, ValueError, UnicodeEncodeError) as error:
            return self._failed(error, invocation)
        if len(answer) > self._settings.answer_bytes_max:
            return self._exhausted("answer")
        return Outcome(Code.REFUSED, answer)

    def _failed(self, error: Exception, invocation: Invocation) -> Outcome:
        identity = invocation.seed + invocation.index.to_bytes(8, "little")
        error_id = hashlib.blake2b(identity, person=b"moot.error", digest_size=8).hexdigest()
        return Outcome(Code.FAILED, json.encode({"error_id": error_id}), error=traceback_of(error, self._program.files))

    # Time and answers

    @property
    def due_ms(self) -> int | None:
        """See runtime.Instance."""
        return None if self._armed is None else self._armed.due_ms

    @property
    def asked(self) -> tuple[str, ...]:
        """See runtime.Instance."""
        return () if self._armed is None else self._armed.asked

    def due(self, now_ms: int, limit: int) -> list[Due]:
        """See runtime.Instance."""
        return [] if self._armed is None else self._armed.due(now_ms, limit)

    def open_asks(self, who: Principal) -> list[OpenAsk]:
        """See runtime.Instance."""
        return [] if self._armed is None else self._armed.open_asks(who)

    def expect(self, channel: str, payload: bytes, sender: Principal, now_ms: int) -> None:
        """See runtime.Instance."""
        if channel in (CONNECT_CHANNEL, DISCONNECT_CHANNEL):
            if self._connected is None:
                raise ConnectionUnchanged(f"{self._id} is told of no connections")
            self._connected.expect(channel, payload, sender)
            return
        if self._armed is None:
            raise NotArmed(f"{self._id} arms nothing") if channel == ALARM_CHANNEL else AskClosed
        if channel == ALARM_CHANNEL:
            self._armed.alarm(payload, now_ms)
        else:
            self._armed.open_ask(payload, sender, now_ms)

    # Asking

    def _may_send(self, channel: Channel, who: Principal) -> bool:
        journal = self._journal
        journal.read_only = True
        try:
            admitted = self._gate is None or self._gate(self._document, who) is True
            admitted = admitted and (channel.allow is None or channel.allow(self._document, who) is True)
            if METER.fault is not None:
                raise Fault(str(METER.fault))
            return admitted and not METER.limit and METER.refusal is None
        except (MemoryError, RecursionError, SystemError):
            raise
        except (Exception, Exhausted):
            return False
        finally:
            journal.read_only = False

    def admits(self, who: Principal) -> bool:
        """See runtime.Instance."""
        return self._gate is None or self._viewing.ask(self._gate, who)

    # State and views

    def dump(self) -> bytes:
        """See runtime.Instance."""
        return self._root.dump()

    def state(self) -> dict[str, Any]:
        """Every field that is set, private ones included, in JSON form: for operators, offline."""
        return {name: self._root.to_json(name) for name in self._root.names() if self._root.is_set(name)}

    def size_bytes(self) -> int:
        """See runtime.Instance."""
        return self._root.size_bytes()

    @property
    def classes_vary(self) -> bool:
        """See runtime.Instance."""
        return bool(self._viewing.policies) and not self._viewing.by_who

    def arguments(self, raw: bytes) -> bytes:
        """See runtime.Instance."""
        return self._viewing.arguments(raw).canonical

    def visibility_class(self, who: Principal) -> Hashable:
        """See runtime.Instance."""
        return self._viewing.visibility_class(who)

    def view(self, who: Principal, arguments: bytes = b"") -> bytes:
        """See runtime.Instance."""
        viewing = self._viewing
        return json.encode(viewing.everything(viewing.parts(who, viewing.arguments(arguments))))

    def blob(self, who: Principal, hash: str, arguments: bytes = b"") -> bytes:
        """See runtime.Instance."""
        viewing = self._viewing
        checked = viewing.arguments(arguments)
        if self._blobs is None:
            raise unknown_blob()
        return self._blobs.shown(viewing.everything(viewing.parts(who, checked)), hash)

    def respond(self, who: Principal, request: bytes) -> bytes:
        """See runtime.Instance."""
        return respond(self._viewing, self._program.declaration.routes, self._settings, who, request)

    def projection(self, who: Principal, arguments: bytes = b"") -> FollowedView:
        """See runtime.Instance."""
        return FollowedView(self._viewing, who, self._viewing.arguments(arguments))

    def read_failures(self) -> list[ReadFailure]:
        """See runtime.Instance."""
        failures = self._viewing.failures
        if failures:
            self._viewing.failures = []
        return failures

    def patch_since(self, changes: list[Changes], who: Principal) -> bytes | None:
        """See runtime.Instance."""
        return self._viewing.patch_since(changes)
