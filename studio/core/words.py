"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Return a number with its thing in the right form: '1 vote', '2,000 votes'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
