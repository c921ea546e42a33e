"""Shadow replay: what a document's real history would have come to under other code, compared without touching anything.

The history runs twice, side by side: on the code that it ran on, and from the creation on on the code that is to be deployed.
At its end the document is upgraded as it would be, and what viewers would see then is compared with what they see now.

Invariant: only what the two codes make of the same commands is compared, so a difference is the code's. The first difference
of a document may cause those behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from cluster.documents.runtime import (
    CONSTRUCT_CHANNEL,
    DELETE_CHANNEL,
    UPGRADE_CHANNEL,
    Code,
    Instance,
    Invocation,
    Outcome,
    Program,
)
from cluster.errors import ClusterError, InvalidRequest, UnknownChannel
from cluster.ids import DocumentId, Principal
from cluster.replay.verify import repaired
from cluster.shard import forking, thawing

DIFFERENCES_MAX = 100
"""Kept of one document; a document that parts early differs at every command from there on."""
VIEWERS_MAX = 50
STEPS_RATIO = 2.0
STEPS_MORE = 1_000
"""A channel costs noticeably more when its dearest command costs so many times as much, and so many steps more."""
TOLD = ("connect", "disconnect")
"""Kinds of commands that only a class gets which is told of connections."""
TAKEN = ("thaw", "fork")
"""Kinds of commands that carry a whole state, which is upgraded before the rest runs on it."""
BEGINNINGS = ("create", *TAKEN)
FIRED = ("alarm", "answer", *TOLD)
"""Kinds of commands for which something must be armed, or which must be news."""
UPGRADER = Principal("upgrade", "moot")


@dataclass(frozen=True, slots=True)
class Past:
    """One command of a history. kind: create, send, delete, upgrade, or another that a leader made. code: how it ended."""

    kind: str
    channel: str
    payload: bytes
    sender: Principal
    now_ms: int
    seed: bytes
    epoch: int
    index: int
    code: str
    code_hash: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """What would be otherwise. what: upgrade, state, view, outcome, answer, message (it would be refused), or steps."""

    position: str
    what: str
    where: str
    before: str
    after: str


@dataclass(slots=True)
class Shadowed:
    """What came of one document. steps: by channel, of its dearest command: (now, then)."""

    document: str
    commands: int = 0
    differences: list[Difference] = field(default_factory=list)
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def note(self, position: str, what: str, where: str, before: str, after: str) -> None:
        """Remember a difference, if there is one and room for it."""
        if before != after and len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(Difference(position, what, where, before, after))


def shadow(document: DocumentId, history: list[Past], programs: Mapping[bytes, Program], after: Program) -> Shadowed:
    """Compare a whole history. Raises InvalidRequest when it does not reach back to the document's creation, or code is
    missing.
    """
    begins = [place for place, past in enumerate(history) if past.kind in BEGINNINGS and past.code == Code.OK.name]
    if not begins:
        raise InvalidRequest(f"the history of {document} does not reach back to its creation")
    run = _Run(document, programs, after)
    for past in history[begins[-1] :]:
        run.step(past)
    run.finish()
    return run.found


class _Run:
    def __init__(self, document: DocumentId, programs: Mapping[bytes, Program], after: Program) -> None:
        self.found = Shadowed(str(document))
        self._document = document
        self._programs = programs
        self._code: Program | None = None
        self._old: Instance | None = None
        self._after = after
        self._new: Instance | None = None
        self._viewers: dict[Principal, None] = {}
        self._last: Past | None = None
        self._deleted = False

    def step(self, past: Past) -> None:
        """Run one command on both sides."""
        self.found.commands += 1
        self._last = past
        if past.code == Code.POISONED.name:
            return
        if past.kind == "upgrade":
            self._upgrade_old(past)
            return
        if past.kind in TAKEN:
            self._take(past)
            return
        if len(self._viewers) < VIEWERS_MAX:
            self._viewers[past.sender] = None
        at = f"{past.epoch}.{past.index}"
        where = past.channel or past.kind
        old = self._run_old(past)
        new = self._run_new(past, at, where)
        if past.kind == "delete" and old.code is Code.OK:
            self._deleted = True
        if new is None:
            return
        self.found.note(at, "outcome", where, old.code.name, new.code.name)
        if old.code is new.code and old.code in (Code.OK, Code.REFUSED):
            self.found.note(at, "answer", where, old.answer.decode(), new.answer.decode())
        before = self.found.steps.get(where, (0, 0))
        self.found.steps[where] = (max(before[0], old.steps), max(before[1], new.steps))

    def _program(self, code_hash: bytes) -> Program:
        program = self._programs.get(code_hash)
        if program is None:
            raise InvalidRequest(f"the code {code_hash.hex()[:12]} that a command ran is not at hand")
        return program

    def _run_old(self, past: Past) -> Outcome:
        if past.kind == "create":
            if self._old is not None and past.code != Code.OK.name:
                return Outcome(Code.REJECTED, b"{}")
            self._code = self._program(past.code_hash)
            self._old = self._code.new(self._document)
        assert self._old is not None, "a history begins with a creation"
        return _run(self._old, past, past.payload)

    def _run_new(self, past: Past, at: str, where: str) -> Outcome | None:
        """None when the command would not get into the log."""
        payload = past.payload
        try:
            if past.kind in ("create", "send"):
                payload = self._after.check(past.channel, past.payload)
            if past.kind == "create":
                self._new = self._after.new(self._document)
            if past.kind in TOLD and self._new is not None and not self._new.told_of_connections:
                return None  # code that does not listen is not told
            if past.kind in FIRED and self._new is not None:
                self._new.expect(past.channel, payload, past.sender, past.now_ms)
        except ClusterError as error:
            self.found.note(at, "message", where, past.code, f"{error.reason}: {error.message}")
            return None
        return None if self._new is None else _run(self._new, past, payload)

    def _take(self, past: Past) -> None:
        """An operator made the document of a state: the code that is to be deployed upgrades it first."""
        state = (
            thawing.record_of(thawing.order_of(past.payload)).state
            if past.kind == "thaw"
            else forking.order_of(past.payload).state
        )
        self._code = self._program(past.code_hash)
        self._old = self._code.load(self._document, state)
        self._new, _ = self._upgraded(past)  # a failure is told at the end

    def _upgraded(self, last: Past) -> tuple[Instance | None, str]:
        """What the document as it is becomes on the code that is to be deployed; None, and why, when that fails."""
        old, code = self._old, self._code
        assert old is not None, "a history begins with a creation"
        assert code is not None, "a document has code"
        if code.code_hash == self._after.code_hash:
            return code.load(self._document, old.dump()), ""
        order = Invocation(UPGRADE_CHANNEL, b"{}", UPGRADER, last.now_ms, last.seed, last.index + 1)
        upgraded, outcome = self._after.upgrade(self._document, old.dump(), code, order)
        return upgraded, "" if upgraded is not None else outcome.error or f"{outcome.code.name} {outcome.answer.decode()}"

    def _upgrade_old(self, past: Past) -> None:
        """The history itself crosses an upgrade."""
        program = self._program(past.code_hash)
        assert self._old is not None, "a history begins with a creation"
        assert self._code is not None, "a document has code"
        order = Invocation(UPGRADE_CHANNEL, past.payload, past.sender, past.now_ms, past.seed, past.index)
        instance, _ = program.upgrade(self._document, self._old.dump(), self._code, order)
        if instance is not None:
            self._code, self._old = program, instance

    def finish(self) -> None:
        """Upgrade what the document is now, and compare what that makes of it."""
        old, last = self._old, self._last
        assert old is not None, "a history begins with a creation"
        assert last is not None, "a history has a command"
        at = f"{last.epoch}.{last.index}"
        upgraded, why = (None, "") if self._deleted else self._upgraded(last)
        self.found.note(at, "upgrade", "", "", why)
        if upgraded is not None:
            for who in self._viewers:
                self._compare(at, "view", str(who), _members(old, who), _members(upgraded, who))
            if self._new is not None:
                self._compare(at, "state", "", _fields(upgraded), _fields(self._new))
        for channel, (now, then) in self.found.steps.items():
            if then > now * STEPS_RATIO and then > now + STEPS_MORE:
                self.found.note(at, "steps", channel, str(now), str(then))

    def _compare(self, at: str, what: str, who: str, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
        for name in dict.fromkeys((*before, *after)):
            where = f"{name} for {who}" if who else name
            self.found.note(at, what, where, before.get(name, b"").decode(), after.get(name, b"").decode())


def _run(instance: Instance, past: Past, payload: bytes) -> Outcome:
    """One command, as apply runs it."""
    channel = {"create": CONSTRUCT_CHANNEL, "delete": DELETE_CHANNEL}.get(past.kind, past.channel)
    invocation = Invocation(channel, payload, past.sender, past.now_ms, past.seed, past.index)
    if past.kind in FIRED:
        return instance.fire(invocation)
    if past.kind == "repair":
        return repaired(instance, invocation)
    try:
        return instance.run(invocation)
    except UnknownChannel:  # a class that does not say who may delete lets nobody
        return Outcome(Code.DENIED, b"{}")


def _members(instance: Instance, who: Principal) -> dict[str, bytes]:
    """A view, member by member; empty for whom the gate does not admit."""
    if not instance.admits(who):
        return {}
    return _encoded(msgspec.json.decode(instance.view(who)).items())


def _fields(instance: Instance) -> dict[str, bytes]:
    """The state, field by field, private ones too."""
    return _encoded(msgspec.msgpack.decode(instance.dump()).items())


def _encoded(members: Iterable[tuple[str, object]]) -> dict[str, bytes]:
    return {str(name): msgspec.json.encode(value, enc_hook=repr) for name, value in members}
