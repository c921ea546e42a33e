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
        """Apply splices and answer the length of the text.

        Without `base` each splice is an edit of what the one before it left. With `base`, the index of the state that the
        editor had seen, all of them give places in the text as it was then; StaleEdit answers one that is too old.
        """
        for patch in patches:
            self.body.splice(patch.at, patch.delete, patch.insert, base=base)
        return len(self.body)
