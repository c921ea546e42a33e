"""The album, as those who hang pictures and look at them meet it."""

from __future__ import annotations

import pytest

from cluster.documents.state.blob import BLOB_BYTES_MAX, Blob
from cluster.errors import HandlerRefused, TooLarge, UnknownBlob
from cluster.examples.album import Album, NotYours
from cluster.ids import Principal
from cluster.replay.audit import audit

TEA = Blob(b"tea" * 100, "image/png")


def test_a_picture_is_its_owners_until_it_is_shown() -> None:
    album = Album.simulate(by=None)
    alice, bob = album.visitor("alice@acme"), album.visitor("bob@acme")
    hers, his = alice.watch(), bob.watch()
    name = alice.hang(picture=TEA, caption="tea")
    assert [photo["picture"] for photo in hers.view["photos"].values()] == [
        {"hash": TEA.hash, "size": 300, "media_type": "image/png"}
    ]
    assert his.view["photos"] == {}
    assert alice.blob(name).data == TEA.data
    for asked in (name, Blob(b"never").hash):
        with pytest.raises(UnknownBlob):
            bob.blob(asked)
    alice.show(hash=name, cover=True)
    assert bob.blob(name) == TEA
    assert his.view["cover"]["hash"] == name


def test_who_asks_a_missing_album_for_a_picture_is_told_no_more_than_of_one_that_is_there() -> None:
    album = Album.simulate(by=None)
    with pytest.raises(UnknownBlob):
        album.visitor("bob@acme").blob(TEA.hash)


def test_a_picture_that_nobody_shows_any_more_is_gone() -> None:
    album = Album.simulate(by=None)
    alice = album.visitor("alice@acme")
    name = alice.hang(picture=TEA)
    with pytest.raises((NotYours, HandlerRefused)):
        album.visitor("bob@acme").take_down(hash=name)
    alice.take_down(hash=name)
    with pytest.raises(UnknownBlob):
        alice.blob(name)


def test_an_audit_changes_the_bytes_and_tells_who_would_have_noticed() -> None:
    album = Album.simulate(by=None)
    alice, bob = album.visitor("alice@acme"), Principal("bob", "acme")
    alice.hang(picture=TEA, caption="...")
    assert alice.position is not None
    index = alice.position.index
    assert audit(album.history(), bob, index, None).hidden
    seen = audit(album.history(), Principal("alice", "acme"), index, None)
    assert [operation["path"].rpartition("/picture")[2] for operation in seen.seen] == ["/hash"], "as many bytes, but others"


def test_pictures_outlive_the_node_and_are_the_same_when_everything_is_run_again() -> None:
    album = Album.simulate(by=None)
    alice = album.visitor("alice@acme")
    name = alice.hang(picture=TEA)
    shown = alice.write(text="hello")
    assert shown["media_type"] == "text/plain"
    album.restart()
    assert alice.blob(name).data == TEA.data
    assert alice.blob(shown["hash"]).data == b"hello"
    album.replay()


def test_a_picture_that_is_too_large_changes_nothing() -> None:
    album = Album.simulate(by=None)
    alice = album.visitor("alice@acme")
    alice.watch()
    position = alice.view() and alice.position
    with pytest.raises(TooLarge, match="at most 262144"):
        alice.send("hang", {"picture": {"data": "AAAA" * (BLOB_BYTES_MAX // 3 + 1)}})
    assert alice.view()["photos"] == {}
    assert alice.position == position
