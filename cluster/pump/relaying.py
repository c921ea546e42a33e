"""Reaching a node over one peer, when the connection to it is broken and the peer's is not.

A gateway cut off from a leader asks another node, which refuses and says who leads. If that leader can not be reached, what
client streams say to it, and it to them, is passed on by whoever named it. Only streams are: Raft, liveness and snapshots go
directly or not at all, so nothing here has a say in who leads or what is durable.

A path breaks where either of its connections does. The peer in the middle then tells the end that it still reaches, and both
ends give up what the path may owe, as they do for a connection of their own: operations get an unknown outcome, which the
session protocol makes safe to repeat, and watches are opened again.

Invariant: at most one peer passes a thing on: it does so between two nodes that it is connected to itself, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from cluster.ids import NodeId
from cluster.session.operations import Failure, Reply
from cluster.shard.turn import AnswerItem, ForwardItem, RaftLaneItem, RelayedItem, RelayItem, RelayLostItem, Turn

_RELAYED = get_args(RelayedItem)


class Relays:
    """One node's relayed paths, as an end and as the one in the middle.

    connected: peers that can be sent to, kept up to date by the owner.
    """

    def __init__(self, node: NodeId, connected: set[NodeId], turn: Turn) -> None:
        self._node = node
        self._connected = connected
        self._turn = turn
        self._via: dict[NodeId, NodeId] = {}
        self._carried: dict[NodeId, dict[NodeId, None]] = {}
        """Ends of paths over this node: each with those at the other ends."""

    # -- an end ------------------------------------------------------------------------------------------------------

    def reaches(self, node: NodeId) -> bool:
        """Whether what is said to a node that is not connected gets there over a peer."""
        return bool(self._via) and self._via.get(node) in self._connected

    def toward(self, node: NodeId, teller: NodeId | None) -> bool:
        """Whether a node can be reached over a peer, if need be over the one that spoke of it."""
        if self.reaches(node):
            return True
        if teller is None or teller == node or teller not in self._connected:
            return False
        self._via[node] = teller
        return True

    def divert(self, lane: dict[NodeId, list[RaftLaneItem]]) -> None:
        """What a turn has for nodes that are reached over peers goes to these."""
        for node in self._via.keys() & lane.keys() if self._via else ():
            items = [item for item in lane.pop(node) if isinstance(item, _RELAYED)]
            if items:
                lane.setdefault(self._via[node], []).append(RelayItem(self._node, node, items))

    def direct(self, node: NodeId) -> bool:
        """A node is connected: what passes over a peer to it has an end. Says whether something did: the reset with which a
        connection begins makes the other end give that up, so this one must too.
        """
        return self._via.pop(node, None) is not None

    def given_up(self, peer: NodeId, node: NodeId) -> bool:
        """The peer passes nothing on to the node any more; says whether it did for this one."""
        if self._via.get(node) != peer:
            return False
        del self._via[node]
        return True

    # -- the middle --------------------------------------------------------------------------------------------------

    def take(self, sender: NodeId, item: RelayItem, nobody: Failure) -> Sequence[RelayedItem]:
        """What has come for this node, as if from `item.origin`. All else is passed on; where that can not be, operations are
        answered with `nobody` in the name of who was to get them: they were not run.
        """
        if item.target == self._node:
            if item.origin not in self._connected:
                self._via[item.origin] = sender
            return item.items
        if item.origin != sender:
            return ()  # over two peers: whoever sent that does not know the rule
        if item.target in self._connected:
            self._carried.setdefault(sender, {})[item.target] = None
            self._carried.setdefault(item.target, {})[sender] = None
            self._turn.send_now(item.target, item)
            return ()
        refused: list[RelayedItem] = []
        for each in item.items:
            if isinstance(each, ForwardItem):
                replies = [Reply(operation.id, 0, 0, b"", nobody) for operation in each.operations]
                refused.append(AnswerItem(each.stream, [], replies))
        self._turn.send_now(sender, RelayItem(item.target, sender, refused))
        self._turn.send_now(sender, RelayLostItem(item.target))
        return ()

    # -- either ------------------------------------------------------------------------------------------------------

    def peer_lost(self, peer: NodeId) -> list[NodeId]:
        """What passed through the connection to a peer may be lost. Returns the nodes that were reached over it."""
        for other in self._carried.pop(peer, ()):
            self._carried[other].pop(peer, None)
            if other in self._connected:
                self._turn.send_now(other, RelayLostItem(peer))
        gone = [node for node, via in self._via.items() if via == peer]
        for node in gone:
            del self._via[node]
        return gone
