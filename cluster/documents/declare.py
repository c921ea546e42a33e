"""What an author writes: `Document`, and the three namespaces `on`, `read` and `field`.

Three namespaces are the capability matrix: what is under `on` may write, what is under `read` may not, `field` declares state.
Decorators only mark functions and the class statement only collects; program.py turns a class into channels and views.

Invariant: a document's instance has no storage but its StateRoot: undeclared attributes raise, and the class is sealed once
it is loaded, so nothing survives a command except declared state.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from cluster.documents.state import FieldOptions, StateRoot, Window
from cluster.documents.state.fields import ABSENT
from cluster.ids import Principal

if TYPE_CHECKING:
    from cluster.documents.runtime import Settings
    from cluster.documents.views import RecordingRoot
    from cluster.simulate import Simulation

F = TypeVar("F", bound=Callable[..., object])
P = TypeVar("P", bound=Callable[..., bool])

MARK: Final = "_moot_mark"
RESERVED: Final = frozenset({"on", "read", "field"})


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decorator said about a function. kind: construct, message, alarm, answer, connect, disconnect, delete, upgrade,
    gate, policy, view, export, read-http or write-http.

    allow: the policy of a message, or who an export is open to. since: the version from which an upgrade hook leads on.
    method, path: of an HTTP handler.
    """

    kind: str
    allow: Callable[..., bool] | None = None
    since: int = 0
    method: str = ""
    path: str = ""


def _mark(function: F, mark: Mark) -> F:
    setattr(function, MARK, mark)
    return function


def _routed(mark: Mark) -> Callable[[F], F]:
    if inspect.isfunction(mark.path):  # `@read.http` without its path: refused when the class is read
        return _mark(mark.path, mark)

    def decorate(function: F) -> F:
        return _mark(function, mark)

    return decorate


class _On:
    """Handlers that may write."""

    __slots__ = ()

    def construct(self, handler: F) -> F:
        """The constructor: authorises and fills a new document. Its parameters after `ctx` are the creation's schema."""
        return _mark(handler, Mark("construct"))

    def delete(self, handler: P) -> P:
        """Who may delete the document: `(self, ctx) -> bool`, asked after the gate. Without it nobody may."""
        return _mark(handler, Mark("delete"))

    def upgrade(self, *, since: int) -> Callable[[F], F]:
        """Makes a document of version `since` one of the next version, where defaults and `was` do not suffice: it takes
        (self, ctx: Command) or (self, ctx: Command, before: Before) and must set every field that nothing was carried over to.
        """

        def decorate(function: F) -> F:
            return _mark(function, Mark("upgrade", since=since))

        return decorate

    @overload
    def message(self, handler: F, /) -> F: ...

    @overload
    def message(self, /, *, allow: Callable[..., bool]) -> Callable[[F], F]: ...

    def message(self, handler: Any = None, /, *, allow: Callable[..., bool] | None = None) -> Any:
        """A channel. `allow` is a policy that is asked after the gate: a no is answered as the gate's no is."""
        if handler is not None:
            return _mark(handler, Mark("message"))

        def decorate(function: F) -> F:
            return _mark(function, Mark("message", allow))

        return decorate

    def alarm(self, handler: F) -> F:
        """What `ctx.after`, `ctx.at` and `ctx.every` can arm: `(self, ctx, ...)`. Time runs it, and nobody can send to it."""
        return _mark(handler, Mark("alarm"))

    def answer(self, handler: F) -> F:
        """What takes the answer of a `ctx.ask`: `(self, ctx, value: Maybe[T])`. Its result is told to whoever answered."""
        return _mark(handler, Mark("answer"))

    def connect(self, handler: F) -> F:
        """Told when somebody begins to watch: `(self, ctx)`, once for each connection, after the gate. `ctx.sender` is who,
        `ctx.cause` the connection's name. If it refuses or fails, the watch is refused so, and nothing stays behind."""
        return _mark(handler, Mark("connect"))

    def disconnect(self, handler: F) -> F:
        """Told when a connection is gone, for whatever reason: `(self, ctx)`, once for each that was connected. It can not be
        refused: the connection is gone however this ends."""
        return _mark(handler, Mark("disconnect"))

    def http(
        self,
        path: str,
        *,
        method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST",
        allow: Callable[..., bool] | None = None,
    ) -> Callable[[F], F]:
        """A request that writes: `(self, ctx, request: Request) -> Response`, one logged command like a message. path: behind
        the document's own, `"/hook"` or `"/posts/{number}"`; names in braces are further parameters, of str or int. It may
        return a str (text), None (204), or what state can hold (JSON) as well. `allow` is a policy, asked after the gate.
        """
        return _routed(Mark("write-http", allow, method=method, path=path))


