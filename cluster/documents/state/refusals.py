"""What handlers meet when they may not, or can not, do what they tried.

`Refused` is the author's base class for declared refusals. The others are our own: `StaleEdit` is a refusal like any other,
the rest are bugs of the handler and end as HandlerFailed. None of them leaves a half-made change: the write that raised did
nothing, and the command is rolled back.
"""

from __future__ import annotations


class Refused(Exception):
    """A refusal that the document's author declares by subclassing: rolled back, answered, raised again at the client.

    What is given to the constructor is answered as `arguments`.
    """


class StaleEdit(Refused):
    """A Text edit was made at a position whose later splices are no longer retained.

    text: the current text. index: the document index it is of. The client rebases its edit and sends it again.
    """

    def __init__(self, text: str = "", index: int = 0) -> None:
        super().__init__(text, index)
        self.text = text
        self.index = index

    def __str__(self) -> str:
        return f"the edit is older than the retained splices; the text is now at index {self.index}"


class WriteInReadHandler(RuntimeError):
    """A gate, policy, view or export tried to change the state."""

    def __init__(self) -> None:
        super().__init__("gates, policies, views and exports may only read")


class StaleHandle(RuntimeError):
    """A handle was used after the command it was taken in, after its value was removed, or outside any command."""
