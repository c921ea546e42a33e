"""Keeps one session with a cluster alive: over one stream at a time, to one address after another.

The protocol is decided by `cluster.session.client.ClientSession`; this module is its socket and its clock. Operations issued in
one turn of the event loop leave in one frame, and while a frame is being written the next one gathers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from grpc import aio

from cluster.client.failures import NO_REFUSALS, error_of_rpc
from cluster.client.watch import Watch
from cluster.client.wire import decode_events, decode_limits, encode_frame
from cluster.errors import ClusterError, OutcomeUnknown, Unavailable
from cluster.session.client import ClientSession
from cluster.session.client_events import (
    Answered,
    ArgumentsRefused,
    Asked,
    Changed,
    Connected,
    Consumed,
    Disconnected,
    Effects,
    Event,
    Frame,
    Intent,
    Presented,
    Received,
    Settings,
    Submitted,
    TimeReached,
    Unwatched,
    Watched,
)
from cluster.session.failures import failure_of
from cluster.session.identity import RANDOM_BYTES, new_identity
from cluster.session.operations import Reply
from cluster.v1 import documents_pb2 as wire

logger = logging.getLogger(__name__)

SESSION_METHOD: Final = "/cluster.v1.DocumentService/Session"
CLIENT_NAME: Final = "moot-python"
BACKOFF_MIN_MS: Final = 20
BACKOFF_MAX_MS: Final = 1000
STABLE_MS: Final = 1000
"""A stream that lasted this long was a good one: what follows its end is not another failure of the same round."""
RESPONSE_BYTES_MAX: Final = 64 * 1024 * 1024
KEEPALIVE_INTERVAL_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", RESPONSE_BYTES_MAX),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # a channel of its own per attempt: gRPC's shared backoff after a refused connection would outlast a failover.
    ("grpc.use_local_subchannel_pool", 1),
)


class Connection:
    """One client's session. `start` returns when the first stream is open; `stop` ends everything."""

    def __init__(
        self, addresses: Sequence[str], principal: str, settings: Settings, open_timeout_ms: int, clock_ms: Callable[[], int]
    ) -> None:
        assert addresses, "an address is needed"
        self._addresses = list(addresses)
        self._metadata = (("moot-principal", principal),)
        self._open_timeout_ms = open_timeout_ms
        self._random = random.Random()
        self._clock_ms = clock_ms
        self._clock_offset_ms = 0
        self._machine = ClientSession(self._make_session, self._random.random, settings)
        self._loop = asyncio.get_running_loop()
        self._intents: list[Intent] = []
        self._futures: dict[int, asyncio.Future[Reply]] = {}
        self._last_ticket = 0
        self._watches: dict[int, Watch] = {}
        self._frames: list[Frame] = []
        self._writing = False
        self._wanted = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._channel: aio.Channel | None = None
        self._call: aio.StreamStreamCall[Any, Any] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self.address = ""

    async def start(self) -> None:
        """Open the first stream. Raises what the cluster said, or Unavailable when no address answers in time."""
        self._serving = asyncio.ensure_future(self._serve())
        try:
            async with asyncio.timeout(self._open_timeout_ms / 1000):
                await asyncio.shield(self._opened)
        except TimeoutError:
            await self.stop()
            raise Unavailable(f"none of {', '.join(self._addresses)} answered in {self._open_timeout_ms} ms") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the session; operations without an answer are answered OUTCOME_UNKNOWN, watches end."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
            self._serving = None
        if self._timer is not None:
            self._timer.cancel()
        if not self._opened.done():
            self._opened.cancel()
        for future in self._futures.values():
            if not future.done():
                future.set_result(Reply(0, failure=failure_of(OutcomeUnknown("the client was closed before the answer came"))))
        self._futures.clear()
        for watch in list(self._watches.values()):
            watch.close()

    def submit(self, intent: Intent) -> asyncio.Future[Reply]:
        """Issue an operation; it leaves at the end of this turn of the event loop, with all others of the turn."""
        self._last_ticket += 1
        intent.ticket = self._last_ticket
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._futures[intent.ticket] = future
        if not self._intents:
            self._loop.call_soon(self._gathered)
        self._intents.append(intent)
        return future

    def watch(
        self,
        space: str,
        key: str,
        epoch: int,
        index: int,
        arguments: bytes = b"",
        refusals: Mapping[str, type[Exception]] = NO_REFUSALS,
    ) -> Watch:
        """Follow a document. refusals: see `failures.error_of`."""
        self._last_ticket += 1
        name = self._last_ticket

        def close() -> None:
            if self._watches.pop(name, None) is not None:
                self._step(Unwatched(name))

        def consumed(size: int) -> None:
            if name in self._watches:
                self._step(Consumed(name, size))

        def asked(wanted: bytes, version: int) -> None:
            if name in self._watches:
                self._step(Asked(name, wanted, version))

        def presented(value: bytes) -> None:
            if name in self._watches:
                self._step(Presented(name, value))

        watch = self._watches[name] = Watch(close, consumed, asked, presented, refusals)
        self._step(Watched(name, space, key, epoch, index, arguments))
        return watch

    def channel(self) -> aio.Channel | None:
        """The channel of the open stream, for calls beside it; None while there is none."""
        return self._channel

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What says who calls."""
        return self._metadata

    def _make_session(self) -> bytes:
        return new_identity(max(0, self._clock_ms() + self._clock_offset_ms), os.urandom(RANDOM_BYTES))

    # the machine

    def _gathered(self) -> None:
        if not self._writing and self._intents:
            intents, self._intents = self._intents, []
            self._step(Submitted(intents))

    def _step(self, event: Event) -> Effects:
        machine = self._machine
        effects = machine.step(event, self._loop.time() * 1000)
        if effects.happened:
            futures = self._futures
            for happened in effects.happened:
                if isinstance(happened, Answered):
                    future = futures.pop(happened.ticket)
                    if not future.done():
                        future.set_result(happened.reply)
                elif isinstance(happened, Changed):
                    self._watches[happened.watch].put(happened.delta)
                elif isinstance(happened, ArgumentsRefused):
                    self._watches[happened.watch].refuse(happened.version, happened.failure)
                else:
                    self._watches.pop(happened.watch).end(happened.failure)
        if effects.frames:
            self._frames += effects.frames
            self._wanted.set()
        if effects.disconnect and self._call is not None:
            self._call.cancel()
        wake_at_ms = machine.wake_at_ms
        if wake_at_ms is not None and (self._timer is None or wake_at_ms < self._timer.when() * 1000):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(wake_at_ms / 1000, self._on_timer)
        return effects

    def _on_timer(self) -> None:
        self._timer = None
        self._step(TimeReached())

    # the stream

    async def _serve(self) -> None:
        """One stream after another: one that had lasted is replaced at the next address at once, a round of failures waits."""
        failures = 0
        while True:
            address = self._addresses[0]
            self._addresses.append(self._addresses.pop(0))
            began = self._loop.time()
            error = await self._converse(address)
            failures = 0 if (self._loop.time() - began) * 1000 >= STABLE_MS else failures + 1
            if not self._opened.done() and not error.retryable and failures >= len(self._addresses):
                self._opened.set_exception(error)
                return
            logger.info("the session's stream to %s ended: %s", address, error.message)
            rounds = failures // len(self._addresses)
            if rounds:
                backoff_ms = min(BACKOFF_MIN_MS << min(rounds - 1, 10), BACKOFF_MAX_MS) * (0.5 + self._random.random())
                await asyncio.sleep(backoff_ms / 1000)

    async def _converse(self, address: str) -> ClusterError:
        """One stream from its opening to its end; says why it ended."""
        channel = aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        call: aio.StreamStreamCall[Any, Any] = channel.stream_stream(
            SESSION_METHOD,
            request_serializer=wire.SessionRequest.SerializeToString,
            response_deserializer=wire.SessionResponse.FromString,
        )(None, metadata=self._metadata)
        writer: asyncio.Task[None] | None = None
        try:
            hello = wire.SessionRequest()
            hello.open.session = self._machine.session
            hello.open.client_name = CLIENT_NAME
            async with asyncio.timeout(self._open_timeout_ms / 1000):
                await call.write(hello)
                first = await call.read()
            if not isinstance(first, wire.SessionResponse) or not first.HasField("opened"):
                return Unavailable(f"{address} did not open the session")
            self._channel, self._call, self.address = channel, call, address
            self._frames = []
            if first.opened.time_ms:
                self._clock_offset_ms = first.opened.time_ms - self._clock_ms()
            self._step(Connected(decode_limits(first.opened)))
            if not self._opened.done():
                self._opened.set_result(None)
            writer = asyncio.ensure_future(self._write(call))
            return await self._read(call, address)
        except TimeoutError:
            return Unavailable(f"{address} did not answer in {self._open_timeout_ms} ms")
        except aio.AioRpcError as error:
            return self._refused(error_of_rpc(error))
        except asyncio.CancelledError:
            # raised for our own cancellation and for a call that was cancelled under a read: tell them apart.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Unavailable("the stream was given up")
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            if self._call is call:
                self._channel = self._call = None
                self.address = ""
                self._step(Disconnected())
            call.cancel()
            await channel.close(None)

    def _refused(self, error: ClusterError) -> ClusterError:
        """Why a stream failed; a clock that is ahead is set right, which makes the refusal a passing one."""
        ahead_ms = error.details.get("ahead_ms", "")
        if not ahead_ms.isdecimal() or self._opened.done():
            return error
        self._clock_offset_ms -= int(ahead_ms)
        self._machine.renew_session()
        return Unavailable("this machine's clock is ahead of the cluster's and is corrected for")

    async def _read(self, call: aio.StreamStreamCall[Any, Any], address: str) -> ClusterError:
        while True:
            response = await call.read()
            if not isinstance(response, wire.SessionResponse):
                break
            self._step(Received(decode_events(response)))
            if response.HasField("goaway"):
                return Unavailable(f"{address} is leaving: {response.goaway.reason}")
        code = await call.code()
        return Unavailable(f"the stream ended: {code.name} {await call.details()}")

    async def _write(self, call: aio.StreamStreamCall[Any, Any]) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._writing = True
            try:
                while self._frames or self._intents:
                    if self._intents:
                        intents, self._intents = self._intents, []
                        self._step(Submitted(intents))
                    frames, self._frames = self._frames, []
                    for frame in frames:
                        await call.write(encode_frame(frame))
            finally:
                self._writing = False
                self._gathered()
