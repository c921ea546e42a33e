"""The past of a document that is written to over HTTP: replay, causes, audits, restarts and other code."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from cluster.documents.declare import Document
from cluster.errors import InvalidBundle, UnknownRoute
from cluster.ids import Principal
from cluster.replay.audit import audit
from cluster.replay.timeline import causes
from cluster.simulate import Simulation
from cluster.simulate.importing import load

FIRST = """
    from cluster import Command, Document, Principal, Record, Request, anyone, field, on, read

    class Secret(Record):
        words: str
        rank: int = 0

    class Box(Document, version=1):
        gate = anyone
        owner: Principal = field.public()
        secrets: list[Secret] = field.private([])
        sizes: list[int] = field.public([])

        @on.construct
        def open(self, ctx: Command) -> None:
            self.owner = ctx.sender

        @on.http("/secrets")
        def add(self, ctx: Command, request: Request) -> int:
            secret = request.json(Secret) if request.media_type == "application/json" else Secret(request.form()["words"])
            self.secrets.append(secret)
            self.sizes.append(len(secret.words))
            return len(self.secrets)

        @read.http("/secrets/{at}")
        def one(self, who: Principal, at: int) -> Secret | None:
            return self.secrets[at] if who == self.owner else None
"""
SECOND = FIRST.replace("version=1", "version=2").replace("return len(self.secrets)", "return 100 + len(self.secrets)")
GONE = FIRST.replace("version=1", "version=3").replace('@on.http("/secrets")', '@on.http("/elsewhere")')
ANN, BEN = "ann@acme", "ben@acme"


def box(source: str, folder: Path) -> type[Document]:
    file = folder / "box.py"
    file.write_text(textwrap.dedent(source))
    sys.modules.pop("box", None)
    return load(file)


@pytest.fixture(name="ann_box")
def box_of_ann(tmp_path: Path) -> Simulation:
    made = box(FIRST, tmp_path).simulate(by=ANN)
    made.visitor(ANN).http.post("/secrets", json={"words": "open sesame", "rank": 3})
    made.visitor(BEN).http.post("/secrets", form={"words": "abracadabra"})
    return made


def test_requests_are_in_the_history_and_run_again_from_it(ann_box: Simulation) -> None:
    assert [row["channel"] for row in ann_box.history()["commands"]] == ["", "-http", "-http"]
    assert ann_box.replay().equal
    ann_box.restart()
    assert ann_box.visitor(ANN).http.get("/secrets/1").json == {"words": "abracadabra", "rank": 0}
    assert ann_box.visitor(BEN).http.get("/secrets/1").json is None


def test_what_a_request_changed_is_told_by_its_cause(ann_box: Simulation) -> None:
    (cause,) = [cause for cause in causes(ann_box.history(), "/sizes") if cause.after == [11, 11]]
    assert (cause.row["sender"], cause.row["channel"]) == (BEN, "-http")


def test_an_audit_changes_what_a_request_brings_and_names_the_pages_that_see_everything(ann_box: Simulation) -> None:
    for index, was, became in ((2, "open sesame", "bcra frfnzr"), (3, "words=abracadabra", "words=noenpnqnoen")):
        found = audit(ann_box.history(), Principal("eve", "acme"), index, None)
        assert was in found.was
        assert became in found.became
        assert '"path":"/secrets"' in found.became
        assert found.hidden, "as long as it is as long"
        assert found.views == ["GET /secrets/{at}"]
    longer = ann_box.history()["commands"][1]["payload"].replace("open sesame", "open")
    assert not audit(ann_box.history(), Principal("eve", "acme"), 2, longer).hidden


def test_other_code_takes_requests_at_once_and_what_it_does_not_take_is_unknown(ann_box: Simulation, tmp_path: Path) -> None:
    ann = ann_box.visitor(ANN)
    ann_box.deploy(box(SECOND, tmp_path))
    assert ann.http.post("/secrets", json={"words": "x"}).json == 103
    with pytest.raises(InvalidBundle, match="nothing takes POST /secrets any more"):
        ann_box.deploy(box(GONE, tmp_path))
    ann_box.deploy(box(GONE, tmp_path), force=True)
    with pytest.raises(UnknownRoute):
        ann.http.post("/secrets", json={"words": "x"})
    assert ann.http.post("/elsewhere", json={"words": "x"}).json == 4
    assert ann_box.replay().equal
