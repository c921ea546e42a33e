"""Record: the author's own value classes, in state, as parameters and as results.

    class Bid(Record):
        bidder: Principal
        cents: int = 0

Records are built by position or keyword in declared order, compared by value, and checked whenever a field is set, so a
record that exists is a value that can be stored. Inside the state their fields are tracked like everything else.

Invariant: only declared fields can be set, and none can be deleted. What is inserted into state is a copy: the author's own
record stays free. Plain fields are ordinary instance attributes, because rows are read far more often than written.
"""

from __future__ import annotations

from typing import Any, ClassVar, dataclass_transform

from cluster.documents.state.fields import ABSENT, FieldOptions
from cluster.documents.state.forms import Schema, StateType, expected, located
from cluster.documents.state.journal import REPLACE, Journal
from cluster.documents.state.members import MembersType
from cluster.documents.state.node import Node, adopt, check_depth, set_lifetime, set_parent, set_slot

Declaration = tuple[Any, FieldOptions, type]
"""(annotation, options, the class that resolves a string annotation)."""


@dataclass_transform()
class Record(Node):
    """Base of an author's value classes. Raises TypeError or ValueError when a field is set to what its type does not take."""

    __slots__ = ("__dict__",)

    _record_type: ClassVar[RecordType | None] = None
    _declared: ClassVar[dict[str, Declaration]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._record_type = None
        declared = {}
        for base in reversed(cls.__mro__[1:]):
            if issubclass(base, Record):
                declared.update(base._declared)
        declared.update(_declarations(cls))
        cls._declared = declared
        cls.__match_args__ = tuple(declared)  # type: ignore[misc,attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        record_type = type(self)._record_type or record_type_of(type(self))
        set_lifetime(self, None)
        set_parent(self, None)
        set_slot(self, None)
        fields = record_type.fields
        values = self.__dict__
        if kwargs or len(args) != len(fields):
            args = record_type.bind(args, kwargs)
        for (name, field_type), value in zip(fields.items(), args, strict=True):
            values[name] = admit_field(record_type, name, field_type, value, 1)
        for name in record_type.parts:
            adopt(values[name], self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        record_type = type(self)._record_type or record_type_of(type(self))
        field_type = record_type.fields.get(name)
        if field_type is None:
            raise AttributeError(f"{record_type.name} declares no field {name!r}")
        journal = self._writing()
        values = self.__dict__
        if field_type.leaf:
            new = admit_field(record_type, name, field_type, value, 0)
        elif value is values[name]:  # the second half of an augmented assignment
            return
        else:
            new = admit_field(record_type, name, field_type, value, self._depth() + 1)
        if journal is None:
            adopt(new, self, name)
            values[name] = new
            return
        parent = self._parent
        if parent is not None and parent._key_field == name and new != values[name]:
            raise ValueError(f"{name!r} is the key of this row: remove the row and put another")
        write_field(self, name, field_type, new, journal)

    def __delattr__(self, name: str) -> None:
        raise AttributeError("fields of a record can not be deleted")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def _locate(self, child: Node) -> str:
        name: str = child._slot
        if self.__dict__.get(name) is not child:
            return super()._locate(child)  # type: ignore[return-value]
        return name

    def _date(self, index: int) -> None:
        record_type = type(self)._record_type
        assert record_type is not None
        for name in record_type.parts:
            part = self.__dict__[name]
            if part is not None:
                part._date(index)

    def _clone(self, depth: int = 0) -> Record:
        check_depth(depth)
        record = new_record(type(self))
        values = record.__dict__
        values.update(self.__dict__)
        record_type = type(self)._record_type
        assert record_type is not None
        for name in record_type.parts:
            part = values[name]
            if part is not None:
                values[name] = part = part._clone(depth + 1)
                adopt(part, record, name)
        return record


def admit_field(record_type: RecordType, name: str, field_type: StateType, value: Any, depth: int) -> Any:
    """Admit a value for a field; errors name the field."""
    try:
        return field_type.admit(value, depth)
    except (TypeError, ValueError) as error:
        raise located(error, f"{record_type.name}.{name}") from None


def write_field(record: Record, name: str, field_type: StateType, new: Any, journal: Journal) -> None:
    """Set a field of an attached record to an admitted value. A value that is there already is not written."""
    values = record.__dict__
    old = values[name]
    if field_type.exact and field_type.leaf and old == new:
        return
    path = (*record._path(), name)
    if isinstance(new, Node):
        new._date(journal.index)
    plain = field_type.to_plain(new)
    delta = field_type.size(new) - field_type.size(old)
    adopt(new, record, name)
    journal.undo.append((values.__setitem__, name, old))
    journal.log.append((REPLACE, path, field_type, plain))
    journal.size += delta
    values[name] = new
    parent = record._parent
    if parent is not None and parent._indexes is not None:
        parent._indexes.replace(name, record._slot, old, new, journal)


def new_record(cls: type[Record]) -> Record:
    """An empty free record, to be filled through its __dict__."""
    record = cls.__new__(cls)
    set_lifetime(record, None)
    set_parent(record, None)
    set_slot(record, None)
    return record


class _Part:
    """A field whose values are nodes: what is read through it lives as long as the record's own handle."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, record: Record | None, owner: type[Record]) -> Any:
        if record is None:
            return self
        part = record.__dict__[self._name]
        if part is not None:
            record._check_live()
            set_lifetime(part, record._lifetime)
        return part

    def __set__(self, record: Record, value: Any) -> None:
        raise AssertionError("Record.__setattr__ writes fields")


class RecordType(MembersType):
    """A Record class. parts: names of the fields whose values are nodes.

    to_convert, to_show: the fields whose plain form is not their value, and whose JSON form is not their plain form.
    """

    __slots__ = ("options", "parts", "record", "to_convert", "to_show")

    leaf = False
    exact = False

    def __init__(self, record: type[Record]) -> None:
        super().__init__(record.__name__)
        self.record = record
        self.options: dict[str, FieldOptions] = {}
        self.parts: tuple[str, ...] = ()
        self.to_convert: list[tuple[str, StateType]] = []
        self.to_show: list[tuple[str, StateType]] = []

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Constructor arguments in declared order, with defaults. Raises TypeError as a call would."""
        if len(args) > len(self.fields):
            raise TypeError(f"{self.name} has {len(self.fields)} fields, {len(args)} were given")
        given = dict(zip(self.fields, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.fields:
                raise TypeError(f"{self.name} declares no field {name!r}")
            if name in given:
                raise TypeError(f"{self.name}: {name!r} was given twice")
            given[name] = value
        return tuple(self._given_or_default(given, name) for name in self.fields)

    def _given_or_default(self, given: dict[str, Any], name: str) -> Any:
        if name in given:
            return given[name]
        if name not in self.defaults:
            raise TypeError(f"{self.name}: {name!r} is missing")
        return self.defaults[name]

    def admit(self, value: Any, depth: int = 0) -> Record:
        if type(value) is not self.record:
            raise expected(self.name, value)
        return value._clone(depth)

    def to_plain(self, value: Any) -> dict[str, Any]:
        values: dict[str, Any] = value.__dict__
        plain = values.copy()
        for name, field_type in self.to_convert:
            plain[name] = field_type.to_plain(values[name])
        return plain

    def from_plain(self, plain: Any) -> Record:
        """Names that are gone are dropped and new ones get their default: this is how records of an older version are read."""
        if type(plain) is not dict:
            raise expected(self.name, plain)
        record = new_record(self.record)
        values = record.__dict__
        for name, field_type in self.fields.items():
            if name in plain:
                values[name] = field_type.from_plain(plain[name])
            elif name in self.defaults:
                values[name] = field_type.admit(self.defaults[name])
            else:
                raise ValueError(f"{self.name}: {name!r} is missing")
        for name in self.parts:
            adopt(values[name], record, name)
        return record

    def plain_to_json(self, plain: Any) -> dict[str, Any]:
        shown: dict[str, Any] = plain.copy()
        for name, field_type in self.to_show:
            shown[name] = field_type.plain_to_json(plain[name])
        return shown

    def from_json(self, value: Any, depth: int = 0) -> Record:
        self.check_members(value, depth)
        record = new_record(self.record)
        values = record.__dict__
        for name, field_type in self.fields.items():
            if name not in value:
                values[name] = field_type.admit(self._given_or_default({}, name), depth + 1)
                continue
            try:
                values[name] = field_type.from_json(value[name], depth + 1)
            except (TypeError, ValueError) as error:
                raise located(error, f"{self.name}.{name}") from None
        for name in self.parts:
            adopt(values[name], record, name)
        return record

    def _property(self, name: str, definitions: dict[str, Schema]) -> Schema:
        schema = super()._property(name, definitions)
        visibility = self.options[name].visibility
        if visibility != "public":  # absent from what a viewer is shown
            schema["visible"] = "private" if visibility == "private" else "by policy"
        return schema

    def size(self, value: Any) -> int:
        values = value.__dict__
        return 5 + sum(len(name) + field_type.size(values[name]) for name, field_type in self.fields.items())


def record_type_of(cls: type[Record]) -> RecordType:
    """The type of a Record class, resolved once. Raises TypeError for an annotation that can not be stored."""
    from cluster.documents.state.types import state_type  # resolving annotations needs all types, this one among them

    found = cls._record_type
    if found is not None:
        return found
    record_type = RecordType(cls)
    cls._record_type = record_type  # before the fields: a record may contain itself
    try:
        for name, (annotation, options, owner) in cls._declared.items():
            try:
                field_type = state_type(annotation, owner=owner)
            except TypeError as error:
                raise TypeError(f"{cls.__name__}.{name}: {error}") from None
            record_type.fields[name] = field_type
            record_type.options[name] = options
            if options.default is not ABSENT:
                record_type.defaults[name] = options.default
        for name, default in record_type.defaults.items():
            admit_field(record_type, name, record_type.fields[name], default, 1)
    except BaseException:
        cls._record_type = None
        raise
    record_type.to_convert = [each for each in record_type.fields.items() if not each[1].plain_is_value]
    record_type.to_show = [each for each in record_type.fields.items() if not each[1].plain_is_json]
    record_type.parts = tuple(name for name, field_type in record_type.fields.items() if not field_type.leaf)
    for name in record_type.parts:
        setattr(cls, name, _Part(name))
    return record_type


def _declarations(cls: type[Record]) -> dict[str, Declaration]:
    """What the body of one class declares, without class variables. Raises TypeError for a name that can not be a field."""
    found: dict[str, Declaration] = {}
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        text = annotation if isinstance(annotation, str) else repr(annotation)
        if text.startswith(("ClassVar", "typing.ClassVar")):
            continue
        if name.startswith("_"):
            raise TypeError(f"{cls.__name__}.{name}: a field's name can not start with an underscore")
        value = vars(cls).get(name, ABSENT)
        options = value if isinstance(value, FieldOptions) else FieldOptions(default=value, visibility="public")
        found[name] = (annotation, options, cls)
    return found


class Event(Record):
    """Base of what a handler emits: `ctx.emit(Rolled(4))` shows it once to those who watch, under the name of its class."""
