"""What a document class declares, once program.py has read it: fields, handlers, views, exports and what is refused.

Invariant: after `program.declare` returned it, nothing changes it. Nothing here reads classes.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.documents.blobs import BlobFields
from cluster.documents.channels import Answering, Channel, Export, Guarded, View
from cluster.documents.declare import Document
from cluster.documents.hooks import Hook
from cluster.documents.parts import Source
from cluster.documents.presence import PresenceField
from cluster.documents.routes import Routes
from cluster.documents.state import Event, FieldSpec, Refused


class Undeclarable(Exception):
    """Why a class can not be a document: (function, code, reason, replacement) of each finding."""

    def __init__(self, findings: list[tuple[object, str, str, str]]) -> None:
        super().__init__("; ".join(finding[2] for finding in findings))
        self.findings = findings


class Declaration:
    """Everything that a document class declares."""

    __slots__ = (
        "alarms",
        "answers",
        "blobs",
        "channels",
        "class_policies",
        "cls",
        "connect",
        "construct",
        "delete",
        "disconnect",
        "events",
        "exports",
        "fields",
        "gate",
        "guarded",
        "missing",
        "presence",
        "public",
        "refusals",
        "routes",
        "sources",
        "upgrades",
        "version",
        "views",
    )

    def __init__(self, cls: type[Document]) -> None:
        self.cls = cls
        self.version = cls._moot_version
        self.fields: dict[str, FieldSpec] = {}
        self.channels: dict[str, Channel] = {}
        self.alarms: dict[str, Channel] = {}
        self.answers: dict[str, Answering] = {}
        self.blobs = BlobFields({})
        self.construct: Channel | None = None
        self.missing: Channel | None = None
        """Construction without parameters, if whoever comes first creates the document."""
        self.delete: Channel | None = None
        self.connect: Channel | None = None
        self.disconnect: Channel | None = None
        """Both or none: what a class lacks of the two does nothing."""
        self.gate: Callable[..., bool] | None = None
        self.public: tuple[str, ...] = ()
        self.guarded: tuple[Guarded, ...] = ()
        self.views: tuple[View, ...] = ()
        self.exports: tuple[Export, ...] = ()
        self.sources: tuple[Source, ...] = ()
        self.class_policies: tuple[Callable[..., bool], ...] = ()
        self.refusals: tuple[type[Refused], ...] = ()
        self.routes = Routes()
        self.events: tuple[type[Event], ...] = ()
        self.presence: PresenceField | None = None
        self.upgrades: dict[int, Hook] = {}
        """By the version that they start from."""

    @property
    def handlers(self) -> frozenset[str]:
        """Names that something pending may name."""
        return frozenset(self.alarms) | frozenset(self.answers)
