"""A promise that was broken."""

from __future__ import annotations


class Violation(Exception):
    """`checker` says which kind of promise, `what` in which way. Ends the run."""

    def __init__(self, checker: str, what: str) -> None:
        super().__init__(f"{checker}: {what}")
        self.checker = checker
        self.what = what
