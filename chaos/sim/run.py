"""One run from its scenario to its verdict.

warm up    processes start, a leader is elected, code is deployed; no faults
safety     work and faults; nothing is asked but that no promise is broken
heal       everything that is wrong ends, except for what a disk lost for good
without    in some seeds a leader stays ill, and the others must get everything done without it; then it is healed too
converge   within HEAL_MS everything accepted is answered, viewers have caught up, replicas are equal
audit      all checkers look at the whole
"""

from __future__ import annotations

import base64
import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from chaos.checkers.violation import Violation
from chaos.sim import drawn
from chaos.sim.ailments import Ailment, befall, relieve
from chaos.sim.faults import SAFETY_MS
from chaos.sim.guard import AmbientAccess, sealed
from chaos.sim.node import SimulatedNode
from chaos.sim.paths import watched
from chaos.sim.scenario import Scenario
from chaos.sim.workload import Work
from chaos.sim.world import SPACES, World
from cluster.errors import CodeMissing
from cluster.session.operations import Kind, Reply
from cluster.shard.replica import ShardReplica
from cluster.storage.engine import Family

SOMETIMES = ("hands", "notes", "lobby")
"""Spaces that are only deployed where somebody asks for them."""
WARM_UP_MS = 30_000.0
HEAL_MS = 60_000.0
LATE_NUMBERS = 1_000_000
"""Ledgers are told these from here on when everything else is said."""
OPERATOR_MS = 300.0
"""Until the operator looks at nodes that nobody talks to."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. violation: empty when nothing was broken. trace: equal for equal runs."""

    seed: int
    violation: str
    checker: str
    events: int
    simulated_ms: float
    heal_ms: float
    trace: str
    faults: dict[str, int]
    marks: dict[str, int]
    ring: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.violation)


def run(scenario: Scenario, *, told: bool = False) -> Outcome:
    """Simulate a scenario. told: also bring the story and the calls of a run that went well."""
    with _uncollected():
        return _outcome(scenario, told)


