"""The simulated network keeps the promises that it makes for TCP."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from functools import partial

import pytest

from chaos.sim.network import Network
from cluster.ids import NodeId
from cluster.pump.lanes import Lane

A, B = NodeId("a"), NodeId("b")


class _Clock:
    def __init__(self) -> None:
        self.now_ms = 0.0
        self.handlers: dict[str, Callable[..., None]] = {}
        self._heap: list[tuple[float, int, str, tuple[object, ...]]] = []
        self._order = 0

    def after(self, delay_ms: float, kind: str, *arguments: object) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._order, kind, arguments))

    def run_until(self, ends_ms: float) -> None:
        while self._heap and self._heap[0][0] <= ends_ms:
            self.now_ms, _, kind, arguments = heapq.heappop(self._heap)
            self.handlers[kind](*arguments)
        self.now_ms = ends_ms


class _End:
    up = answers = host_up = True
    generation = 1

    def __init__(self, name: NodeId) -> None:
        self.name = name
        self.met: dict[NodeId, int] = {}
        self.got: list[bytes] = []

    def on_frame(self, sender: NodeId, lane: Lane, frame: bytes) -> None:
        self.got.append(frame)

    def on_connected(self, node: NodeId) -> None:
        pass

    def on_disconnected(self, node: NodeId, refused: bool) -> None:
        raise AssertionError("nothing breaks here")


@pytest.mark.parametrize("seed", range(20))
def test_frames_of_a_lane_keep_their_order_however_often_their_slow_link_is_cut(seed: int) -> None:
    """Found by the simulator: an operation overtook one that a cut had met on its way."""
    clock, source = _Clock(), random.Random(seed)
    network = Network(clock, {A: _End(A), B: (end := _End(B))}, {(A, B): random.Random(seed), (B, A): random.Random(seed)})
    clock.handlers = {"dial": network.dial, "frame": network.arrive, "silence": network.silence}
    clock.handlers["call"] = lambda action: action()
    network.process_new(A)
    clock.run_until(100.0)
    network.links[(A, B)].slow_ms = 50.0
    for _ in range(10):
        start_ms = source.uniform(0, 900)
        clock.after(start_ms, "call", lambda: network.cut((A, B), 1e9))
        clock.after(start_ms + source.uniform(1, 100), "call", lambda: network.mend((A, B)))
    sent = [b"%d" % number for number in range(100)]
    for number, frame in enumerate(sent):
        clock.after(number * 10.0, "call", partial(network.send, A, B, Lane.RAFT, frame, orderly=True))
    clock.run_until(60_000.0)
    assert end.got == sent
