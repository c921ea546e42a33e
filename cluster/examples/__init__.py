"""Document types that work, each to be read in a minute.

counter, text, chat, tictactoe, poll, cards, auction, dice, assistant, visitors.
"""
