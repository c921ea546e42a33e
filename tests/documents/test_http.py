"""HTTP handlers of a class: what is refused when they are declared, which one takes a request, and what they may answer."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents import bundle
from cluster.documents.bundle import Bundle
from cluster.documents.deploying import check_successor
from cluster.documents.loader import BundleLoader
from cluster.documents.payload import parse
from cluster.documents.program import DocumentProgram
from cluster.documents.requests import (
    REQUEST_HEADERS,
    BadRequest,
    Request,
    Response,
    body_of,
    canonical,
    checked,
    decoded,
    encoded,
    fields_of,
)
from cluster.documents.runtime import HTTP_CHANNEL, Code, Invocation, Outcome, Settings
from cluster.documents.static import static_files
from cluster.errors import BudgetExceeded, HandlerFailed, HandlerRefused, InvalidBundle, InvalidPayload, TooLarge, UnknownRoute
from cluster.ids import DocumentId, Principal

HEAD = """
from cluster import (
    BadRequest, Command, Document, Principal, Record, Refused, Request, Response, anyone, field, on, read
)

class Card(Record):
    @read.policy
    def is_owner(self, who: Principal) -> bool:
        return who == self.owner

    owner: Principal
    rank: int = field.visible(is_owner, 0)

class No(Refused):
    \"\"\"No.\"\"\"

