"""An album of pictures: everybody sees those that are open, and their own. The bytes are given to whoever sees the picture."""

from cluster import Blob, Command, Document, Principal, Record, Refused, Table, anyone, field, on, read


class NotYours(Refused):
    """Only who hung a picture may open it or take it down."""


class Photo(Record):
    """A picture on the wall. picture: its bytes are the document's; views show their hash."""

    owner: Principal
    picture: Blob
    caption: str = ""
    open: bool = False


class Album(Document, version=1, on_missing="create"):
    """Pictures that their owners open to everybody, or keep to themselves."""

    gate = anyone

    @read.policy
    def may_see(self, photo: Photo, who: Principal) -> bool:
        """Whether a viewer sees the picture, and may have its bytes."""
        return photo.open or who == photo.owner

    cover: Blob | None = field.public(None)
    photos: Table[Photo] = field.visible(may_see)

    @on.message
    def hang(self, ctx: Command, picture: Blob, caption: str = "") -> str:
        """Hang a picture that only its owner sees; answers its hash."""
        self.photos.put(Photo(ctx.sender, picture, caption))
        return picture.hash

    @on.message
    def show(self, ctx: Command, hash: str, cover: bool = False) -> None:
        """Open one's pictures of this hash to everybody, and perhaps make it the cover."""
        for photo in self.own(ctx, hash):
            photo.open = True
            if cover:
                self.cover = photo.picture

    @on.message
    def take_down(self, ctx: Command, hash: str) -> None:
        """Take one's pictures of this hash down; what nobody shows any more is forgotten."""
        for photo in self.own(ctx, hash):
            self.photos.remove(photo)

    @on.message
    def write(self, ctx: Command, text: str) -> Blob:
        """Make a cover of words."""
        self.cover = Blob(text.encode(), "text/plain")
        return self.cover

    def own(self, ctx: Command, hash: str) -> list[Photo]:
        """The sender's pictures of this hash."""
        found = [photo for photo in self.photos if photo.picture.hash == hash and photo.owner == ctx.sender]
        if not found:
            raise NotYours()
        return found
