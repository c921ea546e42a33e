"""The yardstick itself is measured: bodies are what etcd reads, reports are read right, and a refused put is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.bench import etcd, h2load
from chaos.bench.etcd import EtcdCluster, EtcdFailed
from chaos.bench.h2load import Shape, ToolMissing

REPORT = """\
starting benchmark...
spawning thread #0: 4 total client(s). 200 total requests
Application protocol: h2c
progress: 100% done

finished in 53.74ms, 3721.62 req/s, 269.33KB/s
requests: 200 total, 200 started, 200 done, 200 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 14.47KB (14821) total, 448B (448) headers (space savings 94.11%), 6.32KB (6475) data
                     min         max         mean         sd        +/- sd
time for request:     1.83ms      5.47ms      3.76ms       898us    67.50%
time for connect:      150us       604us       358us       192us    50.00%
time to 1st byte:     5.53ms      5.90ms      5.68ms       175us    75.00%
req/s           :     944.09      980.02      958.89       15.26    75.00%
"""

installed = pytest.mark.skipif(
    not (shutil.which("etcd") and shutil.which("h2load")), reason="needs Debian's etcd-server and nghttp2-client"
)


def test_put_body_is_what_the_wire_format_says() -> None:
    body = h2load.grpc_body(etcd.encode_put(b"key", b"v" * 200))
    message = b"\x0a\x03key\x12\xc8\x01" + b"v" * 200
    assert body == b"\x00" + bytes([0, 0, 0, len(message)]) + message


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_put_message_decodes_to_its_fields(key: bytes, value: bytes) -> None:
    assert etcd.decode(etcd.encode_put(key, value)) == {1: [key], 2: [value]}


@given(st.integers(0, 2**64 - 1))
def test_numbers_survive_the_wire(value: int) -> None:
    fields = etcd.decode(b"\x20" + etcd.varint(value))
    assert etcd.number(fields, 4) == value


@pytest.mark.parametrize("broken", [b"\x80", b"\x0a\x05abc", b"\x0d1234", b"\x0a"])
def test_truncated_or_unexpected_answer_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match="protobuf"):
        etcd.decode(broken)


def test_absent_fields_have_protobufs_defaults() -> None:
    assert (etcd.number({}, 4), etcd.message({}, 2)) == (0, {})


def test_report_is_read_in_its_own_units() -> None:
    summary = h2load.parse_summary(REPORT)
    assert (summary.succeeded, summary.failed) == (200, 0)
    assert summary.wall_s == pytest.approx(0.05374)
    assert summary.per_s == 3721.62
    assert (summary.mean_ms, summary.max_ms) == (3.76, 5.47)
    seconds = h2load.parse_summary(REPORT.replace("3.76ms", " 376us").replace("53.74ms", "1.50s"))
    assert seconds.mean_ms == pytest.approx(0.376)
    assert seconds.wall_s == 1.5


def test_only_2xx_count_as_success() -> None:
    assert h2load.parse_summary(REPORT.replace("200 2xx, 0 3xx, 0 4xx", "150 2xx, 0 3xx, 50 4xx")).succeeded == 150


@pytest.mark.parametrize("text", ["", "h2load: connection refused", REPORT.replace("time for request", "time")])
def test_what_is_no_report_is_not_guessed_at(text: str) -> None:
    with pytest.raises(ValueError, match="not a report"):
        h2load.parse_summary(text)


def test_log_gives_sorted_milliseconds_of_successes() -> None:
    log = "1795500004780975\t200\t4450\n1795500004780972\t-1\t9\n1795500004780973\t200\t1480\n1795500004780973\t503\t3\n"
    assert h2load.parse_log(log) == [1.48, 4.45]


@pytest.mark.parametrize(("percent", "expected"), [(1, 1.0), (50, 5.0), (90, 9.0), (99, 10.0), (100, 10.0)])
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert h2load.percentile([float(value) for value in range(1, 11)], percent) == expected


@given(st.integers(1, 4000))
def test_shape_has_exactly_the_requests_in_flight(in_flight: int) -> None:
    shape = Shape.of(in_flight)
    assert shape.in_flight == in_flight
    assert shape.clients in (1, 4)


def test_absent_program_says_which_package_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="etcd is not installed; on Debian: apt-get install etcd-server"):
        EtcdCluster(tmp_path)
    assert etcd.main(["--folder", str(tmp_path)]) == 2


def test_etcd_that_exits_at_once_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"etcd": "#!/bin/sh\necho no such flag\nexit 3\n", "h2load": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    cluster = EtcdCluster(tmp_path)
    with pytest.raises(EtcdFailed, match=r"(?s)exited with 3: no such flag"):
        cluster.start()
    assert cluster.members == []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@installed
def test_every_put_is_counted_by_etcd_itself(cluster: EtcdCluster) -> None:
    result = cluster.put(in_flight=16, seconds=0.2)
    assert result.verified == result.load.requests == result.load.succeeded
    assert 0 < result.load.p50_ms <= result.load.p99_ms <= result.load.max_ms + 1
    assert result.server_cpu_s > 0
    assert json.loads(json.dumps(result.to_dict()))["in_flight"] == 16


@installed
def test_refused_put_looks_like_success_to_the_generator(cluster: EtcdCluster) -> None:
    """grpc-status travels in trailers: an empty key is refused under HTTP 200, so only the server's count proves anything."""
    leader = cluster.leader()
    before = leader.revision()
    load = h2load.run(leader.client_port, etcd.PUT, etcd.encode_put(b"", b"x"), Shape(1, 1), 5)
    assert load.succeeded == 5
    assert leader.revision() == before


@installed
def test_puts_that_were_not_applied_are_not_reported_as_a_rate(cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "encode_put", lambda key, value: b"\x12\x01x")
    with pytest.raises(EtcdFailed, match="etcd applied 0"):
        cluster.put(in_flight=1, seconds=0.1)


@installed
def test_exactly_one_member_leads(cluster: EtcdCluster) -> None:
    assert [member.is_leader() for member in cluster.members].count(True) == 1
