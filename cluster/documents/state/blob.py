"""Blob: a file in the state. A value names it (hash, size, media type); the bytes stand once in the document, by their hash.

    picture: Blob | None = field.public(None)         # views show {"hash", "size", "media_type"}, never the bytes
    self.picture = Blob(data, "image/png")            # or a parameter: {"data": base64, "media_type"} in JSON

The plain form is what views show too: it is made by BlobType and by nothing else, and has a type of its own, so whoever looks
for a blob in a view can not be fooled by an author's or a client's object of the same shape.

Invariant: a Blob that exists has the SHA-256 of its bytes and their number; whoever has one had the bytes. It can not change,
and does not know which documents refer to it: what stays of the bytes is for the document to say (see documents/blobs.py).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final

from cluster.documents.meter import charge_items
from cluster.documents.state.forms import Schema, StateType, expected
from cluster.documents.state.node import Node
from cluster.errors import TooLarge

BLOB_BYTES_MAX: Final = 256 * 1024
"""The largest blob. A message carries it whole, through the log of every replica, so it may not hold up those behind it."""
MEDIA_TYPE_CHARACTERS_MAX: Final = 127
DEFAULT_MEDIA_TYPE: Final = "application/octet-stream"
HASH_DIGITS: Final = 64
PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"})
"""What a browser shows and can not run: everything else that somebody has sent is for saving to a file."""
BLOB_FORMAT: Final = "blob"
"""The `format` of a blob in JSON Schema."""

_TOKEN = r"[a-z0-9][a-z0-9!#$&^_.+-]*"
_MEDIA_TYPE: Final = re.compile(rf"{_TOKEN}/{_TOKEN}(; ?{_TOKEN}=[A-Za-z0-9!#$&^_.+-]+)*\Z", re.ASCII)
_HASH: Final = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}\Z", re.ASCII)
_REFERENCE_SIZE: Final = 5 + sum(len(name) for name in ("hash", "size", "media_type")) + HASH_DIGITS + 5 + 9
_STORED_SIZE: Final = HASH_DIGITS + 10


def check_media_type(text: object) -> str:
    """Raise TypeError or ValueError unless it is a media type in lower case, such as image/png."""
    if type(text) is not str:
        raise expected("a media type as text", text)
    if len(text) > MEDIA_TYPE_CHARACTERS_MAX or not _MEDIA_TYPE.match(text):
        raise ValueError(f"a media type is like image/png, in lower case, of at most {MEDIA_TYPE_CHARACTERS_MAX} characters")
    return text


def is_blob_hash(text: str) -> bool:
    """Whether it is spelled as the hash of a blob is."""
    return _HASH.match(text) is not None


class BlobReference:
    """What is seen of a blob. hash: SHA-256 of its bytes, in hexadecimal. size: in bytes. Immutable; compared by value."""

    __slots__ = ("hash", "media_type", "size")

    hash: str
    size: int
    media_type: str

    def __init__(self, hash: str, size: int, media_type: str) -> None:
        _put(self, hash, size, media_type)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a blob can not change: make another")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a blob can not change: make another")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlobReference):
            return NotImplemented
        return self.hash == other.hash and self.media_type == other.media_type

    def __hash__(self) -> int:
        return hash((self.hash, self.media_type))

    def __repr__(self) -> str:
        return f"<{self.media_type}, {self.size} bytes, {self.hash[:12]}>"


_set_hash, _set_size, _set_media_type = (vars(BlobReference)[name].__set__ for name in ("hash", "size", "media_type"))


def _put(reference: BlobReference, hash: str, size: int, media_type: str) -> None:
    _set_hash(reference, hash)
    _set_size(reference, size)
    _set_media_type(reference, media_type)


class Blob(BlobReference):
    """A file: `Blob(data, "image/png")`, at most 256 KiB. Its `data` are bytes.

    In a document it may stand wherever a value may; the client sends one as a parameter. Raises TypeError, or ValueError for
    more bytes than a blob may have or a media type that is none.
    """

    __slots__ = ("_data",)

    _data: bytes

    def __init__(self, data: bytes, media_type: str = DEFAULT_MEDIA_TYPE) -> None:
        if type(data) is not bytes:
            raise expected("bytes", data)
        if len(data) > BLOB_BYTES_MAX:
            raise ValueError(f"a blob has at most {BLOB_BYTES_MAX} bytes, not {len(data)}")
        check_media_type(media_type)
        charge_items(len(data))
        _put(self, hashlib.sha256(data).hexdigest(), len(data), media_type)
        _set_data(self, data)

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self._data


_set_data = vars(Blob)["_data"].__set__


def provide(blob: Blob, data: bytes) -> None:
    """Give a blob the bytes that the document has under its hash. Raises ValueError when they can not be them."""
    if len(data) != blob.size:
        raise ValueError(f"blob {blob.hash} has {len(data)} bytes, not {blob.size}")
    _set_data(blob, data)


def own_data(blob: Blob) -> bytes:
    """The bytes of a blob that was not read from a dump. Raises ValueError for one that still waits for them."""
    data: bytes | None = getattr(blob, "_data", None)
    if data is None:
        raise ValueError(f"the bytes of blob {blob.hash} are missing")
    return data


class Reference(dict[str, Any]):
    """Plain and JSON form of a Blob: {"hash", "size", "media_type"}. blob: the value, in the writes of the running command."""

    __slots__ = ("blob",)

    blob: Blob | None


def _reference(blob: Blob, kept: Blob | None) -> Reference:
    made = Reference(hash=blob.hash, size=blob.size, media_type=blob.media_type)
    made.blob = kept
    return made


class BlobType(StateType):
    """Blobs. JSON has two forms: what is shown is a Reference; what is sent is {"data": base64, "media_type": text}."""

    __slots__ = ()

    def admit(self, value: Any, depth: int = 0) -> Blob:
        if type(value) is not Blob:
            raise expected("Blob", value)
        return value

    def to_plain(self, value: Any) -> Reference:
        return _reference(value, value)

    def from_plain(self, plain: Any) -> Blob:
        """A blob without its bytes: `provide` them before anybody looks."""
        if type(plain) is not dict or plain.keys() != {"hash", "size", "media_type"}:
            raise expected("a blob", plain)
        hash, size = plain["hash"], plain["size"]
        if type(hash) is not str or not is_blob_hash(hash) or type(size) is not int or not 0 <= size <= BLOB_BYTES_MAX:
            raise ValueError("expected the hash and the size of a blob")
        blob = object.__new__(Blob)
        _put(blob, hash, size, check_media_type(plain["media_type"]))
        return blob

    def plain_to_json(self, plain: Any) -> Reference:
        made = Reference(plain)
        made.blob = None
        return made

    def to_json(self, value: Any) -> Reference:
        return _reference(value, None)

    def from_json(self, value: Any, depth: int = 0) -> Blob:
        """Raises TooLarge for more bytes than a blob may have."""
        if type(value) is not dict:
            raise expected('an object {"data": base64, "media_type": text}', value)
        if not {"data"} <= value.keys() <= {"data", "media_type"}:
            raise ValueError('a blob is sent as {"data": base64, "media_type": text}')
        text = value["data"]
        if type(text) is not str:
            raise expected("base64 text", text)
        if len(text) > 4 * (BLOB_BYTES_MAX + 2) // 3 + 4:
            raise too_large()
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("expected base64 with padding") from None
        if base64.b64encode(data) != text.encode("ascii"):
            raise ValueError("expected canonical base64")
        if len(data) > BLOB_BYTES_MAX:
            raise too_large()
        return Blob(data, check_media_type(value.get("media_type", DEFAULT_MEDIA_TYPE)))

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {
            "type": "object",
            "format": BLOB_FORMAT,
            "properties": {
                "hash": {"type": "string", "pattern": f"^[0-9a-f]{{{HASH_DIGITS}}}$", "readOnly": True},
                "size": {"type": "integer", "minimum": 0, "maximum": BLOB_BYTES_MAX, "readOnly": True},
                "media_type": {"type": "string", "default": DEFAULT_MEDIA_TYPE},
                "data": {"type": "string", "contentEncoding": "base64", "writeOnly": True},
            },
            "additionalProperties": False,
        }

    def size(self, value: Any) -> int:
        return _REFERENCE_SIZE + len(value.media_type) + 5


BLOB: Final = BlobType("Blob")


def as_sent(blob: Blob) -> dict[str, str]:
    """The JSON form in which a blob is a parameter."""
    return {"data": base64.b64encode(blob.data).decode("ascii"), "media_type": blob.media_type}


def too_large() -> TooLarge:
    """The refusal of what has more bytes than a blob may have."""
    return TooLarge(f"a blob has at most {BLOB_BYTES_MAX} bytes", limit="blob_bytes_max")


class BlobStore(Node):
    """The bytes of a document's blobs by hash. Nothing of it is in the journal's log: the references there name the bytes."""

    __slots__ = ("items",)

    def __init__(self, items: dict[str, bytes]) -> None:
        self._lifetime = None
        self._parent = None
        self._slot = None
        self.items = items


class BlobStoreType(StateType):
    """A document's store. In JSON the sizes by hash: for operators, who see that it is there."""

    __slots__ = ()

    leaf = False
    exact = False

    def empty(self) -> BlobStore:
        """A store without bytes."""
        return BlobStore({})

    def to_plain(self, value: Any) -> dict[str, bytes]:
        return dict(sorted(value.items.items()))

    def from_plain(self, plain: Any) -> BlobStore:
        if type(plain) is not dict:
            raise expected(self.name, plain)
        for hash, data in plain.items():
            if type(hash) is not str or not is_blob_hash(hash) or type(data) is not bytes:
                raise ValueError("expected bytes by their hash")
        return BlobStore(plain)

    def plain_to_json(self, plain: Any) -> dict[str, int]:
        return {hash: len(data) for hash, data in plain.items()}

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "object", "additionalProperties": {"type": "integer"}}

    def size(self, value: Any) -> int:
        return 5 + stored_size(value.items.values())


def stored_size(datas: Iterable[bytes]) -> int:
    """The share of stored bytes in the size of the state."""
    return sum(len(data) + _STORED_SIZE for data in datas)
