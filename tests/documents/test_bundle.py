"""Bundles: canonical bytes, bounds, and how their modules find each other."""

from __future__ import annotations

import gc
import hashlib
import sys
from pathlib import Path

import pytest

from cluster.documents import bundle
from cluster.documents.loader import BundleLoader
from cluster.documents.runtime import Code, Invocation, Settings
from cluster.errors import InvalidBundle, TooLarge
from cluster.ids import DocumentId, Principal

DOCUMENT = "from cluster import Document, anyone\nclass Stage(Document):\n    gate = anyone\n"


def package(path: Path) -> Path:
    """A package with helper modules, assets and things that do not belong to a bundle."""
    files = {
        "shop/__init__.py": "from cluster import Command, Document, anyone, field, on\n"
        "from shop.prices import PRICES, price\nfrom . import goods\nfrom .deep.inner import doubled\n\n"
        "class Shop(Document):\n    gate = anyone\n    sold: int = field.public(0)\n\n"
        "    @on.message\n    def buy(self, ctx: Command, name: str) -> int:\n"
        "        self.sold += 1\n        return doubled(price(goods.known(name)))\n",
        "shop/prices.py": "PRICES = (('tea', 3), ('cake', 5))\n\ndef price(name: str) -> int:\n    return dict(PRICES)[name]\n",
        "shop/goods.py": "def known(name: str) -> str:\n    return name.lower()\n",
        "shop/deep/__init__.py": "",
        "shop/deep/inner.py": "from ..prices import PRICES\n\ndef doubled(n: int) -> int:\n    return n * len(PRICES)\n",
        "shop/static/index.html": "<p>",
        "shop/.hidden": "x",
        "shop/__pycache__/x.pyc": "x",
        "shop/tests/test_shop.py": "x = (",
    }
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return path / "shop"


def test_equal_content_has_equal_bytes_wherever_it_lies(tmp_path: Path) -> None:
    one, two = bundle.from_path(package(tmp_path / "a")), bundle.from_path(package(tmp_path / "b"))
    assert one.encode() == two.encode()
    assert bundle.decode(one.encode()) == one
    assert bundle.code_hash(one.encode()) == hashlib.blake2b(one.encode(), digest_size=32).digest()
    assert [path for path, _ in one.files] == [
        "shop/__init__.py",
        "shop/deep/__init__.py",
        "shop/deep/inner.py",
        "shop/goods.py",
        "shop/prices.py",
        "shop/static/index.html",
    ]


def test_modules_of_a_bundle_import_each_other_and_nothing_else(tmp_path: Path) -> None:
    program = BundleLoader().load(bundle.from_path(package(tmp_path)).encode())
    instance = program.new(DocumentId("shop", "one"))
    instance.run(Invocation("", b"{}", Principal("a", "x"), 0, bytes(32), 1))
    outcome = instance.run(Invocation("buy", b'{"name":"TEA"}', Principal("a", "x"), 0, bytes(32), 2))
    assert (outcome.code, outcome.answer) == (Code.OK, b"6"), outcome.error
    names = {name.removeprefix(f"{program.namespace}.") for name in sys.modules if name.startswith(program.namespace)}
    assert names >= {"shop", "shop.prices", "shop.goods", "shop.deep", "shop.deep.inner"}
    assert "shop" not in sys.modules


def test_the_same_bundle_is_the_same_classes_and_other_settings_are_another_program() -> None:
    data = bundle.from_source(DOCUMENT).encode()
    one, two = BundleLoader().load(data), BundleLoader(Settings(steps_max=5)).load(data)
    assert one.declaration.cls is two.declaration.cls
    assert (one.code_hash, one.settings.steps_max, two.settings.steps_max) == (bundle.code_hash(data), 1_000_000, 5)


def test_a_program_that_nobody_uses_is_forgotten() -> None:
    program = BundleLoader().load(bundle.from_source(DOCUMENT + "# forgotten\n").encode())
    namespace = program.namespace
    assert namespace in sys.modules
    del program
    gc.collect()
    assert namespace not in sys.modules


def test_versions_of_one_file_live_side_by_side() -> None:
    loader = BundleLoader()
    one = loader.load(bundle.from_source(DOCUMENT).encode())
    two = loader.load(bundle.from_source(DOCUMENT.replace("Stage(Document)", "Stage(Document, version=2)")).encode())
    assert (one.declaration.version, two.declaration.version) == (1, 2)
    assert one.declaration.cls is not two.declaration.cls


