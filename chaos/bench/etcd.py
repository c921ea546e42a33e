"""etcd as the yardstick: three members on this machine, fsync on, loaded through their native gRPC API.

    python -m chaos.bench.etcd --in-flight 1 256 1000 --seconds 5

Every run puts one key over and over at the leader. etcd counts a key's puts itself (`version`), so a run is only reported
when that count rose by exactly the number of requests: nothing refused, nothing lost, nothing counted twice.

Needs Debian's etcd-server and nghttp2-client. Members run with their defaults apart from addresses and directories; the
3.4 line has no way to turn fsync off. Ports are chosen by the operating system. Nothing outlives `EtcdCluster.stop`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import grpc
import psutil

from chaos.bench import h2load
from chaos.bench.h2load import Load, Shape

PUT = "etcdserverpb.KV/Put"
RANGE = "etcdserverpb.KV/Range"
STATUS = "etcdserverpb.Maintenance/Status"
MOVE_LEADER = "etcdserverpb.Maintenance/MoveLeader"
VALUE_BYTES = 100
HEALTHY_WITHIN_S = 30
CALL_TIMEOUT_S = 5


class EtcdFailed(Exception):
    """etcd did not become healthy, or what it stored is not what was sent."""


def varint(value: int) -> bytes:
    """Protobuf's base-128 encoding of a non-negative integer."""
    assert value >= 0
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_put(key: bytes, value: bytes) -> bytes:
    """etcdserverpb.PutRequest: key = 1, value = 2."""
    return b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(value)) + value


def encode_range(key: bytes) -> bytes:
    """etcdserverpb.RangeRequest of one key, linearizable: key = 1."""
    return b"\x0a" + varint(len(key)) + key


def encode_id(member_id: int) -> bytes:
    """etcdserverpb.MoveLeaderRequest: targetID = 1."""
    return b"\x08" + varint(member_id)


def decode(message: bytes) -> dict[int, list[int | bytes]]:
    """Fields of a protobuf message by number: integers of varint fields, bytes of length-delimited ones. Others: ValueError."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0

    def read_varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message):
                raise ValueError("protobuf message ends inside a number")
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, wire_type = divmod(read_varint(), 8)
        if wire_type == 0:
            fields.setdefault(number, []).append(read_varint())
        elif wire_type == 2:
            size = read_varint()
            if at + size > len(message):
                raise ValueError("protobuf message ends inside a field")
            fields.setdefault(number, []).append(message[at : at + size])
            at += size
        else:
            raise ValueError(f"protobuf wire type {wire_type} is not used by the messages read here")
    return fields


def number(fields: dict[int, list[int | bytes]], field: int) -> int:
    """An integer field, 0 when absent as protobuf has it."""
    value = fields.get(field, [0])[-1]
    assert isinstance(value, int)
    return value


def message(fields: dict[int, list[int | bytes]], field: int) -> dict[int, list[int | bytes]]:
    """A message field, empty when absent."""
    value = fields.get(field, [b""])[-1]
    assert isinstance(value, bytes)
    return decode(value)


@dataclass(frozen=True, slots=True)
class Member:
    """One etcd process of the cluster."""

    name: str
    client_port: int
    process: subprocess.Popen[bytes]

    def call(self, method: str, request: bytes) -> dict[int, list[int | bytes]]:
        """One unary call with raw bytes. Raises grpc.RpcError."""
        with grpc.insecure_channel(f"127.0.0.1:{self.client_port}") as channel:
            unary = channel.unary_unary(f"/{method}", request_serializer=bytes, response_deserializer=bytes)
            return decode(unary(request, timeout=CALL_TIMEOUT_S, wait_for_ready=True))

    def is_leader(self) -> bool:
        """StatusResponse: header = 1 (member_id = 2), leader = 4."""
        status = self.call(STATUS, b"")
        return number(status, 4) != 0 and number(status, 4) == number(message(status, 1), 2)

    def member_id(self) -> int:
        """StatusResponse: header = 1 (member_id = 2)."""
        return number(message(self.call(STATUS, b""), 1), 2)

    def state(self) -> tuple[int, int]:
        """(the leader it knows, 0 for none; the last entry of its log). StatusResponse: leader = 4, raftIndex = 5."""
        status = self.call(STATUS, b"")
        return number(status, 4), number(status, 5)

    def versions(self, key: bytes) -> int:
        """How often a key was put, linearizably. RangeResponse: kvs = 2; KeyValue: version = 4."""
        return number(message(self.call(RANGE, encode_range(key)), 2), 4)

    def revision(self) -> int:
        """The store's revision, which rises with every put of any key. RangeResponse: header = 1 (revision = 3)."""
        return number(message(self.call(RANGE, encode_range(b"health")), 1), 3)

    def cpu_s(self) -> float:
        """User plus system time of the process so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system


@dataclass(frozen=True, slots=True)
class EtcdResult:
    """One verified run at the leader. server_cpu_s: user plus system time of all three members during it."""

    method: str
    value_bytes: int
    load: Load
    verified: int
    server_cpu_s: float

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "in_flight": self.load.shape.in_flight}


class EtcdCluster:
    """Three members under one folder. A context manager: entering starts and waits for health, leaving stops them all."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        """folder: an existing directory; every member's data is below it. Raises ToolMissing without starting anything."""
        self._program = h2load.require("etcd", "etcd-server")
        h2load.require("h2load", "nghttp2-client")
        self._folder = folder
        self._size = size
        self.members: list[Member] = []
        self._peers: dict[str, int] = {}

    def __enter__(self) -> EtcdCluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def version(self) -> str:
        """The server's own version number."""
        text = subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
        found = re.search(r"etcd Version: (\S+)", text)
        return found[1] if found else "unknown"

    def start(self) -> None:
        """Start all members and return once one of them leads and a put went through. Raises EtcdFailed, with all stopped."""
        ports = _free_ports(2 * self._size)
        names = [f"etcd{place}" for place in range(self._size)]
        peers = dict(zip(names, ports[: self._size], strict=True))
        self._peers = peers
        try:
            for name, client_port in zip(names, ports[self._size :], strict=True):
                self.members.append(self._spawn(name, client_port))
            self._wait_healthy()
        except BaseException:
            self.stop()
            raise

    def restart(self, place: int) -> None:
        """Start a member whose process ended, on what it stored."""
        dead = self.members[place]
        assert dead.process.poll() is not None, "it still runs"
        self.members[place] = self._spawn(dead.name, dead.client_port)

    def _spawn(self, name: str, client_port: int) -> Member:
        data, peer_port = self._folder / name, self._peers[name]
        initial = ",".join(f"{each}=http://127.0.0.1:{port}" for each, port in self._peers.items())
        command = [
            self._program,
            f"--name={name}",
            f"--data-dir={data}",
            f"--listen-client-urls=http://127.0.0.1:{client_port}",
            f"--advertise-client-urls=http://127.0.0.1:{client_port}",
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
            f"--initial-cluster={initial}",
            "--initial-cluster-token=bench",
        ]
        # Settings of an etcd that the machine itself may run must not reach these members.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        return Member(name, client_port, process)

    def _wait_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while time.monotonic() < deadline:
            for member in self.members:
                if member.process.poll() is not None:
                    log = (self._folder / f"{member.name}.log").read_text(errors="replace")
                    raise EtcdFailed(f"{member.name} exited with {member.process.returncode}: {log[-500:]}")
            try:
                self.leader().call(PUT, encode_put(b"health", b"x"))
            except (grpc.RpcError, EtcdFailed):
                time.sleep(0.1)
            else:
                return
        raise EtcdFailed(f"no healthy leader within {HEALTHY_WITHIN_S} s; logs are in {self._folder}")

    def leader(self) -> Member:
        """The member that leads now. Raises EtcdFailed when none says so."""
        for member in self.members:
            if member.is_leader():
                return member
        raise EtcdFailed("no member leads")

    def stop(self) -> None:
        """End every member that this object started, and wait for it. Killed: a polite end takes seconds and keeps nothing."""
        for member in self.members:
            member.process.kill()
        for member in self.members:
            member.process.wait()
        self.members.clear()

    def put(self, in_flight: int, seconds: float, value_bytes: int = VALUE_BYTES) -> EtcdResult:
        """Put one key at the leader for about `seconds` with `in_flight` requests open, and verify the count.

        A short run first finds the rate, so that the measured one has a known number of requests.
        Raises EtcdFailed when a request was not applied exactly once.
        """
        shape = Shape.of(in_flight)
        leader = self.leader()
        key = f"bench-{in_flight}".encode()
        request = encode_put(key, b"v" * value_bytes)
        probe = h2load.run(leader.client_port, PUT, request, shape, max(300, 10 * in_flight))
        requests = max(in_flight, int(probe.per_s * seconds))
        versions, cpu_s = leader.versions(key), self._cpu_s()
        load = h2load.run(leader.client_port, PUT, request, shape, requests)
        server_cpu_s = self._cpu_s() - cpu_s
        verified = leader.versions(key) - versions
        if verified != requests or load.succeeded != requests:
            raise EtcdFailed(f"sent {requests} puts, h2load saw {load.succeeded} succeed, etcd applied {verified}")
        return EtcdResult(PUT, value_bytes, load, verified, server_cpu_s)

    def _cpu_s(self) -> float:
        return sum(member.cpu_s() for member in self.members)


