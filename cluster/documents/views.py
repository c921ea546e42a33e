"""What viewers see of one document: public fields, fields and rows behind a policy, computed views; whole or as patches.

Public fields follow the journal's changes and cost what changed. The rest is code: its result is kept together with the
fields that it read, and made again only when one of those was written; of a table behind a policy only the written rows are
asked about again. A view that names no viewer is made once for all, and what a gate or policy says of a viewer is remembered
until something that it read is written.

That is sound because code is deterministic: as long as no field that it read has changed, running it again reads the same
fields and gives the same result.

A view that fails, or runs out of its budget, is absent; its member of `-errors` is an opaque id, which is a function of the
document and the view's name alone, and the traceback waits in `failures` for the operators.

Invariant: what a viewer is sent is a function of the state, the viewer and the arguments. A policy that fails hides, a view
that fails is absent, and neither can change the state or a command's outcome. It does not know connections or rings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from cluster.documents import payload as json
from cluster.documents.arguments import NO_ARGUMENTS, Arguments, check_arguments
from cluster.documents.declare import Document, anyone
from cluster.documents.meter import METER, Exhausted, Fault
from cluster.documents.parts import FieldSource, Part, Patch, Reads, Source, ViewPart, ViewSource, members
from cluster.documents.rows import Rows, RowsSource
from cluster.documents.runtime import ReadFailure, Settings
from cluster.documents.sight import Lens, Policy, lens_of, nobody
from cluster.documents.state import Changes, Journal, Record, StateRoot, diff, encode, operations
from cluster.documents.state.node import hand_out
from cluster.documents.state.table import TableType
from cluster.documents.tracebacks import traceback_of
from cluster.errors import ApplyHalted
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.declaration import Declaration

ROW_STEPS_MAX: Final = 10_000
"""What a policy may spend on one row, whatever the other rows cost."""
ANSWERS_MAX: Final = 65_536
"""Answers of gates and policies that are remembered for one document."""
SHARED_MAX: Final = 256
"""Results of views that name no viewer that are kept for one document, one for each arguments."""
FAILURES_MAX: Final = 64
"""Failures of views and policies that wait to be taken."""
ERRORS_MEMBER: Final = "-errors"
"""The member of a view that says which views failed. Not a legal name of a field."""


class RecordingRoot:
    """Stands between author code and the fields, and notes which it reads."""

    __slots__ = ("_root", "fields")

    def __init__(self, root: StateRoot) -> None:
        self._root = root
        self.fields: set[str] = set()

    def get(self, name: str) -> Any:
        """A field's value."""
        self.fields.add(name)
        return self._root.get(name)

    def set(self, name: str, value: object) -> None:
        """Refused by the journal: only reads go through here."""
        self._root.set(name, value)


class Viewing:
    """One document's read side.

    document: what author code reads. computed: whether anything but public fields is shown. by_who: whether each viewer has
    a view of its own. policies: those that divide viewers into classes otherwise. revision: rises with every change.
    failures: what operators should know of, oldest first.
    """

    __slots__ = (
        "_answers",
        "_asked",
        "_declaration",
        "_files",
        "_identity",
        "_journal",
        "_last_texts",
        "_public",
        "_root",
        "_settings",
        "_shared",
        "_sources",
        "by_who",
        "computed",
        "document",
        "failures",
        "policies",
        "revision",
    )

    def __init__(
        self,
        declaration: Declaration,
        settings: Settings,
        document: Document,
        root: StateRoot,
        journal: Journal,
        identity: str,
        files: Mapping[str, str],
    ) -> None:
        self.document = document
        self._declaration = declaration
        self._root = root
        self._journal = journal
        self._settings = settings
        self._identity = identity
        self._files = files
        self._public = declaration.public
        self._sources = declaration.sources
        self._shared: dict[tuple[str, bytes], ViewPart] = {}
        self._answers: dict[tuple[Policy, Principal], tuple[bool, Reads]] = {}
        self._asked: set[str] = set()
        self._last_texts: dict[str, str] = {}
        self.computed = bool(self._sources)
        self.by_who = any(source.by_who for source in self._sources)
        self.policies = declaration.class_policies
        self.failures: list[ReadFailure] = []
        self.revision = 0

    def wrote(self, fields: frozenset[str]) -> None:
        """The state has changed in these fields."""
        self.revision += 1
        if not self._asked.isdisjoint(fields):
            answers = self._answers
            for asked in [asked for asked, (_, reads) in answers.items() if not reads.isdisjoint(fields)]:
                del answers[asked]
        shared = self._shared
        if shared:
            for name in [name for name, part in shared.items() if not part.reads.isdisjoint(fields)]:
                del shared[name]

    def visibility_class(self, who: Principal) -> Principal | tuple[bool, ...] | None:
        """Viewers of one class see the same now."""
        if self.by_who:
            return who
        if self.policies:
            return tuple([self.answer(policy, who)[0] for policy in self.policies])
        return None

    # whole views

    def parts(self, who: Principal, arguments: Arguments) -> dict[str, Part]:
        """Everything computed, as `who` sees it now."""
        return {source.name: source.make(self, who, arguments) for source in self._sources}

    def part(self, name: str, who: Principal, arguments: Arguments) -> Part:
        """One computed part, as `who` sees it now."""
        return next(source for source in self._sources if source.name == name).make(self, who, arguments)

    def everything(self, parts: dict[str, Part]) -> dict[str, Any]:
        """A whole view: the public fields that are set, the computed parts that are shown, and which views failed."""
        root = self._root
        view = {name: root.to_json(name) for name in self._public if root.is_set(name)}
        for name, part in parts.items():
            view |= members(name, part.value(self))
        return view | errors(parts)

    def public_patch(self, changes: list[Changes]) -> Patch:
        """What changed in public fields."""
        return operations(changes, self._public)

    def patch_since(self, changes: list[Changes]) -> bytes | None:
        """A patch from changes alone, when nothing computed is shown."""
        return None if self.computed else encode(self.public_patch(changes))

    def arguments(self, raw: bytes) -> Arguments:
        """Checked arguments. Raises InvalidArguments."""
        return check_arguments(self._declaration, raw)

    # the state, for parts

    def is_set(self, name: str) -> bool:
        """Whether a field has a value."""
        return self._root.is_set(name)

    def json(self, name: str) -> Any:
        """A field's JSON form."""
        return self._root.to_json(name)

    def raw(self, name: str) -> Any:
        """A field's value, for lenses."""
        return self._root.raw(name)

    def rows(self, name: str) -> Rows:
        """The rows of a table by name, in its order. Not to be changed."""
        rows: Rows = self._root.raw(name)._items
        return rows

    def order(self, name: str) -> dict[Any, int]:
        """A number for each row of a table that rises in its order."""
        order: dict[Any, int] = self._root.raw(name)._sequences()
        return order

    def shared(self, source: ViewSource, arguments: Arguments, make: Callable[[], ViewPart]) -> ViewPart:
        """What a view that names no viewer returns, made once for equal arguments."""
        given = arguments.of(source.name)
        key = (source.name, json.encode(given) if given else b"")
        part = self._shared.get(key)
        if part is None:
            part = make()
            if len(self._shared) >= SHARED_MAX:
                del self._shared[next(iter(self._shared))]
            self._shared[key] = part
        return part

    # asking

    def ask(self, policy: Policy, who: Principal) -> bool:
        """What a gate or a policy says of a viewer. An error is a no."""
        return self.answer(policy, who)[0]

    def answer(self, policy: Policy, who: Principal) -> tuple[bool, Reads]:
        """What a gate or a policy says of a viewer, and which fields it read."""
        if policy is anyone:
            return True, frozenset()
        key = (policy, who)
        answer = self._answers.get(key)
        if answer is None:
            document = self.document
            said, reads, _ = self.run(_named("policy", policy), lambda: policy(document, who) is True, False)
            if len(self._answers) >= ANSWERS_MAX:
                self._answers.clear()
                self._asked.clear()
            self._answers[key] = answer = (said, reads)
            self._asked |= reads
        return answer

    def admits(self, policy: Policy, row: Record, who: Principal) -> tuple[bool, Reads]:
        """What a policy says of a row and a viewer, and which fields it read."""
        document = self.document
        hand_out(row, self._journal.handles())
        said: bool
        said, reads, _ = self.run(_named("policy", policy), lambda: policy(document, row, who) is True, False, ROW_STEPS_MAX)
        return said, reads

    def admitted(self, policy: Policy, rows: Rows, who: Principal) -> tuple[Rows, Reads]:
        """The rows that a policy lets a viewer see, and which fields it read."""
        seen: Rows = {}
        asked: Reads = frozenset()
        for name, row in rows.items():
            said, reads = self.admits(policy, row, who)
            if said:
                seen[name] = None
            if not reads <= asked:
                asked |= reads
        return seen, asked

    def through(self, lens: Lens, value: Any, who: Principal) -> Any:
        """A value of the state as `who` sees it."""

        def ask(policy: Policy, record: Record) -> bool:
            hand_out(record, self._journal.handles())
            said: bool = self.run(_named("policy", policy), lambda: policy(record, who) is True, False, ROW_STEPS_MAX)[0]
            return said

        return lens.show(value, ask)

    @staticmethod
    def shown_to(lens: Lens, value: Any, who: Principal | None) -> Any:
        """A value that code returned as `who` sees it, in the budget of that code. None is nobody."""

        def ask(policy: Policy, record: Record) -> bool:
            try:
                return policy(record, who) is True
            except (MemoryError, RecursionError, SystemError):
                raise
            except Exception:
                return False

        return lens.show(value, nobody if who is None else ask)

    def run(self, what: str, action: Callable[[], Any], otherwise: Any, steps: int = 0) -> tuple[Any, Reads, str]:
        """Run author code that may only read: its result (or `otherwise`), the fields that it read, an error id if it failed.
        Raises ApplyHalted for what is not its answer."""
        result, reads, error = self.attempt(action, steps)
        return (result, reads, "") if error is None else (otherwise, reads, self.failed(what, error))

    def attempt(self, action: Callable[[], Any], steps: int = 0) -> tuple[Any, Reads, BaseException | None]:
        """Run author code that may only read: its result, the fields that it read, and what ended it if it has no result.
        Raises ApplyHalted for what is not its answer."""
        journal, document = self._journal, self.document
        outer = document._moot_root
        recording = RecordingRoot(self._root)
        document._moot_root = recording
        METER.begin(steps or self._settings.steps_max, self._settings.call_depth_max)
        journal.read_only = True
        result: Any = None
        failed: BaseException | None = None
        try:
            result = action()
            if METER.fault is not None:
                raise Fault(str(METER.fault))
            if METER.limit or METER.refusal is not None:
                failed = METER.refusal or Exhausted(METER.limit)
        except (MemoryError, RecursionError, SystemError, Fault) as error:
            raise ApplyHalted(f"a gate, policy or view ended with {type(error).__name__}") from error
        except (Exception, Exhausted) as error:
            failed = error
        finally:
            journal.read_only = False
            METER.end()
            document._moot_root = outer
        return result, frozenset(recording.fields), failed

    def failed(self, what: str, error: BaseException) -> str:
        """Note a failure for the operators, once for each text; returns its opaque id."""
        name = f"{self._identity}\0{what}".encode()
        error_id = hashlib.blake2b(name, person=b"moot.view", digest_size=8).hexdigest()
        text = f"{type(error).__name__}: the budget's {error.limit} ran out" if isinstance(error, Exhausted) else ""
        text = text or traceback_of(error, self._files)
        if self._last_texts.get(what) != text and len(self.failures) < FAILURES_MAX:
            self._last_texts[what] = text
            self.failures.append(ReadFailure(what, error_id, text))
        return error_id


