"""A cluster of real processes that lives as long as a `with` block: started, hurt, waited for, and gone afterwards.

Waiting is level-triggered and bounded: a probe is asked again until it holds or the time is up, and what it said last is in
the error. Nothing here sleeps and hopes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from cluster.cli.local import LocalCluster, LocalNode
from cluster.cli.local_commands import exited, last_words
from cluster.cli.output import CommandFailed
from cluster.cli.reach import ask_one, is_healthy
from cluster.client import connect
from cluster.config import SHARDS_DEFAULT
from cluster.documents.bundle import from_path
from cluster.errors import ClusterError
from cluster.session.client_events import Settings

HEALTHY_TIMEOUT_S: Final = 60.0
WITHIN_S: Final = 60.0
"""How long whoever waits is patient. Generous, since it costs nothing when all is well: a machine that does much else at the
time must not look like a cluster that fails.
"""
PROBE_INTERVAL_S: Final = 0.03
PRINCIPAL: Final = "tester@chaos"

T = TypeVar("T")


class NotReached(Exception):
    """Something did not come to hold in time. The message says what, and how it was instead."""


async def until(probe: Callable[[], Awaitable[T]], what: str, timeout_s: float = WITHIN_S) -> T:
    """Ask until the answer is true, and return it. A probe that raises ClusterError is asked again. Raises NotReached."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            answer = await probe()
            if answer:
                return answer
            last = answer
        except ClusterError as error:
            last = f"{type(error).__name__}: {error.message}"
        if time.monotonic() >= deadline:
            raise NotReached(f"{what}: not within {timeout_s:.0f} s; at last: {last!r}")
        await asyncio.sleep(PROBE_INTERVAL_S)


class LiveCluster:
    """Real nodes below a folder: `async with LiveCluster(folder) as live`. Inside, all nodes are healthy to begin with.

    settings: values of moot.toml for all nodes. http: whether they serve HTTP. Leaving kills every process that was started
    here.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 3,
        *,
        shards: int = SHARDS_DEFAULT,
        settings: Mapping[str, str | int] | None = None,
        http: bool = False,
    ) -> None:
        self.local = LocalCluster.create(folder, nodes, shards=shards, settings=settings, tied=True, http=http)

    async def __aenter__(self) -> LiveCluster:
        try:
            self.start_all()
            await self.healthy()
        except BaseException:
            self.local.kill_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.local.nodes:
            self.local.resume(node)
        self.local.kill_all()

    @property
    def nodes(self) -> list[LocalNode]:
        """All nodes, running or not."""
        return self.local.nodes

    @property
    def addresses(self) -> list[str]:
        """Gateways of all nodes."""
        return [node.address for node in self.nodes]

    def running(self) -> list[LocalNode]:
        """Nodes whose process runs."""
        return [node for node in self.nodes if self.local.state(node) == "running"]

    def start_all(self) -> None:
        """Start what is stopped."""
        for node in self.nodes:
            self.local.start(node)

    async def kill(self, node: LocalNode) -> None:
        """SIGKILL; the process is gone when this returns."""
        await asyncio.to_thread(self.local.kill, node)

    async def kill_all(self) -> None:
        """SIGKILL to all nodes at once; all are gone when this returns."""
        await asyncio.to_thread(self.local.kill_all)

    async def healthy(self, timeout_s: float = HEALTHY_TIMEOUT_S) -> None:
        """Until every node answers, sees all others alive and every shard led. Raises CommandFailed when a node has exited."""

        async def probe() -> bool:
            dead = exited(self.local)
            if dead:
                raise CommandFailed(dead)
            trouble[0] = await is_healthy(self.addresses)
            return not trouble[0]

        trouble = [""]
        try:
            await until(probe, "a healthy cluster", timeout_s)
        except NotReached:
            raise NotReached(f"no healthy cluster within {timeout_s:.0f} s: {trouble[0]}; {self.last_words()}") from None

    def last_words(self) -> str:
        """The ends of all logs, for whoever must find out why."""
        return "; ".join(f"{node.node_id}: {last_words(self.local.log_path(node))}" for node in self.nodes)

    def client(self, *nodes: LocalNode, principal: str = PRINCIPAL, settings: Settings | None = None) -> connect:
        """A client of these nodes, in this order; of all when none is named. The client is patient: failovers are the point."""
        addresses = [node.address for node in nodes] or [node.address for node in self.nodes]
        return connect(*addresses, principal=principal, settings=settings, open_timeout_ms=20_000, call_timeout_ms=30_000)

    async def deploy(self, name: str, path: Path) -> None:
        """Deploy a document type, and wait until every node that runs knows it."""
        async with self.client(*self.running()) as client:
            await client.admin("DeploySpace", space=name, bundle=from_path(path).encode())
        for node in self.running():
            await until(lambda node=node: self._knows(node, name), f"{node.node_id} knows {name}")  # type: ignore[misc]

    async def _knows(self, node: LocalNode, name: str) -> bool:
        listed = await ask_one(node.address, "ListSpaces")
        return any(space.name == name for space in listed.spaces)

    async def leader_of(self, space: str, key: str, timeout_s: float = WITHIN_S) -> LocalNode:
        """The running node that itself says it leads the document's shard. Raises NotReached."""

        async def probe() -> LocalNode | None:
            for node in self.running():
                answer = await ask_one(node.address, "Where", document={"space": space, "key": key})
                if answer.shard.leader == node.node_id:
                    return node
            return None

        found = await until(probe, f"a leader of {space}/{key}", timeout_s)
        assert found is not None
        return found

    async def inspect(self, node: LocalNode, space: str, key: str) -> Any:
        """The document's record on this very node."""
        return await ask_one(node.address, "InspectDocument", document={"space": space, "key": key})

    async def holders(self, space: str, key: str) -> list[LocalNode]:
        """The nodes that the shard map names for a document, as a running node knows it."""

        async def probe() -> list[LocalNode]:
            answer = await ask_one(self.running()[0].address, "Where", document={"space": space, "key": key})
            return [self.local.find(replica.node_id) for replica in answer.shard.replicas]

        return await until(probe, f"who holds {space}/{key}")

    async def converged(self, space: str, key: str, index: int, timeout_s: float = WITHIN_S) -> dict[str, Any]:
        """Until all replicas are at this index or beyond, at one position. Returns node id -> its inspection."""

        async def probe() -> dict[str, Any]:
            holders = await self.holders(space, key)
            answers = await asyncio.gather(*(self.inspect(node, space, key) for node in holders))
            seen.update({answer.node_id: answer for answer in answers})
            places = {(answer.position.epoch, answer.position.index) for answer in answers}
            return seen if len(places) == 1 and min(places)[1] >= index else {}

        seen: dict[str, Any] = {}
        try:
            return await until(probe, "", timeout_s)
        except NotReached:
            places = {node: f"{answer.position.epoch}.{answer.position.index}" for node, answer in seen.items()}
            raise NotReached(
                f"replicas of {space}/{key} did not reach index {index} within {timeout_s:.0f} s: {places}"
            ) from None
