"""Typed clients that are generated from a document type: they pass the languages' own checkers, and they work."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from chaos.live.processes import LiveCluster
from cluster.cli.local_commands import EXAMPLES, example
from cluster.client import connect
from cluster.documents.bundle import from_path, from_source
from cluster.documents.loader import BundleLoader
from cluster.stubs import python_stub, typescript_stub
from tests.cli.terminal import called, moot

ROOT = Path(__file__).parents[2]
AWKWARD = Path(__file__).parent / "awkward.py"
NODE_MISSING = "Node.js and npm are not installed; this test is about a checker that runs on them"
SOURCES = {**{name: example(name) for name in (*EXAMPLES, "cursors", "dice", "album")}, "awkward": AWKWARD}


def schema_of(path: Path) -> dict[str, Any]:
    return BundleLoader().load(from_path(path).encode()).schema()


def generated(folder: Path) -> list[Path]:
    """A Python client of every example and of the awkward document."""
    for name, path in SOURCES.items():
        (folder / f"{name}_client.py").write_text(python_stub(schema_of(path), name))
    return sorted(folder.glob("*_client.py"))


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_python_clients_pass_strict_type_checking_which_finds_messages_that_a_document_would_refuse(tmp_path: Path) -> None:
    """Of all examples, and of names that no generator likes."""
    files = generated(tmp_path)
    use = tmp_path / "use.py"
    use.write_text(
        "from cards_client import Cards, CardsView\n\n\nasync def play(cards: Cards) -> int:\n"
        "    await cards.play(rank='8', suit='hearts', call='spades')\n    view: CardsView = await cards.read()\n"
        "    await cards.play(rank='8', suit='harts')\n    await cards.play(rank='8')\n    await cards.plai()\n"
        "    return view['turn']\n"
        "\n\nfrom album_client import Album\nfrom cluster.client import Blob, BlobReference\n\n\n"
        "async def hang(album: Album) -> bytes:\n    await album.hang(picture=Blob(b'tea', 'image/png'))\n"
        "    seen: BlobReference = next(iter((await album.read())['photos'].values()))['picture']\n"
        "    await album.hang(picture=seen)\n    return (await album.blob(seen)).data\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [*command, *map(str, files), str(use)],
        cwd=tmp_path,
        env={"MYPYPATH": f"{ROOT}:{tmp_path}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    found = [tuple(line.split(":")[:2]) for line in done.stdout.splitlines() if ": error:" in line]
    assert found == [("use.py", "7"), ("use.py", "8"), ("use.py", "9"), ("use.py", "20")], done.stdout + done.stderr


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason=NODE_MISSING)
def test_typescript_clients_of_all_examples_and_of_the_worst_names_pass_strict_type_checking(tmp_path: Path) -> None:
    foreign = ROOT / "tests" / "foreign"
    compiler = foreign / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.exists():
        install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(install, cwd=foreign, check=True, capture_output=True, timeout=110)
    for name, path in SOURCES.items():
        (tmp_path / f"{name}.ts").write_text(typescript_stub(schema_of(path), name))
    (tmp_path / "use.ts").write_text(
        'import { bindCards, type CardsView, type Transport } from "./cards";\n'
        "export async function play(transport: Transport): Promise<CardsView> {\n"
        "  const cards = bindCards(transport);\n"
        '  await cards.play({ rank: "8", suit: "hearts" });\n'
        '  // @ts-expect-error there is no such suit\n  await cards.play({ rank: "8", suit: "harts" });\n'
        "  return cards.read();\n}\n"
    )
    node = str(shutil.which("node"))
    options = ["--strict", "--noEmit", "--target", "es2022", "--moduleResolution", "bundler", "--module", "esnext"]
    done = subprocess.run(
        [node, str(compiler), *options, *map(str, sorted(tmp_path.glob("*.ts")))],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_equal_code_gives_equal_files() -> None:
    for path in SOURCES.values():
        assert python_stub(schema_of(path), "x") == python_stub(schema_of(path), "x")
        assert typescript_stub(schema_of(path), "x") == typescript_stub(schema_of(path), "x")


def test_a_schema_tells_what_refusals_carry_and_what_parameters_are_when_they_are_not_given() -> None:
    schema = schema_of(AWKWARD)
    carried = schema["refusals"]["Exact"]["arguments"]
    assert [one["title"] for one in carried["prefixItems"]] == ["minimum", "reason"]
    assert (carried["minItems"], carried["items"]) == (1, False)
    assert schema["construct"]["parameters"]["properties"]["size"]["default"] == 3
    assert schema["construct"]["description"].startswith("*/")
    assert schema["views"]["newest"]["arguments"]["properties"]["at_most"]
    assert schema["deletable"] is False


def test_a_schema_tells_which_fields_of_a_record_a_viewer_may_not_see() -> None:
    source = (
        "from cluster import Document, Record, anyone, field\n"
        "class Card(Record):\n    rank: int\n    seed: int = field.private(0)\n"
        "class Table_(Document, version=1):\n    gate = anyone\n    cards: list[Card] = field.public([])\n"
    )
    schema = BundleLoader().load(from_source(source).encode()).schema()
    assert schema["$defs"]["Card"]["properties"]["seed"]["visible"] == "private"
    assert "visible" not in schema["$defs"]["Card"]["properties"]["rank"]


async def test_a_generated_client_takes_and_gives_the_authors_types_over_a_real_cluster(tmp_path: Path) -> None:
    """Moments, decimals, integers beyond 2**53, refusals with fields and names that are taken: none needs care of its user."""
    path = tmp_path / "awkward_client.py"
    path.write_text(python_stub(schema_of(AWKWARD), "awkward"))
    client_module = loaded(path)
    when = datetime(2030, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    row = {
        "when": when,
        "span": timedelta(days=1, seconds=2),
        "price": Decimal("1.50"),
        "id": UUID(int=7),
        "raw": b"\x00\xff",
        "inner": None,
    }
    async with LiveCluster(tmp_path / "cluster", nodes=1, shards=1) as live:
        await live.deploy("awkward", AWKWARD)
        async with connect(*live.addresses, principal="ann@acme", refusals=client_module.REFUSALS) as client:
            handle = client_module.Handle2(client.document("awkward", "one"))
            await handle.create(note=None)
            assert await handle.list2(when=when, colours=["red"]) == when
            assert await handle.watch_(rows=[row], by=timedelta(seconds=1)) == [row]
            assert await handle.count(number=2**60, colour="blue") == 9_007_199_254_740_993
            with pytest.raises(client_module.Exact) as caught:
                await handle.watch_(rows=[])
            assert (caught.value.minimum, caught.value.reason) == (1, "none")
            async with handle.watch() as watch:
                view = await anext(watch)
            assert view == await handle.read()
            assert view["counts"] == {2**60: {"blue": 9_007_199_254_740_993}}
            assert list(view["rows"].values()) == [row]
            assert view["newest"] == [row]
            async with handle.watch() as watch:
                await anext(watch)
                assert handle.events(watch) == []
                await handle.wonder()
                await anext(watch)
                (event,) = handle.events(watch)
            assert (type(event), event.name) == (client_module.PositionEvent, "Position")
            assert (event.value["value"], type(event.value["when"]), event.position.epoch) == (2**60, datetime, 1)
            async for ask in client.asks("awkward"):
                assert await handle.answer_answer(ask.id, ask2=timedelta(seconds=90)) == Decimal(90)
                break
        written = moot("space", "schema", "awkward", "--format", "python", "--address", live.addresses[0], cwd=tmp_path)
        assert written.out == path.read_text()


def test_the_command_reads_a_file_without_a_cluster(tmp_path: Path) -> None:
    printed = called("space", "schema", str(example("counter")), "--json", cwd=tmp_path)
    assert printed.json["schema"] == schema_of(example("counter"))
    written = called(
        "space", "schema", str(example("counter")), "--format", "typescript", "--output", "counter.ts", cwd=tmp_path
    )
    assert written.code == 0
    assert (tmp_path / "counter.ts").read_text() == typescript_stub(schema_of(example("counter")), "counter")
    refused = called("space", "schema", "nothing.py", cwd=tmp_path)
    assert refused.code in (2, 4)
    assert called("space", "schema", "counter", cwd=tmp_path).code == 3


def test_events_and_answers_are_typed_in_both_languages() -> None:
    dice, assistant = schema_of(example("dice")), schema_of(example("assistant"))
    python = python_stub(dice, "dice")
    assert "def events(self, watch: TypedWatch[DiceView]) -> list[DiceEvent]:" in python
    assert 'event_types = {"Rolled": (RolledEvent, Rolled)}' in python
    assert "export interface DiceEvents {\n  Rolled: Rolled;\n}" in typescript_stub(dice, "dice")
    assert "async def answer_answered(self, ask: str, *, text: str) -> None:" in python_stub(assistant, "assistant")
    answers = "export interface ConversationAnswers {\n  answered: { value: string; result: null };\n}"
    assert answers in typescript_stub(assistant, "assistant")
    counter = python_stub(schema_of(example("counter")), "counter")
    assert "events" not in counter
    assert "answer_types" not in counter


def test_what_connections_show_each_other_is_typed_by_connection() -> None:
    schema = schema_of(example("cursors"))
    assert "cursors: NotRequired[dict[str, Cursor]]" in python_stub(schema, "cursors")
    assert "cursors?: Record<string, Cursor>;" in typescript_stub(schema, "cursors")
