"""From a bundle's document class to channels, fields, policies and views: the `Program` of the seam to the shard.

The class statement is the whole declaration. Here it is read once, every annotation becomes a type, and what does not fit is
reported as findings, so that a deployed program can not fail for a reason that its source shows.

Invariant: a program is immutable; the same bundle bytes give the same channels, schema and canonical payloads everywhere.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, get_args, get_origin, get_type_hints

from cluster.documents import payload as json
from cluster.documents import upgrading
from cluster.documents.armed import hidden_fields
from cluster.documents.blobs import BlobFields, hidden_store, no_blobs
from cluster.documents.channels import Adding, Answering, Channel, Export, Guarded, Parameter, View, shown_schema
from cluster.documents.connections import connection_fields, do_nothing
from cluster.documents.context import Command
from cluster.documents.declaration import Declaration, Undeclarable
from cluster.documents.declare import MARK, RESERVED, Document, FieldDescriptor, Mark, is_policy
from cluster.documents.hooks import read_hook
from cluster.documents.instance import DocumentInstance
from cluster.documents.maybe import Maybe
from cluster.documents.methods import TYPES_BY_GUARD
from cluster.documents.presence import Unreadable, is_presence, read_presence
from cluster.documents.requests import encoded
from cluster.documents.routes import read_route
from cluster.documents.runtime import (
    CONNECT_CHANNEL,
    CONSTRUCT_CHANNEL,
    DELETE_CHANNEL,
    DISCONNECT_CHANNEL,
    HTTP_CHANNEL,
    MISSING_CHANNEL,
    UPGRADE_CHANNEL,
    Invocation,
    Outcome,
    Program,
    Settings,
)
from cluster.documents.schema import channel_schema, refusal_schema, route_schema, view_schema
from cluster.documents.state import Event, FieldOptions, FieldSpec, Refused, StateType, field_spec, state_type
from cluster.documents.state.record import record_type_of
from cluster.documents.state.tally import ADDED
from cluster.documents.views import sources_of
from cluster.errors import InvalidName, UnknownChannel
from cluster.ids import DocumentId, Principal, check_channel

PARAMETERS_MAX: Final = 64


class DocumentProgram:
    """One deployed document class under one space's settings. See runtime.Program."""

    __slots__ = ("__weakref__", "_code_hash", "_settings", "declaration", "files", "namespace", "owner", "places")

    def __init__(
        self,
        code_hash: bytes,
        declaration: Declaration,
        settings: Settings,
        namespace: str,
        owner: object,
        places: Callable[[type, str], tuple[str, int]],
        files: Mapping[str, str],
    ) -> None:
        self.files = files
        self.places = places
        self._code_hash = code_hash
        self._settings = settings
        self.declaration = declaration
        self.namespace = namespace
        self.owner = owner  # keeps the modules registered while a program is in use

    @property
    def code_hash(self) -> bytes:
        return self._code_hash

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def creates_missing(self) -> bool:
        """See runtime.Program."""
        return self.declaration.missing is not None

    def check(self, channel: str, payload: bytes) -> bytes:
        """See runtime.Program."""
        settings = self._settings
        if channel == HTTP_CHANNEL:
            given = json.parse(payload, bytes_max=settings.payload_bytes_max, depth_max=settings.payload_depth_max)
            return encoded(self.declaration.routes.check(given))
        found = self.channel(channel)
        given = json.parse(payload, bytes_max=settings.payload_bytes_max, depth_max=settings.payload_depth_max)
        return found.canonical(given, payload)

    def channel(self, name: str) -> Channel:
        """The handler of a channel, "" being construct. Raises UnknownChannel."""
        declaration = self.declaration
        if name == CONSTRUCT_CHANNEL:
            return declaration.construct or _NO_CONSTRUCT
        if name == MISSING_CHANNEL:
            found = declaration.missing
        else:
            found = declaration.delete if name == DELETE_CHANNEL else declaration.channels.get(name)
        if found is None:
            raise UnknownChannel(f"{declaration.cls.__name__} has no channel {name!r}")
        return found

    def handler(self, channel: str, payload: bytes) -> Channel:
        """The handler of a message that was checked; of an HTTP request that of its route."""
        return self.declaration.routes.of_payload(payload) if channel == HTTP_CHANNEL else self.channel(channel)

    def new(self, document: DocumentId) -> DocumentInstance:
        """See runtime.Program."""
        return DocumentInstance(self, document)

    def load(self, document: DocumentId, state: bytes) -> DocumentInstance:
        """See runtime.Program."""
        instance = DocumentInstance(self, document)
        instance.restore(state)
        return instance

    def upgrade(
        self, document: DocumentId, state: bytes, before: Program, invocation: Invocation
    ) -> tuple[DocumentInstance | None, Outcome]:
        """See runtime.Program."""
        assert isinstance(before, DocumentProgram), "a document's code is replaced by code of its own kind"
        return upgrading.upgrade(self, document, state, before, invocation)

    def place_of(self, member: str) -> tuple[str, int]:
        """File and line where the class has this field or handler; of the class when it has none."""
        return self.places(self.declaration.cls, member)

    def upgrade_channel(self, function: Callable[..., None]) -> Channel:
        """The hooks of an upgrade as a handler."""
        return Channel(UPGRADE_CHANNEL, function, (), None, gated=False)

    def schema(self) -> dict[str, Any]:
        """See runtime.Program. JSON Schema 2020-12; records are in `$defs`."""
        declaration = self.declaration
        definitions: dict[str, Any] = {}
        shown = [spec for spec in declaration.fields.values() if spec.visibility != "private"]
        return {
            "document": declaration.cls.__name__,
            "version": declaration.version,
            "description": inspect.getdoc(declaration.cls) or "",
            "construct": channel_schema(self.channel(CONSTRUCT_CHANNEL), definitions),
            "onMissing": "create" if self.creates_missing else "refuse",
            "channels": {name: channel_schema(channel, definitions) for name, channel in declaration.channels.items()},
            "http": [route_schema(route, definitions) for route in declaration.routes.all],
            "answers": {name: channel.schema(definitions) for name, channel in declaration.answers.items()},
            "deletable": declaration.delete is not None,
            "refusals": {refusal.__name__: refusal_schema(refusal, definitions) for refusal in declaration.refusals},
            "events": {event.__name__: record_type_of(event).json_schema(definitions) for event in declaration.events},
            "fields": {
                spec.name: {"visible": "public" if spec.visibility == "public" else "by policy"}
                | shown_schema(spec, definitions)
                for spec in shown
            },
            "presence": {} if declaration.presence is None else declaration.presence.schema(definitions),
            "views": {view.name: view_schema(view, definitions) for view in declaration.views},
            "exports": {
                one.name: {"to": "owners" if one.to is None else "by policy"} | one.type.json_schema(definitions)
                for one in declaration.exports
            },
            "$defs": definitions,
        }


