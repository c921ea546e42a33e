"""The Python client: documents as objects, everything over one session.

    async with connect("127.0.0.1:7400", principal="alice@acme") as client:
        lobby = client.document("chat", "lobby")
        await lobby.create({"topic": "tea"})
        answer = await lobby.send("say", {"text": "hello"})
        async with lobby.watch() as watch:
            async for change in watch:
                print(change.position, change.view)

Every method either returns or raises an error of `cluster.errors`, which says whether state was affected. Operations are
repeated only where that is safe: a write always under its own session and sequence, so it runs once however often it is sent.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec
from google.protobuf.message import Message
from grpc import aio

from cluster.client.asks import Asks
from cluster.client.connection import Connection
from cluster.client.editing import Splice
from cluster.client.editor import TextEditor
from cluster.client.failures import NO_REFUSALS, error_of, error_of_rpc
from cluster.client.watch import Watch
from cluster.documents.state.blob import Blob, BlobReference, as_sent, is_blob_hash
from cluster.errors import ConfigurationInvalid, InvalidRequest, Unavailable
from cluster.ids import DocumentId, Position, Principal, check_channel, check_key, check_space
from cluster.session.client_events import Intent, Settings
from cluster.session.operations import Consistency, Kind, Reply
from cluster.v1 import admin_pb2
from cluster.v1 import documents_pb2 as wire

DOCUMENTS_SERVICE: Final = "cluster.v1.DocumentService"
ADMIN_SERVICE: Final = "cluster.v1.AdminService"
CALL_RETRY_MS: Final = 50

Arguments = Mapping[str, Mapping[str, Any]]
"""What is asked of views and windows: `{view: {parameter: value}, table: {"latest": rows}}`."""

Payload = Mapping[str, Any] | bytes | None
"""Parameters of a handler: a mapping, or the bytes of a JSON object that is made elsewhere; None means no parameters."""

ResponseT = TypeVar("ResponseT", bound=Message)

_CREATE: Final = Kind.CREATE.value
_SEND: Final = Kind.SEND.value
_READ: Final = Kind.READ.value
_DELETE: Final = Kind.DELETE.value
_ANSWER: Final = Kind.ANSWER.value

_decode = msgspec.json.decode


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=_sent)


def _sent(value: object) -> object:
    """What JSON has no word for and a handler takes."""
    if isinstance(value, Blob):
        return as_sent(value)
    raise TypeError(f"{type(value).__name__} can not be a parameter")


class Answer:
    """The answer to a create, send, read or delete: the position at which it was made, and what it says."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    @property
    def position(self) -> Position:
        """The document's position after the command, or of the view."""
        return Position(self._reply.epoch, self._reply.index)

    @property
    def payload(self) -> bytes:
        """The handler's result or the view, as JSON bytes; empty when there is none."""
        return self._reply.payload

    @property
    def value(self) -> Any:
        """The handler's result or the view, decoded; None when there is none."""
        return _decode(self._reply.payload) if self._reply.payload else None

    def __repr__(self) -> str:
        return f"Answer(position={self.position}, payload={self.payload!r})"


class PendingAnswer:
    """An operation that was issued and not waited for: `await` it for its Answer, now or later, or never.

    Not waiting does not cancel anything; cancelling the wait does not either.
    """

    __slots__ = ("_check", "_future")

    def __init__(self, future: asyncio.Future[Reply], check: Callable[[Reply], Reply]) -> None:
        self._future = future
        self._check = check

    def done(self) -> bool:
        """Whether the answer is there."""
        return self._future.done()

    def __await__(self) -> Generator[Any, None, Answer]:
        future = self._future
        if not future.done():
            yield from asyncio.shield(future).__await__()
        return Answer(self._check(future.result()))


