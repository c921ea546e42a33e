"""The bidirectional session: one stream, many operations a frame, bounded on both sides."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from cluster.errors import ConfigurationInvalid
from cluster.gateway import Limits
from cluster.session.identity import new_identity
from cluster.session.operations import Delta, Kind, Operation
from cluster.v1 import documents_pb2 as wire
from tests.gateway.echo_backend import EchoBackend, EchoStream
from tests.gateway.serving import (
    EOF,
    NOW_MS,
    OTHER_SESSION,
    SESSION,
    ask,
    ending_of,
    eventually,
    operation,
    serving,
)

CREATE = wire.Create()
READ = wire.Read()
WATCH = wire.Watch()


def echo(identifier: int, sequence: int, payload: bytes = b"1", **more: Any) -> wire.Operation:
    return operation(identifier, "a", sequence, send=("echo", payload), **more)


async def test_a_frame_of_operations_is_one_submit_and_its_replies_one_frame() -> None:
    """Performance rule: pay per batch. A hundred operations are one call of the backend and one frame back."""
    async with serving() as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        await call.write(wire.SessionRequest(operations=[echo(n, n) for n in range(2, 102)]))
        frame = await call.read()
        assert [event.reply.id for event in frame.events] == list(range(2, 102))
        assert [event.reply.position.index for event in frame.events] == list(range(2, 102))
        assert list(caller.backend.batches) == [1, 100]


async def test_every_kind_of_operation_runs_over_a_session() -> None:
    async with serving() as caller:
        call = await caller.session()
        replies = await ask(
            call,
            [
                operation(1, "a", 1, create=CREATE),
                echo(2, 2, b'{"n":1}'),
                operation(3, "a", read=READ),
                operation(4, "a", 3, delete=wire.Delete()),
                operation(5, "a", read=READ),
            ],
        )
    assert replies[2].payload == b'{"n":1}'
    assert replies[3].payload == b'{"count":1,"last":{"n":1}}'
    assert replies[4].position.index == 3
    assert replies[5].error.reason == "UNKNOWN_DOCUMENT"
    assert replies[5].error.code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_operations_may_come_in_the_frame_that_opens() -> None:
    async with serving() as caller:
        call = caller.stream()
        frame = wire.SessionRequest(open=wire.Open(session=SESSION), operations=[operation(1, "a", 1, create=CREATE)])
        await call.write(frame)
        assert (await call.read()).HasField("opened")
        assert (await call.read()).events[0].reply.position.epoch == 1


async def test_a_repeated_sequence_is_answered_with_its_first_answer_also_on_another_stream() -> None:
    async with serving() as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE), echo(2, 2, b"7")])
        call.cancel()
        again = await caller.session()
        replies = await ask(again, [echo(9, 2, b"7")])
        assert (replies[9].position.index, replies[9].payload) == (2, b"7")
        assert caller.backend.documents["text", "a"].count == 1


async def test_a_gap_names_the_expected_sequence() -> None:
    async with serving() as caller:
        call = await caller.session()
        replies = await ask(call, [operation(1, "a", 1, create=CREATE), echo(2, 5)])
    assert replies[2].error.reason == "SEQUENCE_GAP"
    assert replies[2].error.retryable
    assert replies[2].error.applied == wire.APPLIED_NO
    assert dict(replies[2].error.details) == {"expected": "2"}


async def test_a_later_open_moves_what_follows_to_another_session() -> None:
    async with serving() as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        await call.write(wire.SessionRequest(open=wire.Open(session=OTHER_SESSION), operations=[echo(2, 1)]))
        assert (await call.read()).events[0].reply.position.index == 2
        assert len(caller.backend.documents["text", "a"].sessions) == 2


BAD_OPENS = [
    wire.SessionRequest(),
    wire.SessionRequest(operations=[operation(1, "a", 1, create=CREATE)]),
    wire.SessionRequest(open=wire.Open()),
    wire.SessionRequest(open=wire.Open(session=b"short")),
    wire.SessionRequest(open=wire.Open(session=b"\xff" * 16)),
    wire.SessionRequest(open=wire.Open(session=SESSION[:6] + bytes(10))),
    wire.SessionRequest(open=wire.Open(session=new_identity(NOW_MS + 5_001, b"0123456789"))),
    wire.SessionRequest(open=wire.Open(session=SESSION, client_name="x" * 129)),
]


@pytest.mark.parametrize("first", BAD_OPENS, ids=range(len(BAD_OPENS)))
async def test_a_stream_that_does_not_begin_with_a_proper_open_is_refused(first: wire.SessionRequest) -> None:
    async with serving() as caller:
        call = caller.stream()
        await call.write(first)
        code, info = await ending_of(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert info.metadata["applied"] == "no"
        assert caller.backend.submitted == 0


async def test_a_session_from_the_future_is_told_by_how_much() -> None:
    """A document that forgets such a session would refuse everybody's younger ones until that time."""
    async with serving() as caller:
        call = caller.stream()
        await call.write(wire.SessionRequest(open=wire.Open(session=new_identity(NOW_MS + 90_000, b"0123456789"))))
        _, info = await ending_of(call)
    assert info.metadata["ahead_ms"] == "90000"


