"""Votes, pictures and campaigns for the tests of the store."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from PIL import Image

from studio.core.campaign import Campaign, CampaignPicture, CampaignPlan, PairDraft
from studio.core.request import GenerationRequest
from studio.core.vote import Vote
from studio.store.campaigns import CampaignStore
from studio.store.database import Database
from studio.store.metadata import PictureRecord, encode_png
from studio.store.pictures import PictureStore
from studio.store.raters import RaterStore
from studio.store.vote_formats.transfer import VoteTransfer
from studio.store.vote_pictures import VotePictures
from studio.store.votes import VoteStore

NUMBERS = count(1)


def sha(number: int) -> str:
    """The hash of a picture that nobody looks at."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def vote(**changes: object) -> Vote:
    """A vote of its own; `changes` replace fields."""
    number = next(NUMBERS)
    values = {
        "id": f"vote-{number}",
        "created_at": 1_750_000_000.0 + number,
        "rater": "Ann",
        "left": sha(1),
        "right": sha(2),
        "choice": "left",
        "prompt": "a red apple",
        "session_id": "monday",
        "response_ms": 900,
        "app_version": "0.1.0",
    }
    return Vote(**values | changes)


def pair_values(vote: Vote) -> dict[str, object]:
    """The row of the pair that a vote answered."""
    shared = ("campaign", "rater", "prompt", "negative_prompt", "left", "right", "selection")
    return {name: getattr(vote, name) for name in shared} | {
        "id": vote.pair_id,
        "left_name": f"left {vote.pair_id}",
        "right_name": f"right {vote.pair_id}",
        "held_out": int(vote.held_out),
        "repeat_of": vote.repeat_of,
        "state": "answered",
    }


def png(number: int) -> bytes:
    """A small picture that carries a recipe, as Easel writes it."""
    image = Image.new("RGB", (16, 16), (number % 256, number // 256 % 256, 90))
    record = PictureRecord(GenerationRequest(prompt=f"secret {number}", seed=number), job_id="j")
    return encode_png(image, record)


def other_file(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 30, 90)).save(stream, kind)
    return stream.getvalue()


@dataclass(frozen=True)
class Voting:
    """One studio's stores about votes."""

    votes: VoteStore
    campaigns: CampaignStore
    raters: RaterStore
    pictures: VotePictures
    transfer: VoteTransfer
    data_dir: Path

    def campaign(self, name: str = "apples", pictures: int = 4) -> Campaign:
        made = self.campaigns.create(CampaignPlan(name, prompts=("a red apple",)))
        new = (CampaignPicture(sha(n), "a red apple", seed=n) for n in range(1, pictures + 1))
        self.campaigns.add_pictures(made.id, new)
        return self.campaigns.get(made.id)

    def draw_ahead(self, campaign: Campaign, pairs: int, rater: str = "Ann") -> None:
        drafts = (PairDraft(rater, "a red apple", sha(1), sha(2)) for _ in range(pairs))
        self.campaigns.draw_ahead(campaign.id, drafts)

    def answer(self, campaign: Campaign, choice: str = "left", **changes: object) -> Vote:
        """Answer Ann's next pair."""
        [pair] = self.campaigns.waiting(campaign.id, "Ann")
        values = {
            "id": f"click-{next(NUMBERS)}",
            "created_at": 1_750_000_000.0,
            "session_id": "monday",
            "response_ms": 900,
            "app_version": "0.1.0",
        }
        return self.votes.add(pair.vote(choice, **values | changes))

    def folder(self) -> dict[str, bytes]:
        """Every file of pictures of the data folder by its name."""
        files = (path for path in self.data_dir.rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in files if "sqlite3" not in path.name}


def open_voting(
    database: Database, data_dir: Path, *, own: Database | None = None, share: bool = False
) -> Voting:
    """Put the stores together; `own` is the studio's own database, where it is another one."""
    votes, raters = VoteStore(database), RaterStore(database)
    gallery = PictureStore(own or database, data_dir)
    pictures = VotePictures(database, data_dir, gallery, share=share)
    campaigns = CampaignStore(database, share=pictures.share)
    transfer = VoteTransfer(votes, raters, pictures, data_dir)
    return Voting(votes, campaigns, raters, pictures, transfer, data_dir)
