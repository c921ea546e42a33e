"""Planted bugs in changes of configuration, in moving replicas, and in handing leadership over."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.mutants.mutant import Patch, collector
from chaos.mutants.reach import HANDOVERS, MOVES
from cluster.ids import LogIndex, ReplicaId
from cluster.pump import changes
from cluster.pump.holdings import Holdings
from cluster.pump.placing import Placing
from cluster.raft import configuration as configurations
from cluster.raft import election, membership, quorum, transfer
from cluster.raft.messages import Configuration, HardState, SnapshotMeta
from cluster.raft.state import State
from cluster.storage.log import ShardLog

MUTANTS, mutant = collector()

# configurations


@mutant("inside a joint configuration the new voters alone decide (thesis 4.3)")
def joint_decided_by_the_new_alone(patch: Patch) -> None:
    patch.set(quorum, "agreed", lambda now, value_of: quorum.reached(map(value_of, now.voters)))
    patch.set(quorum, "elected", lambda now, votes: quorum.tally(now.voters, votes))
    patch.set(election, "elected", quorum.elected)


@mutant("voters change in one step, without a joint configuration (thesis 4.3)")
def voters_change_in_one_step(patch: Patch) -> None:
    def entered(*arguments: Any) -> Configuration:
        goal: Configuration = original(*arguments)
        return msgspec.structs.replace(goal, outgoing=())

    original = patch.set(configurations, "entered", entered)


@mutant("nobody leaves a joint configuration (trap 46)")
def joint_never_left(patch: Patch) -> None:
    def settle(state: State, now_ms: float) -> None:
        if not state.configuration.outgoing:
            original(state, now_ms)

    original = patch.set(membership, "settle", settle)


@mutant("after a restart the configuration is that of the log's start (trap 42)", MOVES)
def configuration_forgotten_at_restart(patch: Patch) -> None:
    def hard_state(log: ShardLog) -> HardState:
        return HardState(log._hard_state.term, log._hard_state.vote)

    patch.set(ShardLog, "hard_state", property(hard_state))


@mutant("a configuration outlives its entry, which was truncated (trap 42)", MOVES)
def configuration_outlives_its_entry(patch: Patch) -> None:
    def truncate(state: State, index: LogIndex) -> None:
        known = list(state.configurations)
        original(state, index)
        if len(known) != len(state.configurations):
            state.configurations = [(LogIndex(min(at, state.log.last_index)), now) for at, now in known]
            state._configure()

    original = patch.set(State, "truncate_from", truncate)


@mutant("a snapshot carries the newest configuration, not the one at its index (trap 47)")
def snapshot_carries_the_newest_configuration(patch: Patch) -> None:
    patch.set(State, "configuration_at", lambda state, index: state.configuration)


@mutant("an installed snapshot does not bring its configuration (trap 47)", MOVES)
def snapshot_without_configuration(patch: Patch) -> None:
    def reset(state: State, meta: SnapshotMeta) -> None:
        original(state, msgspec.structs.replace(meta, configuration=state.configuration))

    original = patch.set(State, "reset_to", reset)


# replicas


@mutant("the id of a removed replica is given again (trap 12)", MOVES)
def replica_id_given_again(patch: Patch) -> None:
    def highest_of(now: Configuration) -> ReplicaId:
        return max(*configurations.members_of(now), ReplicaId(0))

    patch.set(configurations, "highest_of", highest_of)
    patch.set(changes, "highest_of", highest_of)


@mutant("a removed replica does not believe that it was removed")
def removed_replica_stays(patch: Patch) -> None:
    patch.set(Holdings, "on_removed", lambda holdings, item: None)


@mutant("a new replica is never invited, though the configuration names it")
def newcomer_not_invited(patch: Patch) -> None:
    patch.set(Holdings, "on_absent", lambda holdings, node, item: None)


@mutant("the shard map is not told where a shard's replicas have gone")
def map_not_told_of_moves(patch: Patch) -> None:
    patch.set(Placing, "look_at", lambda placing, replica, now_ms: False)


# handing over


@mutant("a handover that comes to nothing is never given up (trap 40)", HANDOVERS)
def handover_never_given_up(patch: Patch) -> None:
    patch.set(transfer, "abort_if_due", lambda state, now_ms: None)
