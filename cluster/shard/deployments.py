"""What was deployed to a space, in order, and which code a document gets next.

A document walks along the space's timeline one deployment at a time, so each version's hook sees the state that it was written
for. Deployments that were rolled back are passed over. A plan says for which keys a deployment is: others stay where they are.

Invariant: a document's next code lies behind its own in the timeline, so every walk ends. Apply never looks here: what a leader
decides by it is in the command.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec import Struct

DEPLOYMENTS_KEPT_MAX = 128
"""Deployments of a space that are remembered; a document on older code keeps it."""
PLAN_KEYS_MAX = 256


class Plan(Struct, frozen=True, array_like=True):
    """For which documents a deployment is: these keys, those with this prefix, this share of all; all of them without any.

    percent: a key is in or out for good, and with more percent only others come in.
    """

    keys: tuple[str, ...] = ()
    prefix: str = ""
    percent: int = 100

    @property
    def everybody(self) -> bool:
        """Whether no document is left out."""
        return not self.keys and not self.prefix and self.percent >= 100

    def includes(self, space: str, key: str) -> bool:
        """Whether a document is to get the code."""
        if self.keys:
            return key in self.keys
        if not key.startswith(self.prefix):
            return False
        return self.percent >= 100 or bucket(space, key) < self.percent


def bucket(space: str, key: str) -> int:
    """0 to 99, even over keys, and independent of the shard that a key is in."""
    digest = blake2b(f"{space}/{key}".encode(), digest_size=8, person=b"moot.plan").digest()
    return int.from_bytes(digest, "big") % 100


class Deployment(Struct, frozen=True, array_like=True):
    """One deployment.

    withdrawn: it was rolled back: documents pass it over. returns: for a rollback, whether documents of what it withdrew go
    back to its code; when that would need a hook they stay until a later deployment.
    """

    code_hash: bytes
    version: int
    deployed_by: str
    deployed_ms: int
    plan: Plan = Plan()
    withdrawn: bool = False
    returns: bool = True


class Space(Struct, frozen=True, array_like=True):
    """A deployed space.

    code_hash: of its newest deployment. deployments: rises with each, with a rollback and with a retry, so that a document
    whose upgrade failed is tried again. timeline: oldest first.
    """

    name: str
    code_hash: bytes
    deployments: int
    deployed_by: str
    deployed_ms: int
    timeline: tuple[Deployment, ...] = ()

    @property
    def walked(self) -> tuple[Deployment, ...]:
        """The timeline; of a space from before there were any, its one deployment."""
        return self.timeline or (Deployment(self.code_hash, 0, self.deployed_by, self.deployed_ms),)

    def code_for(self, key: str) -> bytes:
        """The code of a new document: the newest whose plan has its key."""
        walked = self.walked
        return walked[self._newest(key)].code_hash

    def _newest(self, key: str) -> int:
        walked = self.walked
        standing = [place for place, deployment in enumerate(walked) if not deployment.withdrawn]
        return next((place for place in reversed(standing) if walked[place].plan.includes(self.name, key)), standing[0])

    def next_code(self, key: str, code_hash: bytes, *, directly: bool = False) -> bytes | None:
        """The code that a document of `code_hash` gets next, None when it has what it should have, or runs code that is not in
        the
        timeline: whoever asks may know less than who gave it that code.

        directly: to the newest at once, for one that a deployment in between has failed.
        """
        walked = self.walked
        newest = self._newest(key)
        here = max((place for place, deployment in enumerate(walked) if deployment.code_hash == code_hash), default=-1)
        if here < 0:
            return None
        back = walked[here].withdrawn
        for place in range(newest if directly else here + 1, newest + 1):
            deployment = walked[place]
            if place > here and not deployment.withdrawn and (deployment.returns or not back):
                return deployment.code_hash if deployment.code_hash != code_hash else None
        return None

    def deployed(self, deployment: Deployment) -> Space:
        """With one more deployment; of the same code as the newest, a new plan takes the place of its plan."""
        walked = self.walked
        if walked[-1].code_hash == deployment.code_hash and not walked[-1].withdrawn:
            walked = walked[:-1]
        timeline = (*walked, deployment)[-DEPLOYMENTS_KEPT_MAX:]
        head = (self.name, deployment.code_hash, self.deployments + 1, deployment.deployed_by, deployment.deployed_ms)
        return Space(*head, timeline)

    def behind(self) -> Deployment | None:
        """What a rollback leads to: the newest standing deployment before the newest standing one."""
        standing = [deployment for deployment in self.walked if not deployment.withdrawn]
        codes = [deployment for deployment in standing if deployment.code_hash != standing[-1].code_hash]
        return codes[-1] if codes else None

    def rolled_back(self, by: str, now_ms: int, *, returns: bool) -> Space:
        """The newest code is withdrawn, and the one before it is deployed again, for all. Raises ValueError when there
        is none.
        """
        before = self.behind()
        if before is None:
            raise ValueError(f"space {self.name} has no earlier deployment to go back to")
        timeline = list(self.walked)
        last = max(place for place, each in enumerate(timeline) if each.code_hash == before.code_hash and not each.withdrawn)
        for place in range(last + 1, len(timeline)):
            each = timeline[place]
            timeline[place] = Deployment(each.code_hash, each.version, each.deployed_by, each.deployed_ms, each.plan, True)
        again = Deployment(before.code_hash, before.version, by, now_ms, Plan(), False, returns)
        kept = tuple([*timeline, again][-DEPLOYMENTS_KEPT_MAX:])
        return Space(self.name, before.code_hash, self.deployments + 1, by, now_ms, kept)

    def retried(self) -> Space:
        """The same, but documents whose upgrade failed are tried again."""
        return Space(self.name, self.code_hash, self.deployments + 1, self.deployed_by, self.deployed_ms, self.timeline)

    @property
    def version_max(self) -> int:
        """The highest version that was ever deployed."""
        return max(deployment.version for deployment in self.walked)


def space_of(name: str, deployment: Deployment) -> Space:
    """A new space."""
    return Space(name, deployment.code_hash, 1, deployment.deployed_by, deployment.deployed_ms, (deployment,))
