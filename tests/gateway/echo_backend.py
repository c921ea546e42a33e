"""A backend in memory: documents that count and remember the last message, with the session rules of the real one.

Every document has the view {"count": n, "last": payload}. Channels: `echo` answers with its payload; `refuse` refuses as a
handler would; `fail` fails as a bug would; any other is unknown. A session's writes are judged by sequence as the shard does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec

from cluster.gateway.backend import Deliver
from cluster.session.operations import Delta, Failure, Kind, Operation, Reply

HISTORY_MAX = 64
SEEN_MAX = 64

_encode = msgspec.json.encode


class Document:
    """epoch, index, and what its view shows. `changes`: (index, patch) of the latest, for resuming watches."""

    __slots__ = ("changes", "count", "deleted", "epoch", "index", "last", "sessions", "watchers")

    def __init__(self) -> None:
        self.epoch = 0
        self.index = 0
        self.deleted = True
        self.count = 0
        self.last: Any = None
        self.sessions: dict[bytes, dict[int, tuple[bytes, Reply]]] = {}
        self.watchers: dict[tuple[EchoStream, int], Watcher] = {}
        self.changes: deque[tuple[int, bytes]] = deque(maxlen=HISTORY_MAX)

    def view(self) -> bytes:
        return b'{"count":%d,"last":%s}' % (self.count, self.last or b"null")


class Watcher:
    """Where one viewer is, and how many bytes may still be sent to it."""

    __slots__ = ("credit", "epoch", "index")

    def __init__(self, credit: int, epoch: int, index: int) -> None:
        self.credit = credit
        self.epoch = epoch
        self.index = index


class EchoStream:
    """One client's conversation."""

    def __init__(self, backend: EchoBackend, deliver: Deliver) -> None:
        self.backend = backend
        self.deliver = deliver
        self.outgoing: list[Reply | Delta] = []
        self.watches: dict[int, Document] = {}
        self.closed = False

    def submit(self, operations: list[Operation]) -> None:
        self.backend.submitted += len(operations)
        self.backend.batches.append(len(operations))
        self.backend.seen.extend(operations)
        for operation in operations:
            self.backend.run(self, operation)

    def grant(self, watch: int, credit_bytes: int) -> None:
        document = self.watches.get(watch)
        if document is not None:
            document.watchers[self, watch].credit += credit_bytes
            self.backend.catch_up(document)

    def submit_to(self, part: int, operation: Operation) -> None:
        self.backend.order(self, part, operation)

    def close(self) -> None:
        self.closed = True
        for watch, document in self.watches.items():
            del document.watchers[self, watch]
        self.watches.clear()
        self.backend.streams.discard(self)

    def put(self, event: Reply | Delta) -> None:
        if not self.outgoing:
            asyncio.get_running_loop().call_soon(self.flush)
        self.outgoing.append(event)

    def flush(self) -> None:
        batch, self.outgoing = self.outgoing, []
        if not self.closed:
            self.deliver(batch)


