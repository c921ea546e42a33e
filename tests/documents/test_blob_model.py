"""Random changes of an album, done and undone, against a plain model: which bytes it keeps."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.documents import bundle
from cluster.documents.instance import DocumentInstance
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code
from cluster.errors import UnknownBlob
from cluster.ids import DocumentId, Principal
from tests.documents.albums import ALBUM, kept, name_of, sent, shown
from tests.documents.conftest import Stage

CHANGES = (
    "cover", "uncover", "pair", "unpair", "hang", "repaint", "take", "strip", "shelve", "unshelve", "reverse", "halve", "name",
    "rename", "unname", "stack", "unstack",
)  # fmt: skip
PICTURES = [b"", b"a", b"bb", b"ccc"]


def names_in(form: Any) -> set[str]:
    """The hashes of all blobs in a dump, found by a walk of its own."""
    if isinstance(form, dict):
        own = {form["hash"]} if form.keys() == {"hash", "size", "media_type"} else set()
        return own.union(*(names_in(each) for each in form.values()))
    return set().union(*(names_in(each) for each in form)) if isinstance(form, list) else set()


def readable(stage: Stage, who: str) -> set[str]:
    """The hashes whose bytes somebody is given."""
    found = set()
    for picture in PICTURES:
        with contextlib.suppress(UnknownBlob):
            stage.instance.blob(Principal(who, "acme"), name_of(picture))
            found.add(name_of(picture))
    return found


class Model:
    """The album as plain Python: what the document shows must be it, and what it keeps must be what it shows or hides."""

    def __init__(self) -> None:
        self.cover: bytes | None = None
        self.pair: tuple[bytes, bytes | None] | None = None
        self.photos: list[bytes] = []
        self.shelf: list[bytes] = []
        self.named: dict[str, tuple[bytes | None, bytes]] = {}
        self.stack: set[bytes] = set()

    def change(self, name: str, picture: bytes) -> None:
        if name in ("cover", "uncover"):
            self.cover = picture if name == "cover" else None
        elif name in ("pair", "unpair"):
            self.pair = (picture, self.cover) if name == "pair" else None
        elif name == "hang":
            self.photos.append(picture)
        elif name == "repaint":
            self.photos = [picture for _ in self.photos]
        elif name in ("take", "strip"):
            self.photos = self.photos[1:] if name == "take" else []
        elif name == "shelve":
            self.shelf.append(picture)
        elif name in ("unshelve", "reverse", "halve"):
            half = self.shelf[: len(self.shelf) // 2]
            self.shelf = {"unshelve": self.shelf[1:], "reverse": self.shelf[::-1], "halve": half}[name]
        elif name == "name":
            self.named["one"] = (picture, picture)
        elif name == "rename" and "one" in self.named:
            self.named["one"] = self.named["two"] = (None, self.named["one"][1])
        elif name == "unname":
            self.named = {}
        elif name in ("stack", "unstack"):
            self.stack = self.stack | {picture} if name == "stack" else self.stack - {picture}

    def names(self) -> set[str]:
        pairs = [self.cover, *(self.pair or ()), *(each for pair in self.named.values() for each in pair)]
        return {name_of(each) for each in [*pairs, *self.photos, *self.shelf, *self.stack] if each is not None}


commands = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(CHANGES), st.sampled_from(PICTURES)), min_size=1, max_size=5),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
)
ALBUMS = BundleLoader().load(bundle.from_source(ALBUM).encode())


@settings(max_examples=150, deadline=None)
@given(commands)
def test_no_byte_is_left_over_and_none_is_missing_whatever_is_done_and_undone(
    done: list[tuple[list[tuple[str, bytes]], bool, bool]],
) -> None:
    made = Stage.__new__(Stage)
    made.program, made.index = ALBUMS, 0
    made.instance = ALBUMS.new(DocumentId("stage", "one"))
    made.create()
    model = Model()
    for changes, refuse, restart in done:
        before = made.instance.dump()
        what, pictures = [name for name, _ in changes], [sent(picture) for _, picture in changes]
        outcome = made.run("change", what=what, pictures=pictures, refuse=refuse)
        assert outcome.code is (Code.REFUSED if refuse else Code.OK), outcome.error
        if refuse:
            assert made.instance.dump() == before
        else:
            for name, picture in changes:
                model.change(name, picture)
        stored = kept(made)
        assert set(stored) == model.names() == names_in(msgspec.msgpack.decode(made.instance.dump()))
        assert all(name_of(data) == name for name, data in stored.items())
        assert made.view()["shelf"] == [shown(each) for each in model.shelf]
        for who in ("alice", "bob"):
            assert readable(made, who) == names_in(made.view(who)), "who sees the name has the bytes, and nobody else"
        again = ALBUMS.load(DocumentId("stage", "one"), made.instance.dump())
        assert isinstance(again, DocumentInstance)
        assert (again.dump(), again.size_bytes()) == (made.instance.dump(), made.instance.size_bytes())
        if restart:
            made.instance = again
