"""`moot shards ...` finds the node that must be asked, whichever is named, and makes one picture of what nodes say."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

from cluster.cli.output import Exit
from cluster.errors import ChangePending, InvalidRequest, NotLeader, Unavailable
from tests.cli.scripted import ScriptedNode, scripted
from tests.cli.terminal import Finished, environment, moot
from tests.gateway.serving import eventually

HALTED = {"shard_id": 3, "raft_index": 1042, "offset": 1, "cause": "it ended the process twice", "node_id": "n2"}
ISOLATE = ("shards", "isolate", "3", "1042", "1", "--reason", "runs for ever", "--json")
MOVE = ("shards", "move", "3", "--from", "n1", "--to", "n4", "--json")


async def typed(node: ScriptedNode, home: Path, *arguments: str) -> Finished:
    """`moot ARGUMENTS` with this node named."""
    return await asyncio.to_thread(moot, *arguments, "--address", node.address, cwd=home)


async def test_isolating_asks_a_node_that_has_halted_there_whichever_is_named(tmp_path: Path) -> None:
    async with scripted("n1", "n2", "n3") as nodes:
        for node in nodes:
            node.answers["ListHalted"] = [{"halted": []}]
        nodes[1].answers = {**nodes[1].answers, "ListHalted": [{"halted": [HALTED]}], "PoisonCommand": [{}]}
        done = await typed(nodes[0], tmp_path, *ISOLATE)
        assert (done.code, done.json["isolated"], done.json["asked"]) == (Exit.DONE, True, "n2")
        (asked,) = nodes[1].asked("PoisonCommand")
        assert asked == {"shard_id": 3, "raft_index": 1042, "offset": 1, "cause": "runs for ever"}
        assert nodes[0].asked("PoisonCommand") == nodes[2].asked("PoisonCommand") == []


async def test_isolating_what_has_not_halted_anywhere_is_refused_and_says_who_could_not_be_asked(tmp_path: Path) -> None:
    async with scripted("n1", "n2") as nodes:
        nodes[0].answers["ListHalted"] = [{"halted": [{**HALTED, "raft_index": 7}]}]
        nodes[1].answers["ListHalted"] = [Unavailable("just starting")]
        refused = await typed(nodes[0], tmp_path, *ISOLATE)
        assert refused.code == Exit.REFUSED
        assert refused.json["error"]["reason"] == "NOT_HALTED"
        assert "n2 did not answer" in refused.json["error"]["message"]
        assert nodes[0].asked("PoisonCommand") == []


async def test_shards_are_listed_as_their_leaders_know_them(tmp_path: Path) -> None:
    def shard(leader: str, committed: int, *roles: str) -> dict[str, Any]:
        replicas = [
            {"node_id": f"n{number + 1}", "replica_id": number + 1, "role": f"REPLICA_ROLE_{role}"}
            for number, role in enumerate(roles)
        ]
        return {"shard_id": 3, "leader": leader, "term": 2, "commit_index": committed, "replicas": replicas}

    async with scripted("n1", "n2", "n3") as nodes:
        nodes[0].answers["ListShards"] = [{"shards": [shard("", 0, "VOTER", "VOTER")], "shard_map_version": 4}]
        nodes[1].answers["ListShards"] = [{"shards": [shard("n2", 90, "VOTER", "LEADER", "LEARNER")], "shard_map_version": 3}]
        nodes[2].answers["ListShards"] = [{"shards": [shard("n2", 95, "VOTER", "LEADER")], "shard_map_version": 4}]
        listed = await typed(nodes[0], tmp_path, "shards", "list", "--json")
        (row,) = listed.json["shards"]
        assert (row["leader"], row["commit_index"], row["replicas"]) == ("n2", 90, ["n1", "n2", "n3"])
        assert row["roles"] == {"n1": "voter", "n2": "leader", "n3": "learner"}
        assert listed.json["shard_map_version"] == 4
        assert "n3(learner)" in (await typed(nodes[0], tmp_path, "shards", "list")).out


async def test_a_transfer_follows_the_hints_to_the_leader(tmp_path: Path) -> None:
    async with scripted("n1", "n2", "n3") as nodes:
        nodes[0].answers["TransferLeader"] = [NotLeader("not me", leader="n3")]
        nodes[1].answers["TransferLeader"] = [InvalidRequest("nobody should ask here")]
        handed = {"from_node": "n3", "to_node": "n2", "leader": "n2", "term": 5, "done": True}
        nodes[2].answers["TransferLeader"] = [ChangePending("a moment", retry_after_ms=10), handed]
        done = await typed(nodes[0], tmp_path, "shards", "transfer", "3", "--to", "n2", "--json")
        assert done.code == Exit.DONE, done.out
        assert done.json == {"shard": 3, "from": "n3", "to": "n2", "leader": "n2", "term": 5, "done": True}
        assert nodes[2].asked("TransferLeader") == [{"shard_id": 3, "to_node": "n2"}] * 2
        nodes[2].answers["TransferLeader"] = [{**handed, "leader": "n3", "done": False}]
        assert (await typed(nodes[0], tmp_path, "shards", "transfer", "3", "--to", "n2")).code == Exit.NO


def step(stage: str, *, leader: str, changed: bool = True, **more: Any) -> dict[str, Any]:
    return {"stage": f"MOVE_STAGE_{stage}", "changed": changed, "leader": leader, "retry_after_ms": 20, **more}


async def test_a_move_goes_on_at_the_next_leader_until_it_is_done(tmp_path: Path) -> None:
    async with scripted("n1", "n2", "n3", "n4") as nodes:
        for node in nodes:
            node.answers["MoveReplica"] = [NotLeader("not me", leader="n2")]
        nodes[1].answers["MoveReplica"] = [
            step("ADDING", leader="n2"),
            step("CATCHING_UP", leader="n2", changed=False, lag_entries=1200, waiting_for="n4 receives a snapshot"),
            NotLeader("not any more", leader="n3"),
        ]
        nodes[2].answers["MoveReplica"] = [
            step("EXCHANGING", leader="n3"),
            step("REMOVING", leader="n3"),
            step("DONE", leader="n3", done=True),
        ]
        done = await typed(nodes[0], tmp_path, *MOVE)
        assert done.code == Exit.DONE, done.out
        assert (done.json["done"], done.json["changed"], done.json["leader"]) == (True, True, "n3")
        assert list(done.json["stages_ms"]) == ["adding", "catching_up", "exchanging", "removing"]
        asked = {"shard_id": 3, "from_node": "n1", "to_node": "n4", "force": False}
        assert nodes[1].asked("MoveReplica") == [asked] * 3


async def test_a_move_that_was_done_before_changes_nothing_and_succeeds(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        node.answers["MoveReplica"] = [step("DONE", leader="n1", changed=False, done=True)]
        done = await typed(node, tmp_path, *MOVE)
        assert (done.code, done.json["changed"], done.json["stages_ms"]) == (Exit.DONE, False, {})
        assert "nothing to do" in (await typed(node, tmp_path, *MOVE[:-1])).out


async def test_a_move_that_does_not_end_says_where_it_stands_and_how_it_goes_on(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        waiting = step("CATCHING_UP", leader="n1", changed=False, lag_entries=7, waiting_for="n4 does not answer")
        node.answers["MoveReplica"] = [waiting]
        late = await typed(node, tmp_path, *MOVE, "--timeout", "0.5")
        error = late.json["error"]
        assert (late.code, error["reason"]) == (Exit.NO, "NOT_DONE")
        assert "7 entries" in error["message"]
        assert "n4 does not answer" in error["message"]
        assert "moot shards show 3" in error["next"]


async def test_a_leader_that_can_not_be_reached_from_here_is_named(tmp_path: Path) -> None:
    """Gateways may listen on their own machine only."""
    async with scripted("n1", "n2") as nodes:
        nowhere = "127.0.0.1:9"
        listed = {"node_id": "n3", "gateway_address": nowhere, "state": "NODE_STATE_ALIVE"}
        for node in nodes:
            node.answers["ListNodes"] = [{"nodes": [listed]}]
            node.answers["MoveReplica"] = [NotLeader("not me", leader="n3", leader_gateway_address=nowhere)]
        late = await typed(nodes[0], tmp_path, *MOVE, "--timeout", "1")
        assert late.code == Exit.NO
        assert f"n3 is said to lead shard 3 and can not be reached at {nowhere}" in late.json["error"]["message"]


async def test_a_move_that_is_refused_is_told_at_once(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        node.answers["MoveReplica"] = [InvalidRequest("n1 has no replica of shard 3")]
        refused = await typed(node, tmp_path, *MOVE)
        assert (refused.code, refused.json["error"]["state"]) == (Exit.REFUSED, "nothing changed")
        assert len(node.asked("MoveReplica")) == 1
        same = await typed(node, tmp_path, "shards", "move", "3", "--from", "n1", "--to", "n1")
        assert same.code == Exit.USAGE
        assert "itself" in same.err


async def test_a_move_that_is_interrupted_says_how_it_goes_on(tmp_path: Path) -> None:
    async with scripted("n1") as (node,):
        node.answers["MoveReplica"] = [step("CATCHING_UP", leader="n1", changed=False, lag_entries=7)]
        command = ["-m", "cluster", *MOVE[:-1], "--address", node.address]
        pipe = asyncio.subprocess.PIPE
        moving = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe
        )
        await eventually(lambda: len(node.asked("MoveReplica")) >= 3, within_ms=30_000)
        moving.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(moving.communicate(), 30)
        assert moving.returncode == Exit.INTERRUPTED
        assert "moot shards show 3" in said.decode()
        assert "Traceback" not in said.decode()


async def test_a_half_way_move_is_explained(tmp_path: Path) -> None:
    async with scripted("n1", "n2") as nodes:
        members = [
            {"replica_id": 1, "node_id": "n1", "role": "REPLICA_ROLE_LEADER", "match_index": 50, "lag_entries": 0},
            {"replica_id": 9, "node_id": "n4", "role": "REPLICA_ROLE_LEARNER", "match_index": 20, "lag_entries": 30},
        ]
        answer = {"shard_id": 3, "node_id": "n1", "leader": "n1", "term": 4, "members": members, "committed": True}
        nodes[0].answers["GetShardConfiguration"] = [answer]
        nodes[1].answers["GetShardConfiguration"] = [InvalidRequest("n2 has no replica of shard 3")]
        shown = await typed(nodes[1], tmp_path, "shards", "show", "3")
        assert shown.code == Exit.DONE, shown.err
        assert "n4 learns and does not vote" in shown.out
        row = (await typed(nodes[1], tmp_path, "shards", "show", "3", "--json")).json
        assert [(member["node_id"], member["lag_entries"]) for member in row["members"]] == [("n1", 0), ("n4", 30)]
        nodes[0].answers["GetShardConfiguration"] = [{**answer, "leader": ""}]
        assert (await typed(nodes[1], tmp_path, "shards", "show", "3")).code == Exit.NO
