"""`launch.py train`: a stage of the recipe, or an artist's own style."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from studio.core.settings import Settings
from studio.services.lora_command import teach
from studio.services.ownership import hold_training


def train(args: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Run `args.stage`; waits for the device and for another training. Returns the exit code.

    Of several processes that train together only the first one waits and holds the lock.
    """
    if args.stage == "lora":
        return teach(args.rest or [], settings)
    from studio.training.stages.command_line import train as train_stage  # brings torch

    if int(os.environ.get("RANK", "0")) > 0:
        return train_stage(args, settings)
    with hold_training(settings.data_dir, f"train {args.stage}", say):
        return train_stage(args, settings)
