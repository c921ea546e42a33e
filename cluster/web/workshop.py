"""What the page acts on: a node in memory with the author's code, and the principals who sit before it.

Invariant: what a seat shows and what a call answers is what a client of a real cluster would get, by the same code: the session
protocol, the log, apply and the feed. Nothing here knows of HTTP.
"""

from __future__ import annotations

import base64
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from cluster.documents.bundle import Bundle
from cluster.documents.deploying import check_successor
from cluster.documents.runtime import OpenAsk
from cluster.errors import (
    ClusterError,
    HandlerFailed,
    InvalidArguments,
    InvalidBundle,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
)
from cluster.ids import DocumentId, Principal, check_key
from cluster.replay.timeline import shown, steps
from cluster.session.failures import error_of
from cluster.session.operations import Delta, Kind, Operation, Reply
from cluster.simulate.connection import Connection, Screen
from cluster.simulate.node import SimulatedNode
from cluster.web.code import SavedProgram, SavingLoader, as_save, read_files

SPACE: Final = "dev"
SEATS_MAX: Final = 32
EVENTS_KEPT_MAX: Final = 50
ASKS_SHOWN_MAX: Final = 20
PAYLOAD_SHOWN_MAX: Final = 2_000
"""Characters of a command's payload in the log: those of files are long."""
FAILURES_KEPT_MAX: Final = 100
HISTORY_MAX: Final = 5_000
"""Commands of a document that the time slider runs again; a longer past is for `moot doc show`."""
AUTHORITY: Final = "local"
"""Of a principal who is named without one."""
OWN_AUTHORITY: Final = "moot"


def principal_of(text: str) -> str:
    """`alice` and `alice@acme` as principals. Raises InvalidName, or PermissionDenied for the cluster's own."""
    principal = Principal.parse(text if "@" in text else f"{text}@{AUTHORITY}")
    if principal.authority == OWN_AUTHORITY:
        raise PermissionDenied(f"nobody acts for {OWN_AUTHORITY} but the cluster itself")
    return str(principal)


