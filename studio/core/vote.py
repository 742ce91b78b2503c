"""`Vote`: one answer of one rater, and `Undo`, the event that takes it back.

A vote is never rewritten. Most compare two pictures of one prompt; stars and ratings that were
given in other tabs are votes on one picture. Where one rater's ratings of a prompt's pictures
differ, the same reward learns from them as from pairs; a star compares nothing and teaches nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from studio.core.errors import VoteRefusedError

Choice = Literal["left", "right", "tie", "both_bad", "skip", "star", "rating"]
Selection = Literal["random", "eig", "repeat", "control", "tournament", "import", "batch", "stars"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
ON_ONE_PICTURE = frozenset(("star", "rating"))  # `right` is empty; `strength` holds the answer
DECISIVE = frozenset(("left", "right"))
MAX_NAME_CHARACTERS = 200  # of raters, campaigns, sessions and identifiers
MAX_TEXT_CHARACTERS = 20_000  # of prompts
MAX_RESPONSE_MS = 24 * 3600 * 1000
_UNREADABLE = re.compile("[\\0\\ud800-\\udfff]")  # halves of characters: no database keeps them
_SHA256 = re.compile("[0-9a-f]{64}")  # patterns, since a million votes are checked as they are read


@dataclass(frozen=True)
class Vote:
    """One answer. Pictures are named by the sha256 of their files; times are seconds since 1970."""

    id: str  # made by the page for each click, so that a click sent twice is one vote
    created_at: float
    rater: str  # the rater's name
    left: str  # sha256 of the picture that stood on the left
    right: str  # and on the right; empty for a vote on one picture
    choice: Choice
    prompt: str = ""
    negative_prompt: str = ""
    session_id: str = ""  # one sitting of a rater in one browser tab
    campaign: str = ""  # id; empty outside any campaign
    pair_id: str = ""  # the pair that was shown; empty for imports, batches and stars
    strength: float | None = None  # how much better; star: 0 or 1; rating: 1 to 5, 0 takes it back
    response_ms: int = 0  # from seeing the pair to the answer
    selection: Selection = "random"  # why this pair was shown
    repeat_of: str | None = None  # the vote that this one asks again, sides swapped
    held_out: bool = False  # kept for evaluation; nothing learns from it
    app_version: str = ""

    def __post_init__(self) -> None:
        _check_names(self)
        _check_pictures(self)
        _check_numbers(self)

    @property
    def is_decisive(self) -> bool:
        """Whether one of two pictures was preferred."""
        return self.choice in DECISIVE

    @property
    def winner(self) -> str | None:
        """The sha256 of the preferred picture, or None."""
        return {"left": self.left, "right": self.right}.get(self.choice)

    def repeats_decision(self, first: Vote) -> bool | None:
        """Whether a repeat prefers the picture that the first vote preferred, on whichever side.

        None where that tells nothing: not decided both times, or about other pictures.
        """
        same = {self.left, self.right} == {first.left, first.right}
        if not (same and self.is_decisive and first.is_decisive):
            return None
        return self.winner == first.winner

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON; `vote_from_dict` gives an equal vote."""
        return asdict(self)


@dataclass(frozen=True)
class Undo:
    """The event that takes one vote back."""

    id: str
    vote_id: str
    created_at: float  # seconds since 1970
    rater: str
    session_id: str = ""


@dataclass(frozen=True)
class Tally:
    """Counts of votes that stand, of one rater, one campaign or all."""

    votes: int = 0  # left, right, tie and both_bad together
    left: int = 0
    right: int = 0
    ties: int = 0
    both_bad: int = 0
    skips: int = 0  # not in `votes`
    on_one_picture: int = 0  # stars and ratings; not in `votes`
    held_out: int = 0  # of `votes`
    repeats: int = 0  # of `votes`: pairs asked again and decided both times
    repeats_same: int = 0  # of `repeats`: decided as before
    undone: int = 0  # taken back; in none of the counts above
    raters: int = 0  # with at least one vote of `votes`

    @property
    def teaching(self) -> int:
        """How many votes on pairs teach, at least: a held-out 'both bad' is subtracted twice."""
        return max(0, self.votes - self.both_bad - self.held_out)

    def __add__(self, other: Tally) -> Tally:
        """Add what was counted elsewhere; of raters, who may be the same, the larger number."""
        names = (field.name for field in fields(self))
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Tally(**sums | {"raters": max(self.raters, other.raters)})


