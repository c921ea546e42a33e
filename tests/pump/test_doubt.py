"""While nobody knows who is right: what waits for that, what must not, and whose word counts."""

from __future__ import annotations

from cluster.ids import NodeId
from cluster.pump.lanes import Lane
from cluster.session.operations import Kind, Reply
from cluster.shard.divergence import Divergence, Remedy
from cluster.shard.replica import CompactionConfig
from tests.pump.planting import (
    MARKER,
    claim,
    followers_of,
    healed,
    lead,
    leader_of,
    planted,
    replica_of,
    reports,
    restarted,
    state,
)
from tests.pump.world import Client, SimulatedNode, World

FAR_BEHIND = CompactionConfig(every_entries=4, kept_entries=4, lagging_entries=8)


def differing_without_the_third(seed: int = 1) -> tuple[World, SimulatedNode, SimulatedNode, SimulatedNode]:
    """Two replicas differ about `a` and the third, which would decide, needs a snapshot: (world, leader, follower, third)."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "", seed=seed, compaction=FAR_BEHIND)
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    assert world.client(leader.name).insist(Kind.CREATE, "b", space="board").failure is None
    world.run(300)
    third = next(node for node in followers_of(world) if node is not victim)
    third.crash(lose_unsynced=False)
    client = world.client(leader.name)
    for cell in range(30):
        assert beside(client, cell).failure is None
        world.run(30)
    assert claim(client, 1, MARKER).failure is None
    world.run_until(lambda: any(report.remedy is Remedy.WAITING for report in leader.pump.divergences.reports.all()))
    world.run(500)
    return world, leader, victim, third


def beside(client: Client, cell: int) -> Reply:
    return client.insist(Kind.SEND, "b", "claim", {"cell": cell, "owner": "ann"}, space="board")


def report_on(node: SimulatedNode) -> Divergence:
    return node.pump.divergences.reports.all()[0]


def test_a_shard_goes_on_when_its_quorum_needs_the_snapshot_that_doubt_withholds() -> None:
    """The document could only be examined once entries on their way were committed, these waited for a replica that needed a
    snapshot, and no snapshot left while the document was doubted.
    """
    world, leader, victim, third = differing_without_the_third()
    victim.crash(lose_unsynced=False)
    third.boot()
    number = world.client(leader.name).submit(Kind.SEND, "b", "claim", {"cell": 99, "owner": "ann"}, space="board")
    client = next(reversed(leader.clients.values()))
    world.run_until(lambda: number in client.replies, within_ms=5_000)
    assert client.replies[number][0].failure is None
    assert report_on(leader).remedy is Remedy.WAITING, "a copy of the leader's state decides nothing"
    world.run_until(lambda: report_on(leader).remedy is Remedy.FROZEN, within_ms=40_000)
    assert report_on(leader).right == ()
    assert replica_of(third).cache.get("board", "a").frozen


def test_a_voter_that_will_have_no_word_is_not_waited_for() -> None:
    """It needed the snapshot that doubt withheld, and doubt waited for its word: for 30 s, for nothing."""
    world, leader, _, third = differing_without_the_third()
    assert replica_of(third).applied < replica_of(leader).raft.snapshot.index
    third.boot()
    world.run_until(lambda: report_on(leader).remedy is Remedy.FROZEN, within_ms=4_000)
    assert report_on(leader).right == ()
    world.run_until(lambda: replica_of(third).applied == replica_of(leader).applied, within_ms=4_000)
    assert replica_of(third).cache.copied_through == 0, "nothing is in doubt any more when it is sent"
    assert replica_of(leader).cache.withheld == frozenset()
    assert beside(world.client(third.name), 99).failure is None, "its neighbours go on"


def test_a_voter_that_is_only_cut_off_is_waited_for_although_it_was_offered_a_snapshot() -> None:
    """It had all of the log and could have run the command. A snapshot that doubt withheld from it counted as one that it
    needed, and the document was frozen after a second.
    """
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    third = next(node for node in followers_of(world) if node is not victim)
    world.delay_ms = lambda sender, receiver, lane: 3_000.0 if third.name in (sender, receiver) else 0.0
    assert claim(world.client(leader.name), 1, MARKER).failure is None
    world.run_until(lambda: bool(replica_of(leader).cache.doubted), within_ms=1_000)
    replica_of(leader).snapshots_wanted = [replica_of(third).replica]
    world.run(2_500)
    assert report_on(leader).remedy is Remedy.WAITING
    world.delay_ms = lambda sender, receiver, lane: 0.0
    world.run_until(lambda: healed(world), within_ms=10_000)
    assert report_on(leader).wrong == (victim.name,)


def test_a_doubt_does_not_end_with_the_leader_that_had_it() -> None:
    """The next leader was the wrong one. It knew of nothing and sent what it had as a snapshot, so that it was two to one."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "", compaction=FAR_BEHIND)
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    third = next(node for node in followers_of(world) if node is not victim)
    world.delay_ms = lambda sender, receiver, lane: 5_000.0 if lane is Lane.BULK and sender == third.name else 0.0
    assert claim(world.client(leader.name), 1, MARKER).failure is None
    world.run_until(lambda: bool(victim.pump.divergences.reports.all()), within_ms=500)
    assert report_on(victim).remedy is Remedy.WAITING, "it is told while the third is still being heard"
    assert leader.pump.divergences.reports.news == [], "and logged when it is known what follows"
    leader.crash(lose_unsynced=False)
    world.run_until(lambda: replica_of(victim).serves or replica_of(third).serves)
    lead(world, victim)
    world.run_until(lambda: ("board", "a") in replica_of(victim).cache.doubted, within_ms=2_000)
    world.delay_ms = lambda sender, receiver, lane: 0.0
    leaking.clear()
    leader.boot()
    world.run_until(lambda: healed(world), within_ms=20_000)
    assert report_on(third).wrong == (victim.name,)
    assert state(third)["board"][1]["owner"] == MARKER


