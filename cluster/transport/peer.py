"""What the node asks of whatever carries frames between nodes.

A node pair has three lanes, each with its own connections, so that a snapshot chunk never stands in front of a heartbeat.
A frame is opaque bytes, made and read by the layers above.

Invariants, per (sender, receiver, lane):
- frames arrive in the order in which `send` accepted them, each at most once, each whole (length and crc32 checked);
- a frame that was accepted may be lost when its connection breaks, and is never sent again by the transport: Raft and the
  session protocol repair loss, and only they know whether a repeat still makes sense;
- memory is bounded by `LaneBounds` per lane; beyond it `send` refuses.

What this does not do: discover peers, retry frames, or declare a node dead. ECONNREFUSED is reported as evidence that the
process is gone; a verdict is for Raft and gossip.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final, Protocol

from cluster.ids import NodeId
from cluster.pump.lanes import Lane

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest frame. A larger announced length ends the connection before anything is allocated for it."""


@dataclass(frozen=True, slots=True)
class LaneBounds:
    """Bytes that may wait per peer and lane before `send` refuses. An empty lane takes one frame of any legal size."""

    liveness_bytes_max: int = 1 * 1024 * 1024
    raft_bytes_max: int = 32 * 1024 * 1024
    bulk_bytes_max: int = 16 * 1024 * 1024

    def of(self, lane: Lane) -> int:
        return (self.liveness_bytes_max, self.raft_bytes_max, self.bulk_bytes_max)[lane]


class Refusal(enum.StrEnum):
    """Why a connection was ended. The value is the stable name in logs, counters and the handshake's answer."""

    WRONG_CLUSTER = "wrong_cluster"
    WRONG_NODE = "wrong_node"
    VERSION_MISMATCH = "version_mismatch"
    STALE_GENERATION = "stale_generation"
    SUPERSEDED = "superseded"
    MALFORMED = "malformed"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    FRAME_TOO_LARGE = "frame_too_large"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    REMOVED = "removed"


@dataclass(slots=True)
class PeerCounters:
    """Totals since start. `refusals` counts ended connections by reason, on either side."""

    frames_sent: int = 0
    bytes_sent: int = 0
    frames_received: int = 0
    bytes_received: int = 0
    dropped_not_connected: int = 0
    dropped_over_bound: int = 0
    refusals: dict[Refusal, int] = field(default_factory=dict)

    def refuse(self, refusal: Refusal) -> None:
        self.refusals[refusal] = self.refusals.get(refusal, 0) + 1


class PeerEvents(Protocol):
    """Given by the node. Called from the event loop's thread, never from inside `send`, never after `stop`."""

    def on_frame(self, node: NodeId, lane: Lane, frame: bytes) -> None:
        """A whole frame. May come before `on_connected`: the two directions of a pair connect independently."""

    def on_connected(self, node: NodeId, boot_generation: int) -> None:
        """Every lane towards `node` is up, all to the process of this boot generation: `send` will be accepted."""

    def on_disconnected(self, node: NodeId, refused: bool) -> None:
        """Evidence about `node`, at most once each between two `on_connected`.

        refused=False: a lane was lost after `on_connected`. The others may still work and keep being used.
        refused=True: no lane is up and a dial was answered with ECONNREFUSED: the host is there, the process is not.
        It also comes, without a False before it, for a peer that was never reached.
        """


class PeerTransport(Protocol):
    """Carries frames to and from peers. Not thread safe: every call comes from the event loop's thread."""

    async def start(self) -> None:
        """Listen. Raises OSError if the address is taken; nothing is left running then."""

    async def stop(self) -> None:
        """Stop dialling, close every connection and the listener. No event is called afterwards."""

    def connect(self, node: NodeId, host: str, port: int) -> None:
        """Keep a connection per lane to `node`: first retry after 50 ms, jittered growth to 1 s, without end.

        A repeat with the same address does nothing; with another address the peer is dialled there from now on.
        """

    def disconnect(self, node: NodeId) -> None:
        """Stop dialling `node` and close the lanes towards it, without an event. Unknown nodes are ignored."""

    def bar(self, node: NodeId) -> None:
        """`disconnect`, and refuse whoever comes under this name from now on: it was removed from the cluster."""

    def send(self, node: NodeId, lane: Lane, frame: bytes) -> bool:
        """Queue a frame; never blocks.

        Returns False, with the frame dropped and counted, if the lane is not connected or its byte bound is reached.
        Raises TooLarge if the frame is empty or longer than FRAME_BYTES_MAX; nothing was queued.
        """

    def flush(self) -> None:
        """Hand what was queued to the kernel now instead of when this loop turn ends.

        For who is about to block the loop, by an fsync for example, and wants the frames on their way meanwhile.
        """
