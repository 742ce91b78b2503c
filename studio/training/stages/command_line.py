"""`python launch.py train STAGE`: runs one stage of the recipe and says how it goes."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from studio.core.errors import EaselError
from studio.core.events import Event, Notice, StageArtifact, StageProgress
from studio.core.request import SAMPLERS
from studio.core.settings import STARTER_MODEL, Settings
from studio.diffusion.schedule import PREDICTION_TYPES
from studio.training.cost import with_speed
from studio.training.dataset import corpus
from studio.training.dataset.words import WORDS, load_words
from studio.training.hardware import Hardware, find_hardware
from studio.training.loop import LoopConfig
from studio.training.stages import autoencoder, card, clip, evaluation, judge, pretrain, starter
from studio.training.stages.profiles import CPU, PROFILES, Profile, rehearsal

STAGES = ("corpus", "autoencoder", "clip", "unet", "starter", "judge", "card")
ALL = tuple(stage for stage in STAGES if stage != "judge")  # the card judges, too
SHARED = frozenset({"autoencoder", "clip", "unet"})  # stages that a team computes together
UNITS = MappingProxyType({"s": 1, "m": 60, "h": 3600})
BUDGET_SHARES = MappingProxyType({"autoencoder": 0.22, "clip": 0.08, "unet": 0.6})  # of `all`


def train(args: argparse.Namespace, settings: Settings) -> int:
    """Run `args.stage` (one of STAGES, or 'all'); return the exit status.

    `args.rest` holds the stage's own flags. 0 when finished, 1 with a sentence on standard error
    when the stage cannot go on, 2 for a flag that is not one, 130 when interrupted (the run goes on
    from its last checkpoint when the same command is given again).
    """
    options = _parser().parse_args(args.rest or [])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    folder = settings.training_dir
    if options.profile != CPU:
        folder /= options.profile  # another size: nothing of it fits the other's
    if options.rehearse:
        folder /= "rehearsal"
    stages = ALL if args.stage == "all" else (args.stage,)
    if args.stage in ("all", "card") and not options.model:
        options.model = str(folder / "starter")  # written, then judged
    try:
        hardware = find_hardware(settings.device, options.compile, options.bf16)
        _tell_what_is_left_out(options, hardware)
        for stage in stages:
            share = BUDGET_SHARES.get(stage, 1.0) if args.stage == "all" else 1.0
            _run(
                stage,
                Job(
                    settings.training_dir,
                    folder,
                    options,
                    hardware,
                    (options.budget or 0.0) * share,
                ),
            )
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


@dataclass(frozen=True)
class Job:
    """What a stage is run with."""

    root: Path  # of all profiles
    folder: Path  # of this one
    options: argparse.Namespace
    hardware: Hardware
    budget: float  # seconds; 0: as many steps as its configuration says

    @property
    def profile(self) -> Profile:
        """The sizes of all stages."""
        chosen = PROFILES[self.options.profile]
        return rehearsal(chosen) if self.options.rehearse else chosen

    @property
    def pictures(self) -> corpus.Corpus:
        """The corpus to train on."""
        return corpus.load_for_training(self.folder / "corpus")


def _tell_what_is_left_out(options: argparse.Namespace, hardware: Hardware) -> None:
    for flag, wanted, got in (
        ("--compile", options.compile, hardware.compile),
        ("--bf16", options.bf16, hardware.bf16),
    ):
        if wanted and not got and hardware.team.leads:
            _write(f"{flag} would make this device slower and is left out.")


def _run(stage: str, job: Job) -> None:
    """Run a stage; in a team, one process alone where a stage cannot be shared."""
    team = job.hardware.team
    if team.leads or stage in SHARED:
        for event in RUN[stage](job):
            if team.leads:
                _say(event)
    team.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch.py train STAGE", allow_abbrev=False)
    parser.add_argument("--steps", type=_count, help="optimisation steps in all")
    parser.add_argument("--batch-size", type=_count, help="pictures a step")
    parser.add_argument(
        "--model",
        help="starter: the folder to write (default: the training folder's own); "
        "judge: the folder to judge (default: the shipped starter model)",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="DIR",
        help="unet, autoencoder: a starter model to go on from, instead of from noise",
    )
    _add_flags_of_the_autoencoder(parser)
    parser.add_argument("--sampler", choices=SAMPLERS, default="DDIM", help="judge: draw with it")
    parser.add_argument("--style", action="append", help="judge: only this style (may be repeated)")
    parser.add_argument("--learning-rate", type=_rate, help="peak learning rate")
    parser.add_argument(
        "--budget", type=_seconds, help="compute about this long (25m, 8h), measured once at start"
    )
    parser.add_argument(
        "--profile", choices=tuple(PROFILES), default=CPU, help="sizes of all stages"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="every stage at a tiny size, to see that all fits"
    )
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="unet: on a CPU too, where it multiplies bf16 (avx512_bf16); elsewhere it is fp32",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the U-Net on CUDA; elsewhere it is not"
    )
    parser.add_argument("--report", action="store_true", help="corpus: what is in it")
    parser.add_argument(
        "--prediction", choices=PREDICTION_TYPES, help="unet: what it is trained to predict"
    )
    parser.add_argument("--min-snr", type=float, metavar="GAMMA", help="unet: min-SNR weighting")
    parser.add_argument(
        "--zero-terminal-snr", action="store_true", help="unet: no signal at the last timestep"
    )
    return parser


def _add_flags_of_the_autoencoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="autoencoder: with --from; the encoder, and so the latents, stay as they are",
    )
    parser.add_argument(
        "--adversarial",
        type=_weight,
        metavar="WEIGHT",
        help="autoencoder: add the adversarial term (Esser et al. use 0.8)",
    )
    parser.add_argument(
        "--latent-noise",
        type=_share,
        metavar="SHARE",
        help="autoencoder: of the posterior's deviation, added to latents in training (usually 1)",
    )
    parser.add_argument(
        "--drawn-share",
        type=_share,
        metavar="SHARE",
        help="autoencoder: of a batch, pictures that the model draws (usually 0.5)",
    )


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def _rate(text: str) -> float:
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def _weight(text: str) -> float:
    if not 0 < float(text) <= 10:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 10")
    return float(text)


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return float(text)


def _seconds(text: str) -> float:
    """Return '90', '25m' or '1.5h' in seconds."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86400 * 365:
        raise argparse.ArgumentTypeError(f"{text} is not a time such as 90s, 25m or 8h")
    return seconds


