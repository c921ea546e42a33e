"""What the connections that watch one document show each other: a part of their views that no log knows.

A value belongs to one watch of one stream. It is named `principal#tag`, the tag being a digest of where the watch ends, so the
name stays the same when the leader changes. Viewers hold a revision: what was set and removed since is a patch that all at one
revision share; who opens a watch, or is too far behind, is sent all of it.

Invariant: bounded by connections and bytes of each; what a viewer holds of it is right when a delta of the feed has arrived.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from cluster.documents.runtime import Instance
from cluster.errors import ClusterError, Overloaded
from cluster.ids import Principal
from cluster.shard.turn import StreamKey

PRESENT_MAX: Final = 1024
"""Connections that show something in one document."""
GONE_MAX: Final = 256
"""Removals that are remembered; who is further behind is sent all of it."""

_TAG_BYTES: Final = 4


def connection_name(who: Principal, stream: StreamKey, watch: int) -> str:
    """The name of a connection's value."""
    place = f"{stream[0]}\0{stream[1]}\0{watch}".encode()
    return f"{who}#{blake2b(place, person=b'moot.presence', digest_size=_TAG_BYTES).hexdigest()}"


class Shown:
    """The values of one document. name: of the field. revision: rises with every change."""

    __slots__ = ("_floor", "_gone", "_patches", "_values", "_whole", "name", "revision")

    def __init__(self, name: str) -> None:
        self.name = name
        self.revision = 0
        self._values: dict[str, tuple[bytes, int]] = {}
        """By connection: the value and its revision."""
        self._gone: dict[str, int] = {}
        """By connection: the revision at which it went."""
        self._floor = 0
        self._whole = b""
        self._patches: dict[int, bytes] = {}

    def set(self, connection: str, value: bytes) -> None:
        """A connection shows this from now on. Raises Overloaded."""
        known = self._values.get(connection)
        if known is not None and known[0] == value:
            return
        if known is None and len(self._values) >= PRESENT_MAX:
            raise Overloaded(f"{PRESENT_MAX} connections show something here", retry_after_ms=1000, bound="present_max")
        self._changed()
        self._gone.pop(connection, None)
        self._values[connection] = (value, self.revision)

    def remove(self, connection: str) -> bool:
        """A connection shows nothing any more. Says whether it did."""
        if self._values.pop(connection, None) is None:
            return False
        self._changed()
        self._gone[connection] = self.revision
        if len(self._gone) > GONE_MAX:
            self._floor = self._gone.pop(next(iter(self._gone)))
        return True

    def carry_over(self, instance: Instance) -> None:
        """The document has other code: what that does not take is shown no more."""
        for connection, (value, _) in list(self._values.items()):
            try:
                fits = instance.presented(value) == value
            except ClusterError:
                fits = False
            if not fits:
                self.remove(connection)

    def whole(self) -> bytes:
        """All of it, as a JSON object."""
        if not self._whole:
            members = [msgspec.json.encode(connection) + b":" + value for connection, (value, _) in self._values.items()]
            self._whole = b"{" + b",".join(members) + b"}"
        return self._whole

    def replacement(self, whole: bytes) -> bytes:
        """The patch that puts `whole` in the place of whatever a viewer holds."""
        return b'[{"op":"add","path":"/' + self.name.encode() + b'","value":' + whole + b"}]"

    def since(self, revision: int) -> bytes:
        """The patch for who holds that revision. It fits whatever is held, for one before it may be lost on its way: what goes
        is put there first, since remove wants a member that is there.
        """
        if revision < self._floor:
            return self.replacement(self.whole())
        patch = self._patches.get(revision)
        if patch is None:
            path = b'{"op":"%s","path":"/' + self.name.encode() + b"/"
            operations = [
                path % b"add" + _pointer(connection) + b'","value":null},' + path % b"remove" + _pointer(connection) + b'"}'
                for connection, went in self._gone.items()
                if went > revision
            ]
            operations += [
                path % b"add" + _pointer(connection) + b'","value":' + value + b"}"
                for connection, (value, changed) in self._values.items()
                if changed > revision
            ]
            patch = self._patches[revision] = b"[" + b",".join(operations) + b"]"
        return patch

    def _changed(self) -> None:
        self.revision += 1
        self._whole = b""
        if self._patches:
            self._patches = {}


def _pointer(connection: str) -> bytes:
    """A name as a part of a JSON pointer (RFC 6901) within a JSON string."""
    return msgspec.json.encode(connection.replace("~", "~0").replace("/", "~1"))[1:-1]


def joined(patch: bytes, more: bytes) -> bytes:
    """Two patches as one."""
    if more == b"[]":
        return patch
    return more if patch == b"[]" else patch[:-1] + b"," + more[1:]


def with_member(view: bytes, name: str, value: bytes) -> bytes:
    """A view with one member more."""
    member = msgspec.json.encode(name) + b":" + value + b"}"
    return b"{" + member if view == b"{}" else view[:-1] + b"," + member
