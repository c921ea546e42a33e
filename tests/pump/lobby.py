"""A document type for tests of connections in a cluster, and who comes to it and goes."""

from __future__ import annotations

import base64
import textwrap
from collections import Counter
from typing import Any

import msgspec

from cluster.documents import bundle
from cluster.ids import Principal
from cluster.session.operations import Delta, Kind, Reply
from cluster.shard.presence import connection_name
from cluster.shard.system.program import OPERATOR
from cluster.shardmap.map import SYSTEM_KEY, SYSTEM_SPACE
from tests.pump.test_real_documents import AnyLoader, Viewer
from tests.pump.world import Client, SimulatedNode, World

SOURCE = textwrap.dedent(
    '''
    from cluster import Command, Document, Principal, Refused, anyone, field, on, read

    class Full(Refused):
        """Nobody else comes in."""

    class Lobby(Document, on_missing="create"):
        here: list[str] = field.public()
        heard: list[str] = field.public()
        closed: bool = field.public(False)
        banned: list[str] = field.public()

        @read.gate
        def enter(self, who: Principal) -> bool:
            return who.agent not in self.banned

        @on.connect
        def arrive(self, ctx: Command) -> None:
            if self.closed:
                raise Full()
            if ctx.sender.agent == "buggy":
                raise ValueError("a bug")
            self.here.append(ctx.cause)
            self.heard.append("+" + ctx.cause)

        @on.disconnect
        def leave(self, ctx: Command) -> None:
            self.here.remove(ctx.cause)
            self.heard.append("-" + ctx.cause)
            if ctx.sender.agent == "clumsy":
                raise ValueError("a bug")

        @on.message
        def close(self, ctx: Command) -> None:
            self.closed = True

        @on.message
        def ban(self, ctx: Command, agent: str) -> None:
            self.banned.append(agent)

        @on.message
        def note(self, ctx: Command, text: str) -> None:
            pass

        @on.delete
        def over(self, ctx: Command) -> bool:
            return True
    '''
)
DEAF = SOURCE.replace("    @on.connect\n", "").replace("    @on.disconnect\n", "")
"""The same without the two handlers."""


def deploy(world: World, client: Client, source: str) -> None:
    """Give the space `lobby` this code, and wait until every node knows it."""
    request = {"space": "lobby", "bundle": base64.b64encode(bundle.from_source(source).encode()).decode()}
    system = {"space": SYSTEM_SPACE, "principal": str(OPERATOR)}
    deployed = client.insist(Kind.SEND, SYSTEM_KEY, "deploy", request, **system)
    assert deployed.failure is None, deployed.failure
    version = max(node.directory.decisions.version for node in world.nodes.values() if node.up)
    world.run_until(lambda: all(node.directory.decisions.version >= version for node in world.nodes.values() if node.up))


def lobbies(source: str = SOURCE, **options: Any) -> tuple[World, Client]:
    """A cluster with the space `lobby`."""
    world = World(loader=lambda node: AnyLoader(), **options)
    client = world.start()
    deploy(world, client, source)
    return world, client


def view(client: Client, key: str = "one") -> dict[str, Any]:
    reply = client.insist(Kind.READ, key, space="lobby")
    assert reply.failure is None, reply.failure
    shown: dict[str, Any] = msgspec.json.decode(reply.payload)
    return shown


def send(client: Client, channel: str, key: str = "one", **parameters: object) -> None:
    reply = client.insist(Kind.SEND, key, channel, parameters, space="lobby")
    assert reply.failure is None, reply.failure


def watch(client: Client, who: str, key: str = "one", **more: object) -> int:
    """Watch, and wait for the answer."""
    number = client.submit(Kind.WATCH, key, "", None, space="lobby", principal=f"{who}@acme", **more)
    client.world.run_until(lambda: number in client.replies)
    return number


def reply_to(client: Client, number: int) -> Reply:
    return client.replies[number][0]


def unwatch(client: Client, number: int, key: str = "one") -> None:
    operation = client.operation(Kind.UNWATCH, key, "", None, space="lobby")
    client.submit_all(msgspec.structs.replace(operation, id=number))


def leader_of(world: World, key: str = "one") -> SimulatedNode:
    return world.leader_of(next(iter(world.nodes.values())).pump.router.shard_of("lobby", key))


def name_of(client: Client, number: int, who: str) -> str:
    """The name of a connection."""
    return connection_name(Principal(who, "acme"), (client.node.name, client.number), number)


def told_in_turn(heard: list[str]) -> Counter[str]:
    """How often each connection came, in a list of comings and goings. Every going follows its coming."""
    there: set[str] = set()
    came: Counter[str] = Counter()
    for what in heard:
        connection = what[1:]
        if what[0] == "+":
            assert connection not in there, f"{connection} came and was there"
            there.add(connection)
            came[connection] += 1
        else:
            assert connection in there, f"{connection} went and was not there"
            there.discard(connection)
    return came


class Guest(Viewer):
    """Watches the lobby, and now and then leaves it or its stream, and comes again."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, "lobby", f"w{number}@acme")

    def opened(self) -> None:
        super().opened()
        assert self.client is not None
        self.seen = len(self.client.order)

    @property
    def connection(self) -> str:
        assert self.client is not None
        return name_of(self.client, self.watch, self.principal.partition("@")[0])

    def step(self) -> None:
        super().step()
        if self.client is not None and self.world.random.random() < 0.01:
            unwatch(self.client, self.watch)
            self.opened()

    def take(self, delta: Delta) -> None:
        if delta.watch == self.watch:
            super().take(delta)