def _with_flags(config: object, job: Job) -> object:
    options = job.options
    loop: LoopConfig = config.loop  # type: ignore[attr-defined]
    if job.budget and not options.steps:
        loop = replace(loop, budget=job.budget)
    if options.steps:
        loop = replace(loop, steps=options.steps)
    if options.learning_rate:
        loop = replace(loop, learning_rate=options.learning_rate)
    changes: dict[str, object] = {"loop": loop}
    if options.batch_size:
        changes["batch_size"] = options.batch_size
    return replace(config, **changes)  # type: ignore[type-var]


def _corpus(job: Job) -> Iterator[Event]:
    if not job.options.report:
        _lend_originals(job)
        return corpus.build(job.folder / "corpus", job.profile.corpus)
    found = corpus.load(job.folder / "corpus")
    _write(corpus.report(found))
    return iter([StageArtifact("corpus", str(corpus.sample_sheet(job.folder / "corpus")))])


def _lend_originals(job: Job) -> None:
    """Take the originals over from another profile of this data folder, which has the same."""
    target = job.folder / "corpus"
    target.mkdir(parents=True, exist_ok=True)
    places = (job.root, *(job.root / name for name in PROFILES))
    for found in (place / "corpus" / "originals.zip" for place in places):
        words = found.with_name(WORDS)
        if found.exists() and words.exists() and not (target / found.name).exists():
            shutil.copy2(words, target / WORDS)
            shutil.copy2(found, target / found.name)