def _named(kind: str, policy: Policy) -> str:
    return f"{kind} {getattr(policy, '__name__', '')}"


def errors(parts: dict[str, Part]) -> dict[str, Any]:
    """The member of a view that says which parts failed; empty when none did."""
    failed = {name: part.failed for name, part in parts.items() if part.failed}
    return {ERRORS_MEMBER: failed} if failed else {}


def sources_of(declaration: Declaration) -> tuple[tuple[str, ...], tuple[Source, ...]]:
    """How a class is seen: the names of fields that are shown as they are, and the sources of everything else."""
    public: list[str] = []
    sources: list[Source] = []
    by_row = {guarded.name for guarded in declaration.guarded if guarded.by_row}
    for name, spec in declaration.fields.items():
        if spec.visibility == "private":
            continue
        policy = None if spec.visibility in ("public", anyone) else spec.visibility
        lens = lens_of(spec.type)
        if isinstance(spec.type, TableType) and (name in by_row or spec.window is not None or lens is not None):
            guard, row = (None, policy) if name in by_row else (policy, None)
            sources.append(RowsSource(name, spec.type, guard, row, spec.window, lens))
        elif policy is not None or lens is not None:
            sources.append(FieldSource(name, policy, lens))
        else:
            public.append(name)
    sources += [ViewSource(view, lens_of(view.type)) for view in declaration.views]
    return tuple(public), tuple(sources)


