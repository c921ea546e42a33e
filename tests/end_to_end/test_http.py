"""Documents over HTTP on real nodes, by a client of Python's own library: any node takes any request, and a leader may die."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

from chaos.live.processes import WITHIN_S, LiveCluster, until
from cluster.cli.local import LocalNode
from cluster.cli.local_commands import example
from cluster.errors import ClusterError, Unavailable

BOOK = "/visitors/lobby"
KEYS = 24
RETRIED = frozenset((429, 503, 504))
"""What a client is told to send again for: under the same Idempotency-Key that is safe whatever came of it."""


def call(
    node: LocalNode, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request, as anybody sends it."""
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=WITHIN_S)
    try:
        connection.request(method, path, body or None, {"moot-principal": "ann@acme", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


async def sign(nodes: Iterator[LocalNode], key: str) -> None:
    """Sign the book under a key until it is known to be signed, through one node after the other."""
    headers = {"content-type": "application/x-www-form-urlencoded", "idempotency-key": key}

    async def signed() -> bool:
        try:
            status, _, said = await asyncio.to_thread(
                call, next(nodes), "POST", f"{BOOK}/sign", urlencode({"text": key}).encode(), headers
            )
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(str(error)) from error  # the node was killed: the next one is asked
        assert status == 303 or status in RETRIED, (status, said)
        return status == 303

    await until(signed, f"{key} is signed")


async def entries(node: LocalNode) -> list[str]:
    status, _, body = await asyncio.to_thread(call, node, "GET", f"{BOOK}/feed")
    if status != 200:
        raise ClusterError(f"{status}: {body!r}")
    return [entry["text"] for entry in json.loads(body)]


def in_turn(live: LiveCluster) -> Iterator[LocalNode]:
    """Nodes, one after the other, dead ones too."""
    while True:
        yield from live.nodes


async def test_each_request_under_an_idempotency_key_runs_once_though_its_leader_is_killed(folder: Path) -> None:
    async with LiveCluster(folder, shards=1, http=True) as live:
        await live.deploy("visitors", example("visitors"))
        nodes = in_turn(live)
        for number in range(KEYS // 3):
            await sign(nodes, f"before {number}")
        leader = await live.leader_of("visitors", "lobby")
        under_way = asyncio.gather(*[sign(nodes, f"meanwhile {number}") for number in range(KEYS // 3)])
        await live.kill(leader)
        await under_way
        for number in range(KEYS // 3):
            await sign(nodes, f"after {number}")
        wanted = [f"{when} {number}" for when in ("before", "meanwhile", "after") for number in range(KEYS // 3)]
        for key in wanted:  # all once more, the dead leader's too, as a client does who has lost the answers
            await sign(nodes, key)
        for node in live.running():
            found = await until(lambda node=node: entries(node), "the feed")  # type: ignore[misc]
            assert sorted(found) == sorted(wanted), "each once, whichever node is asked"


async def test_any_node_serves_pages_and_files_and_survives_garbage(folder: Path) -> None:
    async with LiveCluster(folder, shards=2, http=True) as live:
        await live.deploy("visitors", example("visitors"))
        tags = set()
        for node in live.nodes:
            with socket.create_connection(("127.0.0.1", node.http_port), timeout=WITHIN_S) as garbage:
                garbage.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n\xff" * 100)
                assert await asyncio.to_thread(garbage.recv, 12) == b"HTTP/1.1 400"
            status, headers, page = await asyncio.to_thread(call, node, "GET", f"{BOOK}/")
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert b"You are <b>ann@acme</b>" in page
            status, headers, _ = await asyncio.to_thread(call, node, "GET", f"{BOOK}/static/page.css")
            assert (status, headers["content-type"]) == (200, "text/css; charset=utf-8")
            tags.add(headers["etag"])
            status, _, said = await asyncio.to_thread(call, node, "GET", "/visitors/lobby/none")
            assert (status, json.loads(said)["error"]["reason"]) == (404, "NOT_FOUND")
        assert len(tags) == 1