"""
ANN, BOB = Principal("ann", "acme"), Principal("bob", "acme")
GATE = "gate = anyone\n"


def program(body: str, version: int = 1, settings: Settings | None = None) -> DocumentProgram:
    source = f"{HEAD}class Site(Document, version={version}):\n{textwrap.indent(GATE + textwrap.dedent(body), '    ')}"
    return BundleLoader(settings).load(bundle.from_source(source, name="site").encode())


class Site:
    """One document with HTTP handlers."""

    def __init__(self, body: str, settings: Settings | None = None) -> None:
        self.program = program(body, settings=settings)
        self.instance = self.program.new(DocumentId("site", "one"))
        self.index = 0
        assert self._run("", b"{}", ANN).code is Code.OK

    def _run(self, channel: str, payload: bytes, who: Principal) -> Outcome:
        self.index += 1
        return self.instance.run(Invocation(channel, payload, who, 1_700_000_000_000, bytes(32), self.index))

    def write(self, request: Request, who: Principal = ANN) -> Outcome:
        return self._run(HTTP_CHANNEL, self.program.check(HTTP_CHANNEL, encoded(request)), who)

    def read(self, path: str, who: Principal = ANN, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.instance.respond(who, encoded(Request("GET", path, **more))))
        return answer


def code_of(body: str) -> set[str]:
    with pytest.raises(InvalidBundle) as refused:
        program(body)
    return {line.split(": ")[1] for line in refused.value.message.splitlines()}


READ = "    return ''"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "feed",
        "/feed/",
        "//",
        "/a b",
        "/{}",
        "/{9}",
        "/{a}x",
        "/a/../b",
        "/.",
        "/é",
        "/a?b",
        "/static",
        "/static/x",
        "/a" * 17,
    ],
)
def test_a_path_that_no_request_or_a_file_could_have_is_refused(path: str) -> None:
    assert code_of(f"@read.http({path!r})\ndef one(self) -> str:\n{READ}") == {"http-route"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (f"@read.http\ndef one(self) -> str:\n{READ}", "http-route"),
        (f"@read.http(7)\ndef one(self) -> str:\n{READ}", "http-route"),
        ("@on.http('/', method='GET')\ndef one(self, ctx: Command) -> None: pass", "http-route"),
        ("@on.http('/', method='post')\ndef one(self, ctx: Command) -> None: pass", "http-route"),
        ("@on.http('/')\ndef one(self, request: Request) -> None: pass", "signature"),
        ("@on.http('/')\ndef one(self) -> None: pass", "signature"),
        ("@on.http('/')\ndef one(self, ctx: Command, who: Principal) -> None: pass", "signature"),
        (f"@read.http('/')\ndef one(self, ctx: Command) -> str:\n{READ}", "signature"),
        (f"@read.http('/{{n}}')\ndef one(self) -> str:\n{READ}", "http-route"),
        (f"@read.http('/{{n}}/{{n}}')\ndef one(self, n: int) -> str:\n{READ}", "http-route"),
        (f"@read.http('/{{n}}')\ndef one(self, n: float) -> str:\n{READ}", "signature"),
        (f"@read.http('/')\ndef one(self, n: int) -> str:\n{READ}", "signature"),
        (f"@read.http('/')\ndef one(self, *, request: str) -> str:\n{READ}", "signature"),
        (f"@read.http('/')\ndef one(self):\n{READ}", "annotation"),
        (f"@read.http('/')\ndef one(self) -> object:\n{READ}", "annotation"),
        (f"@read.http('/a')\ndef one(self) -> str:\n{READ}\n@read.http('/a')\ndef two(self) -> str:\n{READ}", "http-route"),
        (
            f"@read.http('/{{a}}')\ndef one(self, a: str) -> str:\n{READ}\n"
            f"@read.http('/{{b}}')\ndef two(self, b: int) -> str:\n{READ}",
            "http-route",
        ),
        ("page: Request", "annotation"),
        ("page: Response", "annotation"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(body: str, code: str) -> None:
    assert code_of(body) == {code}


def test_a_class_has_a_bounded_number_of_handlers() -> None:
    handler = "@read.http('/{0}')\ndef h{0}(self) -> str:\n    return ''\n"
    program("".join(handler.format(number) for number in range(256)))
    assert code_of("".join(handler.format(number) for number in range(257))) == {"http-route"}


SHAPES = """
@read.http("/")
def root(self) -> str: return "root"
@read.http("/a/{x}")
def ax(self, x: str) -> str: return f"ax {x}"
@read.http("/{x}/b")
def xb(self, x: str) -> str: return f"xb {x}"
@read.http("/a/b")
def ab(self) -> str: return "ab"
@read.http("/n/{n}")
def n(self, n: int) -> str: return f"n {n + 1}"
"""


@pytest.mark.parametrize(
    ("path", "text"),
    [("/", "root"), ("/a/b", "ab"), ("/a/c", "ax c"), ("/c/b", "xb c"), ("/n/41", "n 42"), ("/n/-2", "n -1"), ("/n/b", "xb n"),
     ("/a/{x}", "ax {x}")],
)  # fmt: skip
def test_text_in_a_path_is_preferred_to_names_from_the_left(path: str, text: str) -> None:
    assert Site(SHAPES).read(path)["text"] == text


@pytest.mark.parametrize("path", ["/a", "/a/", "/a//b", "/a/b/", "/n/1.0", "/n/+1", "/n/1_0", "/n/" + "9" * 19, "/n/٣"])
def test_a_path_that_fits_nothing_is_unknown(path: str) -> None:
    with pytest.raises(UnknownRoute):
        Site(SHAPES).read(path)


def test_what_a_handler_returns_is_answered_as_its_type_says() -> None:
    site = Site(
        """
        n: int = 0
        @read.http("/text")
        def text(self) -> str: return "é"
        @read.http("/json")
        def json(self) -> dict[str, list[int]]: return {"a": [1]}
        @read.http("/nothing")
        def nothing(self) -> None: pass
        @read.http("/response")
        def response(self) -> Response: return Response(b"\\xff", 206, headers={"etag": '"x"'})
        @read.http("/wrong")
        def wrong(self) -> str: return 5
        @read.http("/other")
        def other(self) -> Response: return "text"
        """
    )
    assert site.read("/text") == {"status": 200, "media_type": "text/plain; charset=utf-8", "text": "é"}
    assert site.read("/json") == {"status": 200, "media_type": "application/json", "text": '{"a":[1]}'}
    assert site.read("/nothing") == {"status": 204}
    answer = site.read("/response")
    assert (answer["status"], answer["media_type"], answer["headers"]) == (206, "application/octet-stream", {"etag": '"x"'})
    assert body_of(answer) == b"\xff"
    for path in ("/wrong", "/other"):
        with pytest.raises(HandlerFailed):
            site.read(path)


def test_what_a_record_hides_is_hidden_in_answers_too() -> None:
    site = Site(
        """
        cards: list[Card] = field.private([])
        @on.http("/cards")
        def deal(self, ctx: Command) -> Card:
            self.cards.append(Card(ctx.sender, 7))
            return self.cards[-1]
        @read.http("/cards")
        def all(self, who: Principal) -> list[Card]: return list(self.cards)
        @read.http("/first")
        def first(self) -> Card: return self.cards[0]
        """
    )
    assert json.loads(json.loads(site.write(Request("POST", "/cards")).answer)["text"]) == {"owner": "ann@acme", "rank": 7}
    for path, whole, less in (("/cards", [{"owner": "ann@acme", "rank": 7}], [{"owner": "ann@acme"}]),):
        assert json.loads(site.read(path)["text"]) == whole
        assert json.loads(site.read(path, BOB)["text"]) == less
    assert json.loads(site.read("/first", BOB)["text"]) == {"owner": "ann@acme"}


def test_endings_of_handlers_are_those_of_messages() -> None:
    site = Site(
        """
        n: int = 0
        @on.http("/refuse")
        def refuse(self, ctx: Command) -> None:
            self.n += 1
            raise No("because", 7)
        @on.http("/swallow")
        def swallow(self, ctx: Command) -> None:
            try:
                raise No()
            except No:
                self.n += 1
        @on.http("/large")
        def large(self, ctx: Command) -> str:
            self.n += 1
            return "x" * 2000
        @read.http("/no")
        def no(self) -> str: raise No("because", 7)
        @read.http("/swallowed")
        def swallowed(self) -> str:
            try:
                raise No()
            except No:
                return "fine"
        @read.http("/large")
        def too_large(self) -> str: return "x" * 2000
        @read.http("/deep")
        def deep(self) -> str: return self.deep()
        """,
        Settings(answer_bytes_max=1000),
    )
    before = site.instance.dump()
    refused = site.write(Request("POST", "/refuse"))
    assert (refused.code, json.loads(refused.answer)["arguments"]) == (Code.REFUSED, ["because", 7])
    assert site.write(Request("POST", "/swallow")).code is Code.REFUSED
    assert json.loads(site.write(Request("POST", "/large")).answer) == {"limit": "answer"}
    for path in ("/no", "/swallowed"):
        with pytest.raises(HandlerRefused) as said:
            site.read(path)
        assert said.value.details["name"] == "No"
    for path, limit in (("/large", "answer"), ("/deep", "depth")):
        with pytest.raises(BudgetExceeded) as ended:
            site.read(path)
        assert ended.value.details == {"limit": limit}
    assert site.instance.dump() == before
    assert site.instance.read_failures() == [], "a refusal and a limit are no bugs"


def test_a_policy_can_guard_a_handler_behind_the_gate() -> None:
    site = Site(
        """
        @read.policy
        def is_ann(self, who: Principal) -> bool: return who.agent == "ann"
        @on.http("/", allow=is_ann)
        def go(self, ctx: Command) -> None: pass
        """
    )
    assert site.write(Request("POST")).code is Code.OK
    assert site.write(Request("POST"), BOB).code is Code.DENIED


def test_requests_are_read_as_what_the_handler_takes() -> None:
    request = Request("POST", body=b'{"owner":"ann@acme","rank":1}')
    assert request.text().startswith("{")
    assert Request("POST", body=b"[1,2]").json(list[int]) == [1, 2]
    for body in (b"", b"[", b"1}", b'1,"value":2', b"\xff", b"NaN", b'"\\ud800"', b"[1.5]", b"[" * 99 + b"]" * 99):
        with pytest.raises(BadRequest):
            Request("POST", body=body).json(list[int])
    with pytest.raises(BadRequest):
        Request("POST", body=b"\xff").text()
    with pytest.raises(BadRequest):
        Request("POST", body=b"a=1").form()
    with pytest.raises(TypeError):
        Request("POST", body=b"{}").json(object)


@pytest.mark.parametrize(
    ("encoded_form", "fields"),
    [
        (b"", {}),
        (b"a=1&b=2&a=3", {"a": "3", "b": "2"}),
        (b"a+b=%C3%A9%2b&c", {"a b": "é+", "c": ""}),
        (b"&&=&", {"": ""}),
        (b"a=%zz", None),
        (b"a=%4", None),
        (b"a=%ff", None),
        (b"&" * 1000, None),
    ],
)
def test_forms_are_decoded_strictly(encoded_form: bytes, fields: dict[str, str] | None) -> None:
    if fields is None:
        with pytest.raises(BadRequest):
            fields_of(encoded_form)
    else:
        assert fields_of(encoded_form) == fields


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
    TEXTS,
    st.dictionaries(TEXTS, TEXTS, max_size=4),
    st.dictionaries(st.sampled_from(REQUEST_HEADERS), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9)),
    st.binary(max_size=60) | TEXTS.map(str.encode),
    st.sampled_from(["", "text/plain", "application/json"]),
)
def test_a_request_has_one_spelling_and_comes_out_as_it_went_in(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, media_type: str
) -> None:
    request = Request(method, "/" + path, query, headers, body, media_type)
    payload = encoded(request)
    given_ = parse(payload, bytes_max=100_000, depth_max=4)
    assert canonical(given_) == payload
    assert checked(given_) == decoded(payload) == request
    shuffled = dict(reversed(given_.items()))
    assert canonical(shuffled) == payload


@pytest.mark.parametrize(
    "change",
    [
        {"method": "OPTIONS"}, {"method": None}, {"path": "a"}, {"path": 7}, {"query": []}, {"query": {"a": 1}},
        {"headers": {"cookie": "x"}}, {"headers": {"accept": "a\nb"}},
        {"headers": {"accept": "é"}}, {"media_type": "x"}, {"media_type": 7},
        {"text": "a", "bytes": "YQ=="}, {"bytes": "?"}, {"bytes": 7}, {"more": 1},
    ],
)  # fmt: skip
def test_a_payload_that_is_no_request_is_refused_before_the_log(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidPayload):
        checked({"method": "POST", "path": "/"} | change)


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"path": "/" + "é" * 512}, "request_path_bytes_max"),
        ({"query": {"a": "x" * 8192}}, "request_query_bytes_max"),
        ({"headers": {"accept": "x" * 2049}}, "request_header_bytes_max"),
        ({"text": "x" * (256 * 1024 + 1)}, "request_body_bytes_max"),
    ],
)
def test_every_part_of_a_request_has_its_limit(change: dict[str, Any], limit: str) -> None:
    with pytest.raises(TooLarge) as refused:
        checked({"method": "POST", "path": "/"} | change)
    assert refused.value.details["limit"] == limit


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 199}, {"status": 600}, {"status": True}, {"status": "200"}, {"body": 5}, {"media_type": "html"},
        {"media_type": "a/b\r\nx: y"},
        {"headers": {"set-cookie": "a=b"}}, {"headers": {"Location": "/"}}, {"headers": {"location": "/\r\nset-cookie: a"}},
        {"headers": {"location": "/é"}}, {"headers": {"link": 5}},
    ],
)  # fmt: skip
def test_a_response_takes_no_header_or_status_that_could_not_be_sent_as_it_is(wrong: dict[str, Any]) -> None:
    """Header injection among them."""
    with pytest.raises((ValueError, TypeError)):
        Response(**wrong)


def test_what_a_request_costs_is_paid() -> None:
    body = """
    @on.http("/form")
    def form(self, ctx: Command, request: Request) -> int: return len(request.form())
    """
    site = Site(body, Settings(steps_max=5000))
    form = Request("POST", "/form", {}, {}, b"a=1&b=2", "application/x-www-form-urlencoded")
    assert site.write(form).code is Code.OK
    large = Request("POST", "/form", {}, {}, b"a=" + b"x" * 6000, "application/x-www-form-urlencoded")
    assert json.loads(site.write(large).answer) == {"limit": "steps"}


def test_the_schema_lists_the_handlers() -> None:
    routes = program(SHAPES).schema()["http"]
    assert [route["path"] for route in routes] == ["/", "/a/b", "/a/{x}", "/n/{n}", "/{x}/b"]
    assert routes[3] == {
        "handler": "n",
        "method": "GET",
        "path": "/n/{n}",
        "parameters": {"n": {"type": "integer"}},
        "answer": {"contentMediaType": "text/plain; charset=utf-8"},
    }


def test_a_deployment_that_would_break_pages_and_hooks_is_refused() -> None:
    old = program("@read.http('/a/{x}')\ndef a(self, x: str) -> str:\n    return ''\n")
    for new in (
        "",
        "@read.http('/b/{x}')\ndef a(self, x: str) -> str:\n    return ''\n",
        "@on.http('/a/{x}')\ndef a(self, ctx: Command, x: str) -> None: pass\n",
        "@read.http('/a/{y}')\ndef a(self, y: int) -> str:\n    return ''\n",
    ):
        with pytest.raises(InvalidBundle, match="message"):
            check_successor([old], program(new, 2), clients=old)
        check_successor([old], program(new, 2), clients=None)
    same = "@read.http('/a/{other}')\ndef other(self, other: str) -> str:\n    return ''\n"
    check_successor([old], program(same, 2), clients=old)


def test_static_files_are_found_by_exact_path_in_the_documents_own_package() -> None:
    files = (
        ("other/__init__.py", b""),
        ("other/static/x.css", b"other"),
        ("site/__init__.py", b""),
        ("site/static/X.CSS", b"x"),
        ("site/static/a/b.unknown", b"b"),
        ("site/static/code.py", b"import os; raise SystemExit"),
        ("site/sub/static/y.css", b"not at the top"),
    )
    found = static_files(files, "site")
    assert {path: file.media_type for path, file in found.items()} == {
        "/static/X.CSS": "text/css; charset=utf-8",
        "/static/a/b.unknown": "application/octet-stream",
        "/static/code.py": "application/octet-stream",
    }
    source = f"{HEAD}class Site(Document):\n    gate = anyone\n".encode()
    loaded = Bundle("site", (("site/__init__.py", source), ("site/static/code.py", b"import os; raise SystemExit")))
    assert list(loaded.modules()) == [("site", "site/__init__.py", source)]
    routes = BundleLoader().load(loaded.encode()).declaration.routes
    assert routes.files["/static/code.py"].content == b"import os; raise SystemExit"