def test_the_next_leader_says_of_the_one_before_that_its_answers_were_wrong() -> None:
    """The report was opened by the one that led when the difference was found; it is judged by another, which was right."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    wrong = leader_of(world)
    leaking.add(wrong.name)
    restarted(world, wrong)
    lead(world, wrong)
    right, third = followers_of(world)
    third.crash(lose_unsynced=False)
    assert claim(world.client(wrong.name), 1, MARKER).failure is None
    world.run_until(lambda: any(report.remedy is Remedy.WAITING for report in right.pump.divergences.reports.all()))
    lead(world, right)
    assert not report_on(right).misled, "nobody knows yet who is wrong"
    third.boot()
    world.run_until(lambda: healed(world), within_ms=10_000)
    report = report_on(right)
    assert (report.leader, report.wrong, report.misled) == (wrong.name, (wrong.name,), True)


def test_a_voter_that_comes_back_is_heard_at_once() -> None:
    """The next look was due most of a second later, and the document is held meanwhile."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    third = next(node for node in followers_of(world) if node is not victim)
    third.crash(lose_unsynced=False)
    assert claim(world.client(leader.name), 1, MARKER).failure is None
    world.run_until(lambda: any(report.remedy is Remedy.WAITING for report in leader.pump.divergences.reports.all()))
    world.run(1_300)
    third.boot()
    world.run_until(lambda: replica_of(third).applied == replica_of(leader).applied)
    world.run_until(lambda: healed(world), within_ms=100)


def test_a_copy_that_was_sent_in_doubt_does_not_outvote_who_ran_the_command() -> None:
    """Nor when it leads: it knows itself that it is one."""
    world, leader, victim, third = differing_without_the_third()
    third.boot()
    victim.crash(lose_unsynced=False)
    assert beside(world.client(leader.name), 99).failure is None
    world.run_until(lambda: bool(third.pump.divergences.reports.all()))
    leader.crash(lose_unsynced=False)
    victim.boot()
    world.run_until(lambda: replica_of(third).serves or replica_of(victim).serves)
    lead(world, third)
    leader.boot()
    world.run_until(lambda: all(known and known[0].settled for known in reports(world).values()), within_ms=40_000)
    assert {known[0].remedy for known in reports(world).values()} == {Remedy.FROZEN}
    assert report_on(third).right == ()
    assert state(victim)["board"][1]["owner"] == "its-own-host", "nobody was overruled"
    assert state(third)["board"][1]["owner"] == MARKER
    assert beside(world.client(third.name), 100).failure is None, "its neighbours go on"


