"""The pytest plugin: in runs of pytest of its own, as an author has them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.terminal import environment

PLUGIN = ("-p", "cluster.pytest_plugin", "-p", "no:cacheprovider")
PROJECT = """
[project]
name = "duel"
version = "1"

[tool.moot]
document = "duel.py"

[tool.pytest.ini_options]
pythonpath = ["."]
"""
DUEL = """
from cluster import Command, Document, Refused, anyone, field, on

class TooMuch(Refused):
    pass

class Duel(Document):
    gate = anyone
    total: int = field.public(0)
    drawn: int = field.public(0)

    @on.message
    def add(self, ctx: Command, amount: int) -> int:
        if amount > 9:
            raise TooMuch()
        self.total += amount
        return self.total

    @on.message
    def draw(self, ctx: Command) -> int:
        self.drawn = ctx.random.below(1_000_000)
        return self.drawn

    @on.message
    def fail(self, ctx: Command) -> None:
        nothing = [1][self.total + 5]
"""


@pytest.fixture(name="project")
def made_project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "duel.py").write_text(DUEL)
    (tmp_path / "tests").mkdir()
    return tmp_path


def run_pytest(project: Path, source: str, *options: str) -> tuple[int, str]:
    """Exit code and output of pytest on a project with this test file."""
    (project / "tests" / "test_duel.py").write_text(source)
    command = [sys.executable, "-m", "pytest", *PLUGIN, *options]
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=90, check=False)
    return done.returncode, done.stdout + done.stderr


CLASSES = """
import sys
import duel
from duel import Duel, TooMuch
import pytest
from cluster.ids import DocumentId

def test_the_imported_class_is_the_one_that_runs(simulate):
    game = simulate(Duel, by="ann@acme")
    ann = game.visitor("ann@acme")
    assert ann.add(amount=2) == 2
    instance = game.node.document(DocumentId("simulated", "document")).instance
    assert type(instance.document) is Duel
    with pytest.raises(TooMuch) as refused:
        ann.add(amount=10)
    assert type(refused.value) is TooMuch
    assert sys.modules["duel"] is duel
    assert simulate.load("duel.py") is Duel
    assert simulate.load(".") is Duel

def test_a_path_will_do(simulate):
    game = simulate("duel.py", by="ann@acme")
    assert game.visitor("ben@acme").view() == {"total": 0, "drawn": 0}
    assert simulate.made == [game]
"""


def test_a_test_and_its_document_have_the_same_classes(project: Path) -> None:
    code, told = run_pytest(project, CLASSES)
    assert (code, "2 passed" in told) == (0, True), told


SHOP = """
import shop.rules
from shop import Auction
from shop.rules import Closed
import pytest

def test_modules_of_a_package_are_those_of_the_bundle(simulate):
    game = simulate(Auction)
    with pytest.raises(Closed) as refused:
        game.visitor("ann@acme").bid(cents=0)
    assert type(refused.value) is shop.rules.Closed
    assert simulate.load("shop") is Auction
"""


def test_a_package_is_imported_from_its_bundle(project: Path) -> None:
    shop = project / "shop"
    shop.mkdir()
    (shop / "rules.py").write_text("from cluster import Refused\n\nclass Closed(Refused):\n    pass\n")
    (shop / "__init__.py").write_text(
        "from cluster import Command, Document, anyone, field, on\nfrom shop.rules import Closed\n\n"
        "class Auction(Document):\n    gate = anyone\n    cents: int = field.public(0)\n\n"
        "    @on.message\n    def bid(self, ctx: Command, cents: int) -> None:\n        if cents <= self.cents:\n"
        "            raise Closed()\n        self.cents = cents\n"
    )
    (project / "pyproject.toml").write_text(PROJECT.replace('"duel.py"', '"shop"'))
    code, told = run_pytest(project, SHOP)
    assert (code, "1 passed" in told) == (0, True), told


FAILING = """
from duel import Duel

def test_it_fails(simulate):
    game = simulate(Duel, by="ann@acme")
    ann = game.visitor("ann@acme")
    for number in range(25):
        ann.add(amount=number % 9)
    assert ann.draw() == -1

def test_a_plain_simulation_fails_too():
    game = Duel.simulate(by="ben@acme", seed=4)
    game.visitor("ben@acme").fail()

def test_that_passes(simulate):
    simulate(Duel)
"""


def test_a_failing_test_shows_the_seed_and_the_end_of_the_log(project: Path) -> None:
    code, told = run_pytest(project, FAILING, "--moot-seed", "7")
    assert code == 1
    assert "moot: document" in told
    assert "seed 7" in told
    assert "seed 4" in told
    assert "27 commands" in told
    assert "... 7 earlier" in told
    assert "ann@acme" in told
    assert '{"amount":6}' in told
    assert "self.total + 5" in told, "the author's frames are shown"
    assert told.count("moot: document") == 2, "what passes shows nothing"


SEEDS = """
from pathlib import Path
from duel import Duel

def test_it_draws(simulate):
    game = simulate(Duel)
    Path("drawn.txt").write_text(str(game.visitor("ann@acme").draw()))
"""


def test_a_seed_chooses_everything_random_and_the_same_seed_the_same(project: Path) -> None:
    drawn = []
    for seed in ("1", "1", "2"):
        code, told = run_pytest(project, SEEDS, "--moot-seed", seed, "--moot-replay")
        assert code == 0, told
        drawn.append((project / "drawn.txt").read_text())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_document_that_could_not_be_deployed_can_not_be_imported(project: Path) -> None:
    (project / "duel.py").write_text("import time\n" + DUEL)
    code, told = run_pytest(project, CLASSES)
    assert code == 2
    assert "duel.py:1" in told
    assert "time" in told


COST = """
import sys
import cluster.pytest_plugin

def test_nothing_of_the_runtime_is_loaded():
    loaded = sorted(name for name in sys.modules if name.split(".")[0] in ("cluster", "grpc", "msgspec", "rocksdict"))
    assert loaded == ["cluster", "cluster.pytest_plugin"]
    assert not any(type(finder).__name__ == "BundleFinder" for finder in sys.meta_path)
"""


def test_who_does_not_simulate_pays_for_one_module(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\nversion = '1'\n")
    code, told = run_pytest(tmp_path, COST)
    assert code == 0, told


def test_the_entry_point_and_its_module_have_one_name() -> None:
    """pytest takes a plugin that is named twice for one only if its names are the same."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"cluster.pytest_plugin": "cluster.pytest_plugin"}
