"""For pytest: the fixture `simulate`, and what a document did when a test of it fails.

    def test_a_bid_counts(simulate: Simulate) -> None:
        auction = simulate(Auction, by="seller@acme", title="A vase")
        auction.visitor("ann@acme").bid(cents=500)

pytest finds this module by its entry point. A project whose pyproject.toml names its document under [tool.moot] also gets its
imports from the bundle, so that test and document have the same classes (see simulate/importing.py).

Invariant: where nobody simulates, this module is all that is loaded: the rest is imported when it is first used.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from cluster.documents.declare import Document
    from cluster.documents.runtime import Settings
    from cluster.simulate import Simulation

SHOWN_MAX: Final = 20
"""Commands of each document that a failing test shows: the last ones."""
PAYLOAD_CHARACTERS: Final = 100
OWN_TABLE: Final = b"[tool.moot]"
_BEGAN: Final = pytest.StashKey[int]()
_SEED: Final = pytest.StashKey[int]()
_FINDER: Final = pytest.StashKey[Any]()


class Simulate:
    """The fixture: makes simulations whose seed is the run's. made: those of this test, oldest first."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed = seed
        self.made: list[Simulation] = []
        self._root = root

    def __call__(
        self,
        document: type[Document] | Path | str,
        *,
        by: str | None = "creator@test",
        key: str = "document",
        now: datetime | None = None,
        seed: int | None = None,
        settings: Settings | None = None,
        history: Path | str | None = None,
        **parameters: Any,
    ) -> Simulation:
        """A document in a cluster of one: of a class, or of the file, package or project at a path (relative to pytest's root).

        The rest is as for `Document.simulate`, except that the seed is that of --moot-seed if none is given.
        """
        cls: Any = self.load(document) if isinstance(document, (Path, str)) else document
        given: dict[str, Any] = {} if now is None else {"now": now}
        made: Simulation = import_module("cluster.simulate").simulate(
            cls,
            by=by,
            key=key,
            seed=self.seed if seed is None else seed,
            settings=settings,
            history=history,
            parameters=parameters,
            **given,
        )
        self.made.append(made)
        return made

    def load(self, path: Path | str) -> type[Document]:
        """The document class at a path: the class that runs, and its module has the refusals that are raised. See `load` of
        cluster.simulate.importing.
        """
        found: type[Document] = import_module("cluster.simulate.importing").load(self._root / path)
        return found


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Iterator[Simulate]:
    """Makes simulations of documents; they end with the test."""
    made = Simulate(request.config.stash[_SEED], request.config.rootpath)
    yield made
    if request.config.getoption("--moot-replay"):
        for simulation in made.made:
            verdict = simulation.replay()
            assert verdict.equal, f"{verdict.document} does not replay as it ran: {verdict.differences or verdict.chain}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fixture."""
    group = parser.getgroup("moot", "documents of Moot")
    group.addoption(
        "--moot-seed", type=int, default=0, metavar="N", help="seed of everything random in simulations (default: 0)"
    )
    group.addoption("--moot-replay", action="store_true", help="run every simulation again at its end and compare")


def pytest_configure(config: pytest.Config) -> None:
    """Where the project is a document's, have its imports answered by the bundle."""
    config.stash[_SEED] = config.getoption("--moot-seed")
    file = config.rootpath / "pyproject.toml"
    if file.is_file() and OWN_TABLE in file.read_bytes():
        finder = import_module("cluster.simulate.importing").BundleFinder(config.rootpath)
        config.stash[_FINDER] = finder
        sys.meta_path.insert(0, finder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave imports as they were."""
    finder = config.stash.get(_FINDER, None)
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember which simulations are older than the test."""
    item.stash[_BEGAN] = _number_now()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what the documents did that it simulated, however it made them."""
    report = yield
    if report.failed and call.when in ("call", "teardown"):
        began = item.stash.get(_BEGAN, 0)
        for simulation in _simulations():
            if simulation.number >= began:
                report.sections.append((f"moot: {simulation.key}", told(simulation)))
    return report


def told(simulation: Simulation) -> str:
    """The seed, the end of the log, and the author's frames of what failed."""
    rows = simulation.history()["commands"]
    lines = [f"seed {simulation.seed}, {simulation.now.isoformat()}, {len(rows)} commands"]
    if len(rows) > SHOWN_MAX:
        lines.append(f"  ... {len(rows) - SHOWN_MAX} earlier")
    for row in rows[-SHOWN_MAX:]:
        place = f"{row['position']['epoch']}.{row['position']['index']}"
        what = row["channel"] if row["kind"] == "send" else row["kind"]
        payload = row["payload"]
        if len(payload) > PAYLOAD_CHARACTERS:
            payload = payload[: PAYLOAD_CHARACTERS - 1] + "…"
        lines.append(f"  {place:<7} {row['sender']:<20} {what:<12} {row['code']:<8} {payload}")
    return "\n".join([*lines, *simulation.errors])


def _simulations() -> list[Simulation]:
    module = sys.modules.get("cluster.simulate.document")
    living: list[Simulation] = [] if module is None else sorted(module.LIVING, key=lambda simulation: simulation.number)
    return living


def _number_now() -> int:
    simulations = _simulations()
    return simulations[-1].number + 1 if simulations else 0