def measure(in_flight: Iterable[int], seconds: float, folder: Path) -> tuple[str, list[EtcdResult]]:
    """Start a fresh cluster below `folder`, run each load once, stop it. Returns etcd's version and the results."""
    with EtcdCluster(folder) as cluster:
        return cluster.version(), [cluster.put(count, seconds) for count in in_flight]


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _row(result: EtcdResult) -> str:
    load = result.load
    per_put_us = 1e6 / result.verified
    return (
        f"{load.shape.in_flight:>9} {load.per_s:>9.0f} {load.mean_ms:>9.2f} {load.p50_ms:>9.2f} {load.p99_ms:>9.2f}"
        f" {result.server_cpu_s * per_put_us:>12.1f} {load.generator_cpu_s * per_put_us:>12.1f}"
        f"   {load.shape.clients} x {load.shape.streams}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print a table, or JSON. Exit code 0: all verified. 1: etcd failed. 2: a program is missing."""
    parser = argparse.ArgumentParser(prog="python -m chaos.bench.etcd", description="Load a local three-member etcd.")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 256, 1000])
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long each load runs")
    parser.add_argument(
        "--folder", type=Path, help="where data goes (default: a temporary directory); its disk is what is measured"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="etcd-bench-", dir=options.folder) as folder:
            version, results = measure(options.in_flight, options.seconds, Path(folder))
    except (h2load.ToolMissing, EtcdFailed) as error:
        print(f"etcd bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, h2load.ToolMissing) else 1
    if options.json:
        print(json.dumps({"system": "etcd", "version": version, "runs": [result.to_dict() for result in results]}, indent=2))
        return 0
    print(
        f"etcd {version}, 3 members, {VALUE_BYTES} B puts at the leader, fsync on, {os.cpu_count()} cores, {platform.machine()}"
    )
    print("in flight   acked/s   mean ms    p50 ms    p99 ms  servers us/op    load us/op   connections x streams")
    for result in results:
        print(_row(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
