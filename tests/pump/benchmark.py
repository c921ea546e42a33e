"""What comparing replicas costs: `python tests/pump/benchmark.py [rounds]`.

Three real pumps in one thread, memory engines, batches of sends. Rounds with and without the digest (sums over chains, marks in
history, one item beside each acknowledgement) take turns in one process, so only their ratio means something.
"""

from __future__ import annotations

import gc
import sys
import time
from statistics import median
from unittest.mock import patch

from cluster.ids import LogIndex
from cluster.session.operations import Kind
from cluster.shard.digest import AppliedDigest
from tests.pump.world import Client, World

DOCUMENTS = 64
BATCH = 512
BATCHES = 20


def once(world: World, client: Client) -> float:
    """Seconds of processor time for BATCHES entries of BATCH commands, applied everywhere."""
    gc.collect()
    started = time.process_time()
    for _ in range(BATCHES):
        operations = [client.operation(Kind.SEND, f"d{n % DOCUMENTS}", "refuse", b"{}") for n in range(BATCH)]
        client.submit_all(*operations)
        last = operations[-1].id
        world.run_until(lambda last=last: last in client.replies)
    client.replies.clear()
    client.order.clear()
    world.run(20)
    return time.process_time() - started


def without(world: World, client: Client) -> float:
    """The same without the digest. Marks in history stay: they are part of the row."""

    def nothing(digest: AppliedDigest, index: int, chains: bytes) -> None:
        """The digest stands still, so there is nothing to tell either."""

    with patch.object(AppliedDigest, "add", nothing):
        return once(world, client)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    world = World(shards=1)
    world.start()
    client = world.client(next(iter(world.names)))
    for number in range(DOCUMENTS):
        client.insist(Kind.CREATE, f"d{number}")
    once(world, client)
    spent: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for compared in (True, False) if number % 2 else (False, True):
            spent[compared].append((once if compared else without)(world, client))
            for node in world.nodes.values():
                for replica in node.pump.replicas.values():
                    replica.digest.restart(replica.applied)
    commands = BATCH * BATCHES
    print(f"{commands} commands a round, {BATCH} an entry, {DOCUMENTS} documents, three replicas in one thread")
    ratios = {"median": median(spent[True]) / median(spent[False]), "least": min(spent[True]) / min(spent[False])}
    told = ", ".join(f"{how} {ratio:.3f}" for how, ratio in ratios.items())
    print(f"with the digest / without, of {rounds} rounds each: {told}")
    print(f"with: {min(spent[True]) / commands * 1e6:.1f} us of processor time a command, all replicas and the client")
    digest = AppliedDigest(LogIndex(0))
    chains = bytes(32 * DOCUMENTS)
    start = time.perf_counter()
    for index in range(1, 20_001):
        digest.add(LogIndex(index), chains)
    print(f"one entry's sum over {DOCUMENTS} documents: {(time.perf_counter() - start) / 20_000 * 1e6:.2f} us")


if __name__ == "__main__":
    main()
