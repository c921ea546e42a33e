"""The assistant, as its own users would use it: somebody who talks, and workers who die or take too long."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster.documents.runtime import ALARM_CHANNEL, ANSWER_CHANNEL, Code, Invocation, Outcome
from cluster.ids import Principal

NOON_MS = 1_700_000_000_000
BOT = "bot@acme"


@pytest.fixture
def talk(deploy: Callable[..., Any]) -> Any:
    return deploy("assistant", creator="alice", assistant=BOT)


def fire(talk: Any, channel: str, payload: dict[str, Any], who: str, after: timedelta = timedelta()) -> Outcome:
    sender = Principal.parse(who)
    now_ms = NOON_MS + after // timedelta(milliseconds=1) + (talk.index + 1) * 1000
    encoded = json.dumps(payload).encode()
    talk.instance.expect(channel, encoded, sender, now_ms)
    talk.index += 1
    outcome: Outcome = talk.instance.fire(
        Invocation(channel, encoded, sender, now_ms, talk.index.to_bytes(32, "big"), talk.index)
    )
    return outcome


def lines(talk: Any) -> list[tuple[str, bool]]:
    return [(turn["text"], turn["done"]) for turn in talk.view("alice")["turns"]]


def test_the_reply_grows_piece_by_piece_and_the_answer_completes_it(talk: Any) -> None:
    ask = talk.answer("say", "alice", text="hello")
    assert talk.instance.asked == (BOT,)
    for at, piece in ((0, "Good "), (5, "day")):
        talk.answer("stream", "bot", reply=1, at=at, text=piece)
    assert lines(talk) == [("hello", True), ("Good day", False)]
    assert fire(talk, ANSWER_CHANNEL, {"ask": ask, "value": "Good day."}, BOT).code is Code.OK
    assert lines(talk) == [("hello", True), ("Good day.", True)]
    assert talk.view("alice")["ask"] == ""


def test_a_worker_that_takes_over_writes_over_what_the_dead_one_left(talk: Any) -> None:
    talk.answer("say", "alice", text="hello")
    talk.answer("stream", "bot", reply=1, at=0, text="I was abou")
    talk.answer("stream", "bot", reply=1, at=0, text="Good")
    assert lines(talk)[-1] == ("Good", False)


def test_nobody_is_waited_for_longer_than_five_minutes(talk: Any) -> None:
    ask = talk.answer("say", "alice", text="hello")
    assert fire(talk, ANSWER_CHANNEL, {"ask": ask}, "system:time@moot", timedelta(minutes=5)).code is Code.OK
    assert lines(talk)[-1] == ("(The assistant did not answer in time.)", True)
    assert talk.run("stream", "bot", reply=1, at=0, text="sorry").code is Code.REFUSED


def test_one_question_at_a_time_and_whoever_has_heard_enough_stops_it(talk: Any) -> None:
    talk.answer("say", "alice", text="hello")
    assert talk.run("say", "alice", text="and?").code is Code.REFUSED
    talk.answer("stream", "bot", reply=1, at=0, text="Well")
    talk.answer("stop", "alice")
    assert (talk.instance.asked, lines(talk)[-1]) == ((), ("Well", True))
    talk.answer("say", "alice", text="and?")
    assert talk.run("stream", "bot", reply=1, at=0, text="late").code is Code.REFUSED


def test_only_the_two_of_them_are_let_in(talk: Any) -> None:
    assert talk.run("say", "eve", text="hello").code is Code.DENIED
    assert talk.run("stream", "alice", reply=1, at=0, text="x").code is Code.REFUSED


def test_a_month_after_the_last_word_everything_is_forgotten(talk: Any) -> None:
    talk.answer("say", "alice", text="hello")
    assert talk.instance.due_ms is not None
    assert datetime.fromtimestamp(max(alarm.due for alarm in talk.instance._armed._alarms.values()) / 1000, UTC).day == 14
    talk.answer("stop", "alice")
    assert fire(talk, ALARM_CHANNEL, {"alarm": "forget"}, "system:time@moot", timedelta(days=31)).code is Code.OK
    assert lines(talk) == []
