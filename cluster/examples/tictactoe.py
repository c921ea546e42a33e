"""Tic-tac-toe: who creates the game plays X, who joins it plays O, everybody may watch."""

from typing import Literal

from cluster import Command, Document, Principal, Refused, anyone, field, on, read

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


class NotYourTurn(Refused):
    """Wait for the other player."""


class NotAPlayer(Refused):
    """You only watch this game."""


class SeatTaken(Refused):
    """The game has two players already."""


class CellTaken(Refused):
    """Somebody has marked this cell, or there is none of this number."""


class GameOver(Refused):
    """The game has ended."""


class Game(Document, version=1):
    """One game. Cells are numbered 0 to 8, row by row."""

    gate = anyone

    x: Principal = field.public()
    o: Principal | None = field.public(None)
    board: list[Literal["X", "O", ""]] = field.public(("",) * 9)
    moves: int = field.public(0)

    @on.construct
    def open(self, ctx: Command) -> None:
        self.x = ctx.sender

    @on.message
    def join(self, ctx: Command) -> None:
        if self.o is not None or ctx.sender == self.x:
            raise SeatTaken()
        self.o = ctx.sender

    @on.message
    def play(self, ctx: Command, cell: int) -> None:
        if ctx.sender not in (self.x, self.o):
            raise NotAPlayer()
        if self.winner() or self.moves == 9:
            raise GameOver()
        if ctx.sender != (self.x if self.moves % 2 == 0 else self.o):
            raise NotYourTurn()
        if not 0 <= cell < 9 or self.board[cell]:
            raise CellTaken()
        self.board[cell] = "X" if self.moves % 2 == 0 else "O"
        self.moves += 1

    @read.view
    def winner(self) -> Literal["X", "O", ""]:
        """Who has three in a line, or nobody."""
        for a, b, c in LINES:
            if self.board[a] and self.board[a] == self.board[b] == self.board[c]:
                return self.board[a]
        return ""
