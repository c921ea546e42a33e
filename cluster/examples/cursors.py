"""A text with the cursors of those who look at it: the text is state, the cursors are there while their connections are."""

from cluster import Command, Document, Presence, Record, Text, anyone, field, on


class Cursor(Record):
    """Where somebody is in the text, and how much of it is selected. Offsets are Unicode code points."""

    at: int
    selected: int = 0


class Splice(Record):
    """Delete `delete` characters at `at`, then insert `insert` there."""

    at: int
    delete: int = 0
    insert: str = ""


class Page(Document, version=1, on_missing="create"):
    """A page that is there when somebody opens it."""

    gate = anyone

    body: Text = field.public("")
    cursors: Presence[Cursor] = field.public()

    @on.message
    def edit(self, ctx: Command, patches: list[Splice], base: int | None = None) -> int:
        """Apply splices, each an edit of what the one before it left. base: the index of the text that they mean."""
        if base is None:
            for patch in patches:
                self.body.splice(patch.at, patch.delete, patch.insert)
        else:
            self.body.edit([(patch.at, patch.delete, patch.insert) for patch in patches], base=base)
        return len(self.body)