def test_a_difference_that_nobody_heard_shows_is_looked_for_later() -> None:
    """All answers to the examination come too late: there is nothing to report yet, and nothing to fail over."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    assert claim(world.client(leader.name), 1, MARKER).failure is None
    world.run_until(lambda: bool(replica_of(leader).cache.held))
    world.delay_ms = lambda sender, receiver, lane: 1_500.0 if lane is Lane.BULK and receiver == leader.name else 0.0
    world.run(1_200)
    assert leader.pump.divergences.reports.all() == []
    world.delay_ms = lambda sender, receiver, lane: 0.0
    world.run_until(lambda: healed(world))
    assert report_on(leader).wrong == (victim.name,)


def test_a_voter_that_is_behind_finds_the_log_whole_while_its_word_is_waited_for() -> None:
    """No snapshot is sent while nobody knows who is right, so a log that is cut meanwhile would leave it nothing to run."""
    leaking: set[NodeId] = set()
    small = CompactionConfig(every_entries=4, kept_entries=2, lagging_entries=2)
    world = planted(lambda name: "its-own-host" if name in leaking else "", compaction=small)
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    client = world.client(leader_of(world).name)
    assert client.insist(Kind.CREATE, "b", space="board").failure is None
    world.run(1_000)
    third = next(node for node in followers_of(world) if node is not victim)
    third.crash(lose_unsynced=False)
    assert claim(client, 1, MARKER).failure is None
    leader = leader_of(world)
    world.run_until(lambda: bool(leader.pump.divergences.reports.open))
    for cell in range(20):
        beside = client.insist(Kind.SEND, "b", "claim", {"cell": cell, "owner": "ann"}, space="board")
        assert beside.failure is None, "its neighbours go on"
    third.boot()
    world.run_until(lambda: healed(world), within_ms=10_000)
    assert reports(world)[leader_of(world).name][0].wrong == (victim.name,)
    first = replica_of(leader_of(world)).log.snapshot.index
    for cell in range(20):
        assert client.insist(Kind.SEND, "b", "claim", {"cell": cell, "owner": "bob"}, space="board").failure is None
    assert replica_of(leader_of(world)).log.snapshot.index > first, "it is cut again afterwards"


def test_a_majority_that_agrees_while_the_wrong_one_is_away_decides() -> None:
    """The third's word came when the one that differs was gone. The report waited on, though nothing was in doubt."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    third = next(node for node in followers_of(world) if node is not victim)
    third.crash(lose_unsynced=False)
    assert claim(world.client(leader.name), 1, MARKER).failure is None
    world.run_until(lambda: any(report.remedy is Remedy.WAITING for report in leader.pump.divergences.reports.all()))
    victim.crash(lose_unsynced=False)
    third.boot()
    world.run_until(lambda: report_on(leader).remedy is Remedy.HEALING, within_ms=20_000)
    assert set(report_on(leader).right) == {leader.name, third.name}
    assert report_on(leader).wrong == (victim.name,)
    leaking.clear()
    victim.boot()
    world.run_until(lambda: healed(world), within_ms=40_000)


def test_a_leader_that_took_over_what_is_right_is_well_although_nobody_knows_who_is_right_elsewhere() -> None:
    """Two against two about one document and three against one about the other, with the fifth voter away: nobody is wrong
    about the first.
    """
    leaks: dict[NodeId, str] = {}
    world = planted(lambda name: leaks.get(name, ""), nodes=5, replication_factor=5)
    assert world.client(leader_of(world).name).insist(Kind.CREATE, "b", space="board").failure is None
    wrong = leader_of(world)
    away, *others = [node for node in world.nodes.values() if node is not wrong]
    leaks |= {wrong.name: "a-host", others[0].name: "a-host"}
    for node in (wrong, others[0]):
        restarted(world, node)
    lead(world, wrong)
    away.crash(lose_unsynced=False)
    client = world.client(wrong.name)
    told = client.insist(Kind.SEND, "b", "claim", {"cell": 1, "owner": MARKER}, space="board")
    assert told.failure is None
    world.run_until(lambda: ("b", Remedy.WAITING) in {(each.key, each.remedy) for each in reports(world)[wrong.name]})
    replica_of(others[0]).save_all(others[0].pump._turn)  # or replay would make it right
    assert claim(client, 0, "ann").failure is None
    world.run(100)
    leaks.pop(others[0].name)
    restarted(world, others[0])
    lead(world, wrong)
    assert claim(world.client(wrong.name), 1, MARKER).failure is None
    world.run_until(lambda: bool(replica_of(wrong).diverged))
    world.run_until(lambda: not replica_of(wrong).unwell, within_ms=10_000)
    open_now = {each.key: each for each in wrong.pump.divergences.reports.open.values()}
    assert open_now["b"].right == ()
    assert not replica_of(wrong).diverged
    away.boot()
    world.run_until(lambda: all(not node.pump.divergences.reports.open for node in world.nodes.values()), within_ms=40_000)
    assert len(set(world.records("a", "board"))) == len(set(world.records("b", "board"))) == 1


