"""Local clusters on disk: ports and folders that are kept, and signals that hit nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster import config
from cluster.cli.local import LocalCluster, NoCluster
from cluster.errors import ConfigurationInvalid, InvalidRequest


def test_nodes_get_ports_of_their_own_and_legal_configurations(tmp_path: Path) -> None:
    local = LocalCluster.create(tmp_path / "a", 5)
    ports = [port for node in local.nodes for port in (node.client_port, node.peer_port, node.gossip_port)]
    assert len(set(ports)) == 15
    for node in local.nodes:
        loaded = config.load(local.directory(node) / "moot.toml")
        assert (loaded.node_id, loaded.client_port, loaded.replication_factor) == (node.node_id, node.client_port, 3)
        assert [str(each) for each in loaded.initial_nodes] == [str(each.initial()) for each in local.nodes]


@pytest.mark.parametrize(("nodes", "factor"), [(1, 1), (2, 1), (3, 3), (4, 3), (6, 3)])
def test_replication_factor_is_the_largest_odd_number_up_to_three(tmp_path: Path, nodes: int, factor: int) -> None:
    local = LocalCluster.create(tmp_path / "a", nodes)
    assert config.load(local.directory(local.nodes[0]) / "moot.toml").replication_factor == factor


def test_cluster_is_the_same_when_it_is_opened_again(tmp_path: Path) -> None:
    made = LocalCluster.create(tmp_path / "a", 3, shards=5, settings={"checkpoints": "off"})
    opened = LocalCluster.open(tmp_path / "a")
    assert opened.nodes == made.nodes
    opened.configure(opened.nodes[0], log_level="debug")
    loaded = config.load(opened.directory(opened.nodes[0]) / "moot.toml")
    assert (loaded.shard_count, loaded.checkpoints, loaded.log_level) == (5, "off", "debug")


def test_impossible_clusters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NoCluster):
        LocalCluster.open(tmp_path)
    with pytest.raises(InvalidRequest):
        LocalCluster.create(tmp_path / "a", 0)
    with pytest.raises(ConfigurationInvalid):
        LocalCluster.create(tmp_path / "b", 3, settings={"fsync_mode": "never"})
    LocalCluster.create(tmp_path / "c", 1)
    with pytest.raises(InvalidRequest):
        LocalCluster.create(tmp_path / "c", 1)


@pytest.mark.parametrize("content", ["", "{}", '{"format": 99, "shards": 1, "settings": {}, "nodes": []}'])
def test_file_that_can_not_be_read_is_no_cluster(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(NoCluster):
        LocalCluster.open(tmp_path)


def test_process_id_that_belongs_to_somebody_else_now_is_never_signalled(tmp_path: Path) -> None:
    """A stale cluster.json after a reboot: the id exists, the process is a stranger's."""
    LocalCluster.create(tmp_path / "a", 1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        try:
            path = tmp_path / "a" / "cluster.json"
            registry = json.loads(path.read_text())
            registry["nodes"][0] |= {"pid": stranger.pid, "created_s": psutil.Process(stranger.pid).create_time()}
            path.write_text(json.dumps(registry))
            local = LocalCluster.open(tmp_path / "a")
            (node,) = local.nodes
            assert local.state(node) == "stopped"
            assert (local.kill(node), local.pause(node), local.resume(node)) == (False, False, False)
            assert local.stop_all()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_preferred_ports_are_taken_only_when_all_of_them_are_free(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        local = LocalCluster.create(tmp_path / "a", 1, near=port - 1)
        assert port not in (local.nodes[0].client_port, local.nodes[0].peer_port, local.nodes[0].gossip_port)


def test_nodes_are_found_by_number_and_by_name(tmp_path: Path) -> None:
    local = LocalCluster.create(tmp_path / "a", 2)
    assert local.find("2") is local.find("n2") is local.nodes[1]
    with pytest.raises(InvalidRequest, match="n1, n2"):
        local.find("3")
