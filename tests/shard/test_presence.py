"""What connections show each other: whatever revision a viewer holds, its patch leads to what is shown now."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.documents.state import apply_patch
from cluster.errors import Overloaded
from cluster.ids import NodeId, Principal
from cluster.shard.presence import GONE_MAX, PRESENT_MAX, Shown, connection_name, joined, with_member

NAMES = ["alice@acme#1", "bob~/x@acme#2", "carol@acme#3"]
STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([None, 1, 2])), max_size=30)


def apply(view: Any, patch: bytes) -> Any:
    return apply_patch(view, msgspec.json.decode(patch))


@given(STEPS)
@settings(max_examples=200)
def test_the_patch_from_any_revision_leads_to_what_is_shown_now(steps: list[tuple[str, int | None]]) -> None:
    shown = Shown("cursors")
    model: dict[str, Any] = {}
    held: list[tuple[int, Any]] = [(shown.revision, {"cursors": {}})]
    for connection, value in steps:
        if value is None:
            shown.remove(connection)
            model.pop(connection, None)
        else:
            shown.set(connection, b'{"at":%d}' % value)
            model[connection] = {"at": value}
        assert msgspec.json.decode(shown.whole()) == model
        for revision, view in held:
            assert apply(view, shown.since(revision)) == {"cursors": model}
        held.append((shown.revision, {"cursors": dict(model)}))


@given(STEPS, st.data())
@settings(max_examples=100)
def test_a_patch_fits_also_who_missed_the_one_before_it(steps: list[tuple[str, int | None]], data: st.DataObject) -> None:
    """A frame between nodes may be dropped where too much waits: a patch that does not fit would end the viewer's watch."""
    shown = Shown("cursors")
    view: Any = {"cursors": {}}
    for connection, value in steps:
        before = shown.revision
        if value is None:
            shown.remove(connection)
        else:
            shown.set(connection, b'{"at":%d}' % value)
        if data.draw(st.booleans()):
            view = apply(view, shown.since(before))
    assert apply(view, shown.replacement(shown.whole())) == {"cursors": msgspec.json.decode(shown.whole())}


def test_who_is_too_far_behind_is_sent_all_of_it() -> None:
    shown = Shown("cursors")
    shown.set("last", b"{}")
    view: Any = {"cursors": {"last": {}}}
    behind = shown.revision
    for number in range(GONE_MAX + 10):
        shown.set(f"c{number}", b"{}")
    seen = shown.revision
    all_of_it = {"cursors": msgspec.json.decode(shown.whole())}
    for number in range(GONE_MAX + 10):
        shown.remove(f"c{number}")
    assert len(shown._gone) == GONE_MAX
    assert apply(all_of_it, shown.since(seen)) == apply(view, shown.since(behind)) == view


def test_what_is_shown_again_is_no_change_and_the_number_of_connections_is_bounded() -> None:
    shown = Shown("cursors")
    for number in range(PRESENT_MAX):
        shown.set(f"c{number}", b"{}")
    revision = shown.revision
    shown.set("c0", b"{}")
    assert shown.revision == revision
    assert not shown.remove("nobody")
    with pytest.raises(Overloaded):
        shown.set("one more", b"{}")
    assert shown.revision == revision


def test_a_connection_is_named_by_its_principal_and_where_it_ends() -> None:
    alice, stream = Principal("alice", "acme"), (NodeId("n1"), 7)
    name = connection_name(alice, stream, 1)
    assert name.startswith("alice@acme#")
    assert name == connection_name(alice, stream, 1), "the same at every leader"
    others = {connection_name(alice, stream, 2), connection_name(alice, (NodeId("n2"), 7), 1)}
    assert name not in others
    assert len(others) == 2


def test_patches_and_views_are_joined_without_being_read() -> None:
    assert joined(b"[]", b"[]") == b"[]"
    assert joined(b'[{"a":1}]', b"[]") == b'[{"a":1}]'
    assert joined(b"[]", b'[{"b":1}]') == b'[{"b":1}]'
    assert joined(b'[{"a":1}]', b'[{"b":1}]') == b'[{"a":1},{"b":1}]'
    assert with_member(b"{}", "c", b"{}") == b'{"c":{}}'
    assert with_member(b'{"a":1}', "c", b"{}") == b'{"a":1,"c":{}}'
