"""A cluster of real processes on this machine, in one folder: what `moot up` keeps, and what demo, benchmarks and tests run on.

    FOLDER/cluster.json       nodes, ports, process ids
    FOLDER/node-1/moot.toml   what the node is told
    FOLDER/node-1/node.log    what it said
    FOLDER/node-1/data/       what it must not lose

Invariant: a signal goes only to a process whose id, start time and command line are those that were written down when it was
started, so that an id which the operating system has given to another process since is never hurt. Ports are chosen once and
kept. It knows processes and files, not the protocol: whether a node serves is asked over gRPC, see `reach.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import psutil

from cluster.config import ENVIRONMENT_PREFIX, SHARDS_DEFAULT, InitialNode, NodeConfig
from cluster.errors import ClusterError, InvalidRequest
from cluster.ids import NodeId

HOST: Final = "127.0.0.1"
NODES_MAX: Final = 15
REGISTRY_FORMAT: Final = 1
PORTS_PER_NODE: Final = 3
PORT_BASE: Final = 7400
PORT_STEP: Final = 10
SEARCH_PORTS: Final = range(20_000, 32_000)
"""Below the range from which operating systems take ports for outgoing connections, so that nobody grabs one in between."""
SEARCH_ATTEMPTS_MAX: Final = 2_000
STOP_TIMEOUT_S: Final = 15.0
PAUSE_TIMEOUT_S = 5.0
EXIT_TIMEOUT_S: Final = 10.0
START_TIME_TOLERANCE_S: Final = 2.0
POLL_INTERVAL_S: Final = 0.02


class NoCluster(ClusterError):
    """There is no local cluster in this folder."""


class ProcessStuck(ClusterError):
    """A process did not end although it was told to."""


@dataclass(slots=True)
class LocalNode:
    """One node of the folder. pid 0: never started, or ended by us. created_s: the process's start time, as the system has
    it. http_port 0: it serves no HTTP. joined: whether it came later, and is not on the list that the cluster began with.
    """

    number: int
    node_id: str
    client_port: int
    peer_port: int
    gossip_port: int
    pid: int = 0
    created_s: float = 0.0
    http_port: int = 0
    joined: bool = False

    @property
    def address(self) -> str:
        """Where its gateway listens."""
        return f"{HOST}:{self.client_port}"

    @property
    def url(self) -> str:
        """Where it serves HTTP; empty when it does not."""
        return f"http://{HOST}:{self.http_port}" if self.http_port else ""

    def initial(self) -> InitialNode:
        """How the others reach it."""
        return InitialNode(NodeId(self.node_id), HOST, self.client_port, self.peer_port, self.gossip_port)


@dataclass(slots=True)
class _Registry:
    format: int
    shards: int
    settings: dict[str, str | int]
    nodes: list[LocalNode] = field(default_factory=list)
    highest: int = 0
    """The highest number that a node of the folder ever had: names of nodes that were removed never come back."""


class LocalCluster:
    """The nodes of one folder. Made by `create` or `open`; nothing is started by that."""

    def __init__(self, folder: Path, registry: _Registry, *, tied: bool = False) -> None:
        self.folder = folder
        self._tied = tied
        self._registry = registry
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._exit_codes: dict[int, int] = {}

    @classmethod
    def create(
        cls,
        folder: Path,
        nodes: int,
        *,
        shards: int = SHARDS_DEFAULT,
        settings: Mapping[str, str | int] | None = None,
        near: int = 0,
        tied: bool = False,
        http: bool = False,
    ) -> LocalCluster:
        """Write the folder of a new cluster.

        settings: further values of moot.toml, the same for all nodes. near: ports to prefer, from this one on; 0 for any.
        tied: nodes stop when this process ends, however it ends. http: whether nodes serve HTTP.
        Raises InvalidRequest if there is one already or the numbers are not possible, ConfigurationInvalid for settings.
        """
        if not 1 <= nodes <= NODES_MAX:
            raise InvalidRequest(f"a local cluster has 1 to {NODES_MAX} nodes, not {nodes}")
        if (folder / "cluster.json").exists():
            raise InvalidRequest(f"{folder} already holds a cluster")
        ports = _choose_ports(nodes, near, PORTS_PER_NODE + http)
        registry = _Registry(REGISTRY_FORMAT, shards, dict(settings or {}))
        for number, (client, peer, gossip, *more) in enumerate(ports, 1):
            registry.nodes.append(LocalNode(number, f"n{number}", client, peer, gossip, http_port=more[0] if http else 0))
        made = cls(folder, registry, tied=tied)
        for node in registry.nodes:
            made.configure(node)
        made._save()
        return made

    @classmethod
    def open(cls, folder: Path) -> LocalCluster:
        """The cluster of a folder. Raises NoCluster."""
        try:
            raw = json.loads((folder / "cluster.json").read_text())
            registry = _Registry(raw["format"], raw["shards"], raw["settings"], [LocalNode(**each) for each in raw["nodes"]])
            registry.highest = raw.get("highest", 0)
        except FileNotFoundError:
            raise NoCluster(f"there is no local cluster in {folder}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise NoCluster(f"{folder / 'cluster.json'} can not be read: {error}") from None
        if registry.format != REGISTRY_FORMAT:
            raise NoCluster(f"{folder / 'cluster.json'} has format {registry.format}, this release reads {REGISTRY_FORMAT}")
        return cls(folder, registry)

    @property
    def nodes(self) -> list[LocalNode]:
        """All nodes, running or not."""
        return self._registry.nodes

    @property
    def addresses(self) -> list[str]:
        """Gateways of all nodes, those whose process runs first."""
        order = {"running": 0, "starting": 0, "paused": 1, "stopped": 2}
        return [node.address for node in sorted(self.nodes, key=lambda node: order[self.state(node)])]

    def find(self, name: str) -> LocalNode:
        """A node by its number or its id. Raises InvalidRequest."""
        for node in self.nodes:
            if name in (str(node.number), node.node_id):
                return node
        known = ", ".join(node.node_id for node in self.nodes)
        raise InvalidRequest(f"there is no node {name!r} in {self.folder}; there are {known}")

    def directory(self, node: LocalNode) -> Path:
        """The node's folder."""
        return self.folder / f"node-{node.number}"

    def log_path(self, node: LocalNode) -> Path:
        """What the node said, over all its runs."""
        return self.directory(node) / "node.log"

    def data_path(self, node: LocalNode) -> Path:
        """What the node keeps."""
        return self.directory(node) / "data"

    def configure(self, node: LocalNode, **settings: str | int) -> None:
        """Write the node's moot.toml anew, with settings of its own. It is read when the node starts."""
        first = [each for each in self.nodes if not each.joined]
        values: dict[str, object] = {
            "shard_count": self._registry.shards,
            "replication_factor": min(3, len(first) - (len(first) + 1) % 2),
            **self._registry.settings,
            **settings,
        }
        if node.joined:
            values["join"] = tuple(f"{HOST}:{each.peer_port}" for each in self.nodes if each is not node)
        else:
            values["initial_nodes"] = tuple(each.initial() for each in first)
        config = NodeConfig(
            node_id=node.node_id,
            data_dir=str(self.data_path(node)),
            client_port=node.client_port,
            peer_port=node.peer_port,
            gossip_port=node.gossip_port,
            http_port=node.http_port,
            **values,  # type: ignore[arg-type]
        )
        self.directory(node).mkdir(parents=True, exist_ok=True)
        (self.directory(node) / "moot.toml").write_text(config.to_toml())

    def add(self) -> LocalNode:
        """A further node, which joins when it is started. Raises InvalidRequest if there are too many."""
        number = max(self._registry.highest, *[node.number for node in self.nodes]) + 1
        if number > NODES_MAX:
            raise InvalidRequest(f"a local cluster has 1 to {NODES_MAX} nodes, not {number}")
        client, peer, gossip = _choose_ports(1, 0)[0]
        node = LocalNode(number, f"n{number}", client, peer, gossip, joined=True)
        self._registry.highest = number
        self.nodes.append(node)
        self.configure(node)
        self._save()
        return node

    def readdress(self, node: LocalNode) -> None:
        """Give a stopped node other ports. The cluster learns of them when it is started."""
        node.client_port, node.peer_port, node.gossip_port = _choose_ports(1, 0)[0]
        self.configure(node)
        self._save()

    def forget(self, node: LocalNode) -> None:
        """The node is no part of the folder's cluster any more; its directory stays."""
        self.nodes.remove(node)
        self._save()

    # processes

    def process(self, node: LocalNode) -> psutil.Process | None:
        """The node's process, if it is still the one that was started."""
        self._reap()
        if not node.pid or node.pid in self._exit_codes:
            return None
        try:
            process = psutil.Process(node.pid)
            if node.pid in self._children:
                # an id is not given away before its child is reaped; one that is just ending has no command line any more.
                return process
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            same_start = abs(process.create_time() - node.created_s) <= START_TIME_TOLERANCE_S
            if same_start and str(self.directory(node) / "moot.toml") in process.cmdline():
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        return None

    def state(self, node: LocalNode) -> str:
        """running, paused or stopped, as the operating system has it."""
        process = self.process(node)
        if process is None:
            return "stopped"
        try:
            return "paused" if process.status() == psutil.STATUS_STOPPED else "running"
        except psutil.NoSuchProcess:
            return "stopped"

    def exit_code(self, node: LocalNode) -> int | None:
        """How the node's last process ended, where this object started it."""
        self._reap()
        return self._exit_codes.get(node.pid)

    def _reap(self) -> None:
        """Take note of children that have ended."""
        for pid, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                self._exit_codes[pid] = code
                if child.stdin is not None:
                    child.stdin.close()
                del self._children[pid]

    def start(self, node: LocalNode) -> bool:
        """Start the node's process unless it runs. Returns whether it was started; it does not serve yet then."""
        with self._locked():
            if self.process(node) is not None:
                return False
            command = [sys.executable, "-m", "cluster", "node", "start", "--config", str(self.directory(node) / "moot.toml")]
            if self._tied:
                command.append("--until-stdin-closes")
            with self.log_path(node).open("ab") as log:
                child = subprocess.Popen(
                    command,
                    cwd=self.directory(node),
                    env=_environment(),
                    stdin=subprocess.PIPE if self._tied else subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._children[child.pid] = child
            self._exit_codes.pop(child.pid, None)
            node.pid = child.pid
            node.created_s = psutil.Process(child.pid).create_time()
            self._save()
        return True

    def kill(self, node: LocalNode) -> bool:
        """End the node's process at once, as a crash does. Returns whether there was one; when this returns, it is gone."""
        process = self.process(node)
        if process is None:
            return False
        self._signal(process, signal.SIGKILL)
        self._await_exit(node, process, EXIT_TIMEOUT_S)
        return True

    def kill_all(self) -> int:
        """The same for all nodes, without waiting in between. Returns how many there were."""
        found = [(node, process) for node in self.nodes if (process := self.process(node)) is not None]
        for _, process in found:
            self._signal(process, signal.SIGKILL)
        for node, process in found:
            self._await_exit(node, process, EXIT_TIMEOUT_S)
        return len(found)

    def pause(self, node: LocalNode) -> bool:
        """Stop the process from running without ending it: a node that hangs. Returns whether there was one; when this returns,
        it stands still.
        """
        process = self.process(node)
        if process is None:
            return False
        self._signal(process, signal.SIGSTOP)
        deadline = time.monotonic() + PAUSE_TIMEOUT_S
        while self.state(node) == "running" and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)  # a thread that sits in the kernel takes the signal when it comes out
        return self.state(node) == "paused"

    def resume(self, node: LocalNode) -> bool:
        """Let a paused process go on. Returns whether it was paused."""
        process = self.process(node)
        if process is None or self.state(node) != "paused":
            return False
        self._signal(process, signal.SIGCONT)
        return True

    def stop(self, node: LocalNode) -> bool:
        """Ask the node to stop and wait for it; after a while it is killed. Returns whether it stopped by itself."""
        return self._stop([node])

    def stop_all(self) -> bool:
        """The same for all nodes at once."""
        return self._stop(self.nodes)

    def _stop(self, nodes: list[LocalNode]) -> bool:
        found = [(node, process) for node in nodes if (process := self.process(node)) is not None]
        for _, process in found:
            self._signal(process, signal.SIGTERM)
            self._signal(process, signal.SIGCONT)
        deadline, polite = time.monotonic() + STOP_TIMEOUT_S, True
        for node, process in found:
            try:
                self._await_exit(node, process, max(0.1, deadline - time.monotonic()))
            except ProcessStuck:
                polite = False
                self._signal(process, signal.SIGKILL)
                self._await_exit(node, process, EXIT_TIMEOUT_S)
        return polite

    def _signal(self, process: psutil.Process, number: int) -> None:
        # psutil compares the start time again before it sends, so the check in `process` can not be outrun.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)

    def _await_exit(self, node: LocalNode, process: psutil.Process, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.process(node) is not None or process.pid in self._children:
            if time.monotonic() >= deadline:
                raise ProcessStuck(f"process {process.pid} of {node.node_id} did not end within {timeout_s:.0f} s")
            time.sleep(POLL_INTERVAL_S)
        self._reap()

    # the file

    def _save(self) -> None:
        path = self.folder / "cluster.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self._registry), indent=2) + "\n")
        temporary.replace(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time starts processes; ids that another one wrote meanwhile are taken over."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield

    def refresh(self) -> None:
        """Take over which processes other commands have started in this folder since."""
        newest = {node.number: node for node in LocalCluster.open(self.folder).nodes}
        for node in self.nodes:
            node.pid, node.created_s = newest[node.number].pid, newest[node.number].created_s


def _environment() -> dict[str, str]:
    """Ours, without MOOT_* (it would override every node's file alike), and with this very package on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    here = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH", "")]))
    return environment


def _choose_ports(nodes: int, near: int, each: int = PORTS_PER_NODE) -> list[tuple[int, ...]]:
    """So many free ports for each node: those from `near` on in steps when all are free, otherwise any."""
    if near:
        wanted = [tuple(range(near + PORT_STEP * place, near + PORT_STEP * place + each)) for place in range(nodes)]
        if all(_is_free(port) for ports in wanted for port in ports):
            return wanted
    source = random.Random()
    chosen: list[int] = []
    for _ in range(SEARCH_ATTEMPTS_MAX):
        port = source.choice(SEARCH_PORTS)
        if port not in chosen and _is_free(port):
            chosen.append(port)
        if len(chosen) == nodes * each:
            return [tuple(chosen[at : at + each]) for at in range(0, len(chosen), each)]
    raise InvalidRequest(f"fewer than {nodes * each} free ports were found in {SEARCH_PORTS.start}..{SEARCH_PORTS.stop}")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                return False
    return True
