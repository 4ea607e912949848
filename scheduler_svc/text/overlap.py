"""Finds how much of a text's end may be the start of a word that is looked for in it."""


def overlap(text: str, word: str) -> int:
    """Returns the length of the longest end of `text` that `word` begins with, short of all of it."""
    at = max(0, len(text) - len(word) + 1)
    while (at := text.find(word[0], at)) >= 0:
        if word.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0
