"""What a picture is worth: known measures for science and tests, and the artist's learned taste.

A reward is a pure function of pictures and prompts, so that a run that is killed and resumed sees
the same numbers. The known ones follow Black et al. 2023 (DDPO), section 5.1.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from studio.core.errors import TrainingError
from studio.training.preference.features import Encoder
from studio.training.preference.reward import Reward, reward_bytes

JPEG_QUALITY = 95  # as in ddpo-pytorch's rewards
LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709
Images = NDArray[np.uint8]  # (B, H, W, 3)


@dataclass(frozen=True)
class RewardFunction:
    """A reward with a name and with what tells it from every other: (images, prompts) -> (B,)."""

    name: str
    identity: str  # what a run must find again to go on: its name, or votes, encoder and bound
    score: Callable[[Images, Sequence[str]], Tensor]  # the higher the better
    learned: bool = False  # from votes, so that it can be wrong about pictures it never saw
    lineage: Mapping[str, object] = field(default_factory=dict)  # where it comes from, as JSON

    def __call__(self, images: Images, prompts: Sequence[str]) -> Tensor:
        """Images (B, H, W, 3) of bytes and a prompt each -> rewards (B,) in fp32."""
        return self.score(images, prompts).float()


def luma(images: Images) -> NDArray[np.float64]:
    """Images (B, H, W, 3) -> brightness of each pixel (B, H, W), 0 to 1."""
    return images.astype(np.float64) @ np.array(LUMA) / 255


def brightness(images: Images, _prompts: Sequence[str]) -> Tensor:
    """Return the mean luma of each picture, 0 to 1."""
    return torch.from_numpy(luma(images).mean((1, 2)))


def darkness(images: Images, prompts: Sequence[str]) -> Tensor:
    """Return the opposite of `brightness`."""
    return -brightness(images, prompts)


def saturation(images: Images, _prompts: Sequence[str]) -> Tensor:
    """Return the mean distance between a pixel's largest and smallest channel, 0 to 1."""
    spread = images.max(-1).astype(np.float64) - images.min(-1)
    return torch.from_numpy(spread.mean((1, 2)) / 255)


def incompressibility(images: Images, _prompts: Sequence[str]) -> Tensor:
    """Return the size of each picture as a JPEG, in kB."""
    return torch.tensor([_jpeg_bytes(image) / 1000 for image in images])


def compressibility(images: Images, prompts: Sequence[str]) -> Tensor:
    """Return the opposite of `incompressibility`."""
    return -incompressibility(images, prompts)


def random(images: Images, _prompts: Sequence[str]) -> Tensor:
    """Return noise that has nothing to do with what a picture shows: N(0, 1) from its hash."""
    seeds = [int(hashlib.sha256(image.tobytes()).hexdigest()[:16], 16) for image in images]
    return torch.tensor([np.random.default_rng(seed).standard_normal() for seed in seeds])


KNOWN: Mapping[str, Callable[[Images, Sequence[str]], Tensor]] = MappingProxyType(
    {
        "brightness": brightness,
        "darkness": darkness,
        "saturation": saturation,
        "compressibility": compressibility,
        "incompressibility": incompressibility,
        "random": random,
    }
)


def known_reward(name: str) -> RewardFunction:
    """Return one of the known rewards. Raises TrainingError for a name that is none."""
    if name not in KNOWN:
        raise TrainingError(f"There is no reward '{name[:40]}'. Choose one of {', '.join(KNOWN)}.")
    return RewardFunction(name, f"known:{name}", KNOWN[name])


def learned_reward(reward: Reward, encoder: Encoder, k: float = 1.0) -> RewardFunction:
    """Return the artist's learned taste: mean minus k standard deviations of the posterior.

    The lower bound keeps the policy where the votes were: far from them the deviation grows, and a
    high mean there is a guess. Raises TrainingError when the encoder is not the reward's own.
    """
    if reward.encoder_sha256 != encoder.sha256:
        raise TrainingError(
            f"The reward was learned on features of {reward.encoder_name}, and {encoder.name} is "
            "here now. Fit the reward again from the votes."
        )

    def score(images: Images, _prompts: Sequence[str]) -> Tensor:
        return torch.from_numpy(reward.lower_bound(encoder.embed(images), k))

    identity = f"votes:{reward.votes_hash}:{encoder.sha256}:{k:g}"
    lineage = {
        "votes": reward.votes,
        "votes_sha256": reward.votes_hash,
        "encoder": encoder.sha256,
        "reward_sha256": hashlib.sha256(reward_bytes(reward)).hexdigest(),
    }
    return RewardFunction("taste", identity, score, learned=True, lineage=lineage)


def _jpeg_bytes(image: NDArray[np.uint8]) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return len(buffer.getvalue())
