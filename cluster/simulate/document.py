"""What a test holds: a document under simulated time, whoever comes to it, and what they see.

Views, answers and refusals are what a client of a real cluster gets, decoded from JSON; refusals are raised as the author's own
classes. A visitor's calls wait for their answer in simulated time, so a test is plain synchronous code.

Invariant: everything follows from the arguments and the calls: a test that fails fails again.
"""

from __future__ import annotations

import ast
import base64
import itertools
import sys
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from cluster.documents.bundle import from_path, origins
from cluster.documents.context import EPOCH
from cluster.documents.declare import Document
from cluster.documents.deploying import check_successor, handlers_lost
from cluster.documents.importer import PREFIX
from cluster.documents.loader import BundleLoader
from cluster.documents.program import DocumentProgram
from cluster.documents.requests import BadRequest
from cluster.documents.runtime import HTTP_CHANNEL, OpenAsk, Settings
from cluster.documents.state import Blob, BlobReference, Refused
from cluster.documents.state.blob import as_sent
from cluster.errors import HandlerFailed, HandlerRefused, Unavailable
from cluster.ids import DocumentId, Position, Principal
from cluster.replay.file import read_export
from cluster.replay.timeline import end
from cluster.replay.verify import Verdict, replay
from cluster.session.failures import error_of
from cluster.session.operations import Failure, Kind
from cluster.simulate.connection import Arguments, Connection, Screen
from cluster.simulate.http import Http
from cluster.simulate.importing import inside
from cluster.simulate.node import SimulatedNode

SPACE: Final = "simulated"
NOON: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
AUTHORS_PACKAGE: Final = "cluster"
"""What every author imports from; it is no part of a bundle."""
CREATOR: Final = "creator@test"
OPERATOR: Final = "operator@test"
LIVING: Final[weakref.WeakSet[Simulation]] = weakref.WeakSet()
"""The simulations of this process that somebody still holds: what a failing test shows."""
_NUMBERS: Final = itertools.count()


def simulate(
    cls: type[Document],
    *,
    by: str | None = CREATOR,
    key: str = "document",
    now: datetime = NOON,
    seed: int = 0,
    settings: Settings | None = None,
    history: Path | str | None = None,
    parameters: dict[str, Any] | None = None,
) -> Simulation:
    """A cluster of one in this process with one document of `cls`, made by `by`. See `Document.simulate`.

    parameters: of the constructor. history: a file of `moot doc log --export` or `moot doc fork`, to go on from its end instead
    of creating a document. Raises InvalidBundle with every reason why the class could not be deployed, what its constructor
    raises, or InvalidRequest for a history that can not be read; nothing remains then.
    """
    past = read_export(Path(history)) if history is not None else None
    simulation = Simulation(cls, key, now, seed, settings, past)
    if past is None and by is not None:
        simulation.visitor(by).create(**(parameters or {}))
    return simulation