class EchoBackend:
    """failures: the next operations fail with these, before anything else happens. mute: answer nothing from now on.
    lose_replies: run the next so many operations without answering them."""

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], Document] = {}
        self.streams: set[EchoStream] = set()
        self.failures: deque[Failure | None] = deque()
        self.mute = False
        self.lose_replies = 0
        self.submitted = 0
        self.seen: deque[Operation] = deque(maxlen=SEEN_MAX)
        self.batches: deque[int] = deque(maxlen=1024)
        self.admin_calls: list[tuple[str, dict[str, Any]]] = []
        self.admin_answers: dict[str, dict[str, Any] | Exception] = {}
        self.ready = True

    @property
    def parts(self) -> list[int]:
        return []

    def order(self, stream: EchoStream, part: int, operation: Operation) -> None:
        """An operation on one of the parts, of which there are none here."""
        raise AssertionError(f"there is no part {part}")

    def open(self, deliver: Deliver) -> EchoStream:
        stream = EchoStream(self, deliver)
        self.streams.add(stream)
        return stream

    async def admin(self, method: str, request: dict[str, Any], principal: str) -> dict[str, Any]:
        self.admin_calls.append((method, request))
        answer = self.admin_answers.get(method, {})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, stream: EchoStream, operation: Operation) -> None:
        if self.mute:
            return
        if self.failures and (failure := self.failures.popleft()) is not None:
            stream.put(Reply(operation.id, failure=failure))
            return
        kind = operation.kind
        if kind == Kind.LIST:
            self.list(stream, operation)
            return
        document = self.documents.get((operation.space, operation.key))
        if document is None:
            document = self.documents[operation.space, operation.key] = Document()
        if kind == Kind.SEND or kind == Kind.CREATE or kind == Kind.DELETE:
            reply = self.write(document, operation)
            if self.lose_replies:
                self.lose_replies -= 1
                return
            stream.put(reply)
        elif kind == Kind.READ:
            stream.put(self.read(document, operation))
        elif kind == Kind.WATCH:
            self.watch(stream, document, operation)
        else:
            stream.watches.pop(operation.id, None)
            document.watchers.pop((stream, operation.id), None)
            stream.put(Reply(operation.id, document.epoch, document.index))

    def write(self, document: Document, operation: Operation) -> Reply:
        answers = document.sessions.get(operation.session)
        if answers is None:
            answers = document.sessions[operation.session] = {}
        fingerprint = b"%d %s %s" % (operation.kind, operation.channel.encode(), operation.payload)
        sequence = operation.sequence
        known = answers.get(sequence)
        if known is not None:
            first, reply = known
            if first != fingerprint:
                return Reply(operation.id, failure=refusal("KEY_REUSED"))
            return Reply(operation.id, reply.epoch, reply.index, reply.payload, reply.failure)
        expected = next(reversed(answers), 0) + 1
        if sequence and sequence < expected:
            failure = Failure("OUTCOME_UNKNOWN", "forgotten", False, "unknown")
            return Reply(operation.id, failure=failure)
        if sequence > expected:
            failure = Failure("SEQUENCE_GAP", "a gap", True, "no", 0, {"expected": str(expected)})
            return Reply(operation.id, failure=failure)
        reply = self.execute(document, operation)
        answers[sequence] = (fingerprint, reply)
        acked = operation.acked_through
        while acked in answers and acked != sequence:
            del answers[acked]
            acked -= 1
        return reply

    def execute(self, document: Document, operation: Operation) -> Reply:
        kind = operation.kind
        failure = None
        payload = operation.payload or b"{}"
        if kind == Kind.CREATE:
            if not document.deleted:
                return Reply(operation.id, document.epoch, document.index, failure=refusal("DOCUMENT_EXISTS"))
            document.deleted = False
            document.epoch += 1
            document.index = document.count = 0
            document.last = None
            document.changes.clear()
            patch = b"[]"
        elif document.deleted:
            reason = "DOCUMENT_DELETED" if document.epoch else "UNKNOWN_DOCUMENT"
            return Reply(operation.id, document.epoch, document.index, failure=refusal(reason))
        elif kind == Kind.DELETE:
            document.deleted = True
            patch = b"[]"
        elif operation.channel == "echo":
            document.count += 1
            document.last = payload
            patch = b'[{"op":"replace","path":"/count","value":%d},{"op":"replace","path":"/last","value":%s}]' % (
                document.count,
                payload,
            )
        elif operation.channel == "refuse":
            failure = Failure(
                "HANDLER_REFUSED", "Too late.", False, "no", 0, {"name": "Closed", "arguments": f"[{payload.decode()}]"}
            )
            patch = b"[]"
        elif operation.channel == "fail":
            failure = Failure("HANDLER_FAILED", "a bug", False, "no", 0, {"error_id": "e1"})
            patch = b"[]"
        else:
            return Reply(operation.id, document.epoch, document.index, failure=refusal("UNKNOWN_CHANNEL"))
        document.index += 1
        document.changes.append((document.index, patch))
        if document.watchers:
            self.catch_up(document)
        result = b"" if failure is not None or kind == Kind.DELETE else payload
        return Reply(operation.id, document.epoch, document.index, result, failure)

    def read(self, document: Document, operation: Operation) -> Reply:
        if document.deleted:
            return Reply(operation.id, failure=refusal("UNKNOWN_DOCUMENT"))
        return Reply(operation.id, document.epoch, document.index, document.view())

    def watch(self, stream: EchoStream, document: Document, operation: Operation) -> None:
        if document.deleted:
            stream.put(Reply(operation.id, failure=refusal("UNKNOWN_DOCUMENT")))
            return
        watcher = Watcher(operation.credit, operation.epoch, operation.index)
        document.watchers[stream, operation.id] = watcher
        stream.watches[operation.id] = document
        stream.put(Reply(operation.id, document.epoch, document.index))
        self.catch_up(document)

    def catch_up(self, document: Document) -> None:
        """Send every viewer that has credit what it has not seen: the retained patches, or the whole view."""
        for (stream, watch), watcher in document.watchers.items():
            if watcher.credit <= 0 or (watcher.epoch, watcher.index) == (document.epoch, document.index):
                continue
            missing = [change for change in document.changes if change[0] > watcher.index]
            if watcher.epoch == document.epoch and watcher.index >= 0 and missing and missing[0][0] == watcher.index + 1:
                for index, patch in missing:
                    stream.put(Delta(watch, watcher.epoch, watcher.index, document.epoch, index, False, patch))
                    watcher.index = index
                    watcher.credit -= len(patch)
            else:
                view = document.view()
                stream.put(Delta(watch, watcher.epoch, max(watcher.index, 0), document.epoch, document.index, True, view))
                watcher.epoch, watcher.index = document.epoch, document.index
                watcher.credit -= len(view)

    def list(self, stream: EchoStream, operation: Operation) -> None:
        start = operation.payload.decode()
        entries = sorted(
            (key, document)
            for (space, key), document in self.documents.items()
            if space == operation.space and not document.deleted and key.startswith(operation.channel) and key > start
        )
        page = entries[: operation.credit]
        token = page[-1][0] if len(entries) > len(page) else ""
        rows = [{"key": key, "epoch": document.epoch, "index": document.index} for key, document in page]
        stream.put(Reply(operation.id, payload=_encode({"documents": rows, "next_page_token": token})))


def refusal(reason: str) -> Failure:
    """A failure that the caller has to do something about."""
    return Failure(reason, reason.lower().replace("_", " "), False, "no")
