"""Events that pass by, from a shard's delta over the public protocol to an application."""

from __future__ import annotations

from cluster.client.wire import decode_events
from cluster.gateway.codec import encode_event, watch_response
from cluster.ids import Position
from cluster.session.events import events_of
from cluster.session.operations import Delta, Emitted
from cluster.v1 import documents_pb2 as wire

EVENTS = [Emitted("Rolled", b'{"face":4}', 1, 2), Emitted("Bell", b"{}", 1, 3)]


def test_events_cross_a_session_as_they_were_emitted() -> None:
    for reset in (False, True):
        sent = Delta(7, 1, 1, 1, 3, reset, b"{}" if reset else b"[]", emitted=EVENTS)
        response = wire.SessionResponse()
        encode_event(response, sent)
        (received,) = decode_events(wire.SessionResponse.FromString(response.SerializeToString()))
        assert isinstance(received, Delta)
        assert received.emitted == EVENTS
        assert received.credit_bytes == sent.credit_bytes
        assert [(event.name, event.value, event.position) for event in events_of(received)] == [
            ("Rolled", {"face": 4}, Position(1, 2)),
            ("Bell", {}, Position(1, 3)),
        ]


def test_a_unary_watch_has_them_too_and_a_delta_without_any_says_nothing() -> None:
    response = watch_response(Delta(1, 1, 1, 1, 3, emitted=EVENTS))
    assert [(event.name, event.position.index) for event in response.events] == [("Rolled", 2), ("Bell", 3)]
    assert not watch_response(Delta(1, 1, 1, 1, 3)).events
