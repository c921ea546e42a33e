"""Shard 0's document and what every node knows from it."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from cluster.documents.runtime import Code, Invocation, Program
from cluster.errors import ApplyHalted, InvalidBundle, InvalidName, InvalidPayload, RejectedError, UnknownChannel, UnknownSpace
from cluster.ids import DocumentId, NodeId, Principal
from cluster.shard import directory as directories
from cluster.shard.deployments import Space
from cluster.shard.directory import Decisions, Directory
from cluster.shard.system import program as system
from cluster.shard.system.program import OPERATOR, SystemInstance, SystemProgram, bundle_hash
from cluster.shardmap.map import MapState, bootstrap
from tests.pump.tally import BUNDLE, TallyLoader
from tests.shard.parts import Parts

SYSTEM = DocumentId("system", "cluster")
MAP = bootstrap([NodeId("n1"), NodeId("n2")], 2, 3)


def code(bundle: bytes) -> str:
    return base64.b64encode(bundle).decode()


def fresh() -> tuple[SystemProgram, SystemInstance]:
    program = SystemProgram(TallyLoader())
    return program, program.new(SYSTEM)


def run(program: SystemProgram, instance: SystemInstance, channel: str, who: Principal = OPERATOR, **fields: object) -> Code:
    payload = program.check(channel, msgspec.json.encode(fields))
    return instance.run(Invocation(channel, payload, who, 5, bytes(32), 1)).code


def test_decisions_are_a_function_of_the_commands() -> None:
    states = set()
    for _ in range(2):
        program, instance = fresh()
        run(program, instance, "", shard_map=code(MAP.encode()))
        for space in ("b", "a"):
            run(program, instance, "deploy", space=space, bundle=code(BUNDLE))
        run(program, instance, "isolate", shard=1, index=2, offset=3, reason="loops")
        states.add(instance.dump())
        assert program.load(SYSTEM, instance.dump()).dump() == instance.dump()
        assert instance.decisions.version == 4
    assert len(states) == 1


def test_deploying_the_same_code_again_changes_nothing() -> None:
    program, instance = fresh()
    run(program, instance, "deploy", space="a", bundle=code(BUNDLE))
    before = instance.dump()
    assert run(program, instance, "deploy", space="a", bundle=code(BUNDLE)) is Code.OK
    assert instance.dump() == before


@pytest.mark.parametrize(
    ("channel", "fields", "error"),
    [
        ("deploy", {"space": "a", "bundle": code(b"not a tally")}, InvalidBundle),
        ("deploy", {"space": "a", "bundle": "!"}, InvalidPayload),
        ("deploy", {"space": "a", "bundle": ""}, InvalidBundle),
        ("deploy", {"space": "A", "bundle": code(BUNDLE)}, InvalidName),
        ("deploy", {"space": "system", "bundle": code(BUNDLE)}, InvalidPayload),
        ("deploy", {"space": "a"}, InvalidPayload),
        ("isolate", {"shard": 1, "index": -1, "offset": 0, "reason": ""}, InvalidPayload),
        ("isolate", {"shard": 1, "index": 1 << 70, "offset": 0, "reason": ""}, InvalidPayload),
        ("isolate", {"shard": 1, "index": 1, "offset": 0, "reason": "x" * 1001}, InvalidPayload),
        ("", {"shard_map": code(b"garbage")}, InvalidPayload),
        ("", {"shard_map": code(msgspec.msgpack.encode(MapState(1, 1, MAP.shards[1:])))}, InvalidPayload),
        ("", {"shard_map": code(msgspec.msgpack.encode(MapState(1, 1, MAP.shards[:2])))}, InvalidPayload),
        ("place", {"shard": -1, "configured": 5, "replicas": [[1, "n1"]]}, InvalidPayload),
        ("place", {"shard": 1, "configured": 0, "replicas": [[1, "n1"]]}, InvalidPayload),
        ("place", {"shard": 1, "configured": 5, "replicas": []}, InvalidPayload),
        ("place", {"shard": 1, "configured": 5, "replicas": [[0, "n1"]]}, InvalidPayload),
        ("place", {"shard": 1, "configured": 5, "replicas": [[2, "n1"], [1, "n2"]]}, InvalidPayload),
        ("place", {"shard": 1, "configured": 5, "replicas": [[1, "n1"], [2, "n1"]]}, InvalidPayload),
        ("place", {"shard": 1, "configured": 5, "replicas": [[1, "N 1"]]}, InvalidName),
        ("nothing", {}, UnknownChannel),
    ],
)
def test_what_could_not_be_applied_is_refused_before_the_log(
    channel: str, fields: dict[str, object], error: type[RejectedError]
) -> None:
    program, _ = fresh()
    with pytest.raises(error):
        program.check(channel, msgspec.json.encode(fields))


def test_the_map_follows_a_shard_and_takes_only_what_is_newer() -> None:
    """Reports of leaders come late and repeated; an older one does not undo a newer one."""
    program, instance = fresh()
    assert run(program, instance, "place", shard=1, configured=9, replicas=[[9, "n3"]]) is Code.REFUSED, "there is no map yet"
    run(program, instance, "", shard_map=code(MAP.encode()))
    assert run(program, instance, "place", shard=3, configured=9, replicas=[[9, "n3"]]) is Code.REFUSED, "nor such a shard"
    run(program, instance, "place", shard=1, configured=9, replicas=[[3, "n1"], [9, "n3"]])
    moved = instance.dump()
    assert instance.decisions.shard_map is not None
    shard = instance.decisions.shard_map.shards[1]
    assert (instance.decisions.version, instance.decisions.shard_map.version, shard.epoch, shard.configured) == (2, 2, 2, 9)
    assert [(place.replica, place.node) for place in shard.replicas] == [(3, "n1"), (9, "n3")]
    for late in (9, 4):
        assert run(program, instance, "place", shard=1, configured=late, replicas=[[3, "n1"], [4, "n2"]]) is Code.OK
        assert instance.dump() == moved
    run(program, instance, "place", shard=0, configured=7, replicas=[[1, "n1"], [10, "n2"]])
    assert [place.replica for place in instance.decisions.shard_map.shards[0].replicas] == [1, 10], "the system shard's too"


def test_only_the_cluster_itself_decides() -> None:
    program, instance = fresh()
    before = instance.dump()
    assert run(program, instance, "deploy", Principal("operator", "acme"), space="a", bundle=code(BUNDLE)) is Code.DENIED
    assert instance.dump() == before
    assert not instance.admits(Principal("alice", "acme"))


def test_isolated_commands_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "ISOLATED_MAX", 1)
    program, instance = fresh()
    place = {"shard": 1, "index": 2, "offset": 3, "reason": ""}
    assert run(program, instance, "isolate", OPERATOR, **place) is Code.OK
    assert run(program, instance, "isolate", OPERATOR, **place) is Code.REFUSED


def test_only_newer_decisions_replace_what_a_node_knows() -> None:
    parts = Parts()
    older = Decisions(1, None, (Space("other", b"x" * 32, 1, "", 0),))
    assert not parts.directory.absorb(older)
    assert parts.directory.absorb(Decisions(2, None, older.spaces))
    assert parts.directory.code_for("other", "a") == b"x" * 32
    with pytest.raises(UnknownSpace):
        parts.directory.code_for("tally", "a")


class CountingLoader(TallyLoader):
    def __init__(self) -> None:
        super().__init__()
        self.loads = 0

    def load(self, bundle: bytes) -> Any:
        self.loads += 1
        if bundle == b"tally old":
            raise InvalidBundle("no longer taken")
        return super().load(bundle)


class Shelf(dict[bytes, bytes]):
    """Bundles by hash."""


def shelved(*bundles: bytes) -> tuple[Directory, CountingLoader, list[bytes]]:
    loader = CountingLoader()
    shelf = Shelf({bundle_hash(bundle): bundle for bundle in bundles})
    builtin: dict[bytes, Program] = {}
    return Directory(shelf, loader, builtin), loader, [bundle_hash(bundle) for bundle in bundles]


def test_the_program_used_least_recently_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "PROGRAMS_MAX", 2)
    directory, loader, (first, second, third) = shelved(b"tally 1", b"tally 2", b"tally 3")
    for wanted in (first, second, first, third, first):
        directory.program(wanted)
    assert loader.loads == 3
    directory.program(second)
    assert loader.loads == 4


def test_deployed_code_that_this_release_does_not_take_halts_and_is_nobodys_fault() -> None:
    directory, _, (old,) = shelved(b"tally old")
    with pytest.raises(ApplyHalted):
        directory.program(old)
