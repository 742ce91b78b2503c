"""`python launch.py train STAGE`: runs one stage of the recipe and says how it goes."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from studio.core.errors import EaselError
from studio.core.events import Event, StageArtifact, StageProgress
from studio.core.request import SAMPLERS
from studio.core.settings import STARTER_MODEL, Settings
from studio.training import autoencoder, clip, corpus, judge, pretrain, starter
from studio.training.loop import LoopConfig

STAGES = ("corpus", "autoencoder", "clip", "unet", "starter", "judge")


def train(args: argparse.Namespace, settings: Settings) -> int:
    """Run `args.stage` (one of STAGES, or 'all'); return the exit status.

    `args.rest` holds the stage's own flags. 0 when finished, 1 with a sentence on standard error
    when the stage cannot go on, 2 for a flag that is not one, 130 when interrupted (the run goes on
    from its last checkpoint when the same command is given again).
    """
    options = _parser().parse_args(args.rest or [])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    folder = settings.training_dir
    stages = STAGES if args.stage == "all" else (args.stage,)
    if args.stage == "all" and not options.model:
        options.model = str(folder / "starter")  # written, then judged
    try:
        for stage in stages:
            for event in RUN[stage](folder, options):
                _say(event)
    except EaselError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write("The disk is full. Free some space and run the same command again.\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The same command goes on from the last checkpoint.\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch.py train STAGE", allow_abbrev=False)
    parser.add_argument("--steps", type=_count, help="optimisation steps in all")
    parser.add_argument("--batch-size", type=_count, help="pictures a step")
    parser.add_argument(
        "--model",
        help="starter: the folder to write (default: the training folder's own); "
        "judge: the folder to judge (default: the shipped starter model)",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="DDIM", help="judge: draw with it")
    parser.add_argument("--style", action="append", help="judge: only this style (may be repeated)")
    parser.add_argument("--learning-rate", type=_rate, help="peak learning rate")
    return parser


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def _rate(text: str) -> float:
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def _with_flags(config: object, options: argparse.Namespace) -> object:
    loop: LoopConfig = config.loop  # type: ignore[attr-defined]
    if options.steps:
        loop = replace(loop, steps=options.steps)
    if options.learning_rate:
        loop = replace(loop, learning_rate=options.learning_rate)
    changes: dict[str, object] = {"loop": loop}
    if options.batch_size:
        changes["batch_size"] = options.batch_size
    return replace(config, **changes)  # type: ignore[type-var]


def _corpus(folder: Path, _options: argparse.Namespace) -> Iterator[Event]:
    return corpus.build(folder / "corpus", corpus.CorpusConfig())


def _autoencoder(folder: Path, options: argparse.Namespace) -> Iterator[Event]:
    config = _with_flags(autoencoder.AutoencoderConfig(), options)
    return autoencoder.train(corpus.load(folder / "corpus"), config, folder / "autoencoder")


def _clip(folder: Path, options: argparse.Namespace) -> Iterator[Event]:
    config = _with_flags(clip.ClipConfig(), options)
    return clip.train(corpus.load(folder / "corpus"), config, folder / "clip")


def _unet(folder: Path, options: argparse.Namespace) -> Iterator[Event]:
    config = _with_flags(pretrain.UnetConfig(), options)
    return pretrain.train(corpus.load(folder / "corpus"), config, folder)


def _starter(folder: Path, options: argparse.Namespace) -> Iterator[Event]:
    target = Path(options.model) if options.model else folder / "starter"
    return starter.assemble(corpus.load(folder / "corpus"), pretrain.UnetConfig(), folder, target)


def _judge(folder: Path, options: argparse.Namespace) -> Iterator[Event]:
    model = Path(options.model) if options.model else STARTER_MODEL
    config = judge.JudgeConfig(sampler=options.sampler)
    if options.style:
        config = replace(config, styles=tuple(options.style))
    target = folder / "judge" / options.sampler.replace(" ", "-")
    return judge.judge(corpus.load(folder / "corpus"), model, config, target)


Stage = Callable[[Path, argparse.Namespace], Iterator[Event]]
RUN: Mapping[str, Stage] = MappingProxyType(
    {
        "corpus": _corpus,
        "autoencoder": _autoencoder,
        "clip": _clip,
        "unet": _unet,
        "starter": _starter,
        "judge": _judge,
    }
)


def _say(event: Event) -> None:
    if isinstance(event, StageArtifact):
        _write(f"wrote {event.path}")
    if not isinstance(event, StageProgress):
        return
    left = "" if event.seconds_left is None else f"  {event.seconds_left / 60:.1f} min left"
    figures = "  ".join(f"{name} {value:.4g}" for name, value in event.metrics.items())
    _write(f"{event.stage} {event.step}/{event.steps}{left}  {figures}")


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