class Simulation:
    """One document in a cluster of one.

    key: the document's. seed: of everything random. number: rises with every simulation of the process. errors: the author's
    frames of every handler that failed, oldest first.
    """

    def __init__(
        self,
        cls: type[Document],
        key: str,
        now: datetime,
        seed: int,
        settings: Settings | None,
        past: dict[str, Any] | None = None,
    ) -> None:
        self.key = key
        self.seed = seed
        self.number = next(_NUMBERS)
        LIVING.add(self)
        self._settings = settings
        self._node = SimulatedNode(seed, _milliseconds(now), settings)
        self._visitors: dict[str, Visitor] = {}
        self._program: DocumentProgram | None = None
        self._refusals: dict[str, type[Exception]]
        if past is not None:
            self._go_on_from(past)
        self.deploy(cls)

    def _go_on_from(self, exported: dict[str, Any]) -> None:
        """Have the document that a history leads to, at its position and not before its time, and its code deployed."""
        live = end(exported)
        live.id = DocumentId(SPACE, self.key)
        bundles = {name: base64.b64decode(bundle) for name, bundle in exported["bundles"].items()}
        self._node.plant(live, bundles.values())
        if live.alive:
            code = bundles[live.code_hash.hex()]
            self._program = BundleLoader(self._settings).load(code)
            self._node.deploy(SPACE, code)
        latest_ms = max((row["time_ms"] for row in exported["commands"]), default=exported.get("seen", {}).get("time_ms", 0))
        self._node.now_ms = max(self._node.now_ms, latest_ms)

    def deploy(self, cls: type[Document], *, force: bool = False) -> None:
        """Give the space other code: documents take it up at their next touch. Raises InvalidBundle for what could not follow
        the code that is there: a version that does not rise, a change without its hook; nothing changed then.

        force: although messages of the version before would be refused.
        """
        bundle, root = _bundle_of(cls)
        program = BundleLoader(self._settings).load(bundle, origins(bundle, root))
        before = self._program
        if before is not None and before.code_hash != program.code_hash:
            check_successor([before], program, clients=None if force else before)
            check_successor([], program, armed=self._node.pending(SPACE, handlers_lost(before, program)))
        self._node.deploy(SPACE, bundle)
        self._program = program
        self._refusals = _refusals(self._program, cls.__module__)

    # who comes

    def visitor(self, who: str | Principal) -> Visitor:
        """Somebody with a connection of their own; the same one for the same name."""
        name = str(who)
        found = self._visitors.get(name)
        if found is None:
            Principal.parse(name)
            found = self._visitors[name] = Visitor(self, name)
        return found

    # time

    @property
    def now(self) -> datetime:
        """The simulated time."""
        return EPOCH + timedelta(milliseconds=self._node.now_ms)

    def advance(self, by: timedelta) -> None:
        """Let time pass: whatever falls due on the way happens at its time, in order."""
        self.advance_to(self.now + by)

    def advance_to(self, until: datetime) -> None:
        """Let time pass until a moment. One that is past already changes nothing."""
        until_ms = _milliseconds(until)
        while self._node.now_ms < until_ms:
            self._node.pass_time(until_ms)
            self.settle()

    def settle(self) -> None:
        """Do everything that needs no time. Tests rarely call it: every call of a visitor does."""
        self._node.run()
        for visitor in self._visitors.values():
            visitor._connection.look()

    # what happened

    @property
    def errors(self) -> list[str]:
        return [failure.traceback for failure in self._node.failures]

    def traceback(self, error_id: str) -> str:
        """The author's frames of one failure; empty for an id that is not known."""
        return next((each.traceback for each in self._node.failures if each.error_id == error_id), "")

    def restart(self) -> None:
        """Kill the node and start it again on what its disk has: connections drop and come back by themselves."""
        connected = [visitor for visitor in self._visitors.values() if visitor._connection.connected]
        for visitor in connected:
            visitor.drop()
        self._node.restart()
        for visitor in connected:
            visitor.connect()

    def repair(
        self,
        patch: list[dict[str, Any]],
        *,
        reason: str,
        by: str = OPERATOR,
        expect: Position | None = None,
        thaw: bool = False,
    ) -> Position:
        """Change the state by hand as `moot doc repair` does; returns the position of that. Raises InvalidPatch for what does
        not fit the state or the class, PositionMoved when the document is not at `expect`, and TooLarge; nothing is changed
        then.

        thaw: whether a document that was frozen takes commands again.
        """
        wanted = None if expect is None else [expect.epoch, expect.index]
        order: dict[str, object] = {"patch": patch, "reason": reason, "expect": wanted, "thaw": thaw}
        position = self._node.operator(Kind.REPAIR, DocumentId(SPACE, self.key), by, order)
        self.settle()
        return position

    def history(self) -> dict[str, Any]:
        """All that was logged, with its code: what `moot doc log --export` writes, and everything in cluster.replay reads."""
        return self._node.history(DocumentId(SPACE, self.key))

    def replay(self) -> Verdict:
        """Run everything that was logged again, apart from the node, and compare outcomes, answers and the chain of writes."""
        return replay(self.history())

    def open_asks(self, who: Principal) -> list[OpenAsk]:
        """What the document asks of a principal now."""
        instance = self._node.document(DocumentId(SPACE, self.key)).instance
        return [] if instance is None else instance.open_asks(who)

    def failed(self, failure: Failure) -> Exception:
        """The exception for a failure, as a client of the author raises it."""
        error = error_of(failure)
        if isinstance(error, HandlerRefused):
            name = error.details.get("name", "")
            cls = self._refusals.get(name) or (BadRequest if name == BadRequest.__name__ else None)
            if cls is not None:
                arguments = msgspec.json.decode(error.details.get("arguments", "[]"))
                refusal = cls(*arguments)
                refusal.__cause__ = error
                return refusal
        if isinstance(error, HandlerFailed) and (frames := self.traceback(error.details.get("error_id", ""))):
            error.add_note(frames)
        return error

    @property
    def node(self) -> SimulatedNode:
        """The node, for tests of the simulation itself."""
        return self._node


