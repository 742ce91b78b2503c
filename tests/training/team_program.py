"""Fine-tunes a tiny model alone, and in two processes that train together; prints both outcomes.

    python tests/training/team_program.py MODEL FOLDER ppo|nft [diverge]

With `diverge`, the second process's reward is no number in the second epoch.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch._dynamo  # or each child imports it at its optimizer's first step
from safetensors.torch import load_file

from studio.core.events import EpochDone, Notice
from studio.diffusion.model import load_model
from studio.training.finetune import finetune
from studio.training.nft import NftConfig
from studio.training.rewards import RewardFunction, known_reward
from studio.training.team import join_team
from tests.training.finetune_program import CONFIG, TOOLS

RUN = replace(CONFIG, epochs=2, images_per_prompt=3, nft=NftConfig(levels=2))


def train(model_folder: Path, folder: Path, algorithm: str, diverge: bool) -> None:
    """One process's part; tells what it saw in a file of its own."""
    torch.set_num_threads(1)
    team, device = join_team("cpu")
    model = load_model(model_folder, "tiny", device, torch.float32, sha256="ab")
    config, told = replace(RUN, algorithm=algorithm), []
    brightness, calls = known_reward("brightness"), []

    def score(images, prompts):
        calls.append(1)
        spoiled = diverge and team.number == 1 and len(calls) == 4  # look, epoch, look, epoch
        return brightness.score(images, prompts) * (float("nan") if spoiled else 1.0)

    reward = RewardFunction("brightness", "known:brightness", score)
    for event in finetune(model, reward, config, TOOLS, folder / "run", team=team):
        if isinstance(event, EpochDone):
            told.append({k: v for k, v in asdict(event).items() if k != "seconds"})
        elif isinstance(event, Notice):
            told.append(event.sentence)
    (folder / f"told-{team.number}-of-{team.count}.json").write_text(json.dumps(told))


def in_children(count: int, action: Callable[[], None]) -> None:
    """Run an action in so many processes that torchrun might have started; wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for number in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        status = 1
        try:
            os.environ |= {
                "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            action()
            status = 0
        finally:
            os._exit(status)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), f"processes ended with {codes}"


def main(model: Path, folder: Path, algorithm: str, diverge: bool) -> None:
    """Print {processes: {adapter, told by each}}."""
    found, adapters = {}, []
    for count in (1, 2):
        place = folder / str(count)
        place.mkdir()
        in_children(count, lambda place=place: train(model, place, algorithm, diverge))
        told = sorted(place.glob("told-*.json"))
        found[count] = [json.loads(file.read_text()) for file in told]
        adapters.append(load_file(place / "run" / "adapter.safetensors"))
    ups = [torch.cat([w.flatten() for n, w in one.items() if "up" in n]) for one in adapters]
    difference = float((ups[0] - ups[1]).norm() / ups[0].norm())  # they were zero at the start
    sys.stdout.write(json.dumps({"told": found, "difference": difference}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], "diverge" in sys.argv[4:])