async def test_a_stream_that_never_opens_is_ended() -> None:
    """Slow-loris: a stream costs something only once it has said who it is."""
    async with serving(limits=Limits(open_timeout_ms=50)) as caller:
        code, _ = await ending_of(caller.stream())
    assert code is grpc.StatusCode.INVALID_ARGUMENT


GARBAGE = [b"\xff\xff", b"\x12\x05abc", b"\x12\x08\x08\x01\x12\x04\x0a\x02\xff\xfe"]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
async def test_a_frame_that_is_no_message_ends_the_stream_with_a_reason(data: bytes) -> None:
    async with serving() as caller:
        call = await caller.session()
        await call.write(data)
        code, info = await ending_of(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "INVALID_REQUEST"


REFUSED = [
    (wire.Operation(id=5), "INVALID_REQUEST"),
    (operation(5, "a"), "INVALID_REQUEST"),
    (operation(0, "a", read=READ), "INVALID_REQUEST"),
    (operation(2**53, "a", read=READ), "INVALID_REQUEST"),
    (operation(5, "", read=READ), "INVALID_NAME"),
    (operation(5, "a\x7f", read=READ), "INVALID_NAME"),
    (operation(5, "a", space="No", read=READ), "INVALID_NAME"),
    (operation(5, "a", watch=WATCH, space="No"), "INVALID_NAME"),
    (operation(5, "a", 1, send=("", b"")), "INVALID_NAME"),
    (operation(5, "a", 1, send=("echo", b"x" * 1001)), "TOO_LARGE"),
    (operation(5, "a", 0, send=("echo", b"")), "INVALID_REQUEST"),
    (operation(5, "a", 2**53, send=("echo", b"")), "INVALID_REQUEST"),
    (operation(5, "a", 3, send=("echo", b""), acked_through=3), "INVALID_REQUEST"),
    (operation(5, "a", read=wire.Read(consistency=99)), "INVALID_REQUEST"),  # type: ignore[arg-type]
    (operation(5, "a", read=wire.Read(consistency=wire.CONSISTENCY_AT_LEAST)), "INVALID_REQUEST"),
    (operation(5, "a", watch=wire.Watch(resume_after=wire.Position(epoch=2**53))), "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("bad", "reason"), REFUSED, ids=range(len(REFUSED)))
async def test_a_bad_operation_is_refused_alone_and_nothing_of_it_happens(bad: wire.Operation, reason: str) -> None:
    async with serving(limits=Limits(payload_bytes_max=1000)) as caller:
        call = await caller.session()
        replies = await ask(call, [operation(1, "a", 1, create=CREATE), bad, operation(9, "a", read=READ)])
        error = replies[bad.id].error
        assert (error.reason, error.applied, error.retryable) == (reason, wire.APPLIED_NO, False)
        assert replies[9].position.index == 1
        assert caller.backend.submitted == 2


async def test_an_id_in_use_ends_the_stream() -> None:
    """A refusal under that id would pass for the other operation's reply."""
    async with serving() as caller:
        caller.backend.mute = True
        call = await caller.session()
        await call.write(wire.SessionRequest(operations=[operation(1, "a", read=READ), operation(1, "b", read=READ)]))
        code, info = await ending_of(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "INVALID_REQUEST"


async def test_a_frame_with_too_many_operations_is_refused_operation_by_operation() -> None:
    async with serving(limits=Limits(operations_max=3)) as caller:
        call = await caller.session()
        replies = await ask(call, [operation(n, "a", n, create=CREATE) for n in range(1, 5)])
        assert {reply.error.reason for reply in replies.values()} == {"TOO_LARGE"}
        assert caller.backend.submitted == 0
        assert (await ask(call, [operation(9, "a", 1, create=CREATE)]))[9].position.index == 1


async def test_operations_beyond_the_open_bound_are_refused_until_replies_have_left() -> None:
    async with serving(limits=Limits(open_operations_max=10)) as caller:
        call = await caller.session()
        caller.backend.mute = True
        await call.write(wire.SessionRequest(operations=[operation(n, "a", read=READ) for n in range(1, 11)]))
        await eventually(lambda: caller.backend.submitted == 10)
        error = (await ask(call, [operation(11, "a", read=READ)]))[11].error
        assert (error.reason, error.retryable, error.details["limit"]) == ("OVERLOADED", True, "open_operations_max")
        assert error.retry_after_ms > 0
        assert caller.backend.submitted == 10


async def test_a_slot_is_free_again_when_its_reply_has_left() -> None:
    async with serving(limits=Limits(open_operations_max=10)) as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        for round_ in range(5):
            replies = await ask(call, [operation(100 * round_ + n, "a", read=READ) for n in range(1, 11)])
            assert not any(reply.HasField("error") for reply in replies.values())


async def test_watches_beyond_their_bound_are_refused() -> None:
    async with serving(limits=Limits(watches_max=2)) as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        replies = await ask(call, [operation(n, "a", watch=WATCH) for n in (2, 3, 4)])
        assert replies[4].error.details["limit"] == "watches_max"
        await ask(call, [operation(2, unwatch=wire.Unwatch())])
        assert not (await ask(call, [operation(5, "a", watch=WATCH)]))[5].HasField("error")


async def test_the_delta_of_a_position_is_not_after_the_reply_at_it() -> None:
    async with serving() as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        await call.write(wire.SessionRequest(operations=[operation(2, "a", watch=WATCH), echo(3, 2), echo(4, 3)]))
        seen: list[tuple[str, int]] = []
        while len(seen) < 6:
            for event in (await call.read()).events:
                item = event.delta if event.WhichOneof("event") == "delta" else event.reply
                seen.append((event.WhichOneof("event") or "", item.position.index))
        assert seen == [("reply", 1), ("delta", 1), ("delta", 2), ("reply", 2), ("delta", 3), ("reply", 3)]


async def test_no_delta_follows_the_reply_to_an_unwatch() -> None:
    async with serving() as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        await ask(call, [operation(2, "a", watch=WATCH)])
        await ask(call, [operation(2, unwatch=wire.Unwatch())])
        await call.write(wire.SessionRequest(operations=[echo(3, 2)]))
        frame = await call.read()
        assert [event.WhichOneof("event") for event in frame.events] == ["reply"]
        assert not caller.backend.documents["text", "a"].watchers


async def test_an_unwatch_of_a_watch_that_has_just_ended_is_answered() -> None:
    async with serving() as caller:
        call = await caller.session()
        replies = await ask(call, [operation(77, unwatch=wire.Unwatch())])
    assert not replies[77].HasField("error")


async def test_a_watch_without_credit_is_sent_nothing_until_it_is_granted_some() -> None:
    async with serving() as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        await ask(call, [operation(2, "a", watch=wire.Watch(credit_bytes=1))])
        await ask(call, [echo(n, n - 1) for n in range(3, 20)])
        replies = await ask(call, [operation(99, "a", read=READ)])
        assert replies[99].position.index == 18
        await call.write(wire.SessionRequest(operations=[operation(2, grant=wire.Grant(credit_bytes=100_000))]))
        frame = await call.read()
        assert frame.events[-1].delta.position.index == 18


async def test_credit_beyond_the_bound_does_not_count() -> None:
    async with serving(limits=Limits(watch_credit_bytes=1000, watch_credit_bytes_max=1000)) as caller:
        granted: list[int] = []
        opened = caller.backend.open

        def open_and_listen(deliver: object) -> EchoStream:
            stream = opened(deliver)  # type: ignore[arg-type]
            stream.grant = lambda watch, credit_bytes: granted.append(credit_bytes)  # type: ignore[method-assign]
            return stream

        caller.backend.open = open_and_listen  # type: ignore[method-assign]
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        await ask(call, [operation(2, "a", watch=wire.Watch(credit_bytes=10**9))])
        for _ in range(3):
            await call.write(wire.SessionRequest(operations=[operation(2, grant=wire.Grant(credit_bytes=10**9))]))
        await ask(call, [operation(3, "a", read=READ)])
        (watcher,) = caller.backend.documents["text", "a"].watchers.values()
        assert watcher.credit < 1000
        assert sum(granted) <= 1000


async def test_a_slow_reader_is_ended_with_a_reason_and_its_memory_freed() -> None:
    """Invariant 9: beyond the bound the caller gets a typed, retryable refusal; nothing is dropped silently."""
    limits = Limits(outgoing_bytes_pause=100_000, outgoing_bytes_max=1_000_000)
    async with serving(limits=limits) as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        (stream,) = filter(_is_session, caller.backend.streams)
        sent = 0
        while caller.backend.streams and not stream.closed and sent < 2000:
            stream.deliver([Delta(2, 1, 1, 1, 1, True, b"x" * 100_000)])
            sent += 1
            await asyncio.sleep(0)
        await eventually(lambda: stream.closed)
        code, info = await ending_of(call)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (info.reason, info.metadata["limit"], info.metadata["retryable"]) == ("OVERLOADED", "outgoing_bytes_max", "true")
    assert sent < 2000


async def test_a_client_that_stops_reading_is_ended_after_a_time() -> None:
    limits = Limits(write_timeout_ms=1_000, outgoing_bytes_pause=50_000_000, outgoing_bytes_max=500_000_000)
    async with serving(limits=limits) as caller:
        call = await caller.session()
        (stream,) = filter(_is_session, caller.backend.streams)
        for _ in range(200):
            stream.deliver([Delta(2, 1, 1, 1, 1, True, b"x" * 500_000)])
        await eventually(lambda: stream.closed)
        code, info = await ending_of(call)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info.metadata["limit"] == "write_timeout_ms"


def _is_session(stream: EchoStream) -> bool:
    return type(getattr(stream.deliver, "__self__", None)).__name__ == "Session"


async def test_a_stream_with_much_to_write_is_not_read() -> None:
    """Backpressure: who does not take replies can not send more work either."""
    limits = Limits(outgoing_bytes_pause=100_000, outgoing_bytes_max=100_000_000)
    async with serving(limits=limits) as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE), echo(2, 2, b'"' + b"x" * 500_000 + b'"')])
        reads = [operation(n, "a", read=READ) for n in range(10, 110)]
        await call.write(wire.SessionRequest(operations=reads))
        await eventually(lambda: caller.backend.submitted == 102)
        writing = asyncio.ensure_future(call.write(wire.SessionRequest(operations=[operation(999, "a", read=READ)])))
        # the frame is in the gateway's hands long before this; it must not have been taken.
        await asyncio.sleep(0.1)
        assert caller.backend.submitted == 102
        seen = 0
        while seen < 101:
            seen += len((await asyncio.wait_for(call.read(), 10)).events)
        await writing
        assert caller.backend.submitted == 103


async def test_a_client_that_has_said_all_gets_its_replies_and_a_clean_end() -> None:
    async with serving() as caller:
        call = await caller.session()
        await call.write(wire.SessionRequest(operations=[operation(1, "a", 1, create=CREATE), echo(2, 2)]))
        await call.done_writing()
        assert len((await call.read()).events) == 2
        assert await call.read() is EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_client_that_goes_leaves_nothing_behind() -> None:
    async with serving() as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE), operation(2, "a", watch=WATCH)])
        assert caller.backend.documents["text", "a"].watchers
        call.cancel()
        await eventually(lambda: not caller.backend.documents["text", "a"].watchers)
        await eventually(lambda: not any(_is_session(stream) for stream in caller.backend.streams))