class FollowedView:
    """What one visibility class sees, followed change by change. See runtime.Projection."""

    __slots__ = ("_arguments", "_parts", "_revision", "_viewing", "_who")

    def __init__(self, viewing: Viewing, who: Principal, arguments: Arguments = NO_ARGUMENTS) -> None:
        self._viewing = viewing
        self._who = who
        self._arguments = arguments
        self._revision = viewing.revision
        self._parts = viewing.parts(who, arguments) if viewing.computed else {}

    def advance(self, changes: list[Changes], who: Principal | None = None, arguments: bytes | None = None) -> bytes:
        """See runtime.Projection."""
        viewing, parts = self._viewing, self._parts
        patch = viewing.public_patch(changes)
        if parts:
            before = errors(parts)
            who = self._who = who or self._who
            self._revision = viewing.revision
            written = frozenset().union(*(change.fields for change in changes))
            for name, part in parts.items():
                parts[name], more = part.advance(viewing, changes, written, who)
                patch += more
            if arguments is not None and arguments != self._arguments.canonical:
                patch += self._turn(viewing.arguments(arguments), who)
            if before or any(part.failed for part in parts.values()):
                patch += diff(before, errors(parts))
        return encode(patch)

    def _turn(self, arguments: Arguments, who: Principal) -> Patch:
        """Go over to other arguments: what they concern is made again."""
        viewing, parts, before = self._viewing, self._parts, self._arguments
        self._arguments = arguments
        patch: Patch = []
        for name in sorted(before.given.keys() | arguments.given.keys()):
            if before.of(name) != arguments.of(name):
                old, parts[name] = parts[name], viewing.part(name, who, arguments)
                patch += diff(members(name, old.value(viewing)), members(name, parts[name].value(viewing)))
        return patch

    def fork(self) -> FollowedView:
        """See runtime.Projection."""
        other = FollowedView.__new__(FollowedView)
        other._viewing, other._who, other._arguments = self._viewing, self._who, self._arguments
        other._revision = self._revision
        other._parts = {name: part.copy() for name, part in self._parts.items()}
        return other

    def full(self) -> bytes:
        """See runtime.Projection."""
        viewing = self._viewing
        current = self._revision == viewing.revision
        return json.encode(viewing.everything(self._parts if current else viewing.parts(self._who, self._arguments)))
