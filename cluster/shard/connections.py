"""Who watches the documents that want to know (`@on.connect`, `@on.disconnect`): what a shard's leader does about it.

Two things are kept equal: the connections in a document's state, and the watches that are open here. A watch whose connection
the state does not have waits until a connect is applied, and is refused if that is. A connection whose watch ended is
disconnected at once; one whose watch may only have been lost (its gateway's node is gone or cut off, or another replica led
before) has GRACE_MS to come back, under the same name and without a command. So a new leader begins with a look at all
documents that have connections, when that time is over: the index on disk names those whose records are written.

A connect of a connection that is there, and a disconnect of one that is not, change nothing. So nothing here is a matter of
safety: two leaders may propose the same, and one that knows too little is late.

Invariant: while this replica leads, every connection of a document's state has an open watch, or is among the lost or gone,
or has a command on its way, or belongs to a document that is still to be looked at.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cluster.documents.connections import connection_of, connection_payload
from cluster.documents.runtime import CONNECT_CHANNEL, DISCONNECT_CHANNEL, Instance
from cluster.empty import NO_ENTRIES, NO_ITEMS
from cluster.errors import CodeMissing, ConnectionUnchanged, Overloaded, StorageDamaged, Unavailable
from cluster.ids import NodeId, Principal
from cluster.session.failures import failure_of
from cluster.session.operations import Failure, Operation, Reply
from cluster.shard.cache import DocumentCache
from cluster.shard.commands import Command, CommandKind
from cluster.shard.directory import GRACE_MS as GRACE_MS
from cluster.shard.document import LiveDocument
from cluster.shard.feed import Feed
from cluster.shard.presence import connection_name
from cluster.shard.turn import StreamKey, Turn
from cluster.storage.keys import document_of

CONNECTING_MAX: Final = 4096
"""Watches of a shard that wait for their connection to be told to the document."""

COMMANDS_PER_ENTRY: Final = 64
"""Connects and disconnects that are made for one entry."""

SWEEP_PAUSE_MS: Final = 10
"""Between two looks at documents that may have been left: others have work too."""

LATER_MS: Final = 250
"""A document that can not be looked at now (its code is missing, it is being compared) is looked at again after this."""

_NEVER: Final = math.inf
_CONNECT, _DISCONNECT = CommandKind.CONNECT.value, CommandKind.DISCONNECT.value

Key = tuple[str, str, str]
"""(space, key, connection)."""


class _Stage(enum.Enum):
    BEHIND = enum.auto()
    """Its last coming is not taken back yet."""
    UNSENT = enum.auto()
    SENT = enum.auto()
    KNOWN = enum.auto()
    """The document was told; the watch is about to be opened."""


@dataclass(slots=True)
class _Coming:
    """A watch whose connection is about to be told to the document. operation: what opens it; None if it is open already, under
    code that was told of nobody.
    """

    number: int
    stream: StreamKey
    watch: int
    operation: Operation | None
    who: Principal
    code_hash: bytes
    stage: _Stage


def anybody(cache: DocumentCache) -> bool:
    """Whether any document of the shard has connections. Asked before anything is written in a turn."""
    if any(live.waiting[2] for live in cache.unsaved.values()):
        return True
    try:
        return bool(cache.connected(b"", 1))
    except StorageDamaged:
        return True  # whoever looks at them finds it


class Connections:
    """The connections of one shard's leader, for as long as it leads: made when there is anything to do.

    damaged: what could not be read while looking; the replica looks at it after every step.
    """

    __slots__ = (
        "_busy", "_cache", "_coming", "_cursor", "_feed", "_frozen", "_gone", "_last", "_lost", "_newly_lost", "_open", "_seen",
        "_sweep_ms", "_unsaved", "_unsent", "damaged",
    )  # fmt: skip

    def __init__(self, cache: DocumentCache, feed: Feed) -> None:
        self._cache = cache
        self._feed = feed
        self._open: dict[Key, tuple[StreamKey, int]] = NO_ENTRIES
        self._coming: dict[Key, _Coming] = NO_ENTRIES
        self._unsent: dict[Key, None] = NO_ENTRIES
        self._busy: dict[Key, int] = NO_ENTRIES
        """Connections with a command on its way, and its kind."""
        self._gone: dict[Key, None] = NO_ENTRIES
        """Their watch has ended: to be disconnected at once."""
        self._newly_lost: dict[Key, None] = NO_ENTRIES
        self._lost: dict[Key, float] = NO_ENTRIES
        """Until when each may come back."""
        self._seen: dict[tuple[str, str], tuple[int, int]] = NO_ENTRIES
        """Of documents with open watches: the epoch and upgrade under which these were compared with the state."""
        self._frozen: dict[tuple[str, str], None] = NO_ENTRIES
        """Documents that take no commands, and owe some of their connections a disconnect."""
        self._last = 0
        self._sweep_ms = -_NEVER
        """When the documents are looked at that had connections before this replica led."""
        self._cursor = b""
        self._unsaved: list[tuple[str, str]] = NO_ITEMS
        self.damaged = ""
        feed.departed = NO_ITEMS

    # -- watches -----------------------------------------------------------------------------------------------------

    def lets_in(self, live: LiveDocument, stream: StreamKey, operation: Operation, who: Principal) -> bool:
        """Whether this watch may be opened now. If not, it waits until its connection was told to the document, and is then
        given back by `concluded`. Raises Overloaded.
        """
        assert live.instance is not None
        self._take_departures()
        connection = connection_name(who, stream, operation.id)
        key = (live.id.space, live.id.key, connection)
        connected = live.instance.is_connected(connection)
        leaves = self._busy.get(key) == _DISCONNECT or (connected and key in self._gone)
        if connected and not leaves:
            return True
        if not leaves:
            self._gone.pop(key, None)
        known = self._coming.get(key)
        if known is not None and known.stage is not _Stage.KNOWN:
            known.operation = operation  # asked again, after something on the way was lost
            return False
        if len(self._coming) >= CONNECTING_MAX:
            raise Overloaded("too many watches wait to be told of", retry_after_ms=50, bound="connecting_max")
        self._come(key, stream, operation.id, operation, who, live.code_hash, behind=leaves)
        return False

    def _come(
        self,
        key: Key,
        stream: StreamKey,
        watch: int,
        operation: Operation | None,
        who: Principal,
        code_hash: bytes,
        *,
        behind: bool = False,
    ) -> None:
        if not self._coming:
            self._coming, self._unsent = {}, {}
        self._last += 1
        stage = _Stage.BEHIND if behind else _Stage.UNSENT
        self._coming[key] = _Coming(-self._last, stream, watch, operation, who, code_hash, stage)
        if not behind:
            self._unsent[key] = None

    def opened(self, live: LiveDocument, stream: StreamKey, watch: int, who: Principal) -> None:
        """This watch is open: its connection has come, or come back."""
        self._take_departures()
        key = (live.id.space, live.id.key, connection_name(who, stream, watch))
        self._coming.pop(key, None)
        self._opened(key, stream, watch, live)

    def _opened(self, key: Key, stream: StreamKey, watch: int, live: LiveDocument) -> None:
        if not self._open:
            self._open, self._seen = {}, {}
        self._open[key] = (stream, watch)
        self._seen[key[:2]] = (live.epoch, live.upgraded_index)
        self._newly_lost.pop(key, None)
        self._lost.pop(key, None)

    def not_opened(self, live: LiveDocument, stream: StreamKey, watch: int, who: Principal) -> None:
        """This watch can not be opened. If its connection has come all the same, it is gone."""
        key = (live.id.space, live.id.key, connection_name(who, stream, watch))
        coming = self._coming.get(key)
        if coming is None or coming.stage is _Stage.KNOWN:
            self._coming.pop(key, None)
            if live.instance is not None and live.instance.is_connected(key[2]):
                self._note_gone(key)

    def cancel(self, stream: StreamKey, watch: int) -> None:
        """A watch ended before it was open. Not answered."""
        if self._coming:
            self._cancel(lambda coming: coming.watch == watch and coming.stream == stream)

    def cancel_streams(self, ended: Callable[[StreamKey], bool]) -> None:
        """All watches of some streams ended, those too that are not open yet. Not answered."""
        if self._coming:
            self._cancel(lambda coming: ended(coming.stream))

    def node_silent(self, node: NodeId, turn: Turn) -> None:
        """Nothing is heard of a gateway's node: its connections are lost unless it opens their watches again."""
        failure = failure_of(Unavailable("nothing is heard of the gateway's node", retry_after_ms=20))
        for stream, watch in [at for at in self._open.values() if at[0][0] == node]:
            self._feed.end(stream, watch, failure, turn, lost=True)

    def _cancel(self, meant: Callable[[_Coming], bool]) -> None:
        for key, coming in [(key, coming) for key, coming in self._coming.items() if meant(coming)]:
            del self._coming[key]
            if coming.stage is _Stage.UNSENT:
                del self._unsent[key]
            elif coming.stage is not _Stage.BEHIND:
                self._note_gone(key)

    def _note_gone(self, key: Key) -> None:
        if not self._gone:
            self._gone = {}
        self._gone[key] = None

    def _note_lost(self, key: Key) -> None:
        if not self._newly_lost:
            self._newly_lost = {}
        self._newly_lost[key] = None

    def _take_departures(self) -> None:
        """What the feed says of watches that ended."""
        departed = self._feed.departed
        if not departed:
            return
        self._feed.departed = NO_ITEMS
        for name, connection, lost in departed:
            key = (*name, connection)
            if self._open.pop(key, None) is None:
                continue
            if not self._feed.viewers(name):
                self._seen.pop(name, None)
            if lost:
                self._note_lost(key)
            else:
                self._note_gone(key)

    @property
    def awaited(self) -> bool:
        """Whether watches wait here to be opened."""
        return bool(self._coming)

    # -- time --------------------------------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:
        """Whether `take` has something to do whatever the time."""
        return bool(self._unsent or self._gone or self._newly_lost or self._feed.departed)

    @property
    def deadline_ms(self) -> float:
        """When there is something to do, by the leader's own clock, as far as is known."""
        if self.urgent:
            return -_NEVER
        return min(next(iter(self._lost.values())), self._sweep_ms) if self._lost else self._sweep_ms

    # -- making commands ---------------------------------------------------------------------------------------------

    def take(self, now_ms: float) -> list[tuple[Command, int]]:
        """Commands for what is to be told at `now_ms`, each with the number under which `concluded` is told how it ended. Asked
        before anything is written in a turn, so that the index on disk says everything that was ever saved.
        """
        if self._sweep_ms == -_NEVER:
            self._plan_sweep(now_ms)
        if self.deadline_ms > now_ms:
            return []
        self._take_departures()
        if self._newly_lost:
            if not self._lost:
                self._lost = {}
            for key in self._newly_lost:
                self._lost.pop(key, None)  # the earliest are first
                self._lost[key] = now_ms + self._cache.connection_grace_ms
            self._newly_lost = NO_ENTRIES
        if self._sweep_ms <= now_ms and not self._gone:
            self._sweep(now_ms)
        made: list[tuple[Command, int]] = []
        while self._gone and len(made) < COMMANDS_PER_ENTRY:
            key = next(iter(self._gone))
            del self._gone[key]
            made += self._disconnect(key, now_ms)
        while self._lost and len(made) < COMMANDS_PER_ENTRY:
            key, until_ms = next(iter(self._lost.items()))
            if until_ms > now_ms:
                break
            del self._lost[key]
            made += self._disconnect(key, now_ms)
        while self._unsent and len(made) < COMMANDS_PER_ENTRY:
            key = next(iter(self._unsent))
            del self._unsent[key]
            coming = self._coming[key]
            coming.stage = _Stage.SENT
            made.append((self._command(_CONNECT, key, coming.who, coming.code_hash), coming.number))
        return made

    def _command(self, kind: int, key: Key, who: Principal, code_hash: bytes) -> Command:
        if not self._busy:
            self._busy = {}
        self._busy[key] = kind
        channel = CONNECT_CHANNEL if kind == _CONNECT else DISCONNECT_CHANNEL
        return Command(kind, key[0], key[1], channel, connection_payload(key[2]), str(who), b"", 0, 0, code_hash)

    def _disconnect(self, key: Key, now_ms: float) -> list[tuple[Command, int]]:
        """The command that takes a connection back, unless there is no reason for one."""
        live = self._find(key[:2])
        if live is None or key[:2] in self._cache.held:
            if not self.damaged:
                self._look_later(key, now_ms)
            return []
        coming = self._coming.get(key)
        if coming is not None and coming.stage is _Stage.KNOWN:
            del self._coming[key]  # nobody has opened it
        if key in self._open or key in self._busy:
            return []
        if live.frozen:
            if not self._frozen:
                self._frozen = {}
            self._frozen[key[:2]] = None
        who = live.instance.connections().get(key[2]) if live.instance is not None and not live.frozen else None
        if who is None or live.instance is None:
            if coming is not None and coming.stage is _Stage.BEHIND:
                coming.stage = _Stage.UNSENT  # there is nothing to wait for; what else is wrong it is told
                self._unsent[key] = None
            return []
        self._cache.read(live)  # this touches it, as reading does: it gets the code that it should have
        return [(self._command(_DISCONNECT, key, who, live.code_hash), 0)]

    def _look_later(self, key: Key, now_ms: float) -> None:
        """Behind all others: until then it may well be later than asked."""
        if not self._lost:
            self._lost = {}
        last_ms = next(reversed(self._lost.values()), 0.0)
        self._lost[key] = max(now_ms + LATER_MS, last_ms)

    def _find(self, name: tuple[str, str]) -> LiveDocument | None:
        """A document that has connections; None while it can not be had."""
        try:
            return self._cache.get(*name)
        except CodeMissing:
            return None
        except StorageDamaged as error:
            self.damaged = error.message
            return None

    # -- what was there before ---------------------------------------------------------------------------------------

    def _plan_sweep(self, now_ms: float) -> None:
        """See whether there is anybody who may not come back to this leader."""
        self._unsaved = [name for name, live in self._cache.unsaved.items() if live.waiting[2]] or NO_ITEMS
        try:
            waits = bool(self._unsaved or self._cache.connected(b"", 1))
        except StorageDamaged as error:
            self.damaged = error.message
            return
        self._sweep_ms = now_ms + self._cache.connection_grace_ms if waits else _NEVER

    def _sweep(self, now_ms: float) -> None:
        """Look at the next documents that had connections when this replica began to lead."""
        if self._unsaved:
            names, self._unsaved = self._unsaved[-COMMANDS_PER_ENTRY:], self._unsaved[:-COMMANDS_PER_ENTRY]
        else:
            try:
                found = self._cache.connected(self._cursor, COMMANDS_PER_ENTRY)
            except StorageDamaged as error:
                self.damaged = error.message
                return
            if not found:
                self._sweep_ms = _NEVER
                return
            self._sweep_ms = now_ms + SWEEP_PAUSE_MS
            self._cursor = found[-1]
            documents = [document_of(name) for name in found]
            names = [(document.space, document.key) for document in documents]
        for name in names:
            live = self._find(name)
            if live is None and not self.damaged:
                self._unsaved = [*self._unsaved, name]  # its code is on its way
                self._sweep_ms = now_ms + LATER_MS
            elif live is not None and live.instance is not None:
                self._miss(live, live.instance)

    def _miss(self, live: LiveDocument, instance: Instance) -> None:
        """Every connection of this document without a watch is gone, unless it is known why it has none."""
        for connection in instance.connections():
            key = (live.id.space, live.id.key, connection)
            known = key in self._open or key in self._coming or key in self._busy
            if not known and key not in self._lost and key not in self._newly_lost:
                self._note_gone(key)

    def changed(self, live: LiveDocument) -> None:
        """A command changed this document, which is told of connections. It is told now of watches that were opened under code
        which was not.
        """
        instance = live.instance
        assert instance is not None
        name = (live.id.space, live.id.key)
        seen = self._seen.get(name)
        if seen == (live.epoch, live.upgraded_index) and name not in self._frozen:
            return
        if not live.frozen and (seen is not None or self._sweep_ms == _NEVER):  # else the sweep comes by
            self._frozen.pop(name, None)
            self._miss(live, instance)
        self._take_departures()
        for stream, watch, who in self._feed.viewers(name):
            key = (*name, connection_name(who, stream, watch))
            self._opened(key, stream, watch, live)
            if not instance.is_connected(key[2]) and key not in self._busy and key not in self._coming:
                self._come(key, stream, watch, None, who, live.code_hash)

    # -- how they ended ----------------------------------------------------------------------------------------------

    def concluded(self, commands: list[Command], replies: list[Reply], turn: Turn) -> list[tuple[StreamKey, Operation]]:
        """These were applied; `replies` were given to nobody. Returns watches that may be opened now; those that are refused
        are told so.
        """
        if not self._busy:
            return []
        failures = {reply.id: reply.failure for reply in replies if reply.id < 0}
        ready: list[tuple[StreamKey, Operation]] = []
        for command in commands:
            if command.kind != _CONNECT and command.kind != _DISCONNECT:
                continue
            key = (command.space, command.key, connection_of(command.payload))
            if self._busy.pop(key, None) is None:
                continue
            live = self._cache.peek(command.space, command.key)
            connected = live is not None and live.instance is not None and live.instance.is_connected(key[2])
            coming = self._coming.get(key)
            if coming is None:
                if connected and key not in self._open:
                    self._note_gone(key)
            elif coming.operation is None:
                del self._coming[key]
                self._told_late(key, failures.get(coming.number), turn)
            elif command.kind == _DISCONNECT:
                del self._coming[key]
                ready.append((coming.stream, coming.operation))
            else:
                ready += self._told(key, coming, failures.get(coming.number), connected, turn)
        return ready

    def _told(
        self, key: Key, coming: _Coming, failure: Failure | None, connected: bool, turn: Turn
    ) -> list[tuple[StreamKey, Operation]]:
        """The document was told that this watch's connection came: whether it may be opened now."""
        assert coming.operation is not None, "one that is open already does not wait"
        if failure is not None and failure.reason != ConnectionUnchanged.reason:
            del self._coming[key]
            turn.reply(coming.stream, Reply(coming.operation.id, 0, 0, b"", failure))
            return []
        coming.stage = _Stage.KNOWN
        if connected:
            self._note_lost(key)  # until it is opened
        return [(coming.stream, coming.operation)]

    def _told_late(self, key: Key, failure: Failure | None, turn: Turn) -> None:
        """The document was told of a watch that is open. It ends if that was refused."""
        at = self._open.get(key)
        if at is not None and failure is not None and failure.reason != ConnectionUnchanged.reason:
            del self._open[key]
            self._feed.end(*at, failure, turn)

    def refused(self, commands: list[Command], now_ms: float, turn: Turn) -> None:
        """Raft did not take these: whoever waits asks again, and what is to be disconnected is tried again."""
        failure = failure_of(Unavailable("the shard takes no commands at the moment", retry_after_ms=20))
        for command in commands:
            if command.kind != _CONNECT and command.kind != _DISCONNECT:
                continue
            key = (command.space, command.key, connection_of(command.payload))
            if self._busy.pop(key, None) is None:
                continue
            coming = self._coming.pop(key, None)
            if coming is not None and coming.operation is not None:
                turn.reply(coming.stream, Reply(coming.operation.id, 0, 0, b"", failure))
            elif coming is not None:
                self._seen.pop(key[:2], None)  # looked at again when the document changes
            if command.kind == _DISCONNECT:
                self._look_later(key, now_ms)

    def refuse_all(self) -> list[tuple[StreamKey, Operation]]:
        """Leadership ended: every watch that waits, removed from here."""
        waiting = [(coming.stream, coming.operation) for coming in self._coming.values()]
        self._coming = self._unsent = NO_ENTRIES
        return [(stream, operation) for stream, operation in waiting if operation is not None]