class _Read:
    """Functions that may only read."""

    __slots__ = ()

    def gate(self, function: P) -> P:
        """Who may connect, read and send. An error is a no."""
        return _mark(function, Mark("gate"))

    def policy(self, function: P) -> P:
        """Who may see a value: `(self, who)`, or `(self, row, who)` for the rows of a table. An error is a no."""
        return _mark(function, Mark("policy"))

    def view(self, function: F) -> F:
        """A computed part of the view, under the function's name: `(self, ...)` once for all, or `(self, who, ...)` for each
        viewer. Further parameters are its arguments, which a viewer gives when it reads or watches."""
        return _mark(function, Mark("view"))

    @overload
    def export(self, function: F, /) -> F: ...

    @overload
    def export(self, /, *, to: Callable[..., bool]) -> Callable[[F], F]: ...

    def export(self, function: Any = None, /, *, to: Callable[..., bool] | None = None) -> Any:
        """What other documents may see: `(self) -> T`, a function of the state alone. Open to spaces of the same owners;
        `to` is a policy that opens it wider."""
        if function is not None:
            return _mark(function, Mark("export"))

        def decorate(marked: F) -> F:
            return _mark(marked, Mark("export", to))

        return decorate

    def http(self, path: str) -> Callable[[F], F]:
        """What GET and HEAD answer at a path behind the document's own: `(self, who: Principal, request: Request) -> Response`,
        where `who` and `request` may be left out. Paths and results are as those of `on.http`."""
        return _routed(Mark("read-http", method="GET", path=path))


class _Field:
    """Declarations of state. Without a default, construct must set the field.

    key, index: of a Table: the field of its rows that names them, and those that can be looked up by value.
    window: of a Table: which of its rows a viewer is shown, `latest(50)`. add: of a Tally: the policy of those who may add to
    it by a message. was: the field's name in the previous version.
    """

    __slots__ = ()

    def public(
        self,
        default: Any = ABSENT,
        *,
        key: str | None = None,
        index: tuple[str, ...] = (),
        window: Window | None = None,
        add: Callable[..., bool] | None = None,
        was: str | None = None,
    ) -> Any:
        """Everybody whom the gate admits sees it."""
        return FieldOptions(default, "public", key, was, index=index, window=window, add=add)

    def private(
        self,
        default: Any = ABSENT,
        *,
        key: str | None = None,
        index: tuple[str, ...] = (),
        add: Callable[..., bool] | None = None,
        was: str | None = None,
    ) -> Any:
        """Nobody sees it; views may tell what follows from it."""
        return FieldOptions(default, "private", key, was, index=index, add=add)

    def visible(
        self,
        policy: Callable[..., bool],
        default: Any = ABSENT,
        *,
        key: str | None = None,
        index: tuple[str, ...] = (),
        window: Window | None = None,
        add: Callable[..., bool] | None = None,
        was: str | None = None,
    ) -> Any:
        """Those see it whom the policy admits; for a table the policy is asked row by row. In a Record: a policy of the
        record, `(self, who)`."""
        return FieldOptions(default, policy, key, was, index=index, window=window, add=add)


on: Final = _On()
read: Final = _Read()
field: Final = _Field()


