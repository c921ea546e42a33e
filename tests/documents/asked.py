"""Prints what a table of HTTP requests comes to, one JSON line each: run by test_versions.py under several interpreters."""

import hashlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cluster.documents import bundle  # noqa: E402
from cluster.documents.loader import BundleLoader  # noqa: E402
from cluster.documents.runtime import HTTP_CHANNEL, Invocation  # noqa: E402
from cluster.errors import ClusterError  # noqa: E402
from cluster.ids import DocumentId, Principal  # noqa: E402

SOURCE = """
from datetime import datetime
from decimal import Decimal
from html import escape
from cluster import Command, Document, Principal, Record, Request, Response, anyone, field, on, read

class Order(Record):
    what: str
    price: Decimal = Decimal("1.50")
    when: datetime | None = None
    secret: str = field.private("hidden")

class Shop(Document):
    gate = anyone
    said: list[str] = field.public()
    orders: list[Order] = field.public()

    @on.http("/form")
    def form(self, ctx: Command, request: Request) -> str:
        fields = request.form()
        self.said.append(str(fields))
        return escape(str(fields))

    @on.http("/orders")
    def order(self, ctx: Command, request: Request) -> Order:
        order = request.json(Order)
        self.orders.append(order)
        return order

    @on.http("/text/{at}/{name}", method="PUT")
    def text(self, ctx: Command, request: Request, at: int, name: str) -> Response:
        text = request.text()
        self.said.append(f"{at} {name} {text} {sorted(request.query.items())} {sorted(request.headers.items())}")
        return Response(text.upper(), 201, "text/markdown", {"etag": '"x"', "location": "/a"})

    @on.http("/orders", method="DELETE")
    def clear(self, ctx: Command) -> None:
        self.orders.clear()

    @read.http("/")
    def page(self, who: Principal, request: Request) -> Response:
        return Response("".join(f"<p>{escape(one)}" for one in self.said), media_type="text/html; charset=utf-8")

    @read.http("/orders")
    def all(self) -> list[Order]:
        return list(self.orders)

    @read.http("/bug/{word}")
    def bug(self, word: str) -> str:
        return self.said[int(word)]
"""
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
WRITES = [
    *[("POST", "/form", FORM, body) for body in (
        "", "a=1", "a=1&a=2&b", "a+b=%C3%A9%26", "%zz=1", "a=%", "a=%f", "a=%FF", "=x&&=", "<a>='&", "a=%00", "a=é",
    )],
    ("POST", "/form", JSON, "a=1"),
    *[("POST", "/orders", JSON, body) for body in (
        '{"what":"tea"}', '{"what":"tea","price":"2.250"}', '{"what":"tea","when":"2030-01-01T00:00:00Z"}',
        '{"what":"tea"},"x":{}',
        '{"what":"tea","what":"milk"}', '{"what":1}', '{"wat":"tea"}', '{"what":"\\ud800"}', "NaN", "",
        "[" * 50 + "]" * 50, "null",
        '{"what":"tea","price":"x"}', '{"what":"tea","when":"soon"}', '{"what":"tea",}', '{"what":"tea","secret":"mine"}',
    )],
    ("PUT", "/text/41/x y", "", "straße\n"), ("PUT", "/text/-0/ß", "", ""), ("PUT", "/text/x/y", "", ""),
    ("DELETE", "/none", "", ""),
    ("PUT", "/text/99999999999999999999/y", "", ""), ("PUT", "/text/٣/y", "", ""), ("DELETE", "/orders", "", ""),
]  # fmt: skip
READS = [("/", {}), ("/orders", {}), ("/bug/7", {}), ("/bug/x", {}), ("/text/1/a", {}), ("/", {"q": "é", "a": ""})]


def main() -> None:
    program = BundleLoader().load(bundle.from_source(SOURCE).encode())
    instance = program.new(DocumentId("shop", "one"))
    who = Principal("ann", "acme")
    instance.run(Invocation("", b"{}", who, 1_700_000_000_000, bytes(32), 1))
    for index, (method, path, media_type, body) in enumerate(WRITES, 2):
        given = {"method": method, "path": path, "media_type": media_type, "text": body, "query": {"b": "1", "a": "ü"}}
        given["headers"] = {"ce-id": "1", "accept": "*/*"}
        try:
            payload = program.check(HTTP_CHANNEL, json.dumps(given, ensure_ascii=False).encode())
            outcome = instance.run(Invocation(HTTP_CHANNEL, payload, who, 1_700_000_000_000, bytes(32), index))
            came: tuple[str | int, ...] = (
                payload.decode(),
                int(outcome.code),
                outcome.answer.decode(),
                outcome.writes.hex(),
                outcome.steps,
            )
        except ClusterError as error:
            came = (error.reason, str(error.details))
        print(json.dumps([method, path, body, *came, hashlib.sha256(instance.dump()).hexdigest()]))
    for path, query in READS:
        try:
            answer = instance.respond(who, json.dumps({"method": "GET", "path": path, "query": query}).encode()).decode()
        except ClusterError as error:
            answer = f"{error.reason} {error.details}"
        print(json.dumps(["GET", path, answer, [failure.error_id for failure in instance.read_failures()]]))


if __name__ == "__main__":
    main()