@contextmanager
def _uncollected() -> Iterator[None]:
    """A run is over before its garbage is much; to look for that again and again, through a world that lives, takes longer."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _outcome(scenario: Scenario, told: bool) -> Outcome:
    with sealed():
        world = World(scenario)
        violation, checker, healed_ms = "", "", 0.0
        try:
            with watched(world.marks):
                healed_ms = _live(world)
        except Violation as broken:
            violation, checker = broken.what, broken.checker
        except AmbientAccess as access:
            violation, checker = str(access), "determinism"
        except Exception as error:
            violation, checker = "".join(traceback.format_exception(error)[-6:]).strip(), "exceptions"
    detail = told or bool(violation)
    return Outcome(
        scenario.seed,
        violation,
        checker,
        world.events,
        world.now_ms,
        healed_ms,
        world.trace,
        dict(world.injector.counts),
        dict(world.marks),
        [_event(world, *event) for event in world.ring] if detail else [],
        list(world.story) if detail else [],
        [str(call) for call in world.history.calls] if detail else [],
    )


def _live(world: World) -> float:
    """All phases; returns how long healing took."""
    _warm_up(world)
    scenario = world.scenario
    for work in scenario.work:
        world.after(work.at_ms, "work", work)
    for fault in scenario.faults:
        world.after(fault.start_ms, "begin", fault)
        if fault.end_ms > fault.start_ms:
            world.after(fault.end_ms, "end", fault)
    for at_ms in scenario.upgrades_ms:
        world.after(at_ms, "upgrade")
    for errand in scenario.errands:
        world.after(errand.at_ms, "errand", errand)
    world.late_code.begin()
    world.by_hand.begin()
    world.placing.begin()
    world.run_until(world.began_ms + SAFETY_MS + 1.0)
    _heal(world)
    if scenario.limits.ailment is not None:
        _without_a_leader(world, scenario.limits.ailment)
    healing_since_ms = world.now_ms
    _converge(world)
    healed_ms = world.now_ms - healing_since_ms
    if scenario.limits.restarted:
        for node in world.running():
            node.kill(1.0)
            node.restart()
        _converge(world)
    for checker in world.checkers:
        checker.finished()
    return healed_ms


def _warm_up(world: World) -> None:
    """A cluster that works, with all code deployed everywhere."""
    for node in world.nodes.values():
        node.boot()
    shard_map = base64.b64encode(next(iter(world.nodes.values())).pump.router.map.encode()).decode()
    steps = [("", Kind.CREATE, {"shard_map": shard_map, **world.placing.registry()})]
    steps += [
        ("deploy", Kind.SEND, {"space": name, "bundle": base64.b64encode(bundle).decode()})
        for name, bundle in _spaces(world).items()
    ]
    replies: list[Reply] = []
    for place, (channel, kind, payload) in enumerate(steps):
        world.operate(channel, kind, msgspec.json.encode(payload), replies.append)
        if not world.run_until(world.now_ms + WARM_UP_MS, lambda place=place: len(replies) > place, 1.0):  # type: ignore[misc]
            raise Violation("liveness", f"a new cluster does not answer its operator in {WARM_UP_MS:.0f} ms")
    # The operator names no key, so a creation that is repeated finds what the first attempt made.
    failed = [reply.failure for reply in replies if reply.failure is not None and reply.failure.reason != "DOCUMENT_EXISTS"]
    assert not failed, failed
    version = len(steps)

    def ready() -> bool:
        return all(
            node.pump.directory.decisions.version >= version
            and all(replica.leader_node is not None for replica in node.pump.replicas.values())
            for node in world.nodes.values()
        )

    if not world.run_until(world.now_ms + WARM_UP_MS, ready, 5.0):
        raise Violation("liveness", f"a new cluster does not settle in {WARM_UP_MS:.0f} ms")
    for client in world.clients:
        client.start()
    world.began_ms = world.now_ms
    world.marks.clear()


def _spaces(world: World) -> dict[str, bytes]:
    """What is deployed before anything goes wrong."""
    asked = {work.space for work in world.scenario.work}
    spaces = {name: bundle for name, bundle in SPACES.items() if name not in SOMETIMES or name in asked}
    if drawn.SPACE in asked:
        spaces[drawn.SPACE] = drawn.bundle(world.streams.named("drawn/class"))
    return spaces | world.planted.spaces()


def _heal(world: World) -> None:
    """End everything that is wrong. What stays: rot in a log or its metadata, which an operator replaces the node for."""
    world.note("heal", "world", "")
    world.sites.over()
    for link in world.network.links.values():
        link.slow_ms = 0.0
        if link.unruly is not None:
            link.unruly = None
            world.network.break_off(link)
    for node in world.nodes.values():
        node.down_until_ms = 0.0
        if any(family in (Family.LOG, Family.META, Family.HISTORY) for family, _ in node.disk.rotten):
            node.kill(1.0)
            node.lost = node.lost or "its log is rotten: taken out by the operator"
        node.restart()
    world.run_until(world.now_ms + OPERATOR_MS)
    for node in world.nodes.values():
        if node.up and node.wiped and not _takes_part(world, node):
            node.kill(1.0)
            node.lost = "its peers shut it out: taken out by the operator"
    world.operator.give_up()


def _without_a_leader(world: World, ailment: Ailment) -> None:
    """A majority is well and must do without its leader."""
    if world.operator.unfinished():
        return  # a move can not end without the node that it is about
    node = befall(world, ailment)
    if node is not None:
        for client in range(len(world.clients)):
            # What nobody asks for shows nobody that it can not be had: a disk that hangs is noticed by a write.
            payload = b'{"number":%d}' % (LATE_NUMBERS + client)
            world.after(client * 10.0, "work", Work(SAFETY_MS, client, Kind.SEND, "ledger", "a", "append", payload))
        world.run_until(world.now_ms + len(world.clients) * 10.0)
        _converge(world)
        relieve(world, node, ailment)


def _converge(world: World) -> None:
    """Wait until it is quiet. Raises Violation when it does not get quiet in time."""
    world.planted.touch()
    if not world.run_until(world.now_ms + HEAL_MS, lambda: not _unfinished(world), 50.0):
        raise Violation("liveness", f"{HEAL_MS:.0f} ms after everything was healed: {'; '.join(_unfinished(world)[:4])}")


def _unfinished(world: World) -> list[str]:
    """What is still owed."""
    owed = [
        f"{node.name} is not running ({node.deaths[-1:]})" for node in world.nodes.values() if not node.up and not node.lost
    ]
    owed += [
        f"{node.name} was wiped and is not fenced" for node in world.nodes.values() if node.wiped and _takes_part(world, node)
    ]
    owed += [f"unanswered: {call}" for call in world.history.open]
    owed += world.planted.unfinished()
    owed += world.operator.unfinished()
    owed += world.late_code.unfinished()
    owed += world.by_hand.unfinished()
    owed += world.upgraded.unfinished()
    if owed:
        return owed
    for shard in range(world.scenario.limits.shards + 1):
        held = [node.pump.replicas[shard] for node in world.running() if shard in node.pump.replicas]  # type: ignore[index]
        leaders = [replica for replica in held if replica.serves]
        if len(leaders) != 1:
            owed.append(f"shard {shard} has {len(leaders)} leaders that serve")
        else:
            owed += [_stands(replica) for replica in held if not _caught_up(replica, leaders[0])]
            owed += _misplaced(world, leaders[0])
    owed = owed or world.placing.unfinished()
    try:
        owed = owed or world.waiting.unfinished() or world.watches.behind() or world.passing.behind()
        return owed or world.connections.behind()
    except CodeMissing as error:
        return [error.message]  # a leader that has not run the document yet fetches its code when somebody looks


def _misplaced(world: World, leader: ShardReplica) -> list[str]:
    """Where a shard's replicas are not where its configuration says, or the maps of nodes say otherwise."""
    if leader.raft.configuration.outgoing:
        return [f"shard {leader.id} is inside a joint configuration"]
    places = dict(leader.raft.configuration.places)
    voters = {places[voter] for voter in leader.raft.configuration.voters}
    found = []
    for node in world.running():
        holds = leader.id in node.pump.replicas
        if holds != (node.name in places.values()):
            found.append(f"{node.name} {'still holds' if holds else 'does not hold'} a replica of shard {leader.id}")
        if any(other.gone for other in world.nodes.values()):
            continue  # its replicas are being replaced, which no map follows to the end without its node
        named = {place.node for place in node.pump.router.map.shard(leader.id).replicas}
        if named != voters:
            found.append(f"{node.name} looks for shard {leader.id} at {sorted(named)}, it is at {sorted(voters)}")
    return found


def _takes_part(world: World, node: SimulatedNode) -> bool:
    """Whether a node runs and anybody has a connection with it: peers shut out a boot generation before the one they know."""
    return node.up and any(link.up for pair, link in world.network.links.items() if node.name in pair)


def _caught_up(replica: ShardReplica, leader: ShardReplica) -> bool:
    unwell = replica.unwell or replica.stalled
    return not unwell and replica.applied == leader.raft.commit_index == leader.raft.last_index == replica.raft.commit_index


def _stands(replica: ShardReplica) -> str:
    unwell = replica.unwell or replica.stalled
    return (
        f"{replica.node} has applied {replica.applied} of shard {replica.id} and committed {replica.raft.commit_index} {unwell}"
    )


def _event(world: World, at_ms: float, kind: str, arguments: tuple[object, ...]) -> str:
    parts = []
    for argument in arguments:
        name = getattr(argument, "name", None)
        if kind == "frame" and hasattr(argument, "sender"):
            name = f"{argument.sender}>{argument.receiver}"  # type: ignore[attr-defined]
        parts.append(f"{len(argument)} bytes" if isinstance(argument, bytes) else str(name or argument))
    return f"{at_ms - world.began_ms:9.1f} {kind:<7} {' '.join(parts)[:150]}"
