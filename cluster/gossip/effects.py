"""What goes into the gossip core and what comes out of it.

For whoever decides from above (placement, the node), the seam is this. `Gossip.members()` gives a `MemberView` for everybody
else: (node id, boot generation) with state alive | suspect | dead | left, addresses, tags, load, and since when.
`Effects.changes` tells each change of opinion, `Effects.cut` what is steady enough to act upon. Downwards there is one command
that gossip obeys: `Removed(nodes, members_epoch)`. All of it is opinion.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.gossip.messages import Address, Alive, ForeignVersion, Load, State, Tags
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
class SetLoad:
    """Tell everybody how busy this node is. The node, generation and sequence in it are filled in by the core."""

    load: Load


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
class Remembered:
    """Members that were there when this was written down, this node perhaps among them. No news to anybody; whoever is not
    there any more is found out like everybody else.
    """

    members: Iterable[Alive]


@dataclass(frozen=True, slots=True)
class Removed:
    """The authoritative list of members, as of this epoch, no longer has these ids, for good: forget them and refuse them from
    now on, whoever still gossips about them. Ids are never reused; lists may be cumulative and may come late or twice.
    """

    nodes: Iterable[NodeId]
    members_epoch: int


@dataclass(frozen=True, slots=True)
class Stalled:
    """This process did not run for this long until now, as its event loop noticed: timers of suspicions stand still for that
    time, and what was under way accuses nobody.
    """

    duration_ms: int


@dataclass(frozen=True, slots=True)
class DataPath:
    """Whether the connections of the data path reach a process of a member, as their owner knows just now. While a probe is
    under way a path that works is an answer.
    """

    node: NodeId
    generation: int
    works: bool


Event = (
    Datagram
    | StreamRequested
    | StreamReplied
    | StreamFailed
    | Tick
    | Awake
    | SetHints
    | SetLoad
    | SetAddress
    | Leave
    | Rejoin
    | Remembered
    | Removed
    | Stalled
    | DataPath
)


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as this node holds it now.

    since_ms: when it entered `state`, on this node's clock. accusers: who said so, for a suspect or dead member.
    hints, load: what it last said of itself, empty and None if nothing yet.
    """

    node: NodeId
    generation: int
    incarnation: int
    state: State
    address: Address
    tags: Tags
    hints: bytes
    load: Load | None
    since_ms: int
    accusers: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class MemberChange:
    """A member is new (`before` is None), changed its state, restarted (`generation` rose), or told something new."""

    member: MemberView
    before: State | None


@dataclass(frozen=True, slots=True)
class Cut:
    """One change of the published view: verdicts of some 100 ms together, without members that flap.

    A restart that is over within that time changes no view; `changes` tells of it.
    number: of this node's cuts, rising by one. up: new, or back (a suspect is up). down: dead. left: said good-bye.
    """

    number: int
    up: tuple[MemberView, ...]
    down: tuple[MemberView, ...]
    left: tuple[MemberView, ...]


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

    changes: every opinion as it changes. cut: the change of the published view that is due, if any.
    foreign: versions spoken by somebody whose packet this release can not read.
    data_paths: members whose datagrams are missing: tell, by `DataPath`, whether the data path reaches them.
    superseded_by: nonzero when the others know a newer process of this node's id; this node should look into it.
    """

    datagrams: list[tuple[Endpoint, bytes]] = field(default_factory=list)
    requests: list[StreamRequest] = field(default_factory=list)
    replies: list[StreamReply] = field(default_factory=list)
    changes: list[MemberChange] = field(default_factory=list)
    cut: Cut | None = None
    foreign: ForeignVersion | None = None
    data_paths: list[NodeId] = field(default_factory=list)
    superseded_by: int = 0