@pytest.mark.parametrize(
    "files",
    [
        (("b.py", b""), ("a.py", b"")),
        (("a.py", b""), ("a.py", b"")),
        (("/a.py", b""),),
        (("../a.py", b""),),
        (("a//b.py", b""),),
        (("a\\b.py", b""),),
        (("a-b.py", b""),),
        (("1.py", b""),),
    ],
)
def test_paths_are_plain_relative_unique_and_sorted(files: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises(InvalidBundle):
        bundle.Bundle("a", files).encode()


def test_bundles_are_bounded() -> None:
    with pytest.raises(TooLarge):
        bundle.Bundle("a", (("a.py", b"x" * (bundle.FILE_BYTES_MAX + 1)),)).encode()
    with pytest.raises(TooLarge):
        bundle.Bundle("a", tuple((f"f{number:05}.py", b"") for number in range(bundle.FILES_MAX + 1))).encode()
    with pytest.raises(TooLarge):
        bundle.Bundle("a", ()).encode()
    with pytest.raises(TooLarge):
        bundle.decode(b"x" * (bundle.BUNDLE_BYTES_MAX + 1))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x93\x01\xa1a\x90x", b"\x93\x02\xa1a\x91\x92\xa4a.py\xc4\x00", b"\xff" * 50])
def test_bytes_that_are_no_bundle_are_refused(data: bytes) -> None:
    with pytest.raises((InvalidBundle, TooLarge)):
        BundleLoader().load(data)


def test_another_spelling_of_the_same_bundle_is_refused() -> None:
    """Two hashes for one content would make replicas disagree about which code runs."""
    data = bundle.from_source(DOCUMENT).encode()
    spelled = data.replace(b"\xa8document", b"\xd9\x08document", 1)
    assert spelled != data
    with pytest.raises(InvalidBundle, match="canonical"):
        bundle.decode(spelled)


def test_a_directory_without_init_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle):
        bundle.from_path(tmp_path)


def test_the_schema_says_what_clients_may_send_and_see() -> None:
    source = (
        "from cluster import Command, Document, Principal, Record, Refused, anyone, field, on, read\n"
        "class Row(Record):\n    n: int\nclass Closed(Refused):\n    '''Too late.'''\n"
        "class Stage(Document, version=3):\n    '''A stage.'''\n    gate = anyone\n    rows: list[Row] = field.public([])\n"
        "    kept: int = field.private(0)\n    @on.message\n    def go(self, ctx: Command, row: Row, n: str = '') -> bool:\n"
        "        return True\n    @read.view\n    def mine(self, who: Principal) -> str:\n        return ''\n"
    )
    schema = BundleLoader().load(bundle.from_source(source).encode()).schema()
    assert (schema["document"], schema["version"], schema["description"]) == ("Stage", 3, "A stage.")
    assert schema["refusals"] == {"Closed": {"description": "Too late.", "arguments": {"type": "array"}}}
    assert list(schema["channels"]["go"]["parameters"]["properties"]) == ["row", "n"]
    assert schema["channels"]["go"]["parameters"]["required"] == ["row"]
    assert list(schema["fields"]) == ["rows"]
    assert schema["views"]["mine"]["perViewer"] is True
    assert "Row" in schema["$defs"]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("secret: str = field.visible(helper, '')", "policy"),
        ("secret: str = field.visible(by_row, '')", "policy"),
        ("secret: list[int] = field.public(window=latest(3))", "annotation"),
        ("secret: str = field.public('', key='x')", "annotation"),
    ],
)
def test_a_field_of_a_record_that_could_not_be_shown_as_it_says_is_refused(field: str, code: str) -> None:
    """A promise that could not be kept may not be deployed."""
    source = (
        "from cluster import Document, Principal, Record, anyone, field, latest, read\n"
        "def helper(self, who):\n    return True\n"
        "class Row(Record):\n    @read.policy\n    def by_row(self, row: int, who: Principal) -> bool:\n        return True\n"
        f"    {field}\n"
        "class Stage(Document):\n    gate = anyone\n    rows: list[Row] = field.public([])\n"
    )
    with pytest.raises(InvalidBundle, match=code):
        BundleLoader().load(bundle.from_source(source).encode())
