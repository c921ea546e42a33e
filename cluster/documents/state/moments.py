"""Moments and spans of time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.documents.state.forms import Schema, StateType, expected
from cluster.documents.state.scalars import INT_MAX, INT_MIN

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,3}))?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)
_DURATION = re.compile(r"(-?)P(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,14})(?:\.(\d{1,6}))?S)?)?\Z", re.ASCII)


class DatetimeType(StateType):
    """Moments: aware, kept in UTC and in whole milliseconds; RFC 3339 in JSON, always written as ...Z with milliseconds."""

    __slots__ = ()
    fixed_size = True

    def admit(self, value: Any, depth: int = 0) -> datetime:
        if not isinstance(value, datetime):
            raise expected("datetime", value)
        if value.tzinfo is None:
            raise ValueError("the datetime has no time zone: use ctx.now or tzinfo=UTC")
        if value.microsecond % 1000:
            raise ValueError("moments are whole milliseconds: round the microseconds away")
        if value.tzinfo is UTC and type(value) is datetime and not value.fold:
            return value
        try:
            return _EPOCH + (value - _EPOCH) // _MILLISECOND * _MILLISECOND
        except OverflowError:
            raise ValueError("the moment is outside the years 1 to 9999 in UTC") from None

    def to_plain(self, value: Any) -> int:
        return (value - _EPOCH) // _MILLISECOND  # type: ignore[no-any-return]

    def from_plain(self, plain: Any) -> datetime:
        if type(plain) is not int:
            raise expected("milliseconds", plain)
        try:
            return _EPOCH + timedelta(milliseconds=plain)
        except OverflowError:
            raise ValueError("the moment is outside the years 1 to 9999") from None

    def plain_to_json(self, plain: Any) -> str:
        moment = self.from_plain(plain)
        date = f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
        return f"{date}T{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}.{moment.microsecond // 1000:03d}Z"

    def from_json(self, value: Any, depth: int = 0) -> datetime:
        if type(value) is not str:
            raise expected("an RFC 3339 moment", value)
        match = _MOMENT.match(value)
        if match is None:
            raise ValueError("expected an RFC 3339 moment with at most milliseconds, such as 2026-01-31T12:00:00.000Z")
        *parts, fraction, zone = match.groups()
        moment = datetime(*map(int, parts), int((fraction or "0").ljust(3, "0")) * 1000, tzinfo=UTC)  # type: ignore[misc,arg-type]
        if zone != "Z":
            hours, minutes = int(zone[1:3]), int(zone[4:6])
            if hours > 23 or minutes > 59:
                raise ValueError("the offset of the moment is out of range")
            offset = timedelta(hours=hours, minutes=minutes)
            try:
                moment = moment - offset if zone[0] == "+" else moment + offset
            except OverflowError:
                raise ValueError("the moment is outside the years 1 to 9999 in UTC") from None
        return moment

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "format": "date-time"}


class TimedeltaType(StateType):
    """Spans of time, exact in microseconds within 64 bits; an ISO 8601 duration of seconds in JSON (PT90S, -PT0.5S)."""

    __slots__ = ()
    fixed_size = True

    def admit(self, value: Any, depth: int = 0) -> timedelta:
        if type(value) is not timedelta:
            raise expected("timedelta", value)
        if not INT_MIN <= value // _MICROSECOND <= INT_MAX:
            raise ValueError("spans have at most 64 bits of microseconds")
        return value

    def to_plain(self, value: Any) -> int:
        return value // _MICROSECOND  # type: ignore[no-any-return]

    def from_plain(self, plain: Any) -> timedelta:
        if type(plain) is not int:
            raise expected("microseconds", plain)
        if not INT_MIN <= plain <= INT_MAX:
            raise ValueError("spans have at most 64 bits of microseconds")
        return timedelta(microseconds=plain)

    def plain_to_json(self, plain: Any) -> str:
        seconds, microseconds = divmod(abs(plain), 1_000_000)
        fraction = f".{microseconds:06d}".rstrip("0") if microseconds else ""
        return f"{'-' if plain < 0 else ''}PT{seconds}{fraction}S"

    def from_json(self, value: Any, depth: int = 0) -> timedelta:
        if type(value) is not str:
            raise expected("an ISO 8601 duration", value)
        match = _DURATION.match(value)
        if match is None or value.endswith(("P", "T")):
            raise ValueError("expected an ISO 8601 duration such as PT90S or P1DT2H")
        sign, days, hours, minutes, seconds, fraction = match.groups()
        whole = int(days or 0) * 86_400 + int(hours or 0) * 3_600 + int(minutes or 0) * 60 + int(seconds or 0)
        microseconds = whole * 1_000_000 + int((fraction or "0").ljust(6, "0"))
        return self.from_plain(-microseconds if sign else microseconds)

    def json_schema(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "string", "format": "duration"}
