"""What an operator is shown of an error of the author's code: the author's frames with their source lines."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from types import TracebackType
from typing import Final

FRAMES_MAX: Final = 20


def traceback_of(error: BaseException, files: Mapping[str, str]) -> str:
    """The author's frames with their source lines, outermost first, and the error. files: of the bundle, by what they are
    called here.
    """
    frames = []
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename in files:
            frames.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    lines = []
    for filename, line, name in frames[-FRAMES_MAX:]:
        lines.append(f"  {files[filename]}, line {line}, in {name}")
        lines.append(f"    {linecache.getline(filename, line).strip()}")
    return "\n".join([*lines, f"{type(error).__name__}: {error}"])
