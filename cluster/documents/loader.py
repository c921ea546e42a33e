"""The `Loader` of the seam to the shard: bundle bytes in, program out, or every reason why not.

Invariant: a bundle is compiled once in a process however many nodes it plays, so its classes are identical everywhere, and it
is forgotten when the last program of it is. Loading a bundle that is refused leaves nothing behind.
"""

from __future__ import annotations

import ast
import inspect
import types
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final, TypeVar

from cluster.documents import bundle as bundles
from cluster.documents.declaration import Declaration, Undeclarable
from cluster.documents.declare import Document, is_policy
from cluster.documents.importer import ModulesOfBundle
from cluster.documents.lasting import changeable
from cluster.documents.meter import METER, Exhausted
from cluster.documents.program import DocumentProgram, declare
from cluster.documents.refusals import Finding, check, private_names
from cluster.documents.runtime import Settings
from cluster.documents.sight import lens_of
from cluster.documents.state import Event, Record, Refused
from cluster.documents.state.record import record_type_of
from cluster.documents.static import static_files
from cluster.errors import InvalidBundle

ClassT = TypeVar("ClassT")

LOAD_STEPS_MAX: Final = 1_000_000
LOAD_DEPTH_MAX: Final = 64
FINDINGS_SHOWN_MAX: Final = 100


class _Compiled:
    """A bundle that is loaded in this process."""

    __slots__ = ("__weakref__", "declaration", "modules")

    def __init__(self, modules: ModulesOfBundle, declaration: Declaration) -> None:
        self.modules = modules
        self.declaration = declaration
        weakref.finalize(self, modules.discard)


_COMPILED: Final[weakref.WeakValueDictionary[bytes, _Compiled]] = weakref.WeakValueDictionary()


class BundleLoader:
    """Compiles bundles under a space's settings. See runtime.Loader."""

    __slots__ = ("_settings",)

    program_class: ClassVar[type[DocumentProgram]] = DocumentProgram

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()

    def load(self, bundle: bytes, origins: Mapping[str, str] = MappingProxyType({})) -> DocumentProgram:
        """See runtime.Loader. Raises InvalidBundle or TooLarge; nothing stays registered then.

        origins: the author's own files by path in the bundle (see bundle.origins): breakpoints, coverage and tracebacks then
        are in them. Without effect on code that is loaded in this process already.
        """
        code_hash = bundles.code_hash(bundle)
        compiled = _COMPILED.get(code_hash)
        if compiled is None:
            compiled = _compile(bundles.decode(bundle), code_hash, origins)
            _COMPILED[code_hash] = compiled
        modules = compiled.modules
        owned = (modules.namespace, compiled, modules.place_of, modules.files)
        return self.program_class(code_hash, compiled.declaration, self._settings, *owned)


def invalid(findings: list[Finding]) -> InvalidBundle:
    """The error that lists findings, by file and line; of very many it shows the first."""
    ordered = sorted(findings)
    lines = [str(finding) for finding in ordered[:FINDINGS_SHOWN_MAX]]
    if len(ordered) > len(lines):
        lines.append(f"and {len(ordered) - len(lines)} more")
    return InvalidBundle("\n".join(lines), findings=len(ordered), first=ordered[0].code)


def _compile(bundle: bundles.Bundle, code_hash: bytes, origins: Mapping[str, str]) -> _Compiled:
    trees: dict[str, ast.Module] = {}
    findings: list[Finding] = []
    files = list(bundle.modules())
    names = frozenset(name for name, _, _ in files)
    private = private_names(source for _, _, source in files)
    for name, path, source in files:
        tree, found = check(path, source, names, private)
        findings += found
        if tree is not None:
            trees[name] = tree
    entry, _, wanted = bundle.entry.partition(":")
    if entry not in names:
        findings.append(Finding(bundle.entry, 1, "entry", f"the bundle has no module {entry!r}", "name one of its modules"))
    if findings:
        raise invalid(findings)
    modules = ModulesOfBundle(bundle, code_hash, trees, origins)
    try:
        declaration = _execute(modules, files, entry, wanted)
        declaration.routes.files = static_files(bundle.files, entry.partition(".")[0])
        return _Compiled(modules, declaration)
    except BaseException:
        modules.discard()
        raise


