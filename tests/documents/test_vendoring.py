"""Dependencies in a bundle: pinned, checked and metered like the author's own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code, Invocation, Outcome, Settings
from cluster.errors import InvalidBundle
from cluster.ids import DocumentId, Principal

SHOP = """
from cluster import Command, Document, anyone, field, on
from shapes.flat import area
import tallying

class Shop(Document, version=1):
    gate = anyone
    total: int = field.public(0)

    @on.message
    def add(self, ctx: Command, side: int) -> int:
        self.total = tallying.plus(self.total, area(side))
        return self.total
"""
SHAPES = {
    "shapes/__init__.py": "",
    "shapes/flat.py": "from .base import times\n\ndef area(side: int) -> int:\n    return times(side, side)\n",
    "shapes/base.py": (
        "def times(one: int, other: int) -> int:\n    found = 0\n    while other:\n        found += one\n        other -= 1\n"
        "    return found\n"
    ),
    "shapes/solid.py": "import os\nimport random\n",
}
TALLYING = {"tallying.py": "def plus(one: int, other: int) -> int:\n    return one + other\n"}


@pytest.fixture(name="site")
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for distributions, with two installed."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    install(site, "shapes", "1.2", SHAPES)
    install(site, "tallying", "0.3", TALLYING)
    return site


def install(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in [*files, f"{info.name}/METADATA", f"../../bin/{name}"]))
    for path, content in files.items():
        file = site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def package(folder: Path, vendor: str, source: str = SHOP, *, beside: bool = False) -> Path:
    shop = folder / "shop"
    (shop / "static").mkdir(parents=True)
    (shop / "__init__.py").write_text(source)
    (shop / "static" / "page.html").write_text("<p>hello</p>\n")
    (folder if beside else shop).joinpath("pyproject.toml").write_text(f"[tool.moot]\nvendor = {vendor}\n")
    return shop


def add(path: Path, side: int, settings: Settings | None = None) -> Outcome:
    program = BundleLoader(settings).load(bundle.from_path(path).encode())
    instance = program.new(DocumentId("shop", "one"))
    payload = program.check("add", b'{"side":%d}' % side)
    return instance.run(Invocation("add", payload, Principal("alice", "acme"), 1_000, bytes(32), 2))


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("beside", [True, False])
def test_what_is_imported_comes_along_and_is_pinned(tmp_path: Path, beside: bool) -> None:
    shop = package(tmp_path, '["shapes==1.2", "tallying"]', beside=beside)
    outcome = add(shop, 3)
    assert (outcome.code, outcome.answer) == (Code.OK, b"9")
    files = dict(bundle.from_path(shop).files)
    assert {"shapes/__init__.py", "shapes/flat.py", "shapes/base.py", "tallying.py", "shop/static/page.html"} <= set(files)
    assert "shapes/solid.py" not in files, "nobody imports it, so nobody has to vouch for it"
    assert json.loads(files["vendored.json"]) == {"shapes": "1.2", "tallying": "0.3"}


@pytest.mark.usefixtures("site")
def test_a_dependency_is_metered_like_the_authors_code(tmp_path: Path) -> None:
    outcome = add(package(tmp_path, '["shapes", "tallying"]'), 100_000, Settings(steps_max=5_000))
    assert (outcome.code, outcome.answer) == (Code.BUDGET, b'{"limit":"steps"}')


@pytest.mark.usefixtures("site")
def test_a_dependency_is_checked_like_the_authors_code(tmp_path: Path) -> None:
    shop = package(tmp_path, '["shapes", "tallying"]', SHOP.replace("import tallying", "import tallying\nimport shapes.solid"))
    with pytest.raises(InvalidBundle, match=r"shapes/solid\.py:1: "):
        add(shop, 1)


@pytest.mark.usefixtures("site")
def test_without_being_named_it_is_not_available(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="module shapes"):
        add(package(tmp_path, '["tallying"]'), 1)


@pytest.mark.parametrize(
    ("vendor", "told"),
    [
        ('["shapes==1.3"]', r"shapes 1\.2 is installed, and 1\.3 is named"),
        ('["missing"]', "missing is not installed here"),
        ('["shapes>1"]', "is no name like"),
        ('"shapes"', "is a list of names"),
        ('["quick"]', "is not pure Python: it has quick/fast.so"),
        ('["linked"]', "an editable installation can not be vendored"),
        ('["shop"]', r"shop/__init__\.py is in the package and in shop"),
        ("[", "can not be read"),
    ],
)
def test_what_can_not_be_vendored_is_refused(site: Path, tmp_path: Path, vendor: str, told: str) -> None:
    install(site, "quick", "1", {"quick/__init__.py": "", "quick/fast.so": ""})
    install(site, "linked", "1", {"linked.pth": ""})
    install(site, "shop", "1", {"shop/__init__.py": ""})
    with pytest.raises(InvalidBundle, match=told):
        bundle.from_path(package(tmp_path, vendor))


@pytest.mark.usefixtures("site")
def test_the_same_installation_gives_the_same_code(tmp_path: Path) -> None:
    one, other = (package(tmp_path / name, '["shapes", "tallying"]') for name in ("one", "other"))
    assert bundle.from_path(one).encode() == bundle.from_path(other).encode()
