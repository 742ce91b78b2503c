"""Pairs for direct preference optimisation: pairs.jsonl with prompt, chosen and rejected.

Only decisive votes fit; ties and the rest are left out and counted. The Pick-a-Pic format, which
Diffusion-DPO reads, keeps ties.
"""

from __future__ import annotations

from collections.abc import Iterator

from studio.core.vote import Vote
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


def write(out: Outgoing) -> int:
    """Write the decisive votes; returns how many."""
    count = 0
    with (out.folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for vote in out.votes():
            if not vote.is_decisive:
                out.left_out["they prefer neither of two pictures"] += 1
                continue
            chosen, rejected = vote.left, vote.right
            if vote.choice == "right":
                chosen, rejected = rejected, chosen
            row = {
                "prompt": vote.prompt,
                "chosen": out.picture_file(chosen)[0],
                "rejected": out.picture_file(rejected)[0],
                EASEL_KEY: vote.to_dict(),
            }
            write_json_row(file, row)
            count += 1
    return count


def read(folder: Incoming) -> Iterator[Vote]:
    """Yield a vote a row; where the sides are unknown they are taken from the row's hash."""
    for where, row in read_json_rows(folder.find("pairs.jsonl", "*.jsonl", "*.json")):
        prompt = text_of(row, "prompt", where)
        chosen = folder.picture(row.get("chosen"), where)
        rejected = folder.picture(row.get("rejected"), where)
        whole = whole_vote(row.get(EASEL_KEY), chosen, rejected, where)
        if whole is not None:
            yield whole
            continue
        vote_id = derived_id("dpo", number_of(where), prompt, chosen, rejected)
        swapped = int(vote_id[-1], 16) % 2 == 1
        values = {
            "id": vote_id,
            "rater": "dpo",
            "left": rejected if swapped else chosen,
            "right": chosen if swapped else rejected,
            "choice": "right" if swapped else "left",
            "prompt": prompt,
        }
        yield folder.foreign_vote(values, where)
