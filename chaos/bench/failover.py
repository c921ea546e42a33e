"""How long a cluster takes no writes when its leader dies, stands still, or hands over; Moot, and etcd in the same way.

Writers send small writes at a fixed rate, each once and on its own, to the members that do not lead; nobody waits for the
write before. So what is seen is the cluster, not a client's patience. Three real members, one Raft group, fsync on.

gap      the longest time without an acknowledged write, from the event on until writes flowed again
kill     SIGKILL to the leader, at a random moment; it is started again afterwards
pause    SIGSTOP to the leader, SIGCONT after some seconds
transfer leadership is handed over as planned

In the end every member counts: no acknowledged write may be missing, none may have run that was not sent.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
from grpc import aio

from chaos.bench.etcd import MOVE_LEADER, PUT, EtcdCluster, Member, encode_id, encode_put
from chaos.bench.load import PRINCIPAL, SPACE, payload
from chaos.bench.send import Say
from chaos.live.processes import LiveCluster, NotReached, until
from cluster.cli.local import LocalNode
from cluster.cli.local_commands import example
from cluster.cli.reach import ask_one
from cluster.v1 import documents_pb2 as wire

KINDS: Final = ("kill", "pause", "transfer")
KEY: Final = "failover"
WRITE_INTERVAL_S: Final = 0.005
WRITE_TIMEOUT_S: Final = 10.0
WRITES_OPEN_MAX: Final = 4096
PAUSE_S: Final = 3.0
FLOWING_S: Final = 1.0
"""Writes flow again when there was no pause longer than FLOWING_GAP_S for so long."""
FLOWING_GAP_S: Final = 0.1
RECOVER_TIMEOUT_S: Final = 60.0
PHASE_S_MAX: Final = 0.5

Write = Callable[[], Awaitable[Any]]


class Lost(Exception):
    """Acknowledged writes are missing, or some ran that nobody sent."""


class Contender(Protocol):
    """A cluster of three as this benchmark sees it. Members are known by name."""

    name: str

    async def leader(self) -> str: ...
    def write_at(self, member: str) -> Write: ...
    async def kill(self, member: str) -> None: ...
    async def start(self, member: str) -> None: ...
    def signal(self, member: str, number: signal.Signals) -> None: ...
    async def transfer(self) -> None: ...
    async def healthy(self) -> None: ...
    async def applied(self) -> int: ...


@dataclass(slots=True)
class Writers:
    """Writes at a fixed rate, in turn to each member that does not lead. sent and acknowledged count."""

    contender: Contender
    members: list[str] = field(default_factory=list)
    sent: int = 0
    acknowledged: int = 0
    last_s: float = 0.0
    longest_s: float = 0.0
    flowing_since_s: float = 0.0
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled. A writer that is late starts what it owes at once: the rate is constant."""
        due_s = time.monotonic()
        while True:
            if self.members and len(self._open) < WRITES_OPEN_MAX:
                task = asyncio.create_task(self._one(self.contender.write_at(self.members[self.sent % len(self.members)])))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                self.sent += 1
            due_s = max(due_s + WRITE_INTERVAL_S, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _one(self, write: Write) -> None:
        try:
            await write()
        except grpc.RpcError:
            return  # whether it ran is not known; `applied` may count it
        now_s = time.monotonic()
        self.acknowledged += 1
        gap_s = now_s - self.last_s
        self.longest_s = max(self.longest_s, gap_s)
        if gap_s > FLOWING_GAP_S:
            self.flowing_since_s = now_s
        self.last_s = now_s

    def began(self) -> None:
        """Something is done to the cluster now: gaps count from here."""
        self.last_s = self.flowing_since_s = time.monotonic()
        self.longest_s = 0.0

    async def flow(self, least_s: float) -> float:
        """Until writes flow, `least_s` from now at the earliest. Returns the longest gap since `began`. Raises NotReached."""
        began_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            steady_s = now_s - self.flowing_since_s if now_s - self.last_s <= FLOWING_GAP_S else 0.0
            if steady_s >= FLOWING_S and now_s - began_s >= least_s:
                return self.longest_s
            if now_s - began_s > RECOVER_TIMEOUT_S:
                raise NotReached(f"{self.contender.name} took no writes for {now_s - self.last_s:.0f} s")
            await asyncio.sleep(WRITE_INTERVAL_S)

    async def settle(self) -> None:
        """Every write that is on its way has ended."""
        self.members = []
        await asyncio.gather(*self._open)


async def bench_failover(
    folder: Path, say: Say, *, kills: int = 20, kinds: tuple[str, ...] = KINDS, etcd: bool = False, seed: int | None = None
) -> dict[str, Any]:
    """Run below an empty folder: `kills` events of each kind. seed: of the moments. Raises Lost, NotReached, EtcdFailed or
    ToolMissing.
    """
    found: dict[str, Any] = {
        "kills": kills, "members": 3, "write_interval_ms": 1000 * WRITE_INTERVAL_S, "cores": os.cpu_count(),
        "machine": platform.machine(), "python": platform.python_version(), "kinds": {kind: {} for kind in kinds},
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        contenders: list[Contender] = [await stack.enter_async_context(MootCluster(folder / "moot"))]
        await _measure(contenders[0], say, kills, kinds, random.Random(seed), found["kinds"])
    if etcd:
        (folder / "etcd").mkdir()
        async with EtcdContender(folder / "etcd") as other:
            found["etcd_version"] = other.cluster.version()
            await _measure(other, say, kills, kinds, random.Random(seed), found["kinds"])
        for values in found["kinds"].values():
            values["ratio_p50"] = round(values["moot"]["p50_ms"] / values["etcd"]["p50_ms"], 3)
    return found


async def _measure(
    contender: Contender, say: Say, kills: int, kinds: tuple[str, ...], source: random.Random, found: dict[str, Any]
) -> None:
    writers = Writers(contender)
    running = asyncio.create_task(writers.run())
    try:
        for kind in kinds:
            gaps_ms = []
            for number in range(1, kills + 1):
                gaps_ms.append(1000 * await _event(contender, writers, kind, source))
                say(f"{contender.name}: {kind} {number} of {kills}: {gaps_ms[-1]:.0f} ms")
            found[kind][contender.name] = _summary(gaps_ms)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await writers.settle()
    applied = await contender.applied()
    if not writers.acknowledged <= applied <= writers.sent:
        raise Lost(f"{contender.name}: {writers.acknowledged} acknowledged of {writers.sent} sent, {applied} applied")


async def _event(contender: Contender, writers: Writers, kind: str, source: random.Random) -> float:
    await contender.healthy()
    leader = await contender.leader()
    writers.members = [member for member in ("0", "1", "2") if member != leader]
    writers.began()
    await writers.flow(source.uniform(0, PHASE_S_MAX))
    if kind == "kill":
        await contender.kill(leader)
        writers.began()
        gap_s = await writers.flow(FLOWING_S)
        await contender.start(leader)
    elif kind == "pause":
        contender.signal(leader, signal.SIGSTOP)
        writers.began()
        try:
            gap_s = await writers.flow(PAUSE_S)
        finally:
            contender.signal(leader, signal.SIGCONT)
    else:
        writers.began()
        await contender.transfer()
        gap_s = await writers.flow(FLOWING_S)
    return gap_s


def _summary(gaps_ms: list[float]) -> dict[str, Any]:
    return {
        "p50_ms": round(statistics.median(gaps_ms), 1),
        "max_ms": round(max(gaps_ms), 1),
        "min_ms": round(min(gaps_ms), 1),
        "gaps_ms": [round(gap, 1) for gap in gaps_ms],
    }


class MootCluster:
    """Three nodes and one shard of documents; writes are unary sends to one document."""

    name = "moot"

    def __init__(self, folder: Path) -> None:
        self._live = LiveCluster(folder, 3, shards=1)
        self._stack = AsyncExitStack()
        self._request = wire.SendRequest(channel="put", payload=payload())
        self._request.document.space, self._request.document.key = SPACE, KEY

    async def __aenter__(self) -> MootCluster:
        live = await self._stack.enter_async_context(self._live)
        await live.deploy(SPACE, example(SPACE))
        async with live.client() as client:
            await client.create(SPACE, KEY)
        self._calls = []
        for node in live.nodes:
            channel = await self._stack.enter_async_context(_channel(node.address))
            self._calls.append(
                channel.unary_unary(
                    "/cluster.v1.DocumentService/Send",
                    request_serializer=wire.SendRequest.SerializeToString,
                    response_deserializer=wire.SendResponse.FromString,
                )
            )
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()

    def _node(self, member: str) -> LocalNode:
        return self._live.nodes[int(member)]

    async def leader(self) -> str:
        return str(self._live.nodes.index(await self._live.leader_of(SPACE, KEY)))

    def write_at(self, member: str) -> Write:
        call = self._calls[int(member)]
        return lambda: call(self._request, metadata=(("moot-principal", PRINCIPAL),), timeout=WRITE_TIMEOUT_S)

    async def kill(self, member: str) -> None:
        await self._live.kill(self._node(member))

    async def start(self, member: str) -> None:
        self._live.local.start(self._node(member))

    def signal(self, member: str, number: signal.Signals) -> None:
        if number is signal.SIGSTOP:
            self._live.local.pause(self._node(member))
        else:
            self._live.local.resume(self._node(member))

    async def transfer(self) -> None:
        leader = await self._live.leader_of(SPACE, KEY)
        where = await ask_one(leader.address, "Where", document={"space": SPACE, "key": KEY})
        await ask_one(leader.address, "TransferLeader", shard_id=where.shard.shard_id)

    async def healthy(self) -> None:
        await self._live.healthy()

    async def applied(self) -> int:
        found = await self._live.converged(SPACE, KEY, 1)
        return int(next(iter(found.values())).position.index) - 1


class EtcdContender:
    """Three members of etcd; writes put one key. Put is forwarded to the leader by whoever gets it."""

    name = "etcd"

    def __init__(self, folder: Path) -> None:
        self.cluster = EtcdCluster(folder)
        self._stack = AsyncExitStack()
        self._request = encode_put(KEY.encode(), payload())

    async def __aenter__(self) -> EtcdContender:
        await asyncio.to_thread(self.cluster.start)
        self._calls = []
        for member in self.cluster.members:
            channel = await self._stack.enter_async_context(_channel(f"127.0.0.1:{member.client_port}"))
            self._calls.append(channel.unary_unary(f"/{PUT}", request_serializer=bytes, response_deserializer=bytes))
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()
        await asyncio.to_thread(self.cluster.stop)

    def _member(self, member: str) -> Member:
        return self.cluster.members[int(member)]

    async def leader(self) -> str:
        return str(self.cluster.members.index(await asyncio.to_thread(self.cluster.leader)))

    def write_at(self, member: str) -> Write:
        call = self._calls[int(member)]
        return lambda: call(self._request, timeout=WRITE_TIMEOUT_S)

    async def kill(self, member: str) -> None:
        self._member(member).process.kill()
        await asyncio.to_thread(self._member(member).process.wait)

    async def start(self, member: str) -> None:
        self.cluster.restart(int(member))

    def signal(self, member: str, number: signal.Signals) -> None:
        self._member(member).process.send_signal(number)

    async def transfer(self) -> None:
        leader = await asyncio.to_thread(self.cluster.leader)
        heir = next(member for member in self.cluster.members if member is not leader)
        await asyncio.to_thread(lambda: leader.call(MOVE_LEADER, encode_id(heir.member_id())))

    async def healthy(self) -> None:
        """All members answer, agree on one leader, and have applied the same."""

        async def probe() -> bool:
            try:
                states = await asyncio.to_thread(lambda: [member.state() for member in self.cluster.members])
            except grpc.RpcError:
                return False
            return (
                len({leader for leader, _ in states}) == 1 and max(at for _, at in states) - min(at for _, at in states) < 100
            )

        await until(probe, "a healthy etcd", RECOVER_TIMEOUT_S)

    async def applied(self) -> int:
        return await asyncio.to_thread(self._member("0").versions, KEY.encode())


def _channel(address: str) -> aio.Channel:
    """A channel that looks for a member that came back soon and often: the benchmark is not about gRPC's patience."""
    waits = {"initial": 50, "min": 50, "max": 100}
    return aio.insecure_channel(
        address, options=[(f"grpc.{which}_reconnect_backoff_ms", value) for which, value in waits.items()]
    )
