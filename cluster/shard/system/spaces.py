"""What the system document decides about spaces: a deployment, a rollback, another try for what failed.

What a new version may change is compared where the deployment is asked for, with the code at hand; here is only what every
replica can judge from the decisions alone: that the version rises, and that nobody deployed in between.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from cluster.errors import InvalidBundle, InvalidRequest
from cluster.ids import KEY_BYTES_MAX
from cluster.shard.deployments import PLAN_KEYS_MAX, Deployment, Plan, Space, space_of

SPACES_MAX = 10_000
ANY = -1
"""In place of an expected number of deployments: whatever it is."""

Key = Annotated[str, Meta(min_length=1, max_length=KEY_BYTES_MAX)]
Number = Annotated[int, Meta(ge=ANY, le=(1 << 53) - 1)]


class PlanRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """See Plan."""

    keys: Annotated[tuple[Key, ...], Meta(max_length=PLAN_KEYS_MAX)] = ()
    prefix: Annotated[str, Meta(max_length=KEY_BYTES_MAX)] = ""
    percent: Annotated[int, Meta(ge=0, le=100)] = 100

    @property
    def plan(self) -> Plan:
        """As it is kept."""
        return Plan(self.keys, self.prefix, self.percent)


class Deploy(Struct, forbid_unknown_fields=True, frozen=True):
    """Code for a space, base64. version: what the code declares; filled in by whoever checks it. expected: how often the space
    was deployed when the code was compared with what it replaces.
    """

    space: str
    bundle: str
    plan: PlanRequest = PlanRequest()
    version: Number = 0
    expected: Number = ANY


class Rollback(Struct, forbid_unknown_fields=True, frozen=True):
    """Back to the code before the newest. returns: whether documents of the newest go back too."""

    space: str
    returns: bool = False
    expected: Number = ANY


class Retry(Struct, forbid_unknown_fields=True, frozen=True):
    """Documents whose upgrade failed are tried again."""

    space: str


def deploy(request: Deploy, code_hash: bytes, before: Space | None, by: str, now_ms: int) -> Space:
    """The space after a deployment; the very same object when that changes nothing. Raises InvalidBundle or InvalidRequest."""
    deployment = Deployment(code_hash, request.version, by, now_ms, request.plan.plan)
    _check_expected(request.expected, before)
    if before is None:
        return space_of(request.space, deployment)
    newest = before.walked[-1]
    if newest.code_hash == code_hash and not newest.withdrawn:
        return before if newest.plan == deployment.plan else before.deployed(deployment)
    again = any(each.code_hash == code_hash and each.withdrawn for each in before.walked)
    if not again and request.version <= before.version_max:
        raise version_stands(before, request.version)
    return before.deployed(deployment)


def version_stands(space: Space, version: int) -> InvalidBundle:
    """The refusal of a version that does not rise."""
    wanted = space.version_max + 1
    return InvalidBundle(
        f"version: the code is version {version}, and space {space.name} had version {space.version_max} already; "
        f"write version={wanted}",
        findings=1,
        first="version",
    )


def roll_back(request: Rollback, before: Space, by: str, now_ms: int) -> Space:
    """The space after a rollback. Raises InvalidRequest when there is nothing to go back to."""
    _check_expected(request.expected, before)
    try:
        return before.rolled_back(by, now_ms, returns=request.returns)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _check_expected(expected: int, before: Space | None) -> None:
    deployments = before.deployments if before is not None else 0
    if expected not in (ANY, deployments):
        raise InvalidRequest("somebody else deployed to this space meanwhile; deploy again")
