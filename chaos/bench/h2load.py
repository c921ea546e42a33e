"""Loads a gRPC method with h2load (Debian package nghttp2-client): a generator in C that repeats one prepared request.

A gRPC unary call is one HTTP/2 POST whose body is a five-byte prefix and the message, so h2load can send it unchanged. What
it cannot see is grpc-status, which travels in trailers: a refusal also counts as 2xx. Whoever uses this must therefore check
on the server that the requests took effect; `Load.succeeded` alone proves nothing.

Generator CPU is part of the result, because generator and servers share the machine.
"""

from __future__ import annotations

import math
import re
import resource
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 300
_TIME = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class ToolMissing(Exception):
    """A program that the comparison needs is not installed; the message says which package has it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many requests are in flight: on `clients` connections, `streams` each."""

    clients: int
    streams: int

    @property
    def in_flight(self) -> int:
        return self.clients * self.streams

    @classmethod
    def of(cls, in_flight: int) -> Shape:
        """Few connections, which suits the server best: with a thousand in flight, etcd served 28 k/s over one or ten
        connections and 8 k/s over a thousand (2 cores). Four, or one when four do not divide the number."""
        clients = 4 if in_flight >= 16 and in_flight % 4 == 0 else 1
        return cls(clients, in_flight // clients)


@dataclass(frozen=True, slots=True)
class Summary:
    """What h2load prints. Times in ms as the generator saw them, from request to the end of the trailers."""

    succeeded: int
    failed: int
    wall_s: float
    per_s: float
    mean_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """One run of the generator. generator_cpu_s: user plus system time of h2load itself."""

    shape: Shape
    requests: int
    succeeded: int
    failed: int
    wall_s: float
    per_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    generator_cpu_s: float


def require(program: str, package: str) -> str:
    """Path of an installed program. Raises ToolMissing that says what to install."""
    path = shutil.which(program)
    if path is None:
        raise ToolMissing(f"{program} is not installed; on Debian: apt-get install {package}")
    return path


def grpc_body(message: bytes) -> bytes:
    """A uncompressed length-prefixed gRPC message: flag byte 0, big-endian length, message (gRPC over HTTP/2, "Requests")."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def parse_summary(text: str) -> Summary:
    """Read h2load's report. Raises ValueError when it is not one."""
    finished = re.search(r"finished in ([\d.]+)(us|ms|s), ([\d.]+) req/s", text)
    requests = re.search(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed", text)
    codes = re.search(r"status codes: (\d+) 2xx", text)
    times = re.search(r"time for request:" + r"\s+([\d.]+)(us|ms|s)" * 4, text)
    if not (finished and requests and codes and times):
        raise ValueError(f"not a report of h2load: {text[:200]!r}")
    return Summary(
        succeeded=min(int(requests[1]), int(codes[1])),
        failed=int(requests[2]),
        wall_s=float(finished[1]) * _TIME[finished[2]] / 1e3,
        per_s=float(finished[3]),
        mean_ms=float(times[5]) * _TIME[times[6]],
        max_ms=float(times[3]) * _TIME[times[4]],
    )


def parse_log(text: str) -> list[float]:
    """Response times in ms, ascending, from --log-file: start (us), status, response time (us). Failed streams are left out."""
    rows = (line.split("\t") for line in text.splitlines())
    return sorted(int(row[2]) / 1e3 for row in rows if len(row) >= 3 and row[1] == "200")


def percentile(ascending: list[float], percent: float) -> float:
    """Nearest-rank percentile of a sorted, non-empty list."""
    assert ascending
    rank = max(1, math.ceil(percent / 100 * len(ascending)))
    return ascending[rank - 1]


def run(port: int, method: str, message: bytes, shape: Shape, requests: int) -> Load:
    """Send `message` to `method` ("package.Service/Method") `requests` times on 127.0.0.1 and wait for every answer.

    Raises ToolMissing, subprocess.CalledProcessError, subprocess.TimeoutExpired, or ValueError for an unreadable report.
    """
    assert requests >= shape.in_flight
    program = require("h2load", "nghttp2-client")
    with tempfile.TemporaryDirectory(prefix="h2load-") as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(grpc_body(message))
        command = [
            program,
            f"--requests={requests}",
            f"--clients={shape.clients}",
            f"--max-concurrent-streams={shape.streams}",
            f"--data={body}",
            "--header=content-type: application/grpc",
            "--header=te: trailers",
            f"--log-file={log}",
            f"http://127.0.0.1:{port}/{method}",
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = parse_log(log.read_text())
    summary = parse_summary(report)
    if not times:
        raise ValueError(f"h2load had no successful request: {report[:400]}")
    return Load(
        shape=shape,
        requests=requests,
        succeeded=summary.succeeded,
        failed=summary.failed,
        wall_s=summary.wall_s,
        per_s=summary.per_s,
        mean_ms=summary.mean_ms,
        p50_ms=percentile(times, 50),
        p99_ms=percentile(times, 99),
        max_ms=summary.max_ms,
        generator_cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )
