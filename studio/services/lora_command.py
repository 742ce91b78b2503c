"""`launch.py train lora`: teach a model an artist's own style from a folder of pictures.

    train lora --images DIR --name NAME --trigger WORD --minutes 20

Captions come from a `.txt` beside each picture, or there is only the trigger word. The same command
goes on with a run that was stopped. Exit codes: 0 done, 1 refused or failed, 2 a flag that cannot
be, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from studio.core.errors import EaselError, ModelError, TrainingError
from studio.core.events import Notice, StageArtifact, StageProgress
from studio.core.lesson import Lesson, LessonPicture, check_lesson
from studio.core.settings import Settings
from studio.services.adapter_shelf import AdapterShelf, file_name
from studio.services.model_folder import STARTER
from studio.services.models import ModelShelf
from studio.services.ownership import hold_training
from studio.store.lessons import FOLDER, FolderReading, read_folder

if TYPE_CHECKING:
    from studio.training.lora import LoraConfig

DONE, FAILED, BAD_FLAG, STOPPED = 0, 1, 2, 130
MINUTES = 15.0  # when neither minutes nor steps are given
TELL_EVERY = 10  # steps


class FlagError(ValueError):
    """A flag that cannot be; exit code 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one sentence."""

    def error(self, message: str) -> None:
        """Say what is wrong."""
        raise FlagError(
            f"{message[:1].upper()}{message[1:].rstrip('.')}. "
            "All flags are explained by: python launch.py train lora --help"
        )


def teach(rest: list[str], settings: Settings) -> int:
    """Run the command with the words after `train lora`; return the exit code."""
    try:
        args = make_parser().parse_args(rest)
        with hold_training(settings.data_dir, "train lora", _say):
            return _run(args, settings)
    except FlagError as refusal:
        _say(str(refusal))
        return BAD_FLAG
    except EaselError as refusal:
        _say(str(refusal))
        return FAILED
    except KeyboardInterrupt:
        _say("Stopped. The same command goes on from the last checkpoint.")
        return STOPPED


def make_parser() -> Parser:
    """Return the parser of the words after `train lora`."""
    parser = Parser(
        prog="launch.py train lora", description="Teach a model your style.", allow_abbrev=False
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with the pictures")
    parser.add_argument("--name", required=True, help="of the adapter that comes of it")
    parser.add_argument("--trigger", default="", help="the word that calls the style")
    parser.add_argument("--model", default=STARTER, help="base model (default: the starter model)")
    parser.add_argument("--minutes", type=float, default=0.0, help="compute about this long")
    parser.add_argument("--steps", type=int, default=0, help="take so many steps instead")
    parser.add_argument("--rank", type=int, help="rank of the adapter")
    parser.add_argument("--learning-rate", type=float, help="peak, of AdamW")
    parser.add_argument("--batch-size", type=int, help="pictures a step")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    return parser


def _run(args: argparse.Namespace, settings: Settings) -> int:
    """Read the pictures, teach, and put the result on the shelf."""
    shelf = ModelShelf(settings)
    entry = shelf.entry(args.model)
    if entry.problem:
        raise ModelError(entry.problem)
    reading = read_folder(args.images, min(entry.native_size) // 4)
    for sentence in reading.refused:
        _say(sentence)
    _check(args, reading)
    from studio.training import lora
    from studio.training.finetune import load_base

    examples = [lora.Example(*picture) for picture in reading.pictures]
    _say(f"Learning from {len(examples)} pictures.")
    model = load_base(entry.folder, entry.name, settings.device, shelf.hash_of(entry))
    config = make_config(args, lora.usual_config(model, args.name.strip(), args.trigger.strip()))
    folder = settings.data_dir / FOLDER / file_name(args.name)
    with closing(lora.train(model, examples, config, folder)) as events:
        for event in events:
            _tell(event)
    kept = AdapterShelf(settings).add_trained(folder, args.name)
    call = f" Call it with “{args.trigger}”." if args.trigger else ""
    _say(f"The adapter '{kept.name}' is in {kept.path.parent} and in the studio.{call}")
    return DONE


def _check(args: argparse.Namespace, reading: FolderReading) -> None:
    """Refuse what cannot be taught, before anything heavy is loaded."""
    pictures = tuple(LessonPicture("", name, text) for name, _, text in reading.pictures)
    minutes = args.minutes or MINUTES
    name, trigger = args.name.strip(), args.trigger.strip()
    check_lesson(Lesson("", name, trigger, args.model, minutes, pictures))
    limits = (("rank", 1, 256), ("batch_size", 1, 256), ("steps", 0, 10**6))
    for flag, low, high in limits:
        value = getattr(args, flag)
        if value is not None and not low <= value <= high:
            raise FlagError(f"--{flag.replace('_', '-')} is a number from {low} to {high:,}.")
    if args.learning_rate is not None and not 0 < args.learning_rate < 1:
        raise FlagError("--learning-rate is a number between 0 and 1.")
    if args.minutes and args.steps:
        raise TrainingError("Give --minutes or --steps, not both.")


def make_config(args: argparse.Namespace, config: LoraConfig) -> LoraConfig:
    """Return the run that the flags describe; what they leave open is as in `config`."""
    budget = 0.0 if args.steps else (args.minutes or MINUTES) * 60
    loop = replace(config.loop, seed=args.seed, budget=budget, steps=args.steps or 1)
    loop = replace(loop, learning_rate=args.learning_rate or loop.learning_rate)
    return replace(
        config,
        loop=loop,
        rank=args.rank or config.rank,
        batch_size=args.batch_size or config.batch_size,
    )


def _tell(event: object) -> None:
    if isinstance(event, Notice):
        _say(event.sentence)
    elif isinstance(event, StageArtifact) and event.path.endswith(".png"):
        _say(f"wrote {event.path}")
    elif isinstance(event, StageProgress) and event.metrics and event.step % TELL_EVERY == 0:
        left = "" if event.seconds_left is None else f", {event.seconds_left / 60:.1f} min left"
        _say(f"step {event.step} of {event.steps}: loss {event.metrics['loss']:.4f}{left}")


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