def _autoencoder(job: Job) -> Iterator[Event]:
    options = job.options
    config = _with_flags(job.profile.autoencoder, job)
    changes: dict[str, object] = {"decoder_only": options.decoder_only}
    if options.adversarial:
        changes["adversarial_weight"] = options.adversarial
    if options.latent_noise is not None:
        changes["latent_noise"] = options.latent_noise
    if options.drawn_share is not None:
        changes["drawn_share"] = options.drawn_share
    config = replace(config, **changes)
    start = Path(options.start) if options.start else None
    folder = job.folder / ("decoder" if options.decoder_only else "autoencoder")
    return autoencoder.train(job.pictures, config, folder, job.hardware, start)


def _clip(job: Job) -> Iterator[Event]:
    config = _with_flags(job.profile.clip, job)
    pictures = job.pictures
    words = load_words(job.folder / "corpus" / WORDS)
    return clip.train(pictures, words, config, job.folder / "clip", job.hardware)


def _unet_config(job: Job) -> pretrain.UnetConfig:
    options = job.options
    changes: dict[str, object] = {}
    if options.prediction:
        changes["prediction_type"] = options.prediction
    if options.min_snr is not None:
        changes["min_snr_gamma"] = options.min_snr
    if options.zero_terminal_snr:
        changes["zero_terminal_snr"] = True
    return replace(job.profile.unet, **changes)


def _unet(job: Job) -> Iterator[Event]:
    config = _with_flags(_unet_config(job), job)
    start = Path(job.options.start) if job.options.start else None
    events = pretrain.train(job.pictures, config, job.folder, job.hardware, start)
    return with_speed(events, config, job.hardware)


def _starter(job: Job) -> Iterator[Event]:
    target = Path(job.options.model) if job.options.model else job.folder / "starter"
    return starter.assemble(job.pictures, _unet_config(job), job.folder, target)


def _judge(job: Job) -> Iterator[Event]:
    options = job.options
    model = Path(options.model) if options.model else STARTER_MODEL
    config = judge.JudgeConfig(sampler=options.sampler)
    if options.style:
        config = replace(config, styles=tuple(options.style))
    target = job.folder / "judge" / options.sampler.replace(" ", "-")
    return judge.judge(corpus.load(job.folder / "corpus"), model, config, target)


def _card(job: Job) -> Iterator[Event]:
    """Evaluate the model and write its card into its folder."""
    pictures, model = corpus.load(job.folder / "corpus"), Path(job.options.model)
    target = job.folder / "card"
    yield from evaluation.evaluate(pictures, model, job.profile.evaluation, target)
    profile = replace(job.profile, unet=_unet_config(job))
    path = card.write_card(pictures, model, profile, job.folder)
    yield StageArtifact("card", str(path))


Stage = Callable[[Job], Iterator[Event]]
RUN: Mapping[str, Stage] = MappingProxyType(
    {
        "corpus": _corpus,
        "autoencoder": _autoencoder,
        "clip": _clip,
        "unet": _unet,
        "starter": _starter,
        "judge": _judge,
        "card": _card,
    }
)


def _say(event: Event) -> None:
    if line := as_line(event):
        _write(line)


def as_line(event: Event) -> str:
    """Return what is told of an event; '' when that is nothing."""
    if isinstance(event, StageArtifact):
        return f"wrote {event.path}"
    if isinstance(event, Notice):
        return event.sentence
    if not isinstance(event, StageProgress):
        return ""
    left = "" if event.seconds_left is None else f"  {event.seconds_left / 60:.1f} min left"
    figures = "  ".join(f"{name} {value:.4g}" for name, value in event.metrics.items())
    return f"{event.stage} {event.step}/{event.steps}{left}  {figures}".rstrip()


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
