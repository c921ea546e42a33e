"""Cost follows the change: what `moot bench views` finds in a document a thousand times larger."""

from __future__ import annotations

from chaos.bench.views import bench_views


def test_a_change_costs_the_same_in_a_document_a_thousand_times_as_large() -> None:
    """A pass over the document would cost hundreds of times more; the bound leaves room for a busy machine."""
    told: list[str] = []
    found = bench_views(told.append, commands=40)
    cases = {case["case"]: case for case in found["cases"]}
    assert len(told) == len(cases) == 5
    for name, case in cases.items():
        if name != "viewers":
            assert case["large"]["size"] == 1_000 * case["small"]["size"]
            assert max(case["ratio"].values()) < 12, case
            assert case["large"]["delta_bytes"] < 2 * case["small"]["delta_bytes"]
    assert cases["viewers"]["large"]["us_per_viewer"] < cases["viewers"]["small"]["us_per_viewer"]
