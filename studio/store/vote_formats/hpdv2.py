"""HPDv2's JSON: train.json with two pictures a row, test.json with a ranking by several people.

    train  {"human_preference": [1, 0], "prompt": "...", "file_path": ["...", "..."]}
    test   {"prompt", "image_path": [...], "raw_annotations": [{"rank": [...], "user_hash"}]}

A tie is written [0.5, 0.5]; 'both bad' and 'skip', which prefer neither, [0, 0].
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from types import MappingProxyType
from typing import Any

from studio.core.errors import ImportRefusedError
from studio.core.vote import ON_ONE_PICTURE, Vote
from studio.store.vote_formats.incoming import (
    EASEL_KEY,
    Incoming,
    derived_id,
    number_of,
    text_of,
    whole_vote,
)
from studio.store.vote_formats.json_rows import read_json_rows
from studio.store.vote_formats.outgoing import Outgoing

PREFERENCES = MappingProxyType({"left": [1, 0], "right": [0, 1], "tie": [0.5, 0.5]})
MAX_RANKED = 64  # pictures of one ranking


def write(out: Outgoing) -> int:
    """Write train.json with every vote on a pair; returns how many."""
    count = 0
    with (out.folder / "train.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for vote in out.votes():
            if vote.choice in ON_ONE_PICTURE:
                out.left_out["they are stars or ratings of one picture"] += 1
                continue
            row = {
                "human_preference": PREFERENCES.get(vote.choice, [0, 0]),
                "prompt": vote.prompt,
                "file_path": [out.picture_file(p)[0] for p in (vote.left, vote.right)],
                EASEL_KEY: vote.to_dict(),
            }
            file.write("\n" if count == 0 else ",\n")
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
            count += 1
        file.write("\n]\n")
    return count


def read(folder: Incoming) -> Iterator[Vote]:
    """Yield the votes of a train.json or test.json."""
    path = folder.find("train.json", "test.json", "*.json", "*/train.json", "*/test.json")
    for where, row in read_json_rows(path):
        if "human_preference" in row:
            yield _of_pair(folder, row, where)
        else:
            yield from _of_ranking(folder, row, where)


def _of_pair(folder: Incoming, row: dict[str, Any], where: str) -> Vote:
    prompt = text_of(row, "prompt", where)
    names, preference = row.get("file_path"), row["human_preference"]
    if not isinstance(names, list) or len(names) != 2:
        raise ImportRefusedError(f"{where} names {_count(names)} pictures, not two.")
    left, right = (folder.picture(name, where) for name in names)
    whole = whole_vote(row.get(EASEL_KEY), left, right, where)
    if whole is not None:
        return whole
    choice = next((c for c, written in PREFERENCES.items() if written == preference), None)
    if choice is None:
        raise ImportRefusedError(f"{where}: human_preference is [1, 0] or [0, 1].")
    values = {
        "id": derived_id("hpdv2", number_of(where), prompt, left, right),
        "rater": "hpdv2",
        "left": left,
        "right": right,
        "choice": choice,
        "prompt": prompt,
    }
    return folder.foreign_vote(values, where)


def _of_ranking(folder: Incoming, row: dict[str, Any], where: str) -> Iterator[Vote]:
    """Yield a vote for each two pictures and annotator; a smaller rank is better."""
    prompt = text_of(row, "prompt", where)
    names, annotations = row.get("image_path"), row.get("raw_annotations", [row])
    if not isinstance(names, list) or not 2 <= len(names) <= MAX_RANKED:
        raise ImportRefusedError(f"{where} ranks {_count(names)} pictures, not 2 to {MAX_RANKED}.")
    if not isinstance(annotations, list):
        raise ImportRefusedError(f"{where}: raw_annotations is not a list.")
    pictures = [folder.picture(name, where) for name in names]
    for number, annotation in enumerate(annotations):
        ranks = annotation.get("rank") if isinstance(annotation, dict) else None
        if not _are_ranks(ranks, len(names)):
            raise ImportRefusedError(f"{where} lacks a rank for each of its pictures.")
        rater = str(annotation.get("user_hash", "hpdv2"))[:100]
        said = (number_of(where), prompt, number)
        for one, other in combinations(range(len(names)), 2):
            if pictures[one] != pictures[other]:
                yield folder.foreign_vote(
                    {
                        "id": derived_id("hpdv2", *said, one, other, *pictures),
                        "rater": f"hpdv2:{rater}",
                        "left": pictures[one],
                        "right": pictures[other],
                        "choice": choice_of_ranks(ranks[one], ranks[other]),
                        "prompt": prompt,
                    },
                    where,
                )


def choice_of_ranks(left: float, right: float) -> str:
    """Return the answer that two ranks give, 1 being the best."""
    if left == right:
        return "tie"
    return "left" if left < right else "right"


def _are_ranks(ranks: object, count: int) -> bool:
    return (
        isinstance(ranks, list)
        and len(ranks) == count
        and all(type(rank) in (int, float) for rank in ranks)
    )


def _count(names: object) -> str:
    return str(len(names)) if isinstance(names, list) else "no"