def _execute(modules: ModulesOfBundle, files: list[tuple[str, str, bytes]], entry: str, wanted: str) -> Declaration:
    METER.begin(LOAD_STEPS_MAX, LOAD_DEPTH_MAX)
    current = ""
    try:
        for name, path, _ in files:
            current = path
            modules.module(name)
    except (Exception, Exhausted) as error:
        line = _author_line(error, modules.files)
        raise invalid([Finding(current, line, "load", f"{type(error).__name__}: {error}", "correct it")]) from error
    finally:
        METER.end()
    paths = {name: path for name, path, _ in files}
    findings = [finding for name, path in paths.items() for finding in _unsuitable(modules.modules[name], path)]
    cls = _document_class(modules.modules[entry], wanted, paths[entry], findings)
    if findings or cls is None:
        raise invalid(findings)
    try:
        return declare(cls, _classes(modules, Refused), _classes(modules, Event))
    except Undeclarable as error:
        raise invalid([_located(finding, modules, paths[entry]) for finding in error.findings]) from None


def _document_class(module: types.ModuleType, wanted: str, path: str, findings: list[Finding]) -> type[Document] | None:
    classes = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Document) and value.__module__ == module.__name__
    }
    if wanted and wanted in classes:
        return classes[wanted]
    if not wanted and len(classes) == 1:
        return next(iter(classes.values()))
    reason = f"there is no document class {wanted}" if wanted else f"there are {len(classes)} document classes"
    findings.append(Finding(path, 1, "entry", reason, "name the class in the bundle's entry: module:Class"))
    return None


def _classes(modules: ModulesOfBundle, base: type[ClassT]) -> tuple[type[ClassT], ...]:
    """The bundle's own classes that derive from `base`, by name."""
    found = {
        value.__name__: value
        for module in modules.modules.values()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    }
    return tuple(found[name] for name in sorted(found))


def _unsuitable(module: types.ModuleType, path: str) -> list[Finding]:
    """What a module or a class of it holds that could change, and records that state could not hold or views not hide."""
    findings = [
        Finding(path, 1, "module-mutable", f"{name} is shared by all documents and could change", "use a tuple, or a field")
        for name in changeable(module)
    ]
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Record) and value.__module__ == module.__name__:
            findings += _unsuitable_fields(path, value)
    return findings


def _unsuitable_fields(path: str, record: type[Record]) -> list[Finding]:
    """Fields of a record that state can not hold, or whose visibility is said by something else than a policy of the record."""
    try:
        options = record_type_of(record).options
    except (TypeError, ValueError) as error:
        return [Finding(path, 1, "annotation", f"field {error}", "use a type that state can hold")]
    findings = []
    for name, option in options.items():
        place = f"{record.__name__}.{name}"
        policy = option.visibility
        if callable(policy) and (not is_policy(policy) or len(inspect.signature(policy).parameters) != 2):
            replacement = "write a @read.policy of the record that takes (self, who: Principal)"
            findings.append(Finding(path, 1, "policy", f"{place} is visible by something else", replacement))
        if option.window is not None or option.add is not None or option.key is not None or option.index:
            findings.append(Finding(path, 1, "annotation", f"{place} has an option of a document's field", "leave it out"))
    if issubclass(record, Event) and lens_of(record_type_of(record)) is not None:
        reason = f"{record.__name__} hides something of itself, and who hears of an event hears all of it"
        findings.append(Finding(path, 1, "event", reason, "say with emit(..., to=policy) who hears of it"))
    return findings


def _located(finding: tuple[object, str, str, str], modules: ModulesOfBundle, path: str) -> Finding:
    where, code, reason, replacement = finding
    line = 1
    if isinstance(where, types.FunctionType) and where.__code__.co_filename in modules.files:
        path, line = modules.files[where.__code__.co_filename], where.__code__.co_firstlineno
    elif isinstance(where, type):
        line = modules.line_of_class(path, where.__name__)
    return Finding(path, line, code, reason, replacement)


def _author_line(error: BaseException, files: Mapping[str, str]) -> int:
    line = 1
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename in files:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