class Asked:
    """One ask that waits. id: the same whenever it is handed out. request: as JSON. deadline: when it ends unanswered."""

    def __init__(self, visitor: Visitor, ask: OpenAsk) -> None:
        self.id = ask.id
        self.request: Any = msgspec.json.decode(ask.request)
        self.deadline = EPOCH + timedelta(milliseconds=ask.due_ms)
        self._visitor = visitor

    def answer(self, value: Any) -> Any:
        """Answer it. See Visitor.answer."""
        return self._visitor.answer(self.id, value)


class Visitor:
    """One principal at the document, over one session. A channel is a method: `alice.bid(cents=500)`; `send` is for channels
    that have the name of a method of this class.

    who: the principal. position: where the document was at the last answer.
    """

    def __init__(self, simulation: Simulation, who: str) -> None:
        self.who = who
        self.position: Position | None = None
        self._simulation = simulation
        self._connection = Connection(simulation.node, SPACE, simulation.key, who, simulation.failed)
        self._connection.connect()

    def __getattr__(self, channel: str) -> Callable[..., Any]:
        if channel.startswith("_"):
            raise AttributeError(channel)
        return lambda **parameters: self.send(channel, parameters)

    def send(self, channel: str, parameters: dict[str, Any] | None = None) -> Any:
        """Send a message and return its answer. Raises the class's refusals, HandlerFailed with the author's frames as a note,
        and every other error of cluster.errors."""
        return self._ask(Kind.SEND, channel, parameters or {})

    def create(self, **parameters: Any) -> Any:
        """Create the document: what `simulate` has done already, unless it was deleted since."""
        return self._ask(Kind.CREATE, "", parameters)

    def delete(self) -> None:
        """Delete the document. Raises PermissionDenied where the class does not let them."""
        self._ask(Kind.DELETE, "", {})

    def view(self, arguments: Arguments | None = None) -> Any:
        """What they may see now, by these arguments of views and windows. Raises PermissionDenied where the gate says no, and
        InvalidArguments."""
        return self._ask(Kind.READ, "", dict(arguments or {}))

    def blob(self, blob: BlobReference | str, arguments: Arguments | None = None) -> Blob:
        """The blob of this hash that their view shows, with its bytes. Raises UnknownBlob when it shows none, as when there is
        none."""
        hash = blob if isinstance(blob, str) else blob.hash
        shown = self._ask(Kind.READ, hash, dict(arguments or {}))
        return Blob(base64.b64decode(shown["data"]), shown["media_type"])

    def watch(self, arguments: Arguments | None = None) -> Screen:
        """Follow the document: a screen that changes by itself. Raises PermissionDenied where the gate says no, and
        InvalidArguments."""
        screen = self._connection.watch(msgspec.json.encode(arguments or {}))
        self._simulation.settle()
        if screen.ended is not None:
            raise screen.ended
        return screen

    def asks(self) -> list[Asked]:
        """What the document asks of them and waits for, the oldest first: they are the worker, or the person, who answers."""
        return [Asked(self, ask) for ask in self._simulation.open_asks(Principal.parse(self.who))]

    def answer(self, ask: str, value: Any) -> Any:
        """Answer an ask by its id; returns what its handler answers. Raises AskClosed when it was answered or out of time."""
        return self._ask(Kind.ANSWER, "", {"ask": ask, "value": value})

    def drop(self) -> None:
        """Lose the connection. Nothing that was sent is lost; screens stand still."""
        self._connection.drop()
        self._simulation.settle()

    def connect(self) -> None:
        """Have a connection again: screens go on where they were."""
        self._connection.connect()
        self._simulation.settle()

    @property
    def http(self) -> Http:
        """Their requests to the class's HTTP handlers and files: `alice.http.get("/feed")`."""
        return Http(lambda method, payload: self._run(Kind.READ if method == "GET" else Kind.SEND, HTTP_CHANNEL, payload))

    def _ask(self, kind: Kind, channel: str, content: Any) -> Any:
        return self._run(kind, channel, msgspec.json.encode(content, enc_hook=_plain))

    def _run(self, kind: Kind, channel: str, payload: bytes) -> Any:
        ticket = self._connection.submit(kind, channel, payload)
        self._simulation.settle()
        while (reply := self._connection.reply(ticket)) is None:
            wake_ms = self._connection.wake_at_ms
            if wake_ms is None:
                raise Unavailable(f"{self.who} has no connection")
            self._simulation.advance_to(EPOCH + timedelta(milliseconds=wake_ms + 1))
        if reply.failure is not None:
            raise self._simulation.failed(reply.failure)
        self.position = Position(reply.epoch, reply.index)
        return msgspec.json.decode(reply.payload) if reply.payload else None


