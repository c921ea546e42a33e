"""Disks that lose or spoil what they stored, and disks that hang, under real nodes: the cluster gets well, nothing is lost."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.live.processes import LiveCluster, until
from cluster.cli.local import LocalNode
from cluster.cli.local_commands import example
from cluster.cli.reach import ask_one
from cluster.session.client_events import Settings

PATIENT = Settings(operation_timeout_ms=60_000)
KEYS = [f"doc-{number}" for number in range(6)]
SHARDS = 2
REPLACED_WITHIN_S = 15.0
"""A disk hangs until it is told to go on, so any bound shows that nobody waits for it; this one leaves a busy machine time."""


def logs(live: LiveCluster, node: LocalNode) -> list[Path]:
    return sorted((live.local.data_path(node) / "store").glob("*.log"))


def flip_a_bit(live: LiveCluster, node: LocalNode) -> None:
    """In the middle of the newest write-ahead log."""
    log = logs(live, node)[-1]
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0x10
    log.write_bytes(data)


def cut_the_end(live: LiveCluster, node: LocalNode) -> None:
    """The newest half of the log is gone, as after a disk that lied about its syncs."""
    log = logs(live, node)[-1]
    data = log.read_bytes()
    log.write_bytes(data[: len(data) // 2])


def lose_the_store(live: LiveCluster, node: LocalNode) -> None:
    shutil.rmtree(live.local.data_path(node) / "store")


async def replicas_of(live: LiveCluster, node: LocalNode) -> dict[int, int]:
    """Replica ids by shard, as the shard map names them for a node."""
    listed = await ask_one(live.running()[0].address, "ListShards")
    return {
        shard.shard_id: place.replica_id for shard in listed.shards for place in shard.replicas if place.node_id == node.node_id
    }


async def add(live: LiveCluster, totals: dict[str, int], rounds: int, *nodes: LocalNode) -> None:
    async with live.client(*nodes, settings=PATIENT) as client:
        for _ in range(rounds):
            await asyncio.gather(*(client.send("counter", key, "add", b'{"amount":1}') for key in KEYS))
            for key in KEYS:
                totals[key] += 1


async def started(live: LiveCluster) -> dict[str, int]:
    await live.deploy("counter", example("counter"))
    async with live.client() as client:
        await asyncio.gather(*(client.create("counter", key) for key in KEYS))
    totals = dict.fromkeys(KEYS, 0)
    await add(live, totals, 40)
    return totals


async def check_whole(live: LiveCluster, totals: dict[str, int]) -> None:
    """Every acknowledged message is there, once, on three equal replicas."""
    async with live.client() as client:
        for key in KEYS:
            assert (await client.read("counter", key)).value["total"] == totals[key]
    for key in KEYS:
        inspected = await live.converged("counter", key, totals[key] + 1)
        assert len(inspected) == 3
        assert len({each.record_hash for each in inspected.values()}) == 1


@pytest.mark.parametrize("damage", [flip_a_bit, cut_the_end, lose_the_store])
async def test_a_node_whose_store_is_damaged_as_a_whole_is_given_new_replicas(
    folder: Path, damage: Callable[[LiveCluster, LocalNode], None]
) -> None:
    """Reference traps 10 and 11: its old replicas never vote again, new ones are born beside a majority that has everything."""
    async with LiveCluster(folder, shards=SHARDS) as live:
        totals = await started(live)
        victim, *others = live.nodes
        before = await replicas_of(live, victim)
        assert set(before) == set(range(SHARDS + 1))
        await live.kill(victim)
        damage(live, victim)
        await add(live, totals, 5, *others)
        live.local.start(victim)

        async def replaced() -> bool:
            now = await replicas_of(live, victim)
            halted = await ask_one(victim.address, "ListHalted")
            return set(now) == set(before) and all(now[shard] > before[shard] for shard in before) and not halted.halted

        await until(replaced, "all replicas of the damaged node are replaced")
        await live.healthy()
        await add(live, totals, 5)
        await check_whole(live, totals)
        # and it is a full member: the cluster lives on with it and without another one.
        await live.kill(others[0])
        await add(live, totals, 5, victim, others[1])
        live.local.start(others[0])
        await live.healthy()
        await check_whole(live, totals)


async def test_every_node_loses_its_store_one_after_the_other(folder: Path) -> None:
    async with LiveCluster(folder, shards=1) as live:
        totals = await started(live)
        for victim in live.nodes:
            before = await replicas_of(live, victim)
            await live.kill(victim)
            lose_the_store(live, victim)
            live.local.start(victim)

            async def replaced(victim: LocalNode = victim, before: dict[int, int] = before) -> bool:
                now = await replicas_of(live, victim)
                halted = await ask_one(victim.address, "ListHalted")
                return set(now) == set(before) and all(now[at] > before[at] for at in before) and not halted.halted

            await until(replaced, f"{victim.node_id} is whole again")
            await live.healthy()
            await add(live, totals, 2)
        await check_whole(live, totals)


# -- disks that hang -----------------------------------------------------------------------------------------------------

HANG = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void wait_while_told(int descriptor) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, name, sizeof name - 16);
    if (size < 4) return;
    name[size] = 0;
    if (strcmp(name + size - 4, ".log") != 0) return;
    char *folder = dirname(name);
    strcat(folder, "/HANG");
    while (access(folder, F_OK) == 0) usleep(5000);
}
int fdatasync(int descriptor) {
    wait_while_told(descriptor);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
int fsync(int descriptor) {
    wait_while_told(descriptor);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}
"""


@pytest.fixture(scope="module")
def hanging_disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library under which syncs of a write-ahead log wait while a file HANG lies beside it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux to stand between RocksDB and the disk")
    source = tmp_path_factory.mktemp("hang") / "hang.c"
    source.write_text(HANG)
    library = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    return library


@pytest.mark.parametrize("fsync_mode", ["thread", "inline"])
async def test_a_leader_whose_disk_hangs_is_replaced_and_comes_back(
    folder: Path, hanging_disks: Path, monkeypatch: pytest.MonkeyPatch, fsync_mode: str
) -> None:
    """Reference trap 21. In a thread, the leader itself notices and gives up; in the loop, its whole node stands still, says
    nothing, and is replaced for that."""
    monkeypatch.setenv("LD_PRELOAD", str(hanging_disks))
    async with LiveCluster(folder, shards=1, settings={"fsync_mode": fsync_mode}) as live:
        totals = await started(live)
        leader = await live.leader_of("counter", KEYS[0])
        others = [node for node in live.nodes if node is not leader]
        switch = live.local.data_path(leader) / "store" / "HANG"
        switch.touch()
        try:
            began = time.monotonic()
            await add(live, totals, 1, *others)
            took_s = time.monotonic() - began

            async def led_elsewhere() -> bool:
                answer = await ask_one(others[0].address, "Where", document={"space": "counter", "key": KEYS[0]})
                return answer.shard.leader in [node.node_id for node in others]

            await until(led_elsewhere, "another leader", REPLACED_WITHIN_S)
            await add(live, totals, 5, *others)
        finally:
            switch.unlink()
        assert took_s < REPLACED_WITHIN_S
        await live.healthy()
        await add(live, totals, 2, leader)
        await check_whole(live, totals)
