"""A text that many people edit at once: their edits are carried over what others wrote meanwhile."""

from cluster import Command, Document, Record, Text, anyone, field, on


class Splice(Record):
    """Delete `delete` characters at `at`, then insert `insert` there. Offsets are Unicode code points."""

    at: int
    delete: int = 0
    insert: str = ""


class SharedText(Document, version=1):
    """A text. It starts empty or with the content that its creator gives."""

    gate = anyone

    body: Text = field.public("")

    @on.construct
    def open(self, ctx: Command, content: str = "") -> None:
        self.body.append(content)

    @on.message
    def edit(self, ctx: Command, patches: list[Splice], base: int | None = None) -> int:
        """Apply splices, each an edit of what the one before it left, and answer the length of the text.

        base: the index of the state that the first one is an edit of, if it is not the present one: all are carried over what
        others wrote since. StaleEdit answers one that is too old.
        """
        if base is None:
            for patch in patches:
                self.body.splice(patch.at, patch.delete, patch.insert)
        else:
            self.body.edit([(patch.at, patch.delete, patch.insert) for patch in patches], base=base)
        return len(self.body)
