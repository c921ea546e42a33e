"""A document type for tests of alarms and asks in a cluster, and the world that it is deployed in."""

from __future__ import annotations

import base64
import textwrap
from typing import Any

import msgspec

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Program
from cluster.ids import ShardId
from cluster.session.operations import Kind, Reply
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.pump.tally import TallyLoader
from tests.pump.world import Client, SimulatedNode, World

SOURCE = textwrap.dedent(
    '''
    from datetime import timedelta
    from cluster import Command, Document, Maybe, Principal, Refused, anyone, field, on

    class Unfit(Refused):
        """Not an answer that is taken."""

    class Clock(Document):
        gate = anyone
        rung: list[str] = field.public()
        times: list[int] = field.public()
        answers: list[str] = field.public()
        asked: list[str] = field.public()

        @on.message
        def arm(self, ctx: Command, name: str, after_ms: int, fails: bool = False) -> str:
            return ctx.after(timedelta(milliseconds=after_ms), self.ring, name, fails, id=name)

        @on.message
        def repeat(self, ctx: Command, name: str, every_ms: int) -> str:
            return ctx.every(timedelta(milliseconds=every_ms), self.ring, name, False, id=name)

        @on.message
        def disarm(self, ctx: Command, name: str) -> int:
            return ctx.cancel(name)

        @on.message
        def ask(self, ctx: Command, who: str, question: str, within_ms: int) -> str:
            id = ctx.ask(Principal(who, "acme"), question, self.told, timedelta(milliseconds=within_ms))
            self.asked.append(id)
            return id

        @on.alarm
        def ring(self, ctx: Command, name: str, fails: bool) -> None:
            self.rung.append(name)
            self.times.append(ctx.now.microsecond // 1000)
            if fails:
                raise ValueError(name)

        @on.answer
        def told(self, ctx: Command, value: Maybe[str]) -> int:
            if value.value == "unfit":
                raise Unfit()
            self.answers.append(f"{ctx.sender.agent}:{value.get('nothing')}")
            return len(self.answers)
    '''
)


class AnyLoader:
    """Compiles the tally and what authors write."""

    def __init__(self) -> None:
        self._tally, self._real = TallyLoader(), BundleLoader()

    def load(self, code: bytes) -> Program:
        return self._tally.load(code) if code.startswith(b"tally") else self._real.load(code)


def clocks(**options: Any) -> tuple[World, Client]:
    """A cluster with the space `clock`."""
    world = World(loader=lambda node: AnyLoader(), **options)
    client = world.start()
    request = {"space": "clock", "bundle": base64.b64encode(bundle.from_source(SOURCE).encode()).decode()}
    system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
    assert client.insist(Kind.SEND, SYSTEM_KEY, "deploy", request, **system).failure is None
    version = world.leader_of(ShardId(0)).directory.decisions.version
    world.run_until(lambda: all(node.directory.decisions.version >= version for node in world.nodes.values() if node.up))
    return world, client


def make(client: Client, key: str) -> None:
    created = client.insist(Kind.CREATE, key, "", {}, space="clock")
    assert created.failure is None, created.failure


def send(client: Client, key: str, channel: str, **parameters: object) -> Any:
    """The result of a message that must be taken."""
    reply = client.insist(Kind.SEND, key, channel, parameters, space="clock")
    assert reply.failure is None, reply.failure
    return msgspec.json.decode(reply.payload)


def answer(client: Client, key: str, ask: str, value: object, who: str, **more: object) -> Reply:
    """Answer an ask as `who`."""
    return client.insist(Kind.ANSWER, key, "", {"ask": ask, "value": value}, space="clock", principal=f"{who}@acme", **more)


def view(client: Client, key: str) -> dict[str, Any]:
    reply = client.insist(Kind.READ, key, "", None, space="clock")
    assert reply.failure is None, reply.failure
    shown: dict[str, Any] = msgspec.json.decode(reply.payload)
    return shown


def leader_of(world: World, key: str) -> SimulatedNode:
    return world.leader_of(next(iter(world.nodes.values())).pump.router.shard_of("clock", key))
