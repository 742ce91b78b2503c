"""Pick-a-Pic's parquet columns, pictures embedded; what Diffusion-DPO reads too.

label_0 and label_1 are 1 and 0 for the preferred and the other picture, 0.5 for a tie. Answers that
are none of these ('both bad', 'skip') leave with has_label false.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
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
from studio.store.vote_formats.outgoing import Outgoing
from studio.store.vote_formats.parquet_rows import read_parquet_rows

ROWS_A_GROUP = 32
LABELS = MappingProxyType({"left": (1.0, 0.0), "right": (0.0, 1.0), "tie": (0.5, 0.5)})
REQUIRED = ("caption", "jpg_0", "jpg_1", "label_0")
WANTED = (*(*REQUIRED, "label_1", "has_label", "created_at", "ranking_id", "user_id", EASEL_KEY),)


def write(out: Outgoing) -> int:
    """Write votes.parquet with every vote on a pair; returns how many."""
    from pyarrow import Table, parquet

    schema = _schema()
    prompts = Counter(_short_hash(v.prompt) for v in out.votes() if v.choice in LABELS)
    out.left_out.clear()  # counted again below
    users: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    count = 0
    with parquet.ParquetWriter(out.folder / "votes.parquet", schema) as file:
        for vote in out.votes():
            if vote.choice in ON_ONE_PICTURE:
                out.left_out["they are stars or ratings of one picture"] += 1
                continue
            count += 1
            user = users.setdefault(vote.rater, len(users) + 1)
            row = _row(out, vote, count, user)
            row["num_example_per_prompt"] = prompts[_short_hash(vote.prompt)]
            rows.append(row)
            if len(rows) == ROWS_A_GROUP:
                file.write_table(Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            file.write_table(Table.from_pylist(rows, schema))
    return count


def read(folder: Incoming) -> Iterator[Vote]:
    """Yield a vote for each row that has a label."""
    path = folder.find("*.parquet", "*/*.parquet")
    for where, row in read_parquet_rows(path, REQUIRED, WANTED):
        text_of(row, "caption", where)
        own = row.get(EASEL_KEY)
        if own is None and row.get("has_label") is False:
            continue
        left = folder.picture_bytes(row["jpg_0"], where)
        right = folder.picture_bytes(row["jpg_1"], where)
        whole = whole_vote(_parse(own, where), left, right, where)
        if whole is not None:
            yield whole
        elif left != right:  # the data set shows some pictures beside themselves
            yield _of_row(folder, row, (left, right), where)


def _of_row(folder: Incoming, row: dict[str, Any], pictures: tuple[str, str], where: str) -> Vote:
    label = row["label_0"]
    choice = next((c for c, labels in LABELS.items() if labels[0] == label), None)
    if choice is None:
        raise ImportRefusedError(f"{where}: label_0 is 1, 0 or 0.5.")
    created_at = row.get("created_at")
    values = {
        "id": derived_id(
            "pickapic", row.get("ranking_id"), number_of(where), row["caption"], *pictures
        ),
        "rater": f"pickapic:{str(row.get('user_id', ''))[:100]}",
        "left": pictures[0],
        "right": pictures[1],
        "choice": choice,
        "prompt": row["caption"],
    }
    if isinstance(created_at, int):
        values["created_at"] = created_at / 1e6
    return folder.foreign_vote(values, where)


def _row(out: Outgoing, vote: Vote, number: int, user: int) -> dict[str, Any]:
    labels = LABELS.get(vote.choice)
    model = (lambda sha256: "") if out.choices.without_recipes else out.model_of
    return {
        "are_different": vote.is_decisive,
        "best_image_uid": vote.winner or "none",
        "caption": vote.prompt,
        "created_at": round(Fraction(vote.created_at) * 10**9),  # ns; exact, floats are not
        "has_label": labels is not None,
        "image_0_uid": vote.left,
        "image_0_url": "",
        "image_1_uid": vote.right,
        "image_1_url": "",
        "jpg_0": out.content(vote.left),
        "jpg_1": out.content(vote.right),
        "label_0": labels[0] if labels else 0.5,
        "label_1": labels[1] if labels else 0.5,
        "model_0": model(vote.left),
        "model_1": model(vote.right),
        "ranking_id": number,
        "user_id": user,
        EASEL_KEY: json.dumps(vote.to_dict(), ensure_ascii=False),
    }


def _schema() -> Any:
    import pyarrow

    kinds = {
        "bool": pyarrow.bool_(),
        "text": pyarrow.string(),
        "time": pyarrow.timestamp("ns"),
        "bytes": pyarrow.binary(),
        "real": pyarrow.float64(),
        "whole": pyarrow.int64(),
    }
    columns = {
        "bool": ("are_different", "has_label"),
        "text": (
            *("best_image_uid", "caption", "image_0_uid", "image_0_url", "image_1_uid"),
            *("image_1_url", "model_0", "model_1", EASEL_KEY),
        ),
        "time": ("created_at",),
        "bytes": ("jpg_0", "jpg_1"),
        "real": ("label_0", "label_1"),
        "whole": ("ranking_id", "user_id", "num_example_per_prompt"),
    }
    fields = [(name, kinds[kind]) for kind, names in columns.items() for name in names]
    return pyarrow.schema(sorted(fields))


def _parse(text: object, where: str) -> object:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ImportRefusedError(f"{where}: its column '{EASEL_KEY}' is not JSON.") from error


def _short_hash(prompt: str) -> bytes:
    """Return eight bytes for a prompt, so that counting a million of them stays small."""
    return hashlib.sha256(prompt.encode()).digest()[:8]
