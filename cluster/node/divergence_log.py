"""Reports on documents whose replicas differ, for the log and for operators.

Invariant: a log line names a field as its class declares it, never what is below it: keys of a private table are values too.
"""

from __future__ import annotations

import logging
from typing import Any

from cluster.ids import NodeId
from cluster.pump.reports import Reports
from cluster.shard.divergence import Divergence, Remedy

_log = logging.getLogger(__name__)


def log_divergences(reports: Reports) -> None:
    """Log what was found as an error, once, and how it ended."""
    news, reports.news = reports.news, []
    for report in news:
        _log.log(logging.WARNING if report.remedy is Remedy.HEALED else logging.ERROR, "%s", report.told())


def divergence_row(report: Divergence, node: NodeId) -> dict[str, Any]:
    """One report in the shape of admin.proto."""
    return {
        "document": {"space": report.space, "key": report.key},
        "shard_id": report.shard,
        "position": {"epoch": report.epoch, "index": report.index},
        "raft_index": report.log_index,
        "offset": report.offset,
        "channel": report.channel,
        "differs": list(report.differs),
        "field": report.field,
        "sides": [{"chain": side.chain, "nodes": list(side.nodes)} for side in report.sides],
        "right": list(report.right),
        "leader": report.leader,
        "misled": report.misled,
        "remedy": f"REMEDY_{report.remedy.name}",
        "found_at_ms": report.found_ms,
        "node_id": node,
    }