class Client:
    """A session with a cluster. Made by `connect`; use it in one event loop."""

    def __init__(
        self, connection: Connection, call_timeout_ms: int, refusals: Mapping[str, type[Exception]] = NO_REFUSALS
    ) -> None:
        self._connection = connection
        self._refusals = refusals
        self._call_timeout_ms = call_timeout_ms

    @property
    def address(self) -> str:
        """The gateway of the open stream; empty between streams."""
        return self._connection.address

    def document(self, space: str, key: str) -> Document:
        """A handle on one document, whether it exists or not. Raises InvalidName."""
        check_space(space)
        check_key(key)
        return Document(self, DocumentId(space, key))

    async def create(self, space: str, key: str, payload: Payload = None) -> Answer:
        """Create a document. Raises DocumentExists, HandlerRefused and others; nothing exists then."""
        return Answer(self._check(await self._issue(_CREATE, space, key, "", payload)))

    async def send(self, space: str, key: str, channel: str, payload: Payload = None) -> Answer:
        """Send a message; returns when it is committed and its handler has answered. Raises ClusterError."""
        return Answer(self._check(await self._issue(_SEND, space, key, channel, payload)))

    def send_nowait(self, space: str, key: str, channel: str, payload: Payload = None) -> PendingAnswer:
        """Issue a message without waiting. Messages to one document run in the order in which they were issued."""
        return PendingAnswer(self._issue(_SEND, space, key, channel, payload), self._check)

    async def read(
        self,
        space: str,
        key: str,
        *,
        consistency: Consistency = Consistency.LINEARIZABLE,
        at_least: Position | None = None,
        arguments: Arguments | None = None,
    ) -> Answer:
        """Read the view. `at_least` needs Consistency.AT_LEAST or ANY; what this client has seen before is never undone.
        Raises InvalidArguments for what the document's views do not take."""
        check_space(space)
        check_key(key)
        intent = Intent(0, _READ, space, key, payload=_asked(arguments), consistency=consistency.value)
        if at_least is not None:
            intent.epoch, intent.index = at_least.epoch, at_least.index
        return Answer(self._check(await self._connection.submit(intent)))

    async def blob(
        self,
        space: str,
        key: str,
        blob: BlobReference | str,
        *,
        consistency: Consistency = Consistency.LINEARIZABLE,
        at_least: Position | None = None,
        arguments: Arguments | None = None,
    ) -> Blob:
        """Read a blob, given by its hash, that the view shows: the bytes, and what they are. Raises what `read` raises, and
        UnknownBlob when the view (with these `arguments`) shows no such blob, whether the document has one or not."""
        hash = blob if isinstance(blob, str) else blob.hash
        if not is_blob_hash(hash):
            raise InvalidRequest("a blob's hash is SHA-256 in 64 hexadecimal digits, lower case")
        check_space(space)
        check_key(key)
        intent = Intent(0, _READ, space, key, hash, _asked(arguments), consistency.value)
        if at_least is not None:
            intent.epoch, intent.index = at_least.epoch, at_least.index
        shown = _decode(self._check(await self._connection.submit(intent)).payload)
        return Blob(base64.b64decode(shown["data"]), shown["media_type"])

    async def delete(self, space: str, key: str) -> Position:
        """Delete a document; returns the position of its deletion. Raises ClusterError."""
        reply = self._check(await self._issue(_DELETE, space, key, "", None))
        return Position(reply.epoch, reply.index)

    async def answer(self, space: str, key: str, ask: str, value: Any) -> Answer:
        """Answer an ask that a document addressed to this client's principal; returns what the handler that took it answers.

        Raises AskClosed when it was answered or ran out of time, InvalidPayload when the value is not of the type that is asked
        for, HandlerRefused (or the author's class) when the handler does not take it: the ask is still open then.
        """
        check_space(space)
        check_key(key)
        intent = Intent(0, _ANSWER, space, key, ask, value if isinstance(value, bytes) else _encode(value))
        return Answer(self._check(await self._connection.submit(intent)))

    def asks(self, space: str, *, take: int = 1, lease: timedelta = timedelta(minutes=1)) -> Asks:
        """Work on what the documents of a space ask this client's principal: `async for ask in client.asks("shop")`.

        take: how many are handed out at a time. lease: one that is not answered for so long is handed to somebody else.
        """
        check_space(space)
        return Asks(self._connection, self.answer, space, take, lease)

    def watch(self, space: str, key: str, *, resume_after: Position | None = None, arguments: Arguments | None = None) -> Watch:
        """Follow a document: its view, then every change. Across reconnects it goes on where it was.

        resume_after: go on after this position, whose view (made with the same arguments) the caller has put into `watch.view`.
        arguments: what is asked of views and windows; `Watch.show` changes it.
        """
        check_space(space)
        check_key(key)
        position = resume_after or Position(0, -1)
        return self._connection.watch(space, key, position.epoch, position.index, _asked(arguments), self._refusals)

    async def list(self, space: str, prefix: str = "", page_size: int = 100) -> AsyncIterator[tuple[str, Position]]:
        """The documents of a space: (key, position), page by page. Raises ClusterError."""
        token = ""
        while True:
            request = wire.ListRequest(space=space, key_prefix=prefix, page_size=page_size, page_token=token)
            page = await self.call(DOCUMENTS_SERVICE, "List", request, wire.ListResponse)
            for summary in page.documents:
                yield summary.document.key, Position(summary.position.epoch, summary.position.index)
            token = page.next_page_token
            if not token:
                return

    async def admin(self, method: str, **fields: Any) -> Message:
        """Call AdminService by the name of its method, with the fields of its request. Raises ClusterError.

        Not repeated after an attempt whose fate is unknown.
        """
        descriptor = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods_by_name[method]
        request_type: type[Message] = getattr(admin_pb2, descriptor.input_type.name)
        response_type: type[Message] = getattr(admin_pb2, descriptor.output_type.name)
        return await self.call(ADMIN_SERVICE, method, request_type(**fields), response_type)

    async def call(self, service: str, method: str, request: Message, response_type: type[ResponseT]) -> ResponseT:
        """A unary call at the gateway of the session. Waits for a stream, and retries what certainly did not happen."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._call_timeout_ms / 1000
        while True:
            channel = self._connection.channel()
            error: Unavailable | None = None
            if channel is None:
                error = Unavailable("no gateway is connected")
            else:
                remaining = max(0.001, deadline - loop.time())
                stub = channel.unary_unary(
                    f"/{service}/{method}",
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=response_type.FromString,
                )
                try:
                    response: ResponseT = await stub(request, metadata=self._connection.metadata, timeout=remaining)
                    return response
                except aio.AioRpcError as failed:
                    reason = error_of_rpc(failed)
                    if not isinstance(reason, Unavailable) or (service == ADMIN_SERVICE and reason.applied.value != "no"):
                        raise reason from None
                    error = reason
            if loop.time() + CALL_RETRY_MS / 1000 >= deadline:
                raise error
            await asyncio.sleep(CALL_RETRY_MS / 1000)

    def _issue(self, kind: int, space: str, key: str, channel: str, payload: Payload) -> asyncio.Future[Reply]:
        check_space(space)
        check_key(key)
        if kind == _SEND:
            check_channel(channel)
        return self._connection.submit(Intent(0, kind, space, key, channel, _body(payload)))

    def issue_checked(self, document: DocumentId, channel: str, payload: Payload) -> PendingAnswer:
        """send_nowait for handles, which have checked the address when they were made."""
        check_channel(channel)
        intent = Intent(0, _SEND, document.space, document.key, channel, _body(payload))
        return PendingAnswer(self._connection.submit(intent), self._check)

    def _check(self, reply: Reply) -> Reply:
        """The reply, if it is not a failure. Raises its error."""
        if reply.failure is not None:
            raise error_of(reply.failure, self._refusals)
        return reply


def _body(payload: Payload) -> bytes:
    return b"{}" if payload is None else payload if isinstance(payload, bytes) else _encode(payload)


def _asked(arguments: Arguments | None) -> bytes:
    return _encode(arguments) if arguments else b""


class Document:
    """One document of a client: the same calls without repeating its address."""

    __slots__ = ("_client", "id")

    def __init__(self, client: Client, identifier: DocumentId) -> None:
        self._client = client
        self.id = identifier

    async def create(self, payload: Payload = None) -> Answer:
        """See Client.create."""
        return await self._client.create(self.id.space, self.id.key, payload)

    async def send(self, channel: str, payload: Payload = None) -> Answer:
        """See Client.send."""
        return await self.send_nowait(channel, payload)

    def send_nowait(self, channel: str, payload: Payload = None) -> PendingAnswer:
        """See Client.send_nowait."""
        return self._client.issue_checked(self.id, channel, payload)

    async def read(
        self,
        *,
        consistency: Consistency = Consistency.LINEARIZABLE,
        at_least: Position | None = None,
        arguments: Arguments | None = None,
    ) -> Answer:
        """See Client.read."""
        space, key = self.id.space, self.id.key
        return await self._client.read(space, key, consistency=consistency, at_least=at_least, arguments=arguments)

    async def answer(self, ask: str, value: Any) -> Answer:
        """See Client.answer."""
        return await self._client.answer(self.id.space, self.id.key, ask, value)

    async def blob(
        self,
        blob: BlobReference | str,
        *,
        consistency: Consistency = Consistency.LINEARIZABLE,
        at_least: Position | None = None,
        arguments: Arguments | None = None,
    ) -> Blob:
        """See Client.blob."""
        space, key = self.id.space, self.id.key
        return await self._client.blob(space, key, blob, consistency=consistency, at_least=at_least, arguments=arguments)

    async def delete(self) -> Position:
        """See Client.delete."""
        return await self._client.delete(self.id.space, self.id.key)

    def watch(self, *, resume_after: Position | None = None, arguments: Arguments | None = None) -> Watch:
        """See Client.watch."""
        return self._client.watch(self.id.space, self.id.key, resume_after=resume_after, arguments=arguments)

    def edit_text(
        self, field: str, *, channel: str = "edit", on_change: Callable[[list[Splice]], None] | None = None
    ) -> TextEditor:
        """Type into a public text of the document together with others: `async with`, see cluster.client.editor.

        field: the text's name in the view. channel: takes `patches` and `base`. on_change: is told what others changed in the
        author's text, as (at, deleted, inserted), to carry a cursor over.
        """
        check_channel(channel)
        return TextEditor(self, field, channel, on_change)


def _unix_time_ms() -> int:
    return time.time_ns() // 1_000_000


class connect:
    """Open a session: `async with connect("host:port", "host:port", principal="alice@acme") as client`.

    addresses: gateways, tried in turn; when one fails the session goes on at another.
    settings: bounds and times of the session. open_timeout_ms: for the first stream, and for each later attempt.
    refusals: classes of documents' authors; a refusal of that name is raised as its class, any other as Refusal.
    clock_ms: Unix milliseconds, for the names of sessions; what it is wrong by is learnt from the gateway.
    Raises InvalidName for the principal, ConfigurationInvalid without an address, what the cluster says (Unauthenticated), or
    Unavailable.
    """

    def __init__(
        self,
        *addresses: str,
        principal: str,
        settings: Settings | None = None,
        open_timeout_ms: int = 5_000,
        call_timeout_ms: int = 10_000,
        refusals: Iterable[type[Exception]] = (),
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        Principal.parse(principal)
        if not addresses:
            raise ConfigurationInvalid("a client needs the address of at least one gateway")
        self._addresses: Sequence[str] = addresses
        self._principal = principal
        self._settings = settings or Settings()
        self._open_timeout_ms = open_timeout_ms
        self._call_timeout_ms = call_timeout_ms
        self._refusals = {author.__name__: author for author in refusals}
        self._clock_ms = clock_ms or _unix_time_ms
        self._connection: Connection | None = None

    async def __aenter__(self) -> Client:
        self._connection = Connection(self._addresses, self._principal, self._settings, self._open_timeout_ms, self._clock_ms)
        await self._connection.start()
        return Client(self._connection, self._call_timeout_ms, self._refusals)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.stop()
