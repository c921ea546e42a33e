"""A node's configuration is legal or does not exist, and every value can say where it came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import config
from cluster.config import Choice, InitialNode, NodeConfig, Range, load
from cluster.errors import ConfigurationInvalid
from cluster.ids import NodeId

THREE = (
    "n1=127.0.0.1:7400:7401:7402",
    "n2=127.0.0.1:7410:7411:7412",
    "n3=[::1]:7420:7421:7422",
)


def make(**changes: Any) -> NodeConfig:
    return NodeConfig(**{"node_id": "n1", "data_dir": "data/n1", **changes})


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "moot.toml"
    path.write_text(text)
    return path


def test_two_values_suffice() -> None:
    node = make()
    assert (node.heartbeat_interval_ms, node.election_timeout_ms, node.apply_slice_ms) == (100, 1000, 5)
    assert node.poison_hook == ""
    assert node.divergence_hook == ""


def test_later_source_wins_and_each_value_names_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, 'node_id = "n1"\ndata_dir = "from-file"\nclient_port = 8000\nlog_level = "error"\n')
    node = load(path, {"MOOT_CLIENT_PORT": "8001", "MOOT_LOG_LEVEL": "debug"}, {"log_level": "warning", "host": None})
    assert (node.data_dir, node.client_port, node.log_level) == ("from-file", 8001, "warning")
    sources = node.sources()
    assert sources["data_dir"] == f"file {path}"
    assert sources["client_port"] == "environment MOOT_CLIENT_PORT"
    assert sources["log_level"] == "flag --log-level"
    assert sources["host"] == "default"


def test_argument_of_a_program_is_a_source_too() -> None:
    assert make(client_port=9000).sources()["client_port"] == "argument"


def test_sources_cover_every_setting() -> None:
    assert list(make().sources()) == [setting.name for setting in config.settings()]


def test_every_setting_says_what_is_legal_and_why_its_default() -> None:
    for setting in config.settings():
        assert setting.legal, setting.name
        assert setting.why, setting.name
        assert not setting.name.endswith("_ms") or setting.unit == "ms"
        assert "_bytes" not in setting.name or setting.unit == "bytes"


@pytest.mark.parametrize(
    "item", [item for item in dataclasses.fields(NodeConfig) if item.metadata.get("legal")], ids=lambda i: i.name
)
def test_default_is_legal(item: dataclasses.Field[Any]) -> None:
    if item.default is not dataclasses.MISSING:
        assert item.default in item.metadata["legal"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (item.name, value)
        for item in dataclasses.fields(NodeConfig)
        if isinstance(legal := item.metadata.get("legal"), Range)
        for value in (legal.low - 1, legal.high + 1, True, "7", 1.5)
    ],
)
def test_number_outside_its_range_is_refused_with_field_value_and_range(name: str, value: object) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        make(**{name: value})
    legal = NodeConfig.__dataclass_fields__[name].metadata["legal"]
    assert name in caught.value.message
    assert repr(value) in caught.value.message
    assert str(legal) in caught.value.message
    assert caught.value.details["field"] == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node_id", "N1"),
        ("node_id", "../n1"),
        ("data_dir", ""),
        ("host", "not a host"),
        ("host", "-dash"),
        ("replication_factor", 2),
        ("replication_factor", True),
        ("fsync_mode", "never"),
        ("log_level", "loud"),
        ("poison_hook", "x" * 65),
        ("divergence_hook", "n1:\n"),
        ("labels", {"rack": "r1"}),
        ("labels", {"zone": "Not Legal"}),
    ],
)
def test_text_that_is_not_one_of_the_legal_ones_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationInvalid, match=name):
        make(**{name: value})


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "moot-1.example.internal", "n1"])
def test_ordinary_hosts_are_legal(host: str) -> None:
    assert make(host=host).host == host


def test_election_timeout_leaves_room_for_lost_heartbeats() -> None:
    make(heartbeat_interval_ms=300, election_timeout_ms=900)
    with pytest.raises(ConfigurationInvalid, match="election_timeout_ms = 899"):
        make(heartbeat_interval_ms=300, election_timeout_ms=899)


def test_lease_leaves_room_for_the_heartbeat_that_renews_it() -> None:
    """Only when leases are on: the drift bound means nothing otherwise."""
    make(lease_reads="on", lease_drift_ms=700)
    make(lease_drift_ms=701)
    with pytest.raises(ConfigurationInvalid, match="lease_drift_ms = 701"):
        make(lease_reads="on", lease_drift_ms=701)


def test_ports_of_one_node_must_differ() -> None:
    with pytest.raises(ConfigurationInvalid, match="must differ"):
        make(peer_port=7400)


def test_initial_nodes_must_be_enough_for_the_replication_factor() -> None:
    with pytest.raises(ConfigurationInvalid, match="replication_factor = 3"):
        make(initial_nodes=tuple(map(InitialNode.parse, THREE[:2])))


def test_node_must_listen_on_the_ports_that_the_list_promises() -> None:
    """A list copied to the wrong machine would otherwise show up as a peer that never answers."""
    with pytest.raises(ConfigurationInvalid, match="itself listens on"):
        make(client_port=7499, initial_nodes=tuple(map(InitialNode.parse, THREE)))


@pytest.mark.parametrize("broken", [(THREE[0], THREE[0], THREE[1]), (THREE[0], THREE[1], "n3=127.0.0.1:7400:1:2")])
def test_a_node_or_an_address_named_twice_is_refused(broken: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationInvalid, match="once"):
        make(initial_nodes=tuple(map(InitialNode.parse, broken)))


@pytest.mark.parametrize(
    "text", ["n1", "n1=h", "n1=h:1:2", "n1=h:1:2:3:4", "n1=h:0:2:3", "n1=h:1:2:99999", "N1=h:1:2:3", "n1=:1:2:3"]
)
def test_malformed_initial_node_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="initial_nodes"):
        InitialNode.parse(text)


@given(
    st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True),
    st.sampled_from(["localhost", "10.0.0.1", "::1"]),
    st.tuples(*[st.integers(1, 65535)] * 3),
)
def test_initial_node_survives_printing_and_parsing(name: str, host: str, ports: tuple[int, int, int]) -> None:
    node = InitialNode(NodeId(name), host, *ports)
    assert InitialNode.parse(str(node)) == node


def test_lists_and_labels_can_come_from_the_environment() -> None:
    node = load(
        None,
        {
            "MOOT_NODE_ID": "n2",
            "MOOT_DATA_DIR": "d",
            "MOOT_CLIENT_PORT": "7410",
            "MOOT_PEER_PORT": "7411",
            "MOOT_GOSSIP_PORT": "7412",
            "MOOT_INITIAL_NODES": ",".join(THREE),
            "MOOT_LABELS": "host=h1,zone=z1",
        },
    )
    assert [str(each) for each in node.initial_nodes] == list(THREE)
    assert node.labels == {"host": "h1", "zone": "z1"}


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 1 << 20), ("512MiB", 512 << 20), ("2 GiB", 2 << 30), ("9KiB", None), ("1MB", None), ("-1", None)],
)
def test_sizes_take_binary_units(text: str, size: int | None) -> None:
    flags = {"node_id": "n1", "data_dir": "d"}
    name = "disk_free_bytes_min" if size == 1 << 20 else "cache_bytes_max"
    if size is None:
        with pytest.raises(ConfigurationInvalid, match=name):
            load(None, {f"MOOT_{name.upper()}": text}, flags)
    else:
        assert getattr(load(None, {f"MOOT_{name.upper()}": text}, flags), name) == size


@pytest.mark.parametrize("value", ["", "7_400", "0x10", "7400.0", "٧٤٠٠", " 7400"])
def test_number_from_the_environment_must_be_plain_digits(value: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="environment MOOT_CLIENT_PORT"):
        load(None, {"MOOT_CLIENT_PORT": value}, {"node_id": "n1", "data_dir": "d"})


def test_unknown_name_in_the_file_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="did you mean election_timeout_ms"):
        load(write(tmp_path, 'node_id = "n1"\ndata_dir = "d"\nelection_timeout = 5\n'))


def test_variables_that_a_container_platform_injects_are_left_alone() -> None:
    node = load(None, {"MOOT_SERVICE_HOST": "10.0.0.7", "MOOT_PORT": "tcp://10.0.0.7:80"}, {"node_id": "n1", "data_dir": "d"})
    assert set(node.sources().values()) == {"default", "flag --node-id", "flag --data-dir"}


@pytest.mark.parametrize("missing", ["node_id", "data_dir"])
def test_missing_value_says_the_three_ways_to_set_it(missing: str) -> None:
    flags = {"node_id": "n1", "data_dir": "d"}
    del flags[missing]
    with pytest.raises(ConfigurationInvalid, match=f"MOOT_{missing.upper()} or --{missing.replace('_', '-')}"):
        load(None, {}, flags)


@pytest.mark.parametrize(
    "text",
    [
        "node_id = ",
        "\x00",
        'initial_nodes = 5\nnode_id = "n1"\ndata_dir = "d"',
        'labels = "host"\nnode_id = "n1"\ndata_dir = "d"',
    ],
)
def test_file_that_is_not_what_it_should_be_is_refused_as_configuration(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        load(write(tmp_path, text))


def test_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"absent\.toml"):
        load(tmp_path / "absent.toml")


CONFIGS = st.builds(
    make,
    client_port=st.integers(1, 7000),
    data_dir=st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=20),
    heartbeat_interval_ms=st.integers(10, 300),
    fsync_mode=st.sampled_from(config.FSYNC_MODES),
    replication_factor=st.sampled_from((1, 3, 5, 7)),
    cache_bytes_max=st.integers(8 << 20, 1 << 44),
    labels=st.dictionaries(st.sampled_from(config.LABELS), st.sampled_from(["a", "rack-1"])),
    poison_hook=st.sampled_from(["", 'kill "me"']),
    divergence_hook=st.sampled_from(["", "n1:the-host"]),
)


@given(node=CONFIGS)
def test_configuration_survives_being_written_and_loaded(node: NodeConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "written.toml"
    path.write_text(node.to_toml(), encoding="utf-8")
    assert load(path) == node


def test_list_of_first_nodes_survives_being_written_and_loaded(tmp_path: Path) -> None:
    node = make(initial_nodes=tuple(map(InitialNode.parse, THREE)), labels={"zone": "z1"})
    assert load(write(tmp_path, node.to_toml())) == node


def test_legal_values_print_themselves_for_the_reader() -> None:
    assert (str(Range(1, 3)), str(Choice((1, 3)))) == ("1..3", "1 | 3")