def vote_from_dict(values: dict[str, Any]) -> Vote:
    """Read what `Vote.to_dict` gave. Raises `VoteRefusedError` naming what does not fit."""
    known = {field.name for field in fields(Vote)}
    unknown = sorted(str(key)[:40] for key in set(values) - known)
    if unknown:
        raise VoteRefusedError(f"A vote has no field '{unknown[0]}'; leave it out.")
    lacking = sorted({"id", "created_at", "rater", "left", "right", "choice"} - set(values))
    if lacking:
        raise VoteRefusedError(f"This vote lacks its '{lacking[0]}'; add it.")
    return Vote(**values)


def is_sha256(text: object) -> bool:
    """Whether `text` is a sha256 in lower-case hexadecimal digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _check_names(vote: Vote) -> None:
    for name in ("id", "rater", "session_id", "campaign", "pair_id", "app_version", "repeat_of"):
        value = getattr(vote, name)
        if name == "repeat_of" and value is None:
            continue
        _check_text(name, value, MAX_NAME_CHARACTERS)
        if not value and name in ("id", "rater", "repeat_of"):
            raise VoteRefusedError(f"A vote needs its '{name}'; it is empty here.")
    for name in ("prompt", "negative_prompt"):
        _check_text(name, getattr(vote, name), MAX_TEXT_CHARACTERS)


def _check_text(name: str, value: object, limit: int) -> None:
    if not isinstance(value, str):
        raise VoteRefusedError(f"The '{name}' of a vote must be text.")
    if len(value) > limit:
        raise VoteRefusedError(
            f"The '{name}' of a vote has {len(value):,} characters; keep it under {limit:,}."
        )
    if _UNREADABLE.search(value):
        raise VoteRefusedError(f"The '{name}' of a vote holds unreadable characters; remove them.")


def _check_pictures(vote: Vote) -> None:
    if vote.choice not in CHOICES:
        raise VoteRefusedError(
            f"'{str(vote.choice)[:40]}' is no answer; one of {', '.join(CHOICES)}."
        )
    alone = vote.choice in ON_ONE_PICTURE
    if not is_sha256(vote.left) or not (vote.right == "" if alone else is_sha256(vote.right)):
        raise VoteRefusedError(
            "A vote names its pictures by their sha256, 64 hexadecimal digits each"
            + ("; a star or rating has no right picture." if alone else ".")
        )
    if vote.left == vote.right:
        raise VoteRefusedError("A vote compares two different pictures; these are the same.")


def _check_numbers(vote: Vote) -> None:
    if vote.selection not in SELECTIONS:
        raise VoteRefusedError(
            f"'{str(vote.selection)[:40]}' is no reason to show a pair; "
            f"one of {', '.join(SELECTIONS)}."
        )
    if not isinstance(vote.held_out, bool):
        raise VoteRefusedError("'held_out' of a vote is true or false.")
    milliseconds = vote.response_ms
    if type(milliseconds) is not int or not 0 <= milliseconds <= MAX_RESPONSE_MS:
        raise VoteRefusedError("'response_ms' of a vote is a whole number from 0 to one day.")
    if not _is_number(vote.created_at) or not 0 <= vote.created_at < 2**36:
        raise VoteRefusedError("'created_at' of a vote is its time in seconds since 1970.")
    if vote.strength is not None and not _is_number(vote.strength):
        raise VoteRefusedError("The 'strength' of a vote is a number, or none.")
    allowed = {"star": (0, 1), "rating": (0, 1, 2, 3, 4, 5)}.get(vote.choice)
    if allowed is not None and vote.strength not in allowed:
        raise VoteRefusedError(
            "A star is 0 or 1, a rating is 1 to 5 (0 takes it back); it stands in 'strength'."
        )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
