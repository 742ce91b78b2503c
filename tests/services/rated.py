"""Campaigns about plain pictures that are filed in a moment, without a model."""

from __future__ import annotations

import uuid

import numpy as np
from PIL import Image

from studio.core.campaign import Campaign, CampaignPlan
from studio.core.picture import Picture
from studio.core.request import GenerationRequest
from studio.services.rating import Answer, BlindPair
from studio.services.studio import Studio
from studio.store.pictures import PictureStore

SIDE = 64  # pixels


def file_pictures(
    studio: Studio,
    prompts: int = 6,
    each: int = 4,
    models: tuple[str, ...] = ("tiny",),
    first_prompt: int = 0,
    side: int = SIDE,
) -> list[Picture]:
    """File noisy pictures of random colours, `each` of every prompt and model."""
    store = PictureStore(studio.database, studio.settings.data_dir)
    chance = np.random.default_rng(first_prompt)
    found = []
    for number in range(first_prompt, first_prompt + prompts):
        for model in models:
            request = GenerationRequest(
                prompt=f"prompt {number}", width=side, height=side, seed=100, model=model
            )
            for index in range(each):
                colour = chance.integers(0, 256, 3)
                pixels = colour + chance.normal(0, 12, (side, side, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                found.append(
                    store.save(image, request, job_id=f"job{number}", index=index, seconds=0.1)
                )
    return found


def gallery_campaign(studio: Studio, **plan: object) -> Campaign:
    """A campaign about what is in the gallery."""
    campaigns = studio.preference.campaigns
    values = {"name": "colours", "strategy": "random"} | plan
    return campaigns.create_from_gallery(
        CampaignPlan(**values), campaigns.gallery_pictures(starred=False)
    )


def answer(pair: BlindPair, choice: str = "left", rater: str = "ann", **values: object) -> Answer:
    """A click on a pair."""
    fields = {"event": str(uuid.uuid4()), "session": "session-1", "response_ms": 900} | values
    return Answer(pair=pair.pair, rater=rater, choice=choice, **fields)


def next_pair(studio: Studio, campaign: Campaign, rater: str = "ann") -> BlindPair:
    """The front of a rater's queue."""
    return studio.preference.rating.next_pairs(campaign.id, rater, 1).pairs[0]


def vote_many(studio: Studio, campaign: Campaign, count: int, rater: str = "ann") -> None:
    """Answer pairs one after another: left, right, left, ..."""
    for number in range(count):
        pair = next_pair(studio, campaign, rater)
        studio.preference.rating.vote(answer(pair, ("left", "right")[number % 2], rater))
