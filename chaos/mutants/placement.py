"""Planted bugs in the placement of replicas: in what is decided, and in how it gets there."""

from __future__ import annotations

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import PLACED
from cluster.ids import NodeId
from cluster.placement import controller
from cluster.placement.draft import Draft
from cluster.placement.plan import Order
from cluster.pump import controlling
from cluster.pump.reporting import Reporting
from cluster.shard.steering import OrderedMove, OrderedTransfer

MUTANTS, mutant = collector()


@mutant("a learner that no move needs any more stays", PLACED)
def placement_leaves_learners(patch: Patch) -> None:
    patch.set(controller, "_finish", lambda draft, shard: None)


@mutant("a replacement is added and the dead voter is kept", PLACED)
def placement_adds_and_keeps(patch: Patch) -> None:
    def ordered(order: Order) -> OrderedMove | OrderedTransfer:
        made: OrderedMove | OrderedTransfer = original(order)
        return OrderedMove(made.shard, NodeId(""), made.joining) if isinstance(made, OrderedMove) else made

    original = patch.set(controlling, "_ordered", ordered)


@mutant("a controller that was just elected does not ask for what was reported before", PLACED)
def placement_asks_nobody_again(patch: Patch) -> None:
    def on_taken(own: Reporting, node: NodeId, version: int) -> None:
        if version:
            original(own, node, version)

    original = patch.set(Reporting, "on_taken", on_taken)


@mutant("replicas are placed on whoever is empty, also if he is dead", PLACED)
def placement_moves_to_whoever_is_empty(patch: Patch) -> None:
    def takes_replicas(own: Draft, node: NodeId) -> bool:
        view = own.view.nodes.get(node)
        return view is not None and view.standing == 1

    patch.set(Draft, "takes_replicas", takes_replicas)