class Seat:
    """One principal at one document. revision: grows whenever there is something new to show. readers: streams that show it.

    arguments: what is asked of views and windows. asks: what the document asks of the principal, the oldest first.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arguments: dict[str, Any] = {}
        self.asks: list[OpenAsk] = []
        self.screen: Screen = connection.watch()
        self.revision = 1
        self.readers = 0
        self.patch: list[dict[str, Any]] | None = None
        self.events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=EVENTS_KEPT_MAX)
        self._counted = 0
        self._ended: Exception | None = None

    def collect(self, asks: list[OpenAsk]) -> None:
        """Take what has arrived since. asks: what is asked of the principal now."""
        screen = self.screen
        changed = bool(screen.patches) or bool(screen.events) or screen.ended is not self._ended
        if screen.patches:
            self.patch = screen.patches[-1]
        for event in screen.events:
            self._counted += 1
            self.events.append((self._counted, {"name": event.name, "value": event.value, "position": str(event.position)}))
        screen.patches.clear()
        screen.received.clear()
        screen.events.clear()
        self._ended = screen.ended
        self.revision += changed or asks != self.asks
        self.asks = asks

    def watch_again(self) -> None:
        """A document that was not there, or a gate that said no, may be another matter now."""
        if self.screen.ended is not None:
            if isinstance(self.screen.ended, InvalidArguments):
                self.arguments = {}  # they were of views that the code has no more
            self.screen = self.connection.watch(self.asked())

    def look(self, arguments: dict[str, Any]) -> None:
        """Ask something else of views and windows, all of it. Raises InvalidArguments; everything is as it was then."""
        if self.screen.ended is None:
            self.screen.show(arguments)
        self.arguments = arguments
        self.revision += 1

    def asked(self) -> bytes:
        """The arguments as they are sent."""
        return msgspec.json.encode(self.arguments) if self.arguments else b""

    def state(self) -> dict[str, Any]:
        """What the page shows of it."""
        screen = self.screen
        ended = screen.ended
        return {
            "view": screen.view if ended is None else None,
            "position": str(screen.position) if ended is None and screen.position is not None else None,
            "patch": self.patch if ended is None else None,
            "ended": error_body(ended) if ended is not None else None,
            "arguments": self.arguments,
            "asks": [
                {"ask": ask.id, "handler": ask.handler, "request": msgspec.json.decode(ask.request), "due_ms": ask.due_ms}
                for ask in self.asks[:ASKS_SHOWN_MAX]
            ],
            "events": [{"number": number, **event} for number, event in self.events],
        }


def error_body(error: Exception, frames: str = "") -> dict[str, Any]:
    """A failure as JSON: the same for every call of the page."""
    if not isinstance(error, ClusterError):
        error = InvalidRequest(str(error))
    body: dict[str, Any] = {"reason": error.reason, "message": error.message, "details": error.details}
    return body | ({"frames": frames} if frames else {})


class Workshop:
    """path: the author's file or directory. clock_ms: Unix milliseconds.

    saves: how many were deployed since the start. findings: why the newest files are not deployed, "" when they are.
    """

    def __init__(self, path: Path, clock_ms: Callable[[], int], seed: int) -> None:
        self.path = path
        self.saves = 0
        self.findings = ""
        self.needs_fresh_start = False
        self._clock_ms = clock_ms
        self._random = random.Random(seed)
        self._files: Bundle | None = None
        self._program: SavedProgram | None = None
        self._begin()

    def _begin(self) -> None:
        self._loader = SavingLoader()
        self._node = SimulatedNode(self._random.getrandbits(64), self._clock_ms(), None, self._loader)
        self._seats: dict[tuple[str, str], Seat] = {}

    # code

    def look_at_files(self) -> bool:
        """Deploy what the author has saved since. Returns whether something is new: code, or why there is none."""
        try:
            files = read_files(self.path)
        except (ClusterError, OSError) as error:
            return self._refused(error.message if isinstance(error, ClusterError) else f"{self.path}: {error.strerror}", None)
        if files == self._files:
            return False
        self._files = files
        return self._deploy(files)

    def _deploy(self, files: Bundle) -> bool:
        """One more save. Documents that can not follow keep the code before, and so does the page."""
        number = self.saves + 1
        self.needs_fresh_start = False
        try:
            bundle = as_save(files, number)
            program = self._loader.load(bundle)
            if self._program is not None:
                self.needs_fresh_start = True
                check_successor([self._program], program)
                self.needs_fresh_start = False
            self._node.deploy(SPACE, bundle)
        except ClusterError as error:
            return self._refused(error.message, files)
        self.saves, self._program, self.findings = number, program, ""
        self._settle(again=True)
        return True

    def _refused(self, findings: str, files: Bundle | None) -> bool:
        self._files = files
        changed, self.findings = findings != self.findings, findings
        return changed

    def start_over(self) -> None:
        """Forget all documents, and begin again with the newest files. Raises InvalidBundle when these can not be deployed."""
        self._begin()
        self._program, self._files = None, None
        self.saves = 0
        self.look_at_files()
        if self.findings:
            raise InvalidBundle(self.findings)

    def code(self) -> dict[str, Any]:
        """What the page shows of the code."""
        return {
            "path": str(self.path),
            "saves": self.saves,
            "schema": self._program.described() if self._program is not None else None,
            "findings": self.findings,
            "needs_fresh_start": self.needs_fresh_start,
        }

    # time

    def tick(self) -> None:
        """Bring the node to the present: what falls due happens."""
        now_ms = self._clock_ms()
        while self._node.now_ms < now_ms:
            self._node.pass_time(now_ms)
            self._settle()

    def _settle(self, *, again: bool = False) -> None:
        """Do everything that needs no time, and see what each seat got of it."""
        self._node.run()
        for seat in self._seats.values():
            seat.connection.look()
            if again:
                seat.watch_again()
        self._node.run()
        for (who, key), seat in self._seats.items():
            seat.collect(self._asks(Principal.parse(who), key))
        del self._node.failures[:-FAILURES_KEPT_MAX]

    def _asks(self, who: Principal, key: str) -> list[OpenAsk]:
        """What a document asks of a principal; nothing when there is none."""
        if self._program is None or not self._program.declaration.answers:
            return []
        instance = self._node.document(DocumentId(SPACE, key)).instance
        return [] if instance is None else instance.open_asks(who)

    # who sits there

    def seat(self, who: str, key: str) -> Seat:
        """The seat of a principal at a document; taken when nobody sits there. Raises InvalidName, or Overloaded."""
        who = principal_of(who)
        check_key(key)
        found = self._seats.get((who, key))
        if found is None:
            if len(self._seats) >= SEATS_MAX:
                self._clear_one()
            connection = Connection(self._node, SPACE, key, who, self._failed)
            connection.connect()
            found = self._seats[who, key] = Seat(connection)
            self._settle()
        return found

    def _clear_one(self) -> None:
        for place, seat in self._seats.items():
            if seat.readers == 0:
                seat.connection.drop()
                del self._seats[place]
                return
        raise Overloaded(f"there are {SEATS_MAX} principals at documents already; close a page")

    def submit(self, who: str, key: str, kind: Kind, channel: str, payload: bytes) -> tuple[Seat, int]:
        """Ask for something; `reply` has the answer, mostly at once. Raises what `seat` raises."""
        self.tick()
        seat = self.seat(who, key)
        ticket = seat.connection.submit(kind, channel, payload)
        self._settle()
        return seat, ticket

    def look(self, who: str, key: str, arguments: dict[str, Any]) -> None:
        """Have a seat ask something else of views and windows. Raises InvalidArguments and what `seat` raises."""
        self.tick()
        seat = self.seat(who, key)
        seat.look(arguments)
        self._settle(again=True)

    def reply(self, seat: Seat, ticket: int) -> dict[str, Any] | None:
        """An answer as JSON, or None while there is none. Raises what answers it."""
        reply: Reply | None = seat.connection.reply(ticket)
        if reply is None:
            return None
        self._settle(again=True)
        if reply.failure is not None:
            raise self._failed(reply.failure)
        value = msgspec.json.decode(reply.payload) if reply.payload else None
        return {"answer": value, "position": f"{reply.epoch}.{reply.index}"}

    def blob(self, seat: Seat, ticket: int) -> tuple[bytes, str] | None:
        """The bytes and the media type that a read of a blob was answered with. Raises what answers it."""
        answered = self.reply(seat, ticket)
        if answered is None:
            return None
        shown = answered["answer"]
        return base64.b64decode(shown["data"]), shown["media_type"]

    def ask(self, operation: Operation) -> Reply | None:
        """Run one operation of somebody who has no seat; None when it is not answered now."""
        self.tick()
        replies: list[Reply | Delta] = []
        stream = self._node.open_stream(replies.extend)
        operation.id = 1
        self._node.submit(stream, [operation], [])
        self._settle(again=True)
        self._node.close_stream(stream)
        return next((reply for reply in replies if isinstance(reply, Reply)), None)

    def _failed(self, failure: Any) -> Exception:
        return error_of(failure)

    def frames_of(self, error: Exception) -> str:
        """The author's frames with their source lines, where the error is a bug of the author's that is still known."""
        if not isinstance(error, HandlerFailed):
            return ""
        wanted = error.details.get("error_id", "")
        return next((each.traceback for each in self._node.failures if each.error_id == wanted), "")

    # the past

    def log(self, key: str) -> list[dict[str, Any]]:
        """The commands of a document, oldest first; none when it was never made. Raises InvalidRequest for a very long past."""
        return [_row(row, place) for place, row in enumerate(self._history(key)["commands"], 1)]

    def past(self, key: str, step: int, whos: list[str]) -> dict[str, Any]:
        """What each of these principals saw after one of the commands of `log`. Raises InvalidRequest, InvalidName."""
        principals = [Principal.parse(principal_of(who)) for who in whos]
        for place, each in enumerate(steps(self._history(key)), 1):
            if place != step:
                continue
            views: list[dict[str, Any]] = []
            for who in principals:
                if each.instance is None:
                    views.append({"view": None, "ended": {"reason": "DOCUMENT_DELETED", "message": "there was no document"}})
                    continue
                try:
                    views.append({"view": shown(each.instance, who, self._arguments_of(who, key)), "ended": None})
                except (PermissionDenied, InvalidArguments) as error:
                    views.append({"view": None, "ended": error_body(error)})
            return {"step": step, "position": str(each.position), "views": views}
        raise InvalidRequest(f"the document has no step {step}")

    def _arguments_of(self, who: Principal, key: str) -> bytes:
        seat = self._seats.get((str(who), key))
        return b"" if seat is None else seat.asked()

    def _history(self, key: str) -> dict[str, Any]:
        check_key(key)
        self.tick()
        history = self._node.history(DocumentId(SPACE, key))
        if len(history["commands"]) > HISTORY_MAX:
            raise InvalidRequest(f"the document has more than {HISTORY_MAX} commands; start over for a shorter past")
        return history


def _row(row: dict[str, Any], step: int) -> dict[str, Any]:
    position = row["position"]
    answer = msgspec.json.decode(row["answer"]) if row["answer"] else None
    payload = row["payload"]
    return {
        "step": step,
        "position": f"{position['epoch']}.{position['index']}",
        "kind": row["kind"],
        "sender": row["sender"],
        "channel": row["channel"],
        "payload": payload if len(payload) <= PAYLOAD_SHOWN_MAX else f"{payload[:PAYLOAD_SHOWN_MAX]}…",
        "time_ms": row["time_ms"],
        "code": row["code"],
        "answer": answer,
    }
