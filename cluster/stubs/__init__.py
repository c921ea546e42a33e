"""Typed clients of a document type, generated from its schema: `moot space schema NAME --format python | typescript`.

    names.py        names that are free in the language, and the shapes of types that both generators tell apart
    python.py       a module with a class of methods for each document type, on `cluster.client.Handle`
    typescript.py   types and a thin wrapper that needs nothing but a way to send

A function of the schema alone: equal schemas give equal files, so a generated file may be committed and compared.
"""

from cluster.stubs.python import python_stub
from cluster.stubs.typescript import typescript_stub

__all__ = ["python_stub", "typescript_stub"]
