"""What goes into the gossip core and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.gossip.messages import Address, Labels, State
from cluster.ids import NodeId

Endpoint = tuple[str, int]
"""Host and gossip port."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram arrived. `source` is where it came from as the network says."""

    source: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamRequested:
    """Somebody opened a stream and sent `data`. `stream` names it in the StreamReply."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamReplied:
    """The answer to the StreamRequest of this number."""

    request: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """No answer will come to the StreamRequest of this number."""

    request: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline is reached. A step at any time does the same work; this one brings nothing else."""


@dataclass(frozen=True, slots=True)
class Awake:
    """The process is awake for another reason, and its peers are about to be: what is periodic and due soon begins now, so that
    an idle node does not wake for it. The period keeps its average.
    """


@dataclass(frozen=True, slots=True)
class SetHints:
    """Tell everybody these hints about this node. Raises TooLarge from `step`; nothing was changed."""

    hints: bytes


@dataclass(frozen=True, slots=True)
class SetAddress:
    """This node is reached elsewhere from now on."""

    address: Address


@dataclass(frozen=True, slots=True)
class Leave:
    """Say good-bye. Keep stepping for a few gossip intervals so that it is heard."""


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Take a Leave back."""


@dataclass(frozen=True, slots=True)
class Remove:
    """The authoritative member list no longer has these ids, for good: forget them and refuse them from now on."""

    nodes: Iterable[NodeId]


Event = (
    Datagram | StreamRequested | StreamReplied | StreamFailed | Tick | Awake | SetHints | SetAddress | Leave | Rejoin | Remove
)


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as this node holds it now.

    since_ms: when it entered `state`, on this node's clock. accusers: who said so, for a suspect or dead member.
    """

    node: NodeId
    generation: int
    incarnation: int
    state: State
    address: Address
    labels: Labels
    hints: bytes
    since_ms: int
    accusers: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class MemberChange:
    """A member is new (`before` is None), changed its state, restarted (`generation` rose), or told something new."""

    member: MemberView
    before: State | None


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """Open a stream to `target`, send `data`, bring one answer back as StreamReplied or StreamFailed."""

    request: int
    target: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamReply:
    """Answer the StreamRequested of this number and close the stream. Empty data closes it without an answer."""

    stream: int
    data: bytes


@dataclass(slots=True)
class Effects:
    """What one step wants done. The order within a list is the order to do it in; between lists there is none.

    superseded_by: nonzero when the others know a newer process of this node's id; this node should look into it.
    """

    datagrams: list[tuple[Endpoint, bytes]] = field(default_factory=list)
    requests: list[StreamRequest] = field(default_factory=list)
    replies: list[StreamReply] = field(default_factory=list)
    changes: list[MemberChange] = field(default_factory=list)
    superseded_by: int = 0
