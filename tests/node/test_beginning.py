"""How a node comes to its cluster: exactly one beginning, and a start that was interrupted goes on as the same node.

The cluster is one real node in this process; newcomers are only as much of a node as a beginning is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.local import _choose_ports
from cluster.config import InitialNode, NodeConfig
from cluster.errors import (
    ClockSkewed,
    ConfigurationInvalid,
    IdentityFenced,
    NodeRemoved,
    ReleaseMismatch,
    Unavailable,
    WrongCluster,
)
from cluster.ids import NodeId
from cluster.node import beginning, sponsor
from cluster.node.beginning import Beginning, begin, introduce_to
from cluster.node.directory import STORE, claim, identity_for_joining, remembered
from cluster.node.node import Node
from cluster.node.origin import CLUSTER_FILE, Origin, load_origin
from cluster.pump import facts
from cluster.session.failures import error_of
from cluster.shardmap import nodes as registry
from cluster.shardmap.nodes import RegisteredNode, Standing
from cluster.transport.introduction import introduce
from cluster.transport.peer_wire import Introduction

PORTS = (1, 2, 3)


def configured(data: Path, name: str = "n2", ports: tuple[int, ...] = PORTS, **more: Any) -> NodeConfig:
    client, peer, gossip = ports
    return NodeConfig(
        node_id=name, data_dir=str(data), client_port=client, peer_port=peer, gossip_port=gossip,
        disk_free_bytes_min=0, heartbeat_interval_ms=20, election_timeout_ms=100, **more,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def a_cluster(folder: Path) -> AsyncIterator[tuple[Node, str]]:
    """A cluster of one, and where it can be joined."""
    ports = _choose_ports(1, 0)[0]
    node = Node(configured(folder / "n1", "n1", ports, init="on"))
    await node.start()
    try:
        await comes(lambda: bool(node.pump.directory.decisions.nodes) and bool(known(node, "n1").directory))
        yield node, f"127.0.0.1:{ports[1]}"
    finally:
        await node.stop()


def known(node: Node, name: str) -> RegisteredNode:
    return registry.get(node.pump.directory.decisions.nodes, name)


async def comes(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


async def begun(config: NodeConfig) -> Beginning:
    """A beginning, closed again."""
    found = await asyncio.wait_for(begin(config), 20)
    found.engine.close()
    return found


async def standing(node: Node, name: str, *wanted: Standing) -> None:
    for each in wanted:
        await node._decisions.decide("node", {"do": "standing", "node": name, "standing": each})
    await comes(lambda: known(node, name).standing is wanted[-1])


async def test_an_empty_directory_without_a_beginning_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"--join HOST:PEER_PORT.*--init"):
        await begin(configured(tmp_path / "d"))
    assert not (tmp_path / "d" / STORE).exists()


async def test_two_beginnings_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="exclude each other"):
        await begin(configured(tmp_path / "d", join=("127.0.0.1:9",), init="on"))
    listed = (InitialNode(NodeId("n2"), "127.0.0.1", *PORTS),)
    with pytest.raises(ConfigurationInvalid, match="exclude each other"):
        await begin(configured(tmp_path / "d", join=("127.0.0.1:9",), initial_nodes=listed, replication_factor=1))


async def test_a_directory_that_knows_its_cluster_needs_nothing_more(tmp_path: Path) -> None:
    first = await begun(configured(tmp_path / "d", init="on"))
    again = await begun(configured(tmp_path / "d"))
    assert again.origin == first.origin
    assert again.identity.boot_generation == first.identity.boot_generation + 1


async def test_a_list_with_other_addresses_of_the_same_nodes_is_ignored_and_one_of_other_nodes_refused(tmp_path: Path) -> None:
    def listed(*names: str, port: int) -> tuple[InitialNode, ...]:
        places = [(port + 10 * place, name) for place, name in enumerate(names)]
        return tuple(InitialNode(NodeId(name), "127.0.0.1", at, at + 1, at + 2) for at, name in places)

    before = listed("n1", "n2", "n3", port=7000)
    first = await begun(configured(tmp_path / "d", ports=(7010, 7011, 7012), initial_nodes=before))
    moved = listed("n1", "n2", "n3", port=8000)
    again = await begun(configured(tmp_path / "d", ports=(8010, 8011, 8012), initial_nodes=moved))
    assert again.origin.cluster_id == first.origin.cluster_id
    other = listed("n1", "n2", "n4", port=7000)
    with pytest.raises(WrongCluster):
        await begin(configured(tmp_path / "d", ports=(7010, 7011, 7012), initial_nodes=other))


async def test_a_node_that_joins_is_registered_and_begins_with_what_was_decided_and_no_replica(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (n1, address):
        config = configured(tmp_path / "d", join=(address,), labels={"zone": "z9"})
        found = await asyncio.wait_for(begin(config), 20)
        held = [one for one in facts.held(found.engine, NodeId("n2"), n1.pump.router.map).values() if one.replica]
        store = facts.own_store(found.engine, lambda size: b"?" * size)
        assert facts.directory(found.engine) == n1.pump.directory.encode()
        assert not facts.is_blank(found.engine)
        found.engine.close()
        assert held == []
        assert found.origin.cluster_id == n1._cluster_id
        assert [each.node_id for each in found.origin.peers] == ["n1", "n2"]
        own = known(n1, "n2")
        assert (own.directory, own.zone, own.peer_port) == (store, "z9", PORTS[1])


async def test_a_crash_after_the_question_was_asked_makes_no_second_node(tmp_path: Path) -> None:
    """The identity is durable before it is shown to anybody."""
    async with a_cluster(tmp_path) as (n1, address):
        config = configured(tmp_path / "d", join=(address,))
        host, port = address.split(":")
        identity = identity_for_joining(tmp_path / "d", NodeId("n2"))
        await introduce_to(host, int(port), config, b"", identity.store)
        epoch = n1.pump.directory.decisions.members_epoch
        assert load_origin(tmp_path / "d") is None
        await begun(config)
        assert n1.pump.directory.decisions.members_epoch == epoch
        assert known(n1, "n2").directory == identity.store


async def test_a_crash_before_the_store_was_made_goes_on_without_being_told_whom_to_ask(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (_, address):
        path, identity = tmp_path / "d", identity_for_joining(tmp_path / "d", NodeId("n2"))
        await begun(configured(path, join=(address,)))
        origin = (path / CLUSTER_FILE).read_text()
        for child in (path / STORE).iterdir():
            child.unlink()
        (path / STORE).rmdir()
        claim(path, identity, (await begun_origin(path)).cluster_id)
        assert (path / CLUSTER_FILE).read_text() == origin
        again = await begun(configured(path))
        assert again.identity.boot_generation == 1
        later = remembered(path)
        assert later is not None
        assert later.store == identity.store


async def begun_origin(path: Path) -> Origin:
    found = load_origin(path)
    assert found is not None
    return found


async def test_a_newcomer_waits_for_a_cluster_that_does_not_answer_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ports = _choose_ports(1, 0)[0]
    with caplog.at_level(logging.WARNING):
        waiting = asyncio.ensure_future(begin(configured(tmp_path / "d", join=(f"127.0.0.1:{ports[1]}",))))
        await comes(lambda: "waits for the cluster that it joins" in caplog.text)
        node = Node(configured(tmp_path / "n1", "n1", ports, init="on"))
        await node.start()
        try:
            (await asyncio.wait_for(waiting, 30)).engine.close()
            assert known(node, "n2").standing is Standing.ACTIVE
        finally:
            await node.stop()


async def test_a_gateway_is_no_place_to_join_and_the_message_says_which_port_is(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (n1, _):
        with pytest.raises(Unavailable, match="peer_port"):
            await introduce_to("127.0.0.1", n1.config.client_port, configured(tmp_path / "d"), b"", b"\7" * 16)


async def test_a_wiped_disk_is_refused_under_its_old_name_and_taken_under_a_new_one(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (n1, address):
        await begun(configured(tmp_path / "old", join=(address,)))
        epoch = n1.pump.directory.decisions.members_epoch
        with pytest.raises(IdentityFenced, match="moot node decommission n2"):
            await begin(configured(tmp_path / "wiped", join=(address,)))
        assert not (tmp_path / "wiped" / STORE).exists()
        assert n1.pump.directory.decisions.members_epoch == epoch
        await begun(configured(tmp_path / "new", "n3", (4, 5, 6), join=(address,)))


async def test_a_removed_node_is_told_so_when_it_comes_back(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (n1, address):
        await begun(configured(tmp_path / "d", join=(address,)))
        await standing(n1, "n2", Standing.DECOMMISSIONING, Standing.REMOVED)
        with pytest.raises(NodeRemoved):
            await begin(configured(tmp_path / "d", join=(address,)))
        with pytest.raises(NodeRemoved):
            await begin(configured(tmp_path / "other", join=(address,)))


async def test_a_directory_of_another_cluster_is_refused_and_nothing_changes_on_either_side(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (n1, address):
        first = await begun(configured(tmp_path / "d", init="on"))
        epoch = n1.pump.directory.decisions.members_epoch
        with pytest.raises(WrongCluster):
            await begin(configured(tmp_path / "d", join=(address,)))
        assert n1.pump.directory.decisions.members_epoch == epoch
        again = await begun(configured(tmp_path / "d"))
        assert again.origin == first.origin
        assert again.identity.boot_generation == 2, "the refused start was no boot"


async def test_join_of_a_directory_that_has_joined_is_ignored(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (n1, address):
        await begun(configured(tmp_path / "d", join=(address,)))
        epoch = n1.pump.directory.decisions.members_epoch
        again = await begun(configured(tmp_path / "d", join=(address,)))
        assert again.identity.boot_generation == 2
        assert n1.pump.directory.decisions.members_epoch == epoch


async def test_a_clock_that_is_off_keeps_a_newcomer_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_cluster(tmp_path) as (n1, address):
        monkeypatch.setattr(beginning, "wall_ms", lambda: sponsor.wall_ms() + 2_500)
        with pytest.raises(ClockSkewed, match=r"2\.5 s ahead of"):
            await begin(configured(tmp_path / "d", join=(address,)))
        assert registry.find(n1.pump.directory.decisions.nodes, "n2") is None
        monkeypatch.setattr(beginning, "wall_ms", lambda: sponsor.wall_ms() - 1_500)
        await begun(configured(tmp_path / "d", join=(address,)))


async def test_a_release_without_a_common_protocol_is_refused_and_the_numbers_are_named(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (n1, address):
        host, port = address.split(":")
        future = Introduction(7, 9, "9.0", "", "n2", "ab" * 16, "127.0.0.1", 1, 2, 3, "", "", sponsor.wall_ms())
        answer, _ = await introduce(host, int(port), future)
        assert answer.failure is not None
        error = error_of(answer.failure)
        assert isinstance(error, ReleaseMismatch)
        assert "7 to 9" in error.message
        assert registry.find(n1.pump.directory.decisions.nodes, "n2") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"directory": "xy"},
        {"directory": ""},
        {"node": "N 2"},
        {"peer_port": 0},
        {"host": ""},
    ],
)
async def test_an_introduction_of_what_can_not_be_a_node_changes_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with a_cluster(tmp_path) as (n1, address):
        host, port = address.split(":")
        whole = {
            "version_min": 1, "version_max": 1, "release": "1", "cluster_id": "", "node": "n2", "directory": "ab" * 16,
            "host": "127.0.0.1", "peer_port": 1, "gossip_port": 2, "client_port": 3, "host_label": "", "zone": "",
            "wall_ms": sponsor.wall_ms(),
        }  # fmt: skip
        answer, _ = await introduce(host, int(port), Introduction(**{**whole, **fields}))
        assert answer.failure is not None
        assert not answer.failure.retryable
        assert [each.node for each in n1.pump.directory.decisions.nodes] == ["n1"]


async def test_a_directory_without_its_identity_is_no_member_any_more(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as (_, address):
        await begun(configured(tmp_path / "d", join=(address,)))
        (tmp_path / "d" / "IDENTITY").unlink()
        with pytest.raises(IdentityFenced):
            await begin(configured(tmp_path / "d", join=(address,)))
