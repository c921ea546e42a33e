"""Configuration of one node: `moot.toml`, overridden by environment `MOOT_*`, overridden by flags.

Every value is checked before anything is opened, and knows where it came from. What decides the outcome of commands is not
here: budgets and bounds of documents are settings of their space, changed by logged commands, so that nodes with different
configurations stay equal.

Invariant: a NodeConfig that exists is legal. Nothing here reads a clock, the environment or a socket; `load` reads one file.

Unknown names in the file are refused. Unknown `MOOT_*` variables are not: container platforms inject variables of the
form `<SERVICE>_PORT` for every service, and a service is free to be called moot.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from cluster import ids
from cluster.errors import ConfigurationInvalid, InvalidName
from cluster.ids import NodeId

ENVIRONMENT_PREFIX = "MOOT_"
FSYNC_MODES = ("auto", "inline", "thread")
LOG_LEVELS = ("debug", "info", "warning", "error")
LABELS = ("host", "zone")
SHARDS_DEFAULT = 3
PEER_PORT_DEFAULT = 7401
REPLICATION_FACTOR_DEFAULT = 3
SHARDS_MAX = 16_384
"""Ten thousand idle shards cost a node next to nothing; what grows with their number is the shard map (about 50 bytes each)."""
ELECTION_HEARTBEATS_MIN = 3
LEASE_HEARTBEATS_MIN = 3
"""A shorter lease would end before the answer to the heartbeat that renews it, which may wait for a heartbeat of its own."""

_BINARY_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_BYTES = re.compile(r"([0-9]+) ?(B|KiB|MiB|GiB|TiB)?\Z")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z|[0-9A-Fa-f:.]{2,45}\Z")


@dataclass(frozen=True, slots=True)
class Range:
    """Integers low..high, both legal."""

    low: int
    high: int

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    options: tuple[str | int, ...]

    def __contains__(self, value: object) -> bool:
        return not isinstance(value, bool) and value in self.options

    def __str__(self) -> str:
        return " | ".join(map(str, self.options))


@dataclass(frozen=True, slots=True)
class Text:
    """Text that `check` accepts; `shape` says what that is."""

    shape: str
    check: Callable[[str], bool]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and self.check(value)

    def __str__(self) -> str:
        return self.shape


def _is_node(text: str) -> bool:
    try:
        ids.check_node(text)
    except InvalidName:
        return False
    return True


_PORT = Range(1, 65535)
_NODE = Text("[a-z0-9][a-z0-9._-]*, at most 63 characters", _is_node)
_ADDRESS = Text("a host name or an IP address", lambda text: bool(_HOST.match(text)))
_PATH = Text("a path without control characters", lambda text: bool(text) and text.isprintable())
_MARKER = Text(
    "at most 64 printable characters, empty for off", lambda text: len(text) <= 64 and (not text or text.isprintable())
)


@dataclass(frozen=True, slots=True)
class InitialNode:
    """One of the first nodes, as the others reach it. Written `id=host:client_port:peer_port:gossip_port`."""

    node_id: NodeId
    host: str
    client_port: int
    peer_port: int
    gossip_port: int

    def __post_init__(self) -> None:
        if self.node_id not in _NODE:
            _refuse("initial_nodes", self.node_id, f"node id: {_NODE}")
        if self.host not in _ADDRESS:
            _refuse("initial_nodes", self.host, f"host of {self.node_id}: {_ADDRESS}")
        for name in ("client_port", "peer_port", "gossip_port"):
            if getattr(self, name) not in _PORT:
                _refuse("initial_nodes", getattr(self, name), f"{name} of {self.node_id}: {_PORT}")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.node_id}={host}:{self.client_port}:{self.peer_port}:{self.gossip_port}"

    @classmethod
    def parse(cls, text: str) -> InitialNode:
        """Read `id=host:client_port:peer_port:gossip_port` (IPv6 hosts in brackets). Raises ConfigurationInvalid."""
        found = re.fullmatch(r"([^=]+)=(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5}):([0-9]{1,5}):([0-9]{1,5})", text.strip())
        if not found:
            _refuse("initial_nodes", text, "id=host:client_port:peer_port:gossip_port")
        node, bracketed, plain, client, peer, gossip = found.groups()
        return cls(NodeId(node), bracketed or plain, int(client), int(peer), int(gossip))


def split_address(address: str) -> tuple[str, int]:
    """Read `host:port` (IPv6 hosts in brackets); the default peer port where none is given. Raises ConfigurationInvalid."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", address.strip())
    host, port = (found[1] or found[2], int(found[3] or PEER_PORT_DEFAULT)) if found else ("", 0)
    if host not in _ADDRESS or port not in _PORT:
        _refuse("join", address, "host:peer_port of a node of the cluster")
    return host, port