def test_a_difference_in_the_first_that_a_follower_tells_is_found_although_the_leader_began_to_count_later() -> None:
    """After a crash of all. The leader had no sum for where the follower's began, so it compared nothing, and the command that
    would have shown the difference was the last to the document.
    """
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    assert world.client(leader_of(world).name).insist(Kind.CREATE, "b", space="board").failure is None
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    others = [node for node in world.nodes.values() if node is not victim]
    world.delay_ms = lambda sender, receiver, lane: 10_000.0 if sender == victim.name else 0.0
    client = world.client(leader_of(world).name)
    assert claim(client, 1, MARKER).failure is None
    world.run_until(lambda: 1 in state(victim)["board"])
    replica_of(victim).save_all(victim.pump._turn)
    world.run(100)
    victim.crash(lose_unsynced=False)
    world.delay_ms = lambda sender, receiver, lane: 0.0
    leaking.clear()
    for cell in range(3):
        assert beside(client, cell).failure is None
    world.run(100)
    for node in others:
        replica_of(node).save_all(node.pump._turn)
    world.run(100)
    for node in others:
        node.crash(lose_unsynced=False)
    for node in others:
        node.boot()
    world.run_until(lambda: any(replica_of(node).serves for node in others))
    assert claim(world.client(leader_of(world).name), 2, "ann").failure is None
    victim.boot()
    world.run_until(lambda: replica_of(victim).applied == replica_of(leader_of(world)).applied)
    assert replica_of(victim).digest.origin < replica_of(leader_of(world)).digest.origin
    world.run_until(lambda: healed(world), within_ms=5_000)
    assert report_on(victim).wrong == (victim.name,)
    assert state(victim)["board"][1]["owner"] == MARKER


def test_what_was_decided_stays_decided_when_one_of_the_majority_is_away() -> None:
    """The next leader knew who was right, asked anew, heard the wrong one alone, and froze the document."""
    leaking: set[NodeId] = set()
    world = planted(lambda name: "its-own-host" if name in leaking else "")
    victim = followers_of(world)[0]
    leaking.add(victim.name)
    restarted(world, victim)
    leader = leader_of(world)
    third = next(node for node in followers_of(world) if node is not victim)
    world.delay_ms = lambda sender, receiver, lane: 300.0 if lane is Lane.BULK and sender == third.name else 0.0
    assert claim(world.client(leader.name), 1, MARKER).failure is None
    world.run_until(lambda: bool(victim.pump.divergences.reports.all()))
    world.delay_ms = lambda sender, receiver, lane: 5_000.0 if lane is Lane.BULK and receiver == victim.name else 0.0
    world.run_until(lambda: bool(third.pump.divergences.reports.all()) and bool(report_on(third).right), within_ms=2_000)
    leader.crash(lose_unsynced=False)
    world.delay_ms = lambda sender, receiver, lane: 0.0
    assert report_on(victim).wrong != (), "it was not healed"
    world.run_until(lambda: replica_of(victim).serves or replica_of(third).serves)
    lead(world, third)
    world.run_until(lambda: state(victim)["board"][1]["owner"] == MARKER, within_ms=3_000)
    assert report_on(third).remedy is Remedy.HEALING
    assert set(report_on(third).right) == {leader.name, third.name}
    leader.boot()
    world.run_until(lambda: healed(world), within_ms=20_000)
