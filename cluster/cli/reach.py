"""How commands find a cluster and talk to it.

Which one: `--address host:port` (several: repeat it), else the environment MOOT_ADDRESS (comma-separated), else the local
cluster of `--data DIR` (default: .moot in the working directory). Nodes are tried in turn, each for a short time, so that a
node which hangs costs seconds and not the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
import uvloop

from cluster.cli.local import LocalCluster, NoCluster
from cluster.cli.output import CommandFailed, Exit, Unreachable
from cluster.client import Client, connect
from cluster.client.failures import error_of_rpc
from cluster.errors import ClusterError, InvalidName, Unavailable
from cluster.ids import DocumentId, Principal

OPEN_TIMEOUT_MS: Final = 2_000
DEFAULT_FOLDER: Final = Path(".moot")

T = TypeVar("T")

Addresses = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        help="A node's gateway, host:port; repeat it for several. Default: the local cluster.",
        envvar="MOOT_ADDRESS",
        show_default=False,
    ),
]
Folder = Annotated[Path, typer.Option("--data", help="Folder of the local cluster.", envvar="MOOT_CLUSTER", show_default=True)]
Who = Annotated[
    str,
    typer.Option("--as", help="Who acts: agent@authority. Default: your login @local.", envvar="MOOT_PRINCIPAL"),
]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end."""
    return uvloop.run(coroutine)


def addresses_of(given: Sequence[str] | None, folder: Path) -> list[str]:
    """Where to try, in order. Raises CommandFailed when nothing says where a cluster is."""
    listed = [part.strip() for each in given or [] for part in each.split(",") if part.strip()]
    for address in listed:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise CommandFailed(
                f"{address!r} is not of the form host:port", state="nothing was tried", code=Exit.USAGE, reason="USAGE"
            )
    if listed:
        return listed
    try:
        return LocalCluster.open(folder).addresses
    except NoCluster as error:
        raise Unreachable(error.message, "start one: moot up; or name a node: --address host:port") from None


def node_id_of(name: str, given: Sequence[str] | None, folder: Path) -> str:
    """A node's id from the command line: of the local cluster its number will do. Raises InvalidRequest."""
    return name if given else LocalCluster.open(folder).find(name).node_id


def principal_of(given: str) -> str:
    """Who acts. Raises CommandFailed for what is no principal."""
    if not given:
        try:
            given = f"{getpass.getuser()}@local"
        except (KeyError, OSError):
            given = "operator@local"
    try:
        Principal.parse(given)
    except InvalidName as error:
        raise CommandFailed(error.message, next_step="for example --as alice@acme", code=Exit.USAGE, reason="USAGE") from None
    return given


def document_of(text: str) -> DocumentId:
    """A document's address from the command line. Raises CommandFailed."""
    try:
        return DocumentId.parse(text)
    except InvalidName as error:
        raise CommandFailed(
            error.message,
            state="nothing was sent",
            next_step="write SPACE/KEY, for example chat/lobby",
            code=Exit.USAGE,
            reason=error.reason,
        ) from None


@contextlib.asynccontextmanager
async def reached(addresses: Sequence[str], who: str) -> AsyncIterator[Client]:
    """A client at the first address that answers; it goes on at the others. Raises Unreachable, or what the cluster said."""
    tried: list[str] = []
    for place, address in enumerate(addresses):
        refusal = await _refusal(address)
        if refusal:
            tried.append(f"{address}: {refusal}")
            continue
        others = [*addresses[place + 1 :], *addresses[:place]]
        opening = connect(address, *others, principal=who, open_timeout_ms=OPEN_TIMEOUT_MS)
        try:
            client = await opening.__aenter__()
        except Unavailable as error:
            tried.append(f"{address}: {error.message}")
            continue
        try:
            yield client
        finally:
            await opening.__aexit__(None, None, None)
        return
    raise Unreachable(f"no node answered ({'; '.join(tried)})", "look: moot status; start nodes: moot up, moot restart N")


async def _refusal(address: str) -> str:
    """Why nobody is there, empty when somebody listens. A client waits for a gateway that may be about to come; a command that
    finds no process there has another node to try, or something to say.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_MS / 1000):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError as error:  # also TimeoutError
        return error.strerror or "it does not answer"
    writer.transport.abort()
    return ""


@contextlib.asynccontextmanager
async def at(given: Sequence[str] | None, folder: Path, who: str = "") -> AsyncIterator[Client]:
    """A client of the cluster that the command line names."""
    async with reached(addresses_of(given, folder), principal_of(who)) as client:
        yield client


async def ask_one(address: str, method: str, *, timeout_s: float = 2.0, **fields: Any) -> Any:
    """An admin call to this very node, over a connection of its own. Raises ClusterError; Unavailable when it is not there."""
    from grpc import aio

    from cluster.v1 import admin_pb2

    descriptor = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods_by_name[method]
    request = getattr(admin_pb2, descriptor.input_type.name)(**fields)
    async with aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        call = channel.unary_unary(
            f"/cluster.v1.AdminService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(admin_pb2, descriptor.output_type.name).FromString,
        )
        try:
            return await call(request, metadata=(("moot-principal", principal_of("")),), timeout=timeout_s)
        except aio.AioRpcError as error:
            raise error_of_rpc(error) from None


async def is_healthy(addresses: Sequence[str]) -> str:
    """Empty when every node answers and calls the cluster healthy, with all nodes alive; else the first thing that is missing.

    Asked again and again while nodes start, so it asks no further than that: answers cost those who are busy with starting.
    """

    async def one(address: str) -> str:
        try:
            status = await ask_one(address, "GetStatus")
        except ClusterError as error:
            return f"{address} does not answer: {error.message}"
        if status.nodes_alive < status.nodes_total:
            return f"{status.node_id} sees {status.nodes_alive} of {status.nodes_total} nodes"
        if not status.healthy:
            return f"{status.node_id} sees shards {list(status.shards_leaderless)} without a leader"
        if status.shard_map_version < 1:
            return f"{status.node_id} has no shard map yet"
        return ""

    for address in addresses:
        trouble = await one(address)
        if trouble:
            return trouble
    return ""


async def wait_healthy(addresses: Sequence[str], timeout_s: float, *, dead: Any = None) -> None:
    """Until `is_healthy`. `dead`: says why waiting is pointless, empty while it is not. Raises CommandFailed after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        trouble = await is_healthy(addresses)
        if not trouble:
            return
        end = dead() if dead is not None else ""
        if end:
            raise CommandFailed(
                end, state="other nodes go on", next_step="read its log", code=Exit.OPERATOR, reason="NODE_EXITED"
            )
        if time.monotonic() >= deadline:
            raise CommandFailed(
                f"not healthy within {timeout_s:.0f} s: {trouble}",
                state="the nodes go on",
                next_step="moot status shows more; each node says why in its node.log",
                reason="NOT_HEALTHY",
            )
        await asyncio.sleep(0.1)
