"""How a node that nobody knows yet, or that has moved, talks to a cluster: one question and one answer at a port for peers.

    newcomer : Introduction          as the opening of a connection, where a peer would send its Hello
    member   : Introduced, and closes

Who reaches this port can speak as a node anyway, so nothing is asked here that a peer could not have; gateways, which clients
reach, do not answer this.

Invariant: an introduction changes nothing here; what becomes of it is for the node to decide, and its answer names the failure.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
from msgspec import Struct

from cluster.errors import Unavailable
from cluster.session.operations import Failure
from cluster.transport.peer import FRAME_BYTES_MAX
from cluster.transport.peer_wire import MAGIC, FrameDecoder, Introduction, encode_opening, frame_header

INTRODUCTION_TIMEOUT_MS: Final = 15_000
"""From dialling to the answer. It waits for a decision of the system shard, which may be electing a leader."""
DIAL_TIMEOUT_MS: Final = 2_000


class Introduced(Struct, frozen=True, array_like=True):
    """failure: why not; then the rest is empty. decisions: all that the member knows of what the cluster decided, the
    newcomer's registration included. wall_ms: the member's clock.
    """

    cluster_id: str
    decisions: bytes
    wall_ms: int
    release: str
    failure: Failure | None = None


_decoder = msgspec.msgpack.Decoder(Introduced)


def encode_introduced(answer: Introduced) -> bytes:
    """The answer as a complete frame."""
    payload = MAGIC + msgspec.msgpack.encode(answer)
    return frame_header(payload) + payload


async def introduce(host: str, port: int, introduction: Introduction) -> tuple[Introduced, float]:
    """Ask one member; its answer, and how long it took in milliseconds. Raises Unavailable when there is none, or when what
    listens there is no port for peers; whether anything was registered is then not known, and asking again is safe.
    """
    where = f"{host}:{port}"
    began = time.monotonic()
    try:
        async with asyncio.timeout(INTRODUCTION_TIMEOUT_MS / 1000):
            async with asyncio.timeout(DIAL_TIMEOUT_MS / 1000):
                reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(encode_opening(introduction))
                frame = await _read(reader)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise Unavailable(f"{where} did not answer in time") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{where}: {error}") from None
    if frame is None or not frame.startswith(MAGIC):
        raise Unavailable(f"{where} hung up; the address of a node here is that of its peer_port (7401 if not configured)")
    try:
        answer = _decoder.decode(memoryview(frame)[len(MAGIC) :])
    except msgspec.DecodeError:
        raise Unavailable(f"{where} answers what this release does not understand") from None
    return answer, (time.monotonic() - began) * 1000


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    """One frame; None if the other side ends before, or sends what is none."""
    decoder = FrameDecoder(FRAME_BYTES_MAX)
    while decoder.failure is None:
        data = await reader.read(1 << 16)
        if not data:
            return None
        frames = decoder.feed(data)
        if frames:
            return frames[0]
    return None