def _milliseconds(moment: datetime) -> int:
    """Unix milliseconds. Raises ValueError for a moment without a zone."""
    if moment.tzinfo is None:
        raise ValueError("a moment needs a time zone: datetime(..., tzinfo=UTC)")
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _plain(value: object) -> object:
    """Values that authors write in tests and JSON has no word for."""
    if isinstance(value, Principal):
        return str(value)
    if isinstance(value, Blob):
        return as_sent(value)
    raise TypeError(f"{type(value).__name__} can not be a parameter")


def _bundle_of(cls: type[Document]) -> tuple[bytes, Path]:
    """The bundle that defines a class that was imported from a file, and where its paths begin. Raises TypeError for one that
    was not.
    """
    module = sys.modules.get(cls.__module__)
    source = getattr(module, "__file__", None)
    if source is None or not Path(source).is_file():
        raise TypeError(f"{cls.__qualname__} comes from no file that could be deployed")
    file = Path(source)
    if cls.__module__.startswith(PREFIX):  # it is of a loaded bundle, whose modules have names below the bundle's
        name = inside(cls)
        root = file.parents[name.count(".") + (file.name == "__init__.py")]
        whole = file if root == file.parent else root / name.partition(".")[0]
        return from_path(whole, entry=f"{name}:{cls.__name__}").encode(), root
    top = cls.__module__.partition(".")[0]
    if not _imports(file, top):
        if file.name == "__init__.py":  # a package of one module, with the files that it serves
            return from_path(file.parent, entry=f"{file.parent.name}:{cls.__name__}").encode(), file.parent.parent
        return from_path(file, entry=f"{file.stem}:{cls.__name__}").encode(), file.parent
    package = Path(str(sys.modules[top].__file__)).parent
    return from_path(package, entry=f"{cls.__module__}:{cls.__name__}").encode(), package.parent


def _imports(file: Path, package: str) -> bool:
    """Whether a module imports others of its package, so that the whole package is what is deployed."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level or (module.partition(".")[0] == package and module != AUTHORS_PACKAGE):
                return True
        elif isinstance(node, ast.Import) and any(name.name.partition(".")[0] == package for name in node.names):
            return True
    return False


def _refusals(program: DocumentProgram, module: str) -> dict[str, type[Exception]]:
    """The refusals of a program as a test knows them: of the modules that it has imported, else the bundle's. module: the name
    under which the test knows the document's own."""
    found: dict[str, type[Exception]] = {}
    own = program.declaration.cls.__module__
    for refusal in program.declaration.refusals:
        inside = refusal.__module__.partition(".")[2]  # below the bundle's namespace
        here = sys.modules.get(module if refusal.__module__ == own else inside)
        known = getattr(here, refusal.__name__, None)
        found[refusal.__name__] = known if isinstance(known, type) and issubclass(known, Refused) else refusal
    return found