_INT: Final = state_type(int, owner=Document)
_NO_CONSTRUCT: Final = Channel(CONSTRUCT_CHANNEL, do_nothing, (), None)


def declare(cls: type[Document], refusals: tuple[type[Refused], ...], events: tuple[type[Event], ...] = ()) -> Declaration:
    """Read a document class and seal it. Raises Undeclarable with everything that does not fit."""
    reader = _Reader(cls)
    reader.declaration.events = events
    reader.read(refusals)
    if reader.findings:
        raise Undeclarable(reader.findings)
    cls._moot_sealed = True
    return reader.declaration


class _Reader:
    """Collects one class's declaration and what is wrong with it."""

    def __init__(self, cls: type[Document]) -> None:
        self.declaration = Declaration(cls)
        self.findings: list[tuple[object, str, str, str]] = []
        self._cls = cls

    def _refuse(self, where: object, code: str, reason: str, replacement: str) -> None:
        self.findings.append((where, code, reason, replacement))

    def read(self, refusals: tuple[type[Refused], ...]) -> None:
        cls, declaration = self._cls, self.declaration
        declaration.refusals = refusals
        if cls.__dictoffset__:
            self._refuse(cls, "base-class", "a base class gives documents undeclared attributes", "derive from Document alone")
        for name in RESERVED & set(cls.__dict__):
            self._refuse(cls, "reserved-name", f"an attribute named {name} hides a namespace", "choose another name")
        for name, annotation, value, owner in list(self._fields()):
            self._field(name, annotation, value, owner)
        for name, function, mark in list(self._marked()):
            self._function(name, function, mark)
        declaration.blobs = BlobFields(declaration.fields)
        if declaration.blobs.fields:
            declaration.fields |= hidden_store()
        if declaration.alarms or declaration.answers:
            declaration.fields |= hidden_fields()
        if declaration.connect or declaration.disconnect:
            declaration.fields |= connection_fields()
            declaration.connect = declaration.connect or Channel(CONNECT_CHANNEL, do_nothing, (), None)
            declaration.disconnect = declaration.disconnect or Channel(DISCONNECT_CHANNEL, do_nothing, (), None)
        if cls._moot_creates_missing:
            self._creates_missing()
        if declaration.gate is None:
            self._refuse(cls, "gate", f"{cls.__name__} does not say who may connect", "write `gate = anyone`, or a @read.gate")
        specs = declaration.fields.values()
        declaration.guarded = tuple(self._guarded(spec) for spec in specs if callable(spec.visibility))
        declaration.public, declaration.sources = sources_of(declaration)
        policies = (policy for source in declaration.sources for policy in source.policies)
        declaration.class_policies = tuple(dict.fromkeys(policies))
        for view in declaration.views:
            if view.name in declaration.fields or (declaration.presence and view.name == declaration.presence.name):
                self._refuse(view.function, "view", f"view {view.name} has the name of a field", "choose another name")

    def _creates_missing(self) -> None:
        """Whoever comes first constructs the document, and brings no parameters."""
        construct = self.declaration.construct or _NO_CONSTRUCT
        required = [parameter.name for parameter in construct.parameters if parameter.required]
        if required:
            reason = f"who comes to a missing document brings no {required[0]}"
            self._refuse(construct.function, "on-missing", reason, "give the constructor's parameters defaults")
        self.declaration.missing = Channel(MISSING_CHANNEL, construct.function, (), construct.result, gated=False)

    # State

    def _fields(self) -> Iterator[tuple[str, Any, Any, type]]:
        seen: set[str] = set()
        for kind in reversed(self._cls.__mro__[:-1]):
            if kind is Document or not issubclass(kind, Document):
                continue
            for name, annotation in inspect.get_annotations(kind).items():
                if name not in seen and not name.startswith("_moot"):
                    seen.add(name)
                    yield name, annotation, kind.__dict__.get(name, inspect.Parameter.empty), kind

    def _field(self, name: str, annotation: Any, value: Any, owner: type) -> None:
        if "ClassVar" in str(annotation):
            return
        if (shown := is_presence(name, annotation, owner)) is not None:
            return self._presence(name, shown, value, owner)
        if value is inspect.Parameter.empty:
            value = FieldOptions()
        elif not isinstance(value, FieldOptions):
            value = FieldOptions(default=value)
        try:
            spec = field_spec(name, annotation, value, owner=owner)
        except (TypeError, ValueError) as error:
            self._refuse(self._cls, "annotation", f"field {error}", "use a type that state can hold")
            return
        self.declaration.fields[name] = spec
        setattr(owner, name, FieldDescriptor(name))
        if spec.add is not None:
            self._adding(name, spec.add)

    def _presence(self, name: str, annotation: Any, value: Any, owner: type) -> None:
        if self.declaration.presence is not None:
            self._refuse(self._cls, "presence", "there are two Presence fields", "put what they show into one Record")
        self.declaration.presence = read_presence(name, annotation, value, functools.partial(self._refuse, self._cls))
        setattr(owner, name, Unreadable(name))

    def _adding(self, name: str, policy: Callable[..., bool]) -> None:
        """The channel through which a Tally is added to."""
        if not is_policy(policy) or len(inspect.signature(policy).parameters) != 2:
            self._refuse(policy, "policy", f"who may add to {name} is said by something else", "mark it with @read.policy")
        self._check_name(policy, name)
        by = Parameter("by", ADDED, required=False)
        self.declaration.channels[name] = Channel(name, Adding(name), (by,), _INT, policy)

    def _guarded(self, spec: FieldSpec) -> Guarded:
        policy = spec.visibility
        if not is_policy(policy):
            self._refuse(policy, "policy", f"field {spec.name} is visible by something else", "mark it with @read.policy")
        count = len(inspect.signature(policy).parameters)
        by_row = count == 3
        if by_row and not hasattr(spec.type, "row"):
            self._refuse(policy, "policy", f"field {spec.name} has no rows to ask the policy about", "take (self, who)")
        if count not in (2, 3):
            self._refuse(policy, "policy", "a policy takes (self, who) or (self, row, who)", "change its parameters")
        return Guarded(spec.name, policy, by_row)

    # Functions

    def _marked(self) -> Iterator[tuple[str, Callable[..., Any], Mark]]:
        names = dict.fromkeys(name for kind in reversed(self._cls.__mro__) for name in kind.__dict__)
        for name in names:
            value = inspect.getattr_static(self._cls, name)
            mark = getattr(value, MARK, None) if callable(value) else None
            if isinstance(mark, Mark):
                yield name, value, mark

    def _function(self, name: str, function: Callable[..., Any], mark: Mark) -> None:
        declaration = self.declaration
        if mark.kind == "gate":
            if declaration.gate is not None:
                self._refuse(function, "gate", "there are two gates", "keep one")
            declaration.gate = function
            self._viewer(function)
        elif mark.kind == "construct":
            if declaration.construct is not None:
                self._refuse(function, "construct", "there are two constructors", "keep one")
            declaration.construct = self._channel(CONSTRUCT_CHANNEL, function, mark)
        elif mark.kind == "delete":
            declaration.delete = self._channel(DELETE_CHANNEL, function, mark)
            if declaration.delete.parameters or self._hints(function).get("return") is not bool:
                self._refuse(function, "signature", "it takes (self, ctx: Command) -> bool", "change its signature")
        elif mark.kind in ("connect", "disconnect"):
            self._connection(function, mark)
        elif mark.kind == "message":
            self._check_name(function, name)
            declaration.channels[name] = self._channel(name, function, mark)
        elif mark.kind == "upgrade":
            refuse = functools.partial(self._refuse, function)
            read_hook(function, self._hints(function), mark.since, declaration.version, declaration.upgrades, refuse)
        elif mark.kind == "alarm":
            declaration.alarms[name] = alarm = self._channel(name, function, mark)
            no_blobs(alarm.parameters, "an alarm can not carry a blob", functools.partial(self._refuse, function))
        elif mark.kind in ("read-http", "write-http"):
            self._http(function, mark)
        elif mark.kind == "answer":
            self._answer(name, function, mark)
        elif mark.kind == "view":
            self._view(name, function)
        elif mark.kind == "export":
            self._export(name, function, mark)

    def _connection(self, function: Callable[..., Any], mark: Mark) -> None:
        """A handler that is told of connections."""
        if getattr(self.declaration, mark.kind) is not None:
            self._refuse(function, "connection", f"there are two @on.{mark.kind} handlers", "keep one")
        channel = self._channel(f"-{mark.kind}", function, mark)
        if channel.parameters or channel.result is not None:
            self._refuse(function, "signature", "it takes (self, ctx: Command) -> None", "change its signature")
        setattr(self.declaration, mark.kind, channel)

    def _http(self, function: Callable[..., Any], mark: Mark) -> None:
        hints, refuse = self._hints(function), functools.partial(self._refuse, function)
        route = read_route(function, mark, hints, lambda: self._type(function, hints, "return", "result"), refuse)
        if route is not None and (taken := self.declaration.routes.add(route)):
            refuse("http-route", taken, "choose another path")

    def _check_name(self, function: object, name: str) -> None:
        try:
            check_channel(name)
        except InvalidName as error:
            self._refuse(function, "channel", str(error), "choose another name")

    def _answer(self, name: str, function: Callable[..., Any], mark: Mark) -> None:
        hints = self._hints(function)
        parameters = list(inspect.signature(function).parameters)[2:]
        annotation = hints.get(parameters[0]) if len(parameters) == 1 else None
        if get_origin(annotation) is not Maybe:
            self._refuse(function, "signature", "it takes (self, ctx: Command, value: Maybe[T])", "change its signature")
            return
        channel = self._channel(name, function, mark, {**hints, parameters[0]: get_args(annotation)[0]})
        self.declaration.answers[name] = Answering(name, function, channel.parameters, channel.result)

    def _channel(self, name: str, function: Callable[..., Any], mark: Mark, hints: dict[str, Any] | None = None) -> Channel:
        parameters = list(inspect.signature(function).parameters.values())
        hints = self._hints(function) if hints is None else hints
        if len(parameters) < 2 or hints.get(parameters[1].name) is not Command:
            self._refuse(function, "signature", "a write handler takes (self, ctx: Command, ...)", "add the parameter")
        wire = self._parameters(function, hints, parameters[2:])
        result = None
        if "return" not in hints:
            self._refuse(function, "annotation", "the result has no type", "write `-> None` or what is answered")
        elif hints["return"] is not type(None):
            result = self._type(function, hints, "return", "result")
        return Channel(name, function, wire, result, mark.allow)

    def _parameters(
        self, function: Callable[..., Any], hints: dict[str, Any], parameters: list[inspect.Parameter]
    ) -> tuple[Parameter, ...]:
        """The parameters that are given from outside."""
        wire = []
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                self._refuse(function, "signature", f"{parameter} can not be part of a schema", "name every parameter")
                continue
            found = self._type(function, hints, parameter.name, "parameter")
            if found is None:
                continue
            required = parameter.default is parameter.empty
            if not required:
                try:
                    found.check(parameter.default)
                except (TypeError, ValueError) as error:
                    self._refuse(function, "default", f"the default of {parameter.name}: {error}", "use a value of its type")
            wire.append(Parameter(parameter.name, found, required))
        if len(wire) > PARAMETERS_MAX:
            self._refuse(function, "signature", f"more than {PARAMETERS_MAX} parameters", "use a Record")
        return tuple(wire)

    def _view(self, name: str, function: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        hints = self._hints(function)
        per_viewer = bool(parameters) and hints.get(parameters[0].name) is Principal and parameters[0].name == "who"
        wire = self._parameters(function, hints, parameters[1:] if per_viewer else parameters)
        no_blobs(wire, "a view can not be asked with a blob", functools.partial(self._refuse, function))
        found = self._type(function, hints, "return", "result")
        if found is not None:
            self.declaration.views = (*self.declaration.views, View(name, function, found, per_viewer, wire))

    def _export(self, name: str, function: Callable[..., Any], mark: Mark) -> None:
        if len(inspect.signature(function).parameters) != 1:
            self._refuse(
                function, "signature", "an export is a function of the state alone: it takes (self)", "remove the rest"
            )
        if mark.allow is not None and not is_policy(mark.allow):
            self._refuse(function, "policy", f"export {name} is opened by something else", "mark it with @read.policy")
        found = self._type(function, self._hints(function), "return", "result")
        if found is not None:
            self.declaration.exports = (*self.declaration.exports, Export(name, function, found, mark.allow))

    def _viewer(self, function: Callable[..., Any]) -> None:
        names = list(inspect.signature(function).parameters)[1:]
        hints = self._hints(function)
        if len(names) != 1 or hints.get(names[0]) is not Principal:
            self._refuse(function, "signature", "it takes (self, who: Principal)", "change its parameters")

    def _hints(self, function: Callable[..., Any]) -> dict[str, Any]:
        try:
            return get_type_hints(function, include_extras=True)
        except Exception as error:
            self._refuse(function, "annotation", f"an annotation can not be understood: {error}", "use names of the module")
            return {}

    def _type(self, function: Callable[..., Any], hints: dict[str, Any], name: str, what: str) -> StateType | None:
        if name not in hints:
            self._refuse(function, "annotation", f"{what} {name} has no type", "annotate it")
            return None
        annotation = TYPES_BY_GUARD.get(hints[name], hints[name])
        try:
            return state_type(annotation, owner=self._cls)
        except (TypeError, ValueError) as error:
            self._refuse(function, "annotation", f"{what} {name}: {error}", "use a type that state can hold")
            return None
