"""The chat room: members see what was said, everybody else sees a title and a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.ids import Principal


def said(view: dict[str, object]) -> list[str]:
    messages = view["messages"]
    assert isinstance(messages, dict)
    return [message["text"] for message in messages.values()]


def test_members_see_messages_and_others_do_not(deploy: Callable[..., Any]) -> None:
    room = deploy("chat", title="lobby", members=["bob@acme"])
    room.watch("alice", "bob", "mallory")
    room.answer("say", "alice", text="hello")
    room.answer("say", "bob", text="hi")
    assert said(room.view("bob")) == ["hello", "hi"]
    assert room.view("mallory") == {"title": "lobby", "owner": "alice@acme", "people": 2}


def test_the_patch_for_an_outsider_tells_nothing_of_a_message(deploy: Callable[..., Any]) -> None:
    """A hidden change sends nothing: neither text, nor length, nor row names."""
    room = deploy("chat", title="lobby")
    outsider = room.instance.projection(Principal("mallory", "acme"))
    outcome = room.run("say", "alice", text="secret")
    assert outsider.advance([outcome.changes]) == b"[]"


def test_losing_membership_removes_what_was_seen(deploy: Callable[..., Any]) -> None:
    room = deploy("chat", title="lobby")
    room.watch("alice", "bob")
    room.answer("invite", "alice", who="bob@acme")
    room.answer("say", "bob", text="hi")
    assert said(room.view("bob")) == ["hi"]
    room.answer("expel", "alice", who="bob@acme")
    assert "messages" not in room.view("bob")
    assert room.refusal("say", "bob", text="still here?") == "NotAMember"


def test_only_the_owner_expels(deploy: Callable[..., Any]) -> None:
    room = deploy("chat", title="lobby", members=["bob@acme"])
    assert room.refusal("expel", "bob", who="alice@acme") == "NotTheOwner"
    assert room.refusal("invite", "mallory", who="mallory@acme") == "NotAMember"


def test_the_oldest_messages_make_room(deploy: Callable[..., Any]) -> None:
    room = deploy("chat", title="lobby")
    for number in range(1_003):
        room.answer("say", "alice", text=str(number))
    texts = said(room.view("alice"))
    assert (len(texts), texts[0], texts[-1]) == (1_000, "3", "1002")


def test_viewers_of_a_room_are_classed_by_who_they_are(deploy: Callable[..., Any]) -> None:
    room = deploy("chat", title="lobby")
    assert room.instance.visibility_class(Principal("alice", "acme")) != room.instance.visibility_class(
        Principal("bob", "acme")
    )
    counter = deploy("counter")
    assert counter.instance.visibility_class(Principal("alice", "acme")) == counter.instance.visibility_class(
        Principal("bob", "acme")
    )