async def test_stopping_sends_the_clients_of_all_sessions_elsewhere() -> None:
    async with serving() as caller:
        call = await caller.session()
        await ask(call, [operation(1, "a", 1, create=CREATE)])
        stopping = asyncio.ensure_future(caller.gateway.stop(grace_ms=1000))
        frame = await call.read()
        assert frame.goaway.reason == "STOPPING"
        assert await call.read() is EOF
        await stopping


async def test_operations_reach_the_backend_as_they_were_asked() -> None:
    async with serving() as caller:
        seen = caller.backend.seen
        call = await caller.session()
        position = wire.Position(epoch=3, index=4)
        await ask(
            call,
            [
                operation(1, "a", 1, create=wire.Create(payload=b'{"x":1}')),
                echo(2, 2, b"9", acked_through=1),
                operation(3, "a", read=wire.Read(consistency=wire.CONSISTENCY_ANY, at_least=position)),
                operation(4, "b", watch=wire.Watch(resume_after=position, credit_bytes=500)),
            ],
        )
    session = seen[0].session
    assert len(session) == 16
    alice = "alice@acme"
    assert list(seen) == [
        Operation(1, Kind.CREATE, "text", "a", alice, "", b'{"x":1}', session, 1, 0),
        Operation(2, Kind.SEND, "text", "a", alice, "echo", b"9", session, 2, 1),
        Operation(3, Kind.READ, "text", "a", alice, consistency=1, epoch=3, index=4),
        Operation(4, Kind.WATCH, "text", "b", alice, epoch=3, index=4, credit=500),
    ]


@pytest.mark.parametrize("change", [{"operations_max": 0}, {"payload_bytes_max": 5_000_000}, {"outgoing_bytes_pause": 10**9}])
def test_limits_that_contradict_each_other_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigurationInvalid):
        Limits(**change)


def test_the_echo_backend_is_a_backend() -> None:
    assert EchoBackend().ready