@dataclass(frozen=True, slots=True)
class Setting:
    """What `moot config show` prints of a field: unit, legal values, default and why that default."""

    name: str
    unit: str
    legal: str
    default: object
    why: str


def _setting(legal: Range | Choice | Text | None, why: str, *, unit: str = "", **default: Any) -> Any:
    return field(metadata={"legal": legal, "unit": unit, "why": why}, **default)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything one node is told from outside. Raises ConfigurationInvalid when built from illegal values.

    `origins` is bookkeeping for `sources`; it takes no part in equality.
    """

    node_id: str = _setting(_NODE, "no default: a node's name is its identity in every vote")
    data_dir: str = _setting(_PATH, "no default: what is acknowledged is stored there")
    host: str = _setting(_ADDRESS, "loopback: peers and gossip are not encrypted until TLS is set up", default="127.0.0.1")
    client_host: str = _setting(
        _ADDRESS,
        "loopback: beyond it the gateway believes no caller, because identities are unverified headers",
        default="127.0.0.1",
    )
    client_port: int = _setting(_PORT, "gRPC for clients", default=7400)
    peer_port: int = _setting(_PORT, "replication between nodes, next to the client port", default=PEER_PORT_DEFAULT)
    gossip_port: int = _setting(_PORT, "UDP and TCP of gossip, next to the peer port", default=7402)
    http_port: int = _setting(
        Range(0, 65535),
        "0, off: HTTP handlers and files of documents, on loopback only, because identities are unverified headers",
        default=0,
    )
    initial_nodes: tuple[InitialNode, ...] = _setting(
        None, "empty. read only while data_dir is empty, and the same list on all nodes that a cluster begins with", default=()
    )
    join: tuple[str, ...] = _setting(
        None,
        "empty. peer addresses of nodes of the cluster to join, any one will do; read only while data_dir is empty",
        default=(),
    )
    init: str = _setting(
        Choice(("off", "on")),
        "off: an empty data_dir needs initial_nodes or join. on begins a cluster of one in it",
        default="off",
    )
    shard_count: int = _setting(
        Range(1, SHARDS_MAX),
        "one a node of a small cluster: fewer, larger groups batch better (decision 0012); used once, when the cluster is made",
        default=SHARDS_DEFAULT,
    )
    replication_factor: int = _setting(
        Choice((1, 3, 5, 7)),
        "3 survives one node; even numbers survive no more than the odd one below",
        default=REPLICATION_FACTOR_DEFAULT,
    )
    labels: Mapping[str, str] = _setting(
        None, "none: replicas are spread over distinct hosts, then zones, when these are named", default_factory=dict
    )
    heartbeat_interval_ms: int = _setting(
        Range(10, 10_000), "a tenth of the election timeout: several may be lost", unit="ms", default=100
    )
    election_timeout_ms: int = _setting(
        Range(100, 60_000),
        "above fsync stalls of ordinary disks; own evidence of a crash does not wait for it",
        unit="ms",
        default=1000,
    )
    lease_reads: str = _setting(
        Choice(("off", "on")),
        "off: on answers reads without asking other nodes, as safely as lease_drift_ms is true; to turn it off again, leave "
        "the node down for an election timeout",
        default="off",
    )
    lease_drift_ms: int = _setting(
        Range(0, 60_000),
        "a tenth of the election timeout: by how much two clocks may differ in their pace over one; only with lease_reads",
        unit="ms",
        default=100,
    )
    fsync_mode: str = _setting(
        Choice(FSYNC_MODES), "auto: inline while the disk is fast, a thread while it is slow, by measurement", default="auto"
    )
    disk_free_bytes_min: int = _setting(
        Range(0, 1 << 44),
        "room for a compaction and a snapshot; below it writes are refused, reads go on",
        unit="bytes",
        default=512 << 20,
    )
    cache_bytes_max: int = _setting(
        Range(8 << 20, 1 << 44), "documents in memory; a quarter of a small machine", unit="bytes", default=256 << 20
    )
    checkpoints: str = _setting(
        Choice(("on", "off")),
        "on. off leaves records unwritten, so that a restart replays everything: for measuring replay only",
        default="on",
    )
    apply_slice_ms: int = _setting(
        Range(1, 1000),
        "answers leave between slices: short ones keep clients, followers and leader busy at once",
        unit="ms",
        default=5,
    )
    snapshot_bytes_per_second: int = _setting(
        Range(64 << 10, 1 << 40),
        "a lagging replica of a gigabyte is whole again in a quarter of a minute, and clients keep most of a small machine",
        unit="bytes",
        default=64 << 20,
    )
    placement: str = _setting(
        Choice(("on", "off")),
        "on: what dead nodes held is rebuilt, leaders and replicas are evened out; the same on all nodes",
        default="on",
    )
    placement_dead_after_ms: int = _setting(
        Range(1_000, 86_400_000),
        "longer than a restart or a reboot: what is rebuilt is sent again whole",
        unit="ms",
        default=300_000,
    )
    placement_warm_up_ms: int = _setting(
        Range(0, 3_600_000),
        "after an election, until nine of ten shards have reported or so long: what is not known looks like what is missing",
        unit="ms",
        default=60_000,
    )
    placement_balance_after_ms: int = _setting(
        Range(0, 86_400_000),
        "evening out is never urgent: it waits until nodes have been as they are for so long",
        unit="ms",
        default=30_000,
    )
    placement_moves_max: int = _setting(
        Range(1, 64), "replicas that a node receives at a time, and sends: more moves at once finish no sooner", default=2
    )
    watchdog_ms: int = _setting(
        Range(100, 600_000), "a command that runs longer ends the node; far beyond any legal budget", unit="ms", default=10_000
    )
    log_level: str = _setting(Choice(LOG_LEVELS), "info: one line per change of role or configuration", default="info")
    poison_hook: str = _setting(
        _MARKER, "off. TEST HOOK: apply exits the process at a payload that contains this marker", default=""
    )
    divergence_hook: str = _setting(
        _MARKER,
        "off. TEST HOOK: node,node:marker; on these nodes handlers see the node's name instead of the marker",
        default="",
    )
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            legal = item.metadata.get("legal")
            if legal is not None and getattr(self, item.name) not in legal:
                _refuse(item.name, getattr(self, item.name), str(legal), self.origins.get(item.name, ""))
        for label, value in self.labels.items():
            if label not in LABELS:
                _refuse("labels", label, "labels are " + " | ".join(LABELS), self.origins.get("labels", ""))
            if value not in _NODE:
                _refuse("labels", value, f"{label}: {_NODE}", self.origins.get("labels", ""))
        self._check_relations()

    def _check_relations(self) -> None:
        if len({self.client_port, self.peer_port, self.gossip_port}) < 3:
            _refuse("peer_port", self.peer_port, "client_port, peer_port and gossip_port must differ")
        if self.http_port in (self.client_port, self.peer_port, self.gossip_port):
            _refuse("http_port", self.http_port, "a port of its own, or 0")
        floor_ms = ELECTION_HEARTBEATS_MIN * self.heartbeat_interval_ms
        if self.election_timeout_ms < floor_ms:
            _refuse(
                "election_timeout_ms",
                self.election_timeout_ms,
                f"at least {ELECTION_HEARTBEATS_MIN} heartbeat intervals, {floor_ms}..60000",
            )
        lease_ms = self.election_timeout_ms - self.lease_drift_ms
        if self.lease_reads == "on" and lease_ms < LEASE_HEARTBEATS_MIN * self.heartbeat_interval_ms:
            _refuse(
                "lease_drift_ms",
                self.lease_drift_ms,
                f"so much below election_timeout_ms that a lease outlives {LEASE_HEARTBEATS_MIN} heartbeat intervals",
            )
        for address in self.join:
            split_address(address)
        names = [node.node_id for node in self.initial_nodes]
        if len(set(names)) < len(names):
            _refuse("initial_nodes", ",".join(names), "every node id once")
        places = [(n.host, port) for n in self.initial_nodes for port in (n.client_port, n.peer_port, n.gossip_port)]
        if len(set(places)) < len(places):
            _refuse("initial_nodes", ",".join(map(str, self.initial_nodes)), "every host and port once")
        if names and self.replication_factor > len(names):
            _refuse("replication_factor", self.replication_factor, f"at most the {len(names)} initial nodes")
        ports = (self.client_port, self.peer_port, self.gossip_port)
        for node in self.initial_nodes:
            if node.node_id == self.node_id and (node.client_port, node.peer_port, node.gossip_port) != ports:
                _refuse("initial_nodes", str(node), f"the ports that {self.node_id} itself listens on, {ports}")

    def sources(self) -> dict[str, str]:
        """Where each value came from: `default`, `file PATH`, `environment NAME`, `flag --name`, or `argument`."""
        return {item.name: self._source(item) for item in dataclasses.fields(self) if item.name != "origins"}

    def _source(self, item: dataclasses.Field[Any]) -> str:
        if item.name in self.origins:
            return self.origins[item.name]
        if item.default is not dataclasses.MISSING:
            return "default" if getattr(self, item.name) == item.default else "argument"
        if item.default_factory is not dataclasses.MISSING and getattr(self, item.name) == item.default_factory():
            return "default"
        return "argument"

    def to_toml(self) -> str:
        """The text of a `moot.toml` that loads to this configuration. Defaults are left out."""
        lines = []
        for name, source in self.sources().items():
            value = getattr(self, name)
            if source == "default" or name in ("initial_nodes", "join", "labels"):
                continue
            lines.append(f"{name} = {_toml(value)}")
        if self.initial_nodes:
            lines += ["initial_nodes = [", *(f"    {_toml(str(node))}," for node in self.initial_nodes), "]"]
        if self.join:
            lines.append(f"join = [{', '.join(map(_toml, self.join))}]")
        if self.labels:
            lines += ["", "[labels]", *(f"{label} = {_toml(value)}" for label, value in self.labels.items())]
        return "\n".join(lines) + "\n"


def settings() -> list[Setting]:
    """Every field with its unit, legal values, default and reason, in declaration order."""
    described = []
    for item in dataclasses.fields(NodeConfig):
        if item.name == "origins":
            continue
        legal = item.metadata["legal"]
        shape = str(legal) if legal is not None else _SHAPES[item.name]
        default = None if item.default is dataclasses.MISSING else item.default
        described.append(Setting(item.name, item.metadata["unit"], shape, default, item.metadata["why"]))
    return described


_SHAPES = {
    "initial_nodes": "list of id=host:client_port:peer_port:gossip_port",
    "join": "list of host:peer_port",
    "labels": "host and zone, each a node-like name",
}


def load(
    path: Path | None, environment: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> NodeConfig:
    """Build a node's configuration: file, then environment, then flags; a later one wins.

    path: a `moot.toml`, or None for no file. environment: usually os.environ. flags: field name to value; None is not given.
    Raises ConfigurationInvalid naming field, value, source and what would be legal; nothing else happens.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    known = {setting.name for setting in settings()}
    if path is not None:
        for name, value in _read(path).items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                _refuse(name, value, f"no such setting{f'; did you mean {near[0]}?' if near else ''}", f"file {path}")
            values[name], origins[name] = value, f"file {path}"
    for name in known:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if environment is not None and variable in environment:
            values[name], origins[name] = environment[variable], f"environment {variable}"
    for name, value in (flags or {}).items():
        if name not in known:
            _refuse(name, value, "no such setting", "flag")
        if value is not None:
            values[name], origins[name] = value, f"flag --{name.replace('_', '-')}"
    for name in ("node_id", "data_dir"):
        if name not in values:
            raise ConfigurationInvalid(
                f"{name} is not set: put it into moot.toml, {ENVIRONMENT_PREFIX}{name.upper()} or --{name.replace('_', '-')}",
                field=name,
            )
    converted = {name: _convert(name, value, origins[name]) for name, value in values.items()}
    return NodeConfig(**converted, origins=origins)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationInvalid(f"cannot read {path}: {error.strerror}", field="config", value=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(f"{path} is not TOML: {error}", field="config", value=path) from error


def _convert(name: str, value: Any, source: str) -> Any:
    """From what a file, a variable or a flag can hold to the field's type; legality is judged later, by the field."""
    try:
        if name == "initial_nodes":
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(part if isinstance(part, InitialNode) else InitialNode.parse(part) for part in parts if part)
        if name == "join":
            return tuple(part.strip() for part in (value.split(",") if isinstance(value, str) else value) if part.strip())
        if name == "labels":
            return dict(part.split("=", 1) for part in value.split(",") if part) if isinstance(value, str) else dict(value)
        legal = NodeConfig.__dataclass_fields__[name].metadata["legal"]
        if isinstance(legal, Range) and isinstance(value, str):
            number = _BYTES.match(value) if "_bytes_" in name else re.match(r"([0-9]+)()\Z", value)
            return int(number[1]) * _BINARY_UNITS[number[2] or ""] if number else value
        if isinstance(legal, Choice) and isinstance(value, str) and all(isinstance(option, int) for option in legal.options):
            return int(value) if value.isascii() and value.isdecimal() else value
    except (TypeError, ValueError, AttributeError):
        _refuse(name, value, _SHAPES[name], source)
    return str(value) if isinstance(value, Path) else value


def _toml(value: str | int) -> str:
    return json.dumps(value, ensure_ascii=False)


def _refuse(name: str, value: object, legal: str, source: str = "") -> NoReturn:
    where = f" (from {source})" if source else ""
    raise ConfigurationInvalid(
        f"{name} = {value!r}{where} is not legal: {legal}", field=name, value=value, legal=legal, source=source
    )
