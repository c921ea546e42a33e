"""Random commands against a model of who sees what: views are what the model says, patches lead to them, and no byte that
anybody is sent carries the mark of something that he could see at none of the positions that he was shown.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code, Invocation
from cluster.documents.state import apply_patch
from cluster.ids import DocumentId, Principal
from tests.documents.secrets_model import PEOPLE, SOURCE, allowed

PROGRAM = BundleLoader().load(bundle.from_source(SOURCE).encode())
who = st.sampled_from(PEOPLE).map(lambda name: f"{name}@x")
place = st.integers(0, 4)
name = st.sampled_from("pqr")
MARK = "\N{WHITE MEDIUM STAR}"
steps = st.one_of(
    st.tuples(
        st.just("put_card"), st.fixed_dictionaries({"name": name, "owner": who, "secret": st.just(""), "hidden": st.just("")})
    ),
    st.tuples(st.just("change_card"), st.fixed_dictionaries({"place": place, "secret": st.just(""), "owner": who})),
    st.tuples(st.just("hide_in_card"), st.fixed_dictionaries({"place": place, "hidden": st.just("")})),
    st.tuples(st.just("drop_card"), st.fixed_dictionaries({"place": place})),
    st.tuples(st.just("put_note"), st.fixed_dictionaries({"owner": who, "text": st.just("")})),
    st.tuples(st.just("change_note"), st.fixed_dictionaries({"place": place, "owner": who, "text": st.just("")})),
    st.tuples(st.just("drop_note"), st.fixed_dictionaries({"place": place})),
    st.tuples(st.just("sweep"), st.just({})),
    st.tuples(st.just("show"), st.fixed_dictionaries({"open": st.booleans()})),
    st.tuples(st.just("judge"), st.fixed_dictionaries({"who": who})),
    st.tuples(st.just("write"), st.fixed_dictionaries({"text": st.just("")})),
    st.tuples(st.just("fail"), st.fixed_dictionaries({"text": st.just("")})),
    st.tuples(st.just("count"), st.fixed_dictionaries({"by": st.integers(1, 3)})),
)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "mine": st.fixed_dictionaries({}, optional={"least": st.integers(0, 2)}),
        "newest": st.fixed_dictionaries({"latest": st.integers(1, 5)}),
        "pages": st.fixed_dictionaries({"latest": st.integers(1, 9)}),
        "pages_of": st.fixed_dictionaries({"owner": who}),
    },
)


class Viewer:
    """One viewer, followed as a shard's leader does, and all that he may have learnt."""

    def __init__(self, instance: Any, name: str, given: dict[str, Any]) -> None:
        self.instance = instance
        self.name = name
        self.who = Principal(name, "x")
        self.given = given
        self.canonical = instance.arguments(json.dumps(given).encode())
        self.projection = instance.projection(self.who, self.canonical)
        self.sent = self.projection.full()
        self.seen: dict[str, Any] = json.loads(self.sent)
        self.may_know = self.sent.decode()

    def follow(self, changes: list[Any], full: dict[str, Any], given: dict[str, Any] | None, fork: bool) -> None:
        """Take the patch; it leads to the view, which is what the model says, and it says nothing else."""
        if fork:
            self.projection = self.projection.fork()
        if given is not None:
            self.given = given
            self.canonical = self.instance.arguments(json.dumps(given).encode())
        patch = self.projection.advance(changes, self.who, None if given is None else self.canonical)
        self.seen = apply_patch(self.seen, json.loads(patch))
        view = self.instance.view(self.who, self.canonical)
        assert self.seen == json.loads(view) == json.loads(self.projection.full())
        shown = {name: value for name, value in self.seen.items() if name != "-errors"}
        assert shown == allowed(full, self.name, self.given)
        known = self.may_know + view.decode()
        for mark in json.dumps(json.loads(patch), ensure_ascii=False).split(MARK)[1::2]:
            assert f"{MARK}{mark}{MARK}" in known, "a patch carries what its viewer could see at neither end of it"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(steps, st.booleans(), st.none() | arguments, st.booleans()), max_size=25),
    st.lists(arguments, min_size=3, max_size=3),
)
def test_no_byte_shows_what_a_viewer_may_not_see(
    commands: list[tuple[tuple[str, dict[str, Any]], bool, dict[str, Any] | None, bool]], asked: list[dict[str, Any]]
) -> None:
    instance = PROGRAM.new(DocumentId("stage", "one"))
    instance.run(Invocation("", b"{}", Principal("a", "x"), 0, bytes(32), 1))
    viewers = [Viewer(instance, name, wanted) for name, wanted in zip(PEOPLE, asked, strict=True)]
    pending: list[Any] = []
    for index, ((channel, sent), flush, wanted, fork) in enumerate(commands, 2):
        # every value that could be hidden is new, so that its mark says where it comes from
        marked = {name: f"{MARK}{index}{name}{MARK}" if value == "" else value for name, value in sent.items()}
        payload = PROGRAM.check(channel, json.dumps(marked).encode())
        before = instance.dump()
        outcome = instance.run(Invocation(channel, payload, Principal("a", "x"), 0, index.to_bytes(32, "big"), index))
        if channel == "fail":
            assert outcome.code is Code.FAILED
            assert instance.dump() == before
            assert outcome.changes is None
        else:
            assert outcome.code is Code.OK, outcome.error
        pending += [] if outcome.changes is None else [outcome.changes]
        if not flush:
            continue
        root = instance._root
        full = {name: root.to_json(name) for name in root.names()}
        for place, viewer in enumerate(viewers):
            viewer.follow(pending, full, wanted if place == index % 3 else None, fork)
        pending = []
    again = PROGRAM.load(DocumentId("stage", "one"), instance.dump())
    assert again.dump() == instance.dump()
    for viewer in viewers:
        assert again.view(viewer.who, viewer.canonical) == instance.view(viewer.who, viewer.canonical)
