"""Rows as in ImageRewardDB: one picture a row, ranked among those of the same `prompt_id`.

A vote on a pair leaves as two rows with ranks (1 and 2, or 1 twice for a tie), a rating as one row
with its `overall_rating`. 'Both bad' and 'skip' have no rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, groupby
from types import MappingProxyType
from typing import Any

from studio.core.errors import ImportRefusedError
from studio.core.vote import Vote
from studio.store.vote_formats.hpdv2 import choice_of_ranks
from studio.store.vote_formats.incoming import (
    EASEL_KEY,
    Incoming,
    derived_id,
    number_of,
    text_of,
    whole_vote,
)
from studio.store.vote_formats.json_rows import read_json_rows, write_json_row
from studio.store.vote_formats.outgoing import Outgoing
from studio.store.vote_formats.parquet_rows import read_parquet_rows

RANKS = MappingProxyType({"left": (1, 2), "right": (2, 1), "tie": (1, 1)})
MAX_RANKED = 64  # pictures of one prompt
COLUMNS = ("image_path", "prompt_id", "prompt", "rank", "overall_rating", EASEL_KEY)


def write(out: Outgoing) -> int:
    """Write metadata.jsonl; returns how many votes are in it."""
    count = 0
    with (out.folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for vote in out.votes():
            if vote.choice == "star":
                out.left_out["they are stars, which have no rank"] += 1
                continue
            pictures = [picture for picture in (vote.left, vote.right) if picture]
            ranks = RANKS.get(vote.choice, (None, None))
            for number, picture in enumerate(pictures):
                row: dict[str, Any] = {
                    "image_path": out.picture_file(picture)[0],
                    "prompt_id": vote.id,
                    "prompt": vote.prompt,
                    "classification": "",
                    "image_amount_in_total": len(pictures),
                    "rank": ranks[number],
                    "overall_rating": vote.strength if vote.choice == "rating" else None,
                    "image_text_alignment_rating": None,
                    "fidelity_rating": None,
                }
                if number == 0:
                    row[EASEL_KEY] = vote.to_dict()
                write_json_row(file, row)
            count += 1
    return count


def read(folder: Incoming) -> Iterator[Vote]:
    """Yield a vote for each two pictures of a prompt that are ranked."""
    path = folder.find("metadata.jsonl", "*.jsonl", "*.json", "*.parquet")
    is_parquet = path.suffix == ".parquet"
    rows = read_parquet_rows(path, COLUMNS[:4], COLUMNS) if is_parquet else read_json_rows(path)
    for prompt_id, group in groupby(rows, key=_prompt_id):
        members = []
        for where, row in group:
            if len(members) == MAX_RANKED:
                raise ImportRefusedError(f"{where}: more than {MAX_RANKED} pictures of a prompt.")
            members.append((where, row, folder.picture(row.get("image_path"), where)))
        yield from _of_group(folder, prompt_id, members)


def _prompt_id(entry: tuple[str, dict[str, Any]]) -> str:
    where, row = entry
    if type(row.get("prompt_id")) not in (str, int):
        raise ImportRefusedError(f"{where} lacks 'prompt_id'; is it of another format?")
    return str(row["prompt_id"])


def _of_group(
    folder: Incoming, prompt_id: str, members: list[tuple[str, dict[str, Any], str]]
) -> Iterator[Vote]:
    where, first, left = members[0]
    if first.get(EASEL_KEY) is not None:
        right = members[1][2] if len(members) > 1 else ""
        if len(members) > 2:
            raise ImportRefusedError(f"{where} belongs to one vote but to more than two pictures.")
        whole = whole_vote(first[EASEL_KEY], left, right, where)
        if whole is not None:
            yield whole
        return
    for one, other in combinations(members, 2):
        ranks = (one[1].get("rank"), other[1].get("rank"))
        if any(type(rank) not in (int, float) for rank in ranks):
            raise ImportRefusedError(f"{one[0]} and {other[0]} lack a 'rank' that is a number.")
        if one[2] != other[2]:
            values = {
                "id": derived_id("imagereward", prompt_id, number_of(one[0]), one[2], other[2]),
                "rater": "imagereward",
                "left": one[2],
                "right": other[2],
                "choice": choice_of_ranks(*ranks),
                "prompt": text_of(one[1], "prompt", one[0]),
            }
            yield folder.foreign_vote(values, one[0])
