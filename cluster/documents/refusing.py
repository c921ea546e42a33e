"""How a declared refusal is answered."""

from __future__ import annotations

from typing import Any

from cluster.documents import textual
from cluster.documents.armed import json_form


def refusal_body(refusal: Exception) -> dict[str, Any]:
    """Name, message and arguments of a refusal. Raises TypeError, ValueError or UnicodeEncodeError when what it carries is not
    plain, and what work on that exhausts."""
    arguments = [json_form(argument) for argument in refusal.args]
    message = textual.text(refusal) if refusal.args else _first_line(type(refusal))
    return {"name": type(refusal).__name__, "message": message, "arguments": arguments}


def _first_line(refusal: type[Exception]) -> str:
    return (refusal.__doc__ or refusal.__name__).strip().partition("\n")[0]