def anyone(self: object, who: Principal) -> bool:
    """A gate that admits everybody, said aloud: `gate = anyone`."""
    return True


_mark(anyone, Mark("gate"))


def is_policy(function: object) -> bool:
    """Whether it is marked with @read.policy, or admits anyone."""
    mark = getattr(function, MARK, None)
    return function is anyone or (mark is not None and mark.kind == "policy")


class DocumentType(type):
    """The metaclass: instances get no dictionary, and a loaded class can not be changed."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> DocumentType:
        namespace.setdefault("__slots__", ())
        return super().__new__(cls, name, bases, namespace, **options)

    def __setattr__(cls, name: str, value: object) -> None:
        if cls.__dict__.get("_moot_sealed", False):
            raise AttributeError(f"class {cls.__name__} can not be changed; declare a field instead")
        super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        raise AttributeError(f"class {cls.__name__} can not be changed")


class Document(metaclass=DocumentType):
    """The base class of all documents. `version` numbers the state's shape, from 1. `on_missing="create"`: who reads, watches
    or sends to a key that never existed creates the document there, if constructor and gate let him.

    An author never makes instances: the runtime does, for a command or a read.
    """

    __slots__ = ("_moot_root",)

    if TYPE_CHECKING:
        _moot_root: StateRoot | RecordingRoot
        _moot_version: int
        _moot_creates_missing: bool

    @classmethod
    def simulate(
        cls,
        *,
        by: str | None = "creator@test",
        key: str = "document",
        now: datetime | None = None,
        seed: int = 0,
        settings: Settings | None = None,
        history: str | None = None,
        **parameters: Any,
    ) -> Simulation:
        """For tests: a document of this class in a cluster of one in this process, with time that moves when it is told to.

        by: the principal that creates it; None leaves that to the first who comes (`on_missing`). now: where time begins.
        seed: of everything random. settings: of the space. history: a file of `moot doc fork` to go on from. parameters: of the
        constructor. See cluster.simulate. Raises InvalidBundle with every reason why the class could not be deployed, or what
        its constructor raises.
        """
        # the simulation runs a whole node, which is far above this layer; only a test's call gets there.
        simulation = importlib.import_module("cluster.simulate")
        made: Simulation = simulation.simulate(
            cls,
            by=by,
            key=key,
            seed=seed,
            settings=settings,
            history=history,
            parameters=parameters,
            **({} if now is None else {"now": now}),
        )
        return made

    def __init_subclass__(cls, version: int = 1, on_missing: Literal["refuse", "create"] = "refuse", **options: object) -> None:
        super().__init_subclass__(**options)
        if on_missing not in ("refuse", "create"):
            raise TypeError(f'on_missing of {cls.__name__} must be "create" or "refuse"')
        cls._moot_creates_missing = on_missing == "create"
        if not isinstance(version, int) or version < 1:
            raise TypeError(f"version of {cls.__name__} must be a positive whole number")
        cls._moot_version = version


class Before:
    """In an upgrade hook: the document's fields as the old code left them, to be read and copied from.

    In a hook that follows another one in the same command, a field that the document has now is read from there.
    """

    __slots__ = ("_moot_new", "_moot_old")

    def __init__(self, old: Document, new: Document | None) -> None:
        object.__setattr__(self, "_moot_old", old)
        object.__setattr__(self, "_moot_new", new)

    def __getattr__(self, name: str) -> Any:
        for document in (self._moot_new, self._moot_old):
            if document is not None and isinstance(getattr(type(document), name, None), FieldDescriptor):
                return getattr(document, name)
        raise AttributeError(f"the old code has no field {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("the old document can not be changed")


class FieldDescriptor:
    """An attribute of a document that lives in its StateRoot."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, document: Document | None, owner: type) -> object:
        if document is None:
            return self
        return document._moot_root.get(self.name)

    def __set__(self, document: Document, value: object) -> None:
        document._moot_root.set(self.name, value)
