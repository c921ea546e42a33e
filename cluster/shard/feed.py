"""Pushing changes to viewers. Nobody is queued for: a viewer is a position, a credit and a visibility class.

After a slice of apply each watched document that changed is looked at once: viewers of one class at one position share one
encoded patch. Who is out of credit is skipped and catches up later from the document's ring of changes; who fell out of
the ring, or whose patch can not be derived, gets a full view marked as a reset. A hidden change is an empty patch with a
new position.

Invariant: a viewer is sent positions in rising order, each delta starting exactly where its last one ended.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from cluster.documents.runtime import Instance, Projection
from cluster.empty import NO_ENTRIES
from cluster.errors import ClusterError, DocumentDeleted, Overloaded, PermissionDenied, PositionRewound
from cluster.ids import DocumentId, NodeId, Principal
from cluster.session.failures import failure_of
from cluster.session.operations import Delta, Failure
from cluster.shard.document import LiveDocument
from cluster.shard.turn import StreamKey, Turn

VIEWERS_MAX = 100_000
"""Open watches a shard serves."""

CREDIT_DEFAULT_BYTES = 1024 * 1024


@dataclass(slots=True)
class Viewer:
    """One open watch."""

    stream: StreamKey
    watch: int
    who: Principal
    visibility: Hashable
    epoch: int
    index: int
    credit_bytes: int


class _Watched:
    """One document with viewers. `projections` follow classes whose patches can not be derived from changes alone.

    instance: whom the viewers' classes belong to. Another instance (the document was created again, or has other code) may
        divide
    them otherwise: a class never outlives it, or a viewer would be shown what only others may see. before: the instance until
    the newest upgrade, until viewers have been served after it.
    """

    __slots__ = ("before", "instance", "live", "projections", "viewers")

    def __init__(self, live: LiveDocument) -> None:
        self.live = live
        self.instance = live.instance
        self.before: Instance | None = None
        self.viewers: dict[tuple[StreamKey, int], Viewer] = {}
        self.projections: dict[Hashable, tuple[int, int, Projection]] = {}

    def classify(self) -> None:
        """Give every viewer its class anew if the instance is another."""
        if self.live.instance is self.instance:
            return
        self.before, self.instance = self.instance, self.live.instance
        self.projections.clear()
        if self.instance is not None:
            for viewer in self.viewers.values():
                viewer.visibility = self.instance.visibility_class(viewer.who)

    def remove(self, key: tuple[StreamKey, int]) -> None:
        """A viewer left; what was followed for the last of its class goes too."""
        viewer = self.viewers.pop(key)
        if viewer.visibility in self.projections and all(
            other.visibility != viewer.visibility for other in self.viewers.values()
        ):
            del self.projections[viewer.visibility]


Encoded = tuple[bool, bytes]
"""(reset, body) of a delta."""


class Feed:
    """The open watches of one shard's leader."""

    __slots__ = (
        "_by_stream",
        "_by_watch",
        "_changed",
        "_watched",
    )

    def __init__(self) -> None:
        self._watched: dict[tuple[str, str], _Watched] = NO_ENTRIES
        self._by_watch: dict[tuple[StreamKey, int], tuple[str, str]] = NO_ENTRIES
        self._by_stream: dict[StreamKey, set[int]] = NO_ENTRIES
        self._changed: dict[tuple[str, str], None] = NO_ENTRIES

    def __len__(self) -> int:
        return len(self._by_watch)

    @property
    def documents(self) -> set[tuple[str, str]]:
        """Documents that must stay in memory."""
        return set(self._watched)

    def open(
        self,
        live: LiveDocument,
        stream: StreamKey,
        watch: int,
        who: Principal,
        seen: tuple[int, int] | None,
        credit: int,
        turn: Turn,
    ) -> None:
        """Start a watch at the document's present state. `seen` is the (epoch, index) that the viewer already has, if any.

        Sends what the viewer lacks in `turn` at once (an empty patch when it lacks nothing). Raises PermissionDenied,
        Overloaded, DocumentDeleted or PositionRewound (a position that this document never had); nothing is opened then.
        """
        if len(self._by_watch) >= VIEWERS_MAX:
            raise Overloaded("this shard serves no more watches", retry_after_ms=1000, bound="viewers_max")
        if live.instance is None:
            raise DocumentDeleted(f"{live.id} does not exist")
        if not live.instance.admits(who):
            raise PermissionDenied("the document's gate says no")
        if seen is not None and seen > (live.epoch, live.index):
            raise PositionRewound(f"{live.id} is at {live.position}", current=live.position)
        if not self._by_watch:
            self._watched, self._by_watch, self._by_stream, self._changed = {}, {}, {}, {}
        self.close(stream, watch)  # opened again, after something on the way was lost
        name = (live.id.space, live.id.key)
        watched = self._watched.get(name)
        if watched is None:
            watched = self._watched[name] = _Watched(live)
        watched.live = live
        watched.classify()
        epoch, index = seen if seen is not None else (0, -1)
        visibility = live.instance.visibility_class(who)
        viewer = Viewer(stream, watch, who, visibility, epoch, index, max(credit, 1) if credit else CREDIT_DEFAULT_BYTES)
        watched.viewers[(stream, watch)] = viewer
        self._by_watch[(stream, watch)] = name
        self._by_stream.setdefault(stream, set()).add(watch)
        self._send(watched, viewer, {}, turn, opening=True)

    def close(self, stream: StreamKey, watch: int) -> None:
        """End a watch; unknown ones are ignored."""
        if not self._by_watch:
            return
        name = self._by_watch.pop((stream, watch), None)
        if name is None:
            return
        watches = self._by_stream[stream]
        watches.discard(watch)
        if not watches:
            del self._by_stream[stream]
        watched = self._watched[name]
        watched.remove((stream, watch))
        if not watched.viewers:
            del self._watched[name]

    def close_stream(self, stream: StreamKey) -> None:
        """The client stream ended: all its watches end."""
        for watch in list(self._by_stream.get(stream, ())):
            self.close(stream, watch)

    def close_node(self, node: NodeId) -> None:
        """The gateway's node is gone: all watches through it end."""
        for stream in [stream for stream in self._by_stream if stream[0] == node]:
            self.close_stream(stream)

    def end_document(self, document: DocumentId, error: ClusterError, turn: Turn) -> None:
        """The watches of one document end."""
        watched = self._watched.get((document.space, document.key))
        if watched is not None:
            failure = failure_of(error)
            for viewer in list(watched.viewers.values()):
                self._end(viewer, failure, turn)

    def end_all(self, error: ClusterError, turn: Turn) -> None:
        """This replica can not serve watches any more; gateways subscribe again where it can be served."""
        failure = failure_of(error)
        for (stream, watch), name in list(self._by_watch.items()):
            viewer = self._watched[name].viewers[(stream, watch)]
            turn.delta(stream, _ended(viewer, failure))
            self.close(stream, watch)

    def grant(self, stream: StreamKey, watch: int, credit_bytes: int, turn: Turn) -> None:
        """More credit; a viewer who was skipped catches up at once."""
        name = self._by_watch.get((stream, watch))
        if name is None:
            return
        watched = self._watched[name]
        watched.classify()
        viewer = watched.viewers[(stream, watch)]
        was_out = viewer.credit_bytes <= 0
        viewer.credit_bytes += max(credit_bytes, 0)
        if was_out and viewer.credit_bytes > 0:
            self._send(watched, viewer, {}, turn, opening=False)

    def changed(self, live: LiveDocument) -> None:
        """A document changed; its viewers are served at the next flush."""
        name = (live.id.space, live.id.key)
        watched = self._watched.get(name)
        if watched is not None:
            watched.live = live
            self._changed[name] = None

    def flush(self, turn: Turn) -> None:
        """Serve everybody whose document changed since the last flush."""
        if not self._changed:
            return
        for name in sorted(self._changed):
            watched = self._watched.get(name)
            if watched is None:
                continue
            watched.classify()
            shared: dict[tuple[Hashable, int, int], Encoded] = {}
            for viewer in list(watched.viewers.values()):
                self._send(watched, viewer, shared, turn, opening=False)
            watched.before = None
        self._changed.clear()

    def _send(
        self, watched: _Watched, viewer: Viewer, shared: dict[tuple[Hashable, int, int], Encoded], turn: Turn, *, opening: bool
    ) -> None:
        live = watched.live
        at = (viewer.epoch, viewer.index)
        now = (live.epoch, live.index)
        if (at == now and not opening) or (viewer.credit_bytes <= 0 and not opening):
            return
        if live.instance is None:
            self._end(viewer, failure_of(DocumentDeleted(f"{live.id} was deleted")), turn)
            return
        if not live.instance.admits(viewer.who):
            self._end(viewer, failure_of(PermissionDenied("the document's gate says no")), turn)
            return
        key = (viewer.visibility, viewer.epoch, viewer.index)
        encoded = shared.get(key)
        if encoded is None:
            encoded = shared[key] = self._encode(watched, viewer)
        reset, body = encoded
        turn.delta(viewer.stream, Delta(viewer.watch, viewer.epoch, viewer.index, live.epoch, live.index, reset, body))
        viewer.epoch, viewer.index = now
        viewer.credit_bytes -= len(body) + 32

    def _encode(self, watched: _Watched, viewer: Viewer) -> Encoded:
        """The patch from where the viewer stands, or a whole view when there is none."""
        live = watched.live
        assert live.instance is not None
        changes = live.changes_since(viewer.index) if viewer.epoch == live.epoch and viewer.index >= 0 else None
        if changes is not None:
            patch = b"[]" if not changes else live.instance.patch_since(changes, viewer.who)
            if patch is not None:
                return False, patch
        followed = watched.projections.get(viewer.visibility)
        if followed is not None and changes is not None and followed[:2] == (viewer.epoch, viewer.index):
            patch = followed[2].advance(changes)
            watched.projections[viewer.visibility] = (live.epoch, live.index, followed[2])
            return False, patch
        projection = live.instance.projection(viewer.who)
        watched.projections[viewer.visibility] = (live.epoch, live.index, projection)
        view = projection.full()
        if watched.before is not None and (viewer.epoch, viewer.index + 1) == (live.epoch, live.upgraded_index):
            seen = watched.before.view(viewer.who)
            if seen == view:
                return False, b"[]"  # most new code shows what the old one did: nobody is sent the whole again
        return True, view

    def _end(self, viewer: Viewer, failure: Failure, turn: Turn) -> None:
        turn.delta(viewer.stream, _ended(viewer, failure))
        self.close(viewer.stream, viewer.watch)


def _ended(viewer: Viewer, failure: Failure) -> Delta:
    return Delta(viewer.watch, viewer.epoch, viewer.index, viewer.epoch, viewer.index, False, b"[]", failure)
