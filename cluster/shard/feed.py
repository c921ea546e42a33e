"""Pushing changes to viewers. Nobody is queued for: a viewer is a position, a credit and a visibility class.

After a slice of apply each watched document that changed is looked at once: viewers of one class at one position share one
encoded patch. Who is out of credit is skipped and catches up later from the document's ring of changes; who fell out of
the ring, or whose patch can not be derived, gets a full view marked as a reset. A hidden change is an empty patch with a
new position. The gate is asked before anything is sent: who is not admitted any more is told so, and nothing else.

What handlers emitted on the way goes along with the delta, once, for those whom it is for (passing.py).

What a viewer holds was made for a class and for arguments; when either changes, he gets the patch that leads over.

Invariant: a viewer is sent positions in rising order, each delta starting exactly where its last one ended: at the same
position, and with the same version of the arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from cluster.documents.runtime import Instance, Projection
from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import (
    ClusterError,
    DocumentDeleted,
    InvalidArguments,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    PositionRewound,
)
from cluster.ids import DocumentId, Principal
from cluster.session.failures import failure_of
from cluster.session.operations import Delta, Failure
from cluster.shard.document import LiveDocument
from cluster.shard.presence import Shown, connection_name, joined, with_member
from cluster.shard.read_failures import Told, nobody_told
from cluster.shard.turn import StreamKey, Turn

VIEWERS_MAX = 100_000
"""Open watches a shard serves."""

CREDIT_DEFAULT_BYTES = 1024 * 1024


class Departure(NamedTuple):
    """A watch that ended. connection: its name. lost: it may come back."""

    document: tuple[str, str]
    connection: str
    lost: bool


Sight = tuple[Hashable, bytes]
"""What divides viewers: their class, and their arguments in canonical form."""

_UNKNOWN: Hashable = "unknown"
"""The class of what a viewer holds who resumes, or whose document is another instance now."""


@dataclass(slots=True)
class Viewer:
    """One open watch. sight: of what is to be sent. held: of what the viewer has. version, held_version: of the arguments.

    presence: the revision that the viewer holds of what connections show; -1 where that is not for him.
    """

    stream: StreamKey
    watch: int
    who: Principal
    sight: Sight
    held: Sight
    epoch: int
    index: int
    credit_bytes: int
    version: int = 0
    held_version: int = 0
    presence: int = -1


class _Watched:
    """One document with viewers. `projections` follow classes whose patches can not be derived from changes alone.

    instance: whom the viewers' classes belong to. Another instance (the document was created again, or has other code) may
        divide
    them otherwise: a class never outlives it, or a viewer would be shown what only others may see. before: the instance until
    the newest upgrade, until viewers have been served after it. shown: what connections show each other, if the class has it.
    told: whether the document is, or was, told of connections.
    """

    __slots__ = ("before", "instance", "live", "projections", "shown", "told", "viewers")

    def __init__(self, live: LiveDocument) -> None:
        self.live = live
        self.instance = live.instance
        self.before: Instance | None = None
        self.viewers: dict[tuple[StreamKey, int], Viewer] = {}
        self.projections: dict[Sight, tuple[int, int, Projection]] = {}
        self.shown = _shown_in(live.instance)
        self.told = live.instance is not None and live.instance.told_of_connections

    def classify(self) -> None:
        """Give every viewer its class anew if the instance is another, or if classes change with the state."""
        instance = self.live.instance
        if instance is self.instance:
            if instance is not None and instance.classes_vary:
                for viewer in self.viewers.values():
                    viewer.sight = (instance.visibility_class(viewer.who), viewer.sight[1])
            return
        self.before, self.instance = self.instance, instance
        self.projections.clear()
        self._carry_over(instance)
        if instance is not None:
            for viewer in self.viewers.values():
                viewer.held = (_UNKNOWN, viewer.held[1])
                viewer.sight = (instance.visibility_class(viewer.who), _still_taken(instance, viewer.sight[1]))

    def _carry_over(self, instance: Instance | None) -> None:
        """What connections show, for other code: it goes on if the field is called so still, else all get a whole view."""
        shown = self.shown
        if instance is not None and shown is not None and shown.name == instance.presence_name:
            shown.carry_over(instance)
            return
        self.shown = _shown_in(instance)
        if shown is not None or self.shown is not None:
            self.before = None

    def in_order(self) -> tuple[list[Viewer], bool]:
        """The viewers, those first who leave a class: what their class saw is not advanced yet. And whether there are any."""
        viewers = list(self.viewers.values())
        moved = any(viewer.held != viewer.sight for viewer in viewers)
        if moved:
            viewers.sort(key=lambda viewer: viewer.held == viewer.sight)
        return viewers, moved

    def prune(self) -> None:
        """Follow nothing that no viewer holds."""
        if len(self.projections) > 1:
            held = {viewer.held for viewer in self.viewers.values()}
            for sight in [sight for sight in self.projections if sight not in held]:
                del self.projections[sight]

    def remove(self, key: tuple[StreamKey, int]) -> None:
        """A viewer left; what was followed for the last of its class goes too."""
        viewer = self.viewers.pop(key)
        if viewer.held in self.projections and all(other.held != viewer.held for other in self.viewers.values()):
            del self.projections[viewer.held]


def _shown_in(instance: Instance | None) -> Shown | None:
    return Shown(instance.presence_name) if instance is not None and instance.presence_name else None


def _still_taken(instance: Instance, arguments: bytes) -> bytes:
    """The arguments, if the code that a document has now takes them too."""
    try:
        return instance.arguments(arguments)
    except InvalidArguments:
        return b""


Encoded = tuple[bool, bytes]
"""(reset, body) of a delta."""

Shared = tuple[Sight, Sight, int, int]
"""Viewers who hold the same, at the same position, and see the same now: they share what is encoded."""


class Feed:
    """The open watches of one shard's leader. told: takes what failed while views were made.

    departed: watches that ended, of documents that are told of connections.
    """

    __slots__ = (
        "_by_stream",
        "_by_watch",
        "_changed",
        "_told",
        "_watched",
        "departed",
    )

    def __init__(self, told: Told = nobody_told) -> None:
        self._told = told
        self._watched: dict[tuple[str, str], _Watched] = NO_ENTRIES
        self._by_watch: dict[tuple[StreamKey, int], tuple[str, str]] = NO_ENTRIES
        self._by_stream: dict[StreamKey, set[int]] = NO_ENTRIES
        self._changed: dict[tuple[str, str], None] = NO_ENTRIES
        self.departed: list[Departure] = NO_ITEMS

    def __len__(self) -> int:
        return len(self._by_watch)

    @property
    def documents(self) -> dict[tuple[str, str], None]:
        """Documents that must stay in memory, in the order in which they were first watched."""
        return dict.fromkeys(self._watched)

    def viewers(self, name: tuple[str, str]) -> list[tuple[StreamKey, int, Principal]]:
        """Who watches a document that is told of connections, in the order in which they came."""
        watched = self._watched.get(name)
        if watched is None:
            return []
        watched.told = True
        return [(viewer.stream, viewer.watch, viewer.who) for viewer in watched.viewers.values()]

    def admit(self, live: LiveDocument, who: Principal, seen: tuple[int, int] | None, arguments: bytes) -> bytes:
        """The arguments of a watch, canonical, if it can be opened now. Raises what `open` raises."""
        if len(self._by_watch) >= VIEWERS_MAX:
            raise Overloaded("this shard serves no more watches", retry_after_ms=1000, bound="viewers_max")
        if live.instance is None:
            raise DocumentDeleted(f"{live.id} does not exist")
        if not live.instance.admits(who):
            self._told(live, who)
            raise PermissionDenied("the document's gate says no")
        arguments = live.instance.arguments(arguments)
        if seen is not None and seen > (live.epoch, live.index):
            raise PositionRewound(f"{live.id} is at {live.position}", current=live.position)
        return arguments

    def open(
        self,
        live: LiveDocument,
        stream: StreamKey,
        watch: int,
        who: Principal,
        seen: tuple[int, int] | None,
        credit: int,
        turn: Turn,
        arguments: bytes = b"",
        version: int = 0,
        presence: bytes = b"",
    ) -> None:
        """Start a watch at the document's present state. `seen` is the (epoch, index) that the viewer already has, if any, made
        with the same arguments.

        Sends what the viewer lacks in `turn` at once (an empty patch when it lacks nothing). Raises PermissionDenied,
        Overloaded, DocumentDeleted, InvalidArguments or PositionRewound (a position that this document never had); nothing is
        opened then.
        """
        arguments = self.admit(live, who, seen, arguments)
        assert live.instance is not None, "what is deleted admits nobody"
        if not self._by_watch:
            self._watched, self._by_watch, self._by_stream, self._changed = {}, {}, {}, {}
        name = (live.id.space, live.id.key)
        if self._by_watch.get((stream, watch)) == name:
            self._drop(stream, watch)  # opened again, after something on the way was lost
        else:
            self.close(stream, watch)
        watched = self._watched.get(name)
        if watched is None:
            watched = self._watched[name] = _Watched(live)
        watched.live = live
        watched.classify()
        epoch, index = seen if seen is not None else (0, -1)
        sight = (live.instance.visibility_class(who), arguments)
        # a class that changes may have been another at the position that was seen; at this one it is this one
        known = seen == (live.epoch, live.index) or not live.instance.classes_vary
        held = sight if known else (_UNKNOWN, arguments)
        credit = max(credit, 1) if credit else CREDIT_DEFAULT_BYTES
        viewer = Viewer(stream, watch, who, sight, held, epoch, index, credit, version, version)
        watched.viewers[(stream, watch)] = viewer
        self._by_watch[(stream, watch)] = name
        self._by_stream.setdefault(stream, set()).add(watch)
        if presence:
            with contextlib.suppress(ClusterError):  # it was taken when it was set; other code may not take it
                self.present(stream, watch, presence)
        self._send(watched, viewer, {}, turn, opening=True)

    def close(self, stream: StreamKey, watch: int, *, lost: bool = False) -> None:
        """End a watch; unknown ones are ignored. lost: it may go on elsewhere, or come back."""
        if not self._by_watch:
            return
        name = self._by_watch.get((stream, watch))
        if name is None:
            return
        watched = self._watched[name]
        if watched.told:
            who = watched.viewers[(stream, watch)].who
            if not self.departed:
                self.departed = []
            self.departed.append(Departure(name, connection_name(who, stream, watch), lost))
        self._drop(stream, watch)

    def _drop(self, stream: StreamKey, watch: int) -> None:
        name = self._by_watch.pop((stream, watch))
        watches = self._by_stream[stream]
        watches.discard(watch)
        if not watches:
            del self._by_stream[stream]
        watched = self._watched[name]
        if watched.shown is not None:
            who = watched.viewers[(stream, watch)].who
            if watched.shown.remove(connection_name(who, stream, watch)):
                self._changed[name] = None
        watched.remove((stream, watch))
        if not watched.viewers:
            del self._watched[name]

    def close_streams(self, ended: Callable[[StreamKey], bool], *, lost: bool = False) -> None:
        """Client streams ended: all their watches end. lost: as their gateway's node is gone or cut off; they may come back."""
        for stream in [stream for stream in self._by_stream if ended(stream)]:
            for watch in list(self._by_stream[stream]):
                self.close(stream, watch, lost=lost)

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
            self.close(stream, watch, lost=True)
        self.departed = NO_ITEMS

    def end(self, stream: StreamKey, watch: int, failure: Failure, turn: Turn, *, lost: bool = False) -> None:
        """One watch ends, and its viewer is told why. lost: it may come back."""
        name = self._by_watch.get((stream, watch))
        if name is not None:
            self._end(self._watched[name].viewers[(stream, watch)], failure, turn, lost=lost)

    def arguments(self, stream: StreamKey, watch: int, arguments: bytes, version: int, turn: Turn) -> None:
        """A viewer wants to see by other arguments, which it numbers `version`; what that changes is sent at once.

        Raises InvalidArguments, or InvalidRequest for a watch that is not open; the watch goes on as it was.
        """
        name = self._by_watch.get((stream, watch))
        if name is None:
            raise InvalidRequest(f"no watch {watch} is open here")
        watched = self._watched[name]
        watched.classify()
        viewer = watched.viewers[(stream, watch)]
        if watched.instance is not None:
            viewer.sight = (viewer.sight[0], watched.instance.arguments(arguments))
        viewer.version = version
        self._send(watched, viewer, {}, turn, opening=False)
        watched.prune()

    def present(self, stream: StreamKey, watch: int, value: bytes) -> None:
        """What this viewer's connection shows others from now on, JSON; empty for nothing. They are served at the next flush.

        Raises InvalidRequest for a watch that is not open or a class without presence, InvalidPayload, TooLarge or Overloaded;
        the connection shows nothing then.
        """
        name = self._by_watch.get((stream, watch))
        if name is None:
            raise InvalidRequest(f"no watch {watch} is open here")
        watched = self._watched[name]
        watched.classify()
        if watched.instance is None or watched.shown is None:
            raise InvalidRequest("this document has no Presence field")
        connection = connection_name(watched.viewers[(stream, watch)].who, stream, watch)
        self._changed[name] = None
        if value:
            try:
                watched.shown.set(connection, watched.instance.presented(value))
                return
            except ClusterError:
                watched.shown.remove(connection)
                raise
        watched.shown.remove(connection)

    @property
    def unserved(self) -> bool:
        """Whether `flush` has something to do although nothing was applied."""
        return bool(self._changed)

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
        elif live.passing is not None:
            live.passing = None

    def flush(self, turn: Turn) -> None:
        """Serve everybody whose document changed since the last flush."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        for name in sorted(changed):
            watched = self._watched.get(name)
            if watched is None:
                continue
            watched.classify()
            shared: dict[Shared, Encoded] = {}
            viewers, moved = watched.in_order()
            for viewer in viewers:
                self._send(watched, viewer, shared, turn, opening=False)
            watched.before = None
            watched.live.passing = None
            if moved:
                watched.prune()

    def _send(self, watched: _Watched, viewer: Viewer, shared: dict[Shared, Encoded], turn: Turn, *, opening: bool) -> None:
        live = watched.live
        at = (viewer.epoch, viewer.index, viewer.held_version)
        now = (live.epoch, live.index, viewer.version)
        behind = at != now or (watched.shown is not None and viewer.presence not in (-1, watched.shown.revision))
        if not opening and (not behind or viewer.credit_bytes <= 0):
            return
        if live.instance is None:
            self._end(viewer, failure_of(DocumentDeleted(f"{live.id} was deleted")), turn)
            return
        if not live.instance.admits(viewer.who):
            self._end(viewer, failure_of(PermissionDenied("the document's gate says no")), turn)
            return
        key = (viewer.held, viewer.sight, viewer.epoch, viewer.index)
        encoded = shared.get(key)
        if encoded is None:
            encoded = shared[key] = self._encode(watched, viewer)
            self._told(live, viewer.who)
        reset, body = encoded
        if watched.shown is not None:
            body = _with_presence(watched.shown, viewer, live.instance, reset, body, opening=opening)
        delta = Delta(viewer.watch, viewer.epoch, viewer.index, live.epoch, live.index, reset, body)
        if viewer.version:
            delta.from_arguments, delta.arguments = viewer.held_version, viewer.version
        if live.passing is not None and not opening:
            delta.emitted = live.passing.after(viewer.epoch, viewer.index, viewer.who, live.instance)
        turn.delta(viewer.stream, delta)
        viewer.epoch, viewer.index, viewer.held_version = now
        viewer.held = viewer.sight
        viewer.credit_bytes -= delta.credit_bytes

    def _encode(self, watched: _Watched, viewer: Viewer) -> Encoded:
        """The patch from where the viewer stands, or a whole view when there is none."""
        live = watched.live
        assert live.instance is not None
        changes = live.changes_since(viewer.index) if viewer.epoch == live.epoch and viewer.index >= 0 else None
        held, sight, who = viewer.held, viewer.sight, viewer.who
        if changes is not None and held == sight:
            patch = b"[]" if not changes else live.instance.patch_since(changes, who)
            if patch is not None:
                return False, patch
        followed = watched.projections.get(held)
        if followed is not None and changes is not None and followed[:2] == (viewer.epoch, viewer.index):
            projection = followed[2] if held == sight else followed[2].fork()
            patch = projection.advance(changes, who, sight[1])
            if held == sight or sight not in watched.projections:
                watched.projections[sight] = (live.epoch, live.index, projection)
            return False, patch
        projection = live.instance.projection(who, sight[1])
        watched.projections[sight] = (live.epoch, live.index, projection)
        view = projection.full()
        upgraded = (viewer.epoch, viewer.index + 1) == (live.epoch, live.upgraded_index)
        if upgraded and watched.before is not None and watched.before.view(who, held[1]) == view:
            return False, b"[]"  # most new code shows what the old one did: nobody is sent the whole again
        return True, view

    def _end(self, viewer: Viewer, failure: Failure, turn: Turn, *, lost: bool = False) -> None:
        turn.delta(viewer.stream, _ended(viewer, failure))
        self.close(viewer.stream, viewer.watch, lost=lost)


def _with_presence(shown: Shown, viewer: Viewer, instance: Instance, reset: bool, body: bytes, *, opening: bool) -> bytes:
    """A view or patch together with what connections show. Who may not see it has an empty object in its place."""
    seen = viewer.presence
    viewer.presence = shown.revision if instance.sees_presence(viewer.who) else -1
    whole = shown.whole() if viewer.presence >= 0 else b"{}"
    if reset:
        return with_member(body, shown.name, whole)
    if opening or (seen < 0) != (viewer.presence < 0):
        return joined(body, shown.replacement(whole))
    return joined(body, shown.since(seen)) if seen >= 0 else body


def _ended(viewer: Viewer, failure: Failure) -> Delta:
    return Delta(viewer.watch, viewer.epoch, viewer.index, viewer.epoch, viewer.index, False, b"[]", failure)
