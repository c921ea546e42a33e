"""A document class with blobs wherever they may stand, and what tests of it look with."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec

from cluster.documents.blobs import BLOBS_FIELD
from tests.documents.conftest import Stage

ALBUM = '''
from dataclasses import dataclass
from cluster import Blob, Command, Document, OrderedSet, Principal, Record, Refused, Table, anyone, field, on, read

class No(Refused):
    """Not now."""

@dataclass(frozen=True)
class Pair:
    left: Blob
    right: Blob | None = None

class Photo(Record):
    owner: Principal
    picture: Blob | None = None
    open: bool = False
    looks: int = 0

class Holder(Record):
    picture: Blob | None = None
    more: list[Blob] = field.private()

class Album(Document):
    gate = anyone

    @read.policy
    def may_see(self, photo: Photo, who: Principal) -> bool:
        return photo.open or who == photo.owner

    cover: Blob | None = field.public(None)
    pair: Pair | None = field.public(None)
    photos: Table[Photo] = field.visible(may_see)
    shelf: list[Blob] = field.public()
    named: dict[str, Holder] = field.public()
    stack: OrderedSet[Blob] = field.public()

    @on.message
    def hang(self, ctx: Command, picture: Blob | None, open: bool = False) -> str:
        self.photos.put(Photo(ctx.sender, picture, open))
        return "" if picture is None else picture.hash

    @on.message
    def reveal(self, ctx: Command) -> None:
        for photo in self.photos:
            photo.open = True

    @on.message
    def look(self, ctx: Command) -> None:
        for photo in self.photos:
            photo.looks += 1

    @on.message
    def change(self, ctx: Command, what: list[str], pictures: list[Blob], refuse: bool = False) -> None:
        for name, picture in zip(what, pictures):
            self.one(ctx, name, picture)
        if refuse:
            raise No()

    def one(self, ctx: Command, name: str, picture: Blob) -> None:
        if name == "cover":
            self.cover = picture
        elif name == "uncover":
            self.cover = None
        elif name == "pair":
            self.pair = Pair(picture, self.cover)
        elif name == "unpair":
            self.pair = None
        elif name == "hang":
            self.photos.put(Photo(ctx.sender, picture))
        elif name == "repaint":
            for photo in self.photos:
                photo.picture = picture
        elif name == "take" and len(self.photos):
            self.photos.remove(self.photos.names()[0])
        elif name == "strip":
            self.photos.clear()
        elif name == "shelve":
            self.shelf.append(picture)
        elif name == "unshelve" and self.shelf:
            self.shelf.pop(0)
        elif name == "reverse":
            self.shelf.reverse()
        elif name == "halve":
            self.shelf = list(self.shelf)[: len(self.shelf) // 2]
        elif name == "name":
            self.named["one"] = Holder(picture, [picture])
        elif name == "rename" and "one" in self.named:
            self.named["one"].picture = None
            self.named["two"] = self.named["one"]
        elif name == "unname":
            self.named.clear()
        elif name == "stack":
            self.stack.add(picture)
        elif name == "unstack":
            self.stack.discard(picture)

    @on.message
    def write(self, ctx: Command, text: str) -> str:
        made = Blob(text.encode(), "text/plain")
        self.cover = made
        return f"{made.hash} {made.size} {made.media_type} {made.data.decode()} {made == self.cover}"

    @read.view
    def sizes(self) -> list[int]:
        return [photo.picture.size for photo in self.photos if photo.picture]

    @read.view
    def chosen(self, at: int) -> Blob | None:
        return [photo.picture for photo in self.photos][at]
'''


def sent(data: bytes, media_type: str = "image/png") -> dict[str, str]:
    return {"data": base64.b64encode(data).decode(), "media_type": media_type}


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def shown(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    return {"hash": name_of(data), "size": len(data), "media_type": media_type}


def kept(stage: Stage) -> dict[str, bytes]:
    """The bytes in the state's dump."""
    dumped: dict[str, bytes] = msgspec.msgpack.decode(stage.instance.dump())[BLOBS_FIELD]
    return dumped
