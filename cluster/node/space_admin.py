"""Answers to operators about spaces: deploying, rolling back, what runs where.

A deployment is compared here with what it replaces, with the code at hand; the decision names how often the space had been
deployed then, so that nobody deploys over somebody else unseen.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from cluster.documents.bundle import Bundle, code_hash
from cluster.documents.deploying import check_successor, fields_dropped, goes_back, handlers_lost
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Program
from cluster.errors import InvalidRequest
from cluster.node.decisions import Decisions
from cluster.node.errors_log import ErrorsLog
from cluster.pump.pump import Pump
from cluster.shard.deployments import Deployment, Plan, Space
from cluster.shard.document import LiveDocument
from cluster.shard.system.spaces import version_stands

FAILED_LISTED_MAX = 100
COMPILED_WAIT_MS = 3_000
COMPILED_POLL_MS = 10
Row = dict[str, Any]
FindPending = Callable[[str, frozenset[str]], Awaitable[frozenset[str]]]


class SpaceAdministration:
    """One node's answers. decisions: asks the system shard. pending: which handlers of a space something pending names."""

    def __init__(self, pump: Pump, decisions: Decisions, errors_log: ErrorsLog, pending: FindPending) -> None:
        self._pending = pending
        self._pump = pump
        self._decisions = decisions
        self._errors = errors_log

    async def deploy(self, request: Row) -> Row:
        """AdminService.DeploySpace. Raises InvalidBundle, with every finding, when the code may not follow what is there."""
        if request["settings"]:
            raise InvalidRequest("settings are not known to this release")
        name = request["space"]
        bundle = _bundle_of(request)
        plan = _plan_of(request["plan"])
        before = self._pump.directory.find_space(name)
        dropped: tuple[str, ...] = ()
        if before is not None and before.walked[-1].code_hash != code_hash(bundle):
            after = BundleLoader().load(bundle)
            dropped = await self._compare(before, after, force=request["force"])
        elif before is None:
            BundleLoader().load(bundle)
        if request["check_only"]:
            return {"space": self._would_be(name, before, bundle), "changed": False, "fields_dropped": list(dropped)}
        payload: Row = {"space": name, "bundle": base64.b64encode(bundle).decode()}
        payload["plan"] = {"keys": plan.keys, "prefix": plan.prefix, "percent": plan.percent}
        payload["expected"] = before.deployments if before is not None else 0
        answer = await self._decisions.decide("deploy", payload)
        await self._learned(answer["version"], code_hash(bundle))
        space = self._pump.directory.space(name)
        return {"space": self.row(space), "changed": answer["changed"], "fields_dropped": list(dropped)}

    async def _compare(self, space: Space, after: Program, *, force: bool) -> tuple[str, ...]:
        """Fields that end. Raises InvalidBundle."""
        version = int(after.schema()["version"])
        known = {each.code_hash for each in space.walked if each.withdrawn}
        if after.code_hash not in known and version <= space.version_max:
            raise version_stands(space, version)
        program = self._pump.directory.program
        newest = program(space.code_hash)
        led_by = [program(code) for code in _led_from(space, after.code_hash)]
        check_successor(led_by, after, clients=None if force else newest)
        gone = frozenset().union(*(handlers_lost(before, after) for before in led_by))
        if gone:
            check_successor([], after, armed=await self._pending(space.name, gone))
        return fields_dropped(newest, after)

    async def _learned(self, version: int, code: bytes) -> None:
        """Until this node knows the decision and its peers, as far as they can be reached, have compiled the code: whoever
        deploys may expect that the next touch of a document upgrades it.
        """
        await self._decisions.learned(version)
        compilations = self._pump.directory.compilations
        for _ in range(COMPILED_WAIT_MS // COMPILED_POLL_MS):
            if all(compilations.has(node, code) for node in (self._pump.node, *self._pump.connected)):
                return
            await asyncio.sleep(COMPILED_POLL_MS / 1000)

    def _would_be(self, name: str, before: Space | None, bundle: bytes) -> Row:
        program = BundleLoader().load(bundle)
        return {
            "name": name,
            "code_hash": program.code_hash,
            "version": program.schema()["version"],
            "deployments": before.deployments if before is not None else 0,
            "bundle_bytes": len(bundle),
        }

    async def roll_back(self, request: Row) -> Row:
        """AdminService.RollbackSpace. Raises InvalidRequest when there is nothing to go back to."""
        space = self._space(request["space"])
        before = space.behind()
        if before is None:
            raise InvalidRequest(f"space {space.name} has no earlier deployment to go back to")
        program = self._pump.directory.program
        newest, target = program(space.code_hash), program(before.code_hash)
        returns = goes_back(newest, target)
        payload = {"space": space.name, "returns": returns, "expected": space.deployments}
        answer = await self._decisions.decide("rollback", payload)
        await self._learned(answer["version"], before.code_hash)
        dropped = fields_dropped(newest, target) if returns else ()
        return {"space": self.row(self._space(space.name)), "returns": returns, "fields_dropped": list(dropped)}

    async def retry(self, request: Row) -> Row:
        """AdminService.RetryUpgrades."""
        space = self._space(request["space"])
        answer = await self._decisions.decide("retry", {"space": space.name})
        await self._decisions.learned(answer["version"])
        return {"space": self.row(self._space(space.name))}

    async def list(self, request: Row) -> Row:
        """AdminService.ListSpaces."""
        return {"spaces": [self.row(space) for space in self._pump.directory.decisions.spaces]}

    async def get(self, request: Row) -> Row:
        """AdminService.GetSpace."""
        space = self._space(request["space"])
        program = self._pump.directory.program(space.code_hash)
        counts: dict[bytes, int] = {}
        failed: list[Row] = []
        for live in self._led(space.name):
            counts[live.code_hash] = counts.get(live.code_hash, 0) + 1
            if live.upgrade_failed and len(failed) < FAILED_LISTED_MAX:
                failed.append({"document": {"space": live.id.space, "key": live.id.key}, "code_hash": live.code_hash})
        return {
            "space": self.row(space),
            "schema": msgspec.json.encode(program.schema()),
            "settings": {},
            "timeline": [_deployment_row(each) for each in space.walked],
            "documents": [{"code_hash": code, "documents": counts[code]} for code in sorted(counts)],
            "failed_upgrades": failed,
        }

    async def bundle(self, request: Row) -> Row:
        """AdminService.GetBundle."""
        bundle = self._pump.bundle(request["code_hash"])
        if bundle is None:
            raise InvalidRequest(f"this node has no code {request['code_hash'].hex()}")
        return {"bundle": bundle}

    def errors(self, request: Row, limit: int) -> Row:
        """AdminService.ListSpaceErrors."""
        return {"errors": self._errors.rows(request["space"], request["error_id"], limit)}

    def row(self, space: Space) -> Row:
        """A space in the shape of admin.proto."""
        bundle = self._pump.bundle(space.code_hash)
        return {
            "name": space.name,
            "code_hash": space.code_hash,
            "version": self._pump.directory.version_of(space.code_hash),
            "deployed_by": space.deployed_by,
            "deployed_at_ms": space.deployed_ms,
            "deployments": space.deployments,
            "bundle_bytes": len(bundle) if bundle else 0,
        }

    def _space(self, name: str) -> Space:
        return self._pump.directory.space(name)

    def _led(self, space: str) -> Iterable[LiveDocument]:
        for replica in self._pump.replicas.values():
            if replica.serves:
                yield from (live for live in replica.cache.living() if live.id.space == space)


def _led_from(space: Space, code: bytes) -> list[bytes]:
    """The codes from which a document would come straight to `code` if it were deployed to everybody."""
    after = space.deployed(Deployment(code, space.version_max + 1, "", 0, Plan()))
    codes = dict.fromkeys(each.code_hash for each in space.walked)
    return [each for each in codes if after.next_code("", each) == code]


def _deployment_row(deployment: Deployment) -> Row:
    plan = deployment.plan
    return {
        "code_hash": deployment.code_hash,
        "version": deployment.version,
        "deployed_by": deployment.deployed_by,
        "deployed_at_ms": deployment.deployed_ms,
        "plan": {"keys": list(plan.keys), "prefix": plan.prefix, "percent": plan.percent},
        "withdrawn": deployment.withdrawn,
    }


def _plan_of(given: Row | None) -> Plan:
    if given is None:
        return Plan()
    percent = given["percent"]
    return Plan(tuple(given["keys"]), given["prefix"], 100 if percent is None else int(percent))


def _bundle_of(request: Row) -> bytes:
    bundle: bytes = request["bundle"]
    if bundle:
        return bundle
    files = tuple(sorted((file["path"], file["content"]) for file in request["files"]))
    return Bundle(_entry_of(files), files).encode()


def _entry_of(files: tuple[tuple[str, bytes], ...]) -> str:
    """The module that a bundle starts from: its only file, or its package."""
    if not files:
        raise InvalidRequest("a deployment brings a bundle or files")
    first = files[0][0]
    return first.split("/")[0] if "/" in first else first.removesuffix(".py")
