"""Nodes and settings of placement in the system document."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cluster.documents.runtime import Code
from cluster.errors import InvalidName, InvalidPayload, RejectedError
from cluster.ids import NodeId
from cluster.shard.system.program import SystemInstance, SystemProgram
from cluster.shardmap import nodes as registry
from cluster.shardmap.map import bootstrap
from cluster.shardmap.nodes import PlacementSettings, Standing
from tests.shard.test_system import SYSTEM, code, fresh, run

MAP = bootstrap([NodeId("n1"), NodeId("n2"), NodeId("n3")], 2, 3)


def place(name: str, directory: str = "") -> dict[str, Any]:
    ports = {"peer_port": 7401, "gossip_port": 7402, "client_port": 7400}
    return {"do": "register", "node": name, "directory": directory, "host": "127.0.0.1", **ports}


def begun() -> tuple[SystemProgram, SystemInstance]:
    program, instance = fresh()
    listed = [place(name) for name in ("n1", "n2", "n3")]
    assert run(program, instance, "", shard_map=code(MAP.encode()), nodes=listed, replication_factor=3) is Code.OK
    return program, instance


def standing(instance: SystemInstance, name: str) -> Standing:
    return registry.get(instance.decisions.nodes, name).standing


def test_first_nodes_are_registered_from_the_beginning() -> None:
    program, instance = begun()
    assert [each.node for each in instance.decisions.nodes] == ["n1", "n2", "n3"]
    assert instance.decisions.members_epoch == 1
    assert program.load(SYSTEM, instance.dump()).decisions == instance.decisions


def test_a_cluster_can_begin_without_a_list() -> None:
    program, instance = fresh()
    assert run(program, instance, "", shard_map=code(MAP.encode())) is Code.OK
    assert instance.decisions.nodes == ()


def test_a_repeated_join_changes_neither_version_nor_epoch() -> None:
    program, instance = begun()
    run(program, instance, "node", **place("n4", "ab" * 16))
    before = instance.decisions
    assert run(program, instance, "node", **place("n4", "ab" * 16)) is Code.OK
    assert instance.decisions is before
    assert (before.version, before.members_epoch) == (2, 2)


def test_two_who_join_under_one_name_are_told_apart() -> None:
    program, instance = begun()
    assert run(program, instance, "node", **place("n4", "ab" * 16)) is Code.OK
    before = instance.dump()
    assert run(program, instance, "node", **place("n4", "cd" * 16)) is Code.REFUSED
    assert instance.dump() == before


def test_a_standing_is_a_compare_and_set_on_the_epoch_of_the_members() -> None:
    program, instance = begun()
    epoch = instance.decisions.members_epoch
    change: dict[str, Any] = {"do": "standing", "node": "n2", "standing": Standing.DRAINING}
    assert run(program, instance, "node", **change, expected=epoch) is Code.OK
    assert run(program, instance, "node", **{**change, "node": "n3"}, expected=epoch) is Code.REFUSED
    assert (standing(instance, "n2"), standing(instance, "n3")) == (Standing.DRAINING, Standing.ACTIVE)


def test_a_node_that_the_map_names_is_not_removed() -> None:
    program, instance = begun()
    run(program, instance, "node", do="standing", node="n3", standing=Standing.DECOMMISSIONING)
    assert run(program, instance, "node", do="standing", node="n3", standing=Standing.REMOVED) is Code.REFUSED
    for shard in MAP.shards:
        replicas = [(place.replica, place.node) for place in shard.replicas if place.node != "n3"]
        run(program, instance, "place", shard=shard.shard, configured=5, replicas=replicas)
    assert run(program, instance, "node", do="standing", node="n3", standing=Standing.REMOVED) is Code.OK
    assert standing(instance, "n3") is Standing.REMOVED


def test_settings_of_placement_change_one_by_one() -> None:
    program, instance = begun()
    run(program, instance, "placement", frozen=True)
    run(program, instance, "placement", frozen_shards=[2, 1, 2])
    run(program, instance, "placement", maintenance="n2", maintenance_until_ms=99)
    assert instance.decisions.placement == PlacementSettings(True, (1, 2), 3, "n2", 99)  # type: ignore[arg-type]
    version = instance.decisions.version
    assert run(program, instance, "placement", frozen=True) is Code.OK
    assert instance.decisions.version == version


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (place("n4"), InvalidPayload),
        (place("n4", "xy" * 16), InvalidPayload),
        (place("N 4", "ab" * 16), InvalidName),
        ({**place("n4", "ab" * 16), "peer_port": 0}, InvalidPayload),
        ({"do": "leave", "node": "n4"}, InvalidPayload),
        ({"do": "standing", "node": "n4", "standing": 9}, InvalidPayload),
    ],
)
def test_what_can_not_be_a_node_never_reaches_the_log(fields: dict[str, Any], error: type[RejectedError]) -> None:
    program, _ = begun()
    with pytest.raises(error):
        program.check("node", msgspec.json.encode(fields))
