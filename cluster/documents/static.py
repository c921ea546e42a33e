"""Files of a bundle that are served as they are: what a package has below `static/`.

They are data: never imported, executed or looked into. A file is found by its exact path in the bundle and in no other way, so
there is nothing to climb out of. Which file a path means follows from the code that the document runs, as everything else does.

Invariant: equal bundles serve equal bytes under equal tags, on every node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

STATIC: Final = "static"
"""The directory of a package, and the first part of the paths at which its files are served."""
TAG_BYTES: Final = 16
HTML: Final = "text/html; charset=utf-8"

MEDIA_TYPES: Final = {
    "avif": "image/avif",
    "bin": "application/octet-stream",
    "css": "text/css; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "gif": "image/gif",
    "htm": HTML,
    "html": HTML,
    "ico": "image/vnd.microsoft.icon",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "map": "application/json",
    "md": "text/markdown; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "ogg": "audio/ogg",
    "otf": "font/otf",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "ttf": "font/ttf",
    "txt": "text/plain; charset=utf-8",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xml": "application/xml",
}
"""By extension; a table of our own, because that of an operating system is another one on each machine."""
OTHERWISE: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class StaticFile:
    """tag: of the content, an entity tag without its quotes."""

    content: bytes
    media_type: str
    tag: str


def is_static(path: str) -> bool:
    """Whether a path of a bundle is that of a file to serve: below `static/` of a package at the top."""
    return path.split("/", 2)[1:2] == [STATIC] and path.count("/") > 1


def static_files(files: Iterable[tuple[str, bytes]], package: str) -> dict[str, StaticFile]:
    """The files below `static/` of one package of a bundle, by the path at which a document serves them: /static/page.css."""
    found = {}
    for path, content in files:
        top, _, inside = path.partition("/")
        if top == package and is_static(path):
            tag = hashlib.blake2b(content, digest_size=TAG_BYTES, person=b"moot static").hexdigest()
            found[f"/{inside}"] = StaticFile(content, media_type_of(path), tag)
    return found


def media_type_of(path: str) -> str:
    """By the path's extension."""
    return MEDIA_TYPES.get(path.rpartition("/")[2].rpartition(".")[2].lower(), OTHERWISE)
