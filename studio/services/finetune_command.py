"""`launch.py finetune`: train an adapter towards a campaign's taste, or towards a known reward.

    finetune --campaign NAME --minutes 15 --output DIR
    finetune --reward brightness --prompts FILE --epochs 20 --seed 1 --output DIR

Standard output gets one JSON object an epoch; sentences go to standard error. Started by torchrun
or `accelerate launch`, its processes share the work. The same command goes on with a run that was
stopped. Exit codes: 0 done, 1 refused or failed, 2 a flag that cannot be, 3 another run is at work
in that folder, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from studio.core.campaign import Campaign
from studio.core.errors import EaselError, InvalidRequestError, StudioRunningError, TrainingError
from studio.core.events import EpochDone, Notice, StageProgress
from studio.core.request import MAX_PROMPT_CHARACTERS
from studio.core.settings import ASSETS, Settings
from studio.core.words import counted
from studio.services.model_folder import STARTER
from studio.services.models import ModelShelf
from studio.services.ownership import hold_training
from studio.services.run_plan import USUAL_ALGORITHM, split_prompts
from studio.services.run_reward import REWARD_FILE, votes_behind
from studio.services.studio import Studio, open_studio
from studio.store.lock import FileLock

if TYPE_CHECKING:
    from studio.training.preference.reward import Reward
    from studio.training.rewards import RewardFunction
    from studio.training.run_folder import FineTuneConfig

DONE, FAILED, BAD_FLAG, RUNNING, STOPPED = 0, 1, 2, 3, 130
CAMPAIGN_FILE = "campaign.json"  # in the run's folder: what it learns from, and its prompts
MINUTES = 15.0  # when neither minutes nor epochs are asked for
MAX_PROMPT_FILE = 16 * 2**20  # bytes
MAX_PROMPTS = 100_000
_FIGURES = (
    *("epoch", "images", "reward_mean", "reward_held_out", "kl", "clip_fraction", "diversity"),
    "seconds",
)


class FlagError(ValueError):
    """A flag that cannot be; exit code 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one sentence."""

    def error(self, message: str) -> None:
        """Say what is wrong."""
        raise FlagError(
            f"{message[:1].upper()}{message[1:].rstrip('.')}. "
            "All flags are explained by: python launch.py finetune --help"
        )


def finetune(rest: list[str], settings: Settings) -> int:
    """Run the command with the words after `finetune`; return the exit code."""
    try:
        args = make_parser().parse_args(rest)
        _check_algorithm(args)
        with ExitStack() as held:
            if not _follows():
                held.enter_context(_own_folder(args.output))
                held.enter_context(hold_training(settings.data_dir, "finetune", _say))
            return _run(args, settings)
    except (FlagError, InvalidRequestError) as refusal:
        _say(str(refusal))
        return BAD_FLAG
    except StudioRunningError as refusal:
        _say(str(refusal))
        return RUNNING
    except EaselError as refusal:
        _say(str(refusal))
        return FAILED
    except KeyboardInterrupt:
        _say("Stopped. The same command goes on from the last epoch.")
        return STOPPED


def make_parser() -> Parser:
    """Return the parser of the words after `finetune`."""
    parser = Parser(prog="launch.py finetune", description="Train an adapter on a reward.")
    towards = parser.add_mutually_exclusive_group(required=True)
    towards.add_argument(
        "--campaign", help="learn from the votes of this campaign and the rounds after it"
    )
    towards.add_argument(
        "--reward", help="a known reward: brightness, compressibility, random, ..."
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--prompts", type=Path, help="file with one prompt a line")
    parser.add_argument("--model", default="", help="base model (default: the starter model)")
    parser.add_argument("--adapter", type=Path, help="adapter to go on from")
    parser.add_argument("--seed", type=_natural, default=0, help="of everything random")
    parser.add_argument("--epochs", type=_count, help="stop after this many epochs")
    parser.add_argument("--minutes", type=_minutes, help="stop after about this long")
    parser.add_argument("--guidance", type=_number, help="guidance scale (CFG), in both passes")
    parser.add_argument("--steps", type=_count, help="denoising steps of a trajectory")
    parser.add_argument("--window", type=_natural, help="PPO: train only so many steps at a time")
    parser.add_argument("--rank", type=_count, help="rank of the adapter")
    parser.add_argument("--algorithm", choices=("ppo", "nft"), help="PPO (usual), or DiffusionNFT")
    parser.add_argument("--learning-rate", type=_number, help="of AdamW")
    parser.add_argument("--updates", type=_count, help="optimizer steps an epoch")
    parser.add_argument("--kl-weight", type=_number, help="PPO: beta, the pull of the base")
    parser.add_argument("--prompts-per-epoch", type=_count, help="prompts drawn in an epoch")
    parser.add_argument("--images-per-prompt", type=_count, help="pictures of each of them")
    return parser


def _check_algorithm(args: argparse.Namespace) -> None:
    """Refuse a flag that the chosen algorithm, or the usual one, would not look at."""
    args.algorithm = args.algorithm or USUAL_ALGORITHM
    given = {"--kl-weight": args.kl_weight, "--window": args.window}
    for flag, value in given.items():
        if value is not None and args.algorithm != "ppo":
            raise FlagError(f"{flag} belongs to PPO. Add --algorithm ppo, or leave it out.")


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read prompts, one a line; empty lines, '# comments' and repetitions are left out.

    Raises InvalidRequestError with what is wrong with the file.
    """
    try:
        if path.stat().st_size > MAX_PROMPT_FILE:
            raise _bad_prompts(f"'{path.name}' is larger than {MAX_PROMPT_FILE >> 20} MB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise _bad_prompts(f"'{path}' cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _bad_prompts(f"'{path.name}' is not text in UTF-8") from error
    texts = (line.strip() for line in lines)
    prompts = tuple(dict.fromkeys(t for t in texts if t and not t.startswith("#")))
    if not prompts:
        raise _bad_prompts(f"'{path.name}' holds no prompt")
    if len(prompts) > MAX_PROMPTS:
        raise _bad_prompts(f"'{path.name}' holds more than {MAX_PROMPTS:,} prompts")
    if any(len(prompt) > MAX_PROMPT_CHARACTERS for prompt in prompts):
        raise _bad_prompts(f"a prompt has more than {MAX_PROMPT_CHARACTERS:,} characters")
    return prompts


def _run(args: argparse.Namespace, settings: Settings) -> int:
    """Put the run together and tell of its epochs."""
    from studio.training.finetune import Start, load_base
    from studio.training.finetune import finetune as train
    from studio.training.probes import load_tools
    from studio.training.team import join_team

    team, device = join_team(settings.device)
    shelf = ModelShelf(settings)
    entry = shelf.entry(args.model or STARTER)
    if entry.problem:
        raise TrainingError(entry.problem)
    reward, prompts = _reward_and_prompts(args, settings)
    config = make_config(args, prompts)
    model = load_base(entry.folder, entry.name, device, shelf.hash_of(entry))
    tools = load_tools(model, entry.folder)
    start = Start(args.adapter) if args.adapter else None
    events = train(model, reward, config, tools, args.output, start, team)
    with closing(events):
        for event in events:
            if not team.leads:
                continue
            if isinstance(event, EpochDone):
                line = {name: getattr(event, name) for name in _FIGURES}
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
            elif isinstance(event, Notice):
                _say(event.sentence)
            elif isinstance(event, StageProgress):
                _show(event)
    if team.leads:
        _say(f"The adapter is {args.output / 'adapter.safetensors'}.")
    return DONE


def make_config(args: argparse.Namespace, prompts: tuple[str, ...]) -> FineTuneConfig:
    """Return the run that the flags describe."""
    from studio.training.run_folder import FineTuneConfig

    train, held_out = split_prompts(prompts, args.seed)
    minutes = args.minutes or (0.0 if args.epochs else MINUTES)
    config = FineTuneConfig(
        train, held_out, epochs=args.epochs or 0, minutes=minutes, seed=args.seed
    )
    policy = _given(guidance_scale=args.guidance, steps=args.steps, window=args.window)
    ppo = _given(learning_rate=args.learning_rate, kl_weight=args.kl_weight, updates=args.updates)
    changes = _given(
        algorithm=args.algorithm,
        rank=args.rank,
        prompts_per_epoch=args.prompts_per_epoch,
        images_per_prompt=args.images_per_prompt,
    )
    return replace(
        config, policy=replace(config.policy, **policy), ppo=replace(config.ppo, **ppo), **changes
    )


def _follows() -> bool:
    """Whether another process of the same run leads, which holds the locks and tells."""
    return int(os.environ.get("RANK", "0")) > 0


def _given(**values: float | str | None) -> dict[str, float | str]:
    return {name: value for name, value in values.items() if value is not None}


def _reward_and_prompts(
    args: argparse.Namespace, settings: Settings
) -> tuple[RewardFunction, tuple[str, ...]]:
    from studio.training.preference.reward import save_reward
    from studio.training.rewards import known_reward, learned_reward
    from studio.training.run_folder import write_text

    own = read_prompts(args.prompts) if args.prompts else ()
    if args.reward:
        return known_reward(args.reward), own or _sample_prompts()
    studio = open_studio(settings, owner=False)
    try:
        campaign = studio.preference.campaigns.named(args.campaign)
        found = _begun(args.output, campaign)
        reward, planned = found or campaign_reward(studio, campaign)
        if found is None and not _follows():
            told = {"campaign": campaign.id, "prompts": planned}
            write_text(args.output / CAMPAIGN_FILE, json.dumps(told, indent=1))
            save_reward(reward, args.output / REWARD_FILE)
        _, encoder = studio.preference.taste.looked_at([])
    finally:
        studio.close()
    return learned_reward(reward, encoder), own or planned or _sample_prompts()


def _begun(folder: Path, campaign: Campaign) -> tuple[Reward, tuple[str, ...]] | None:
    """Return the taste and the prompts that a run began with; votes come in, and it stays.

    Raises TrainingError when the run learns from another campaign, ModelError for a damaged file.
    """
    from studio.training.preference.reward import load_reward

    if not (folder / REWARD_FILE).is_file():
        return None
    told = json.loads((folder / CAMPAIGN_FILE).read_text(encoding="utf-8"))
    if told["campaign"] != campaign.id:
        raise TrainingError(
            f"The folder {folder.name} holds a run that learns from another campaign. Choose "
            "another folder, or name the campaign that it began with."
        )
    reward = load_reward(folder / REWARD_FILE)
    _say(
        f"This run learns from the {counted(reward.votes, 'vote')} that it began with. To learn "
        "from those given since, choose another folder."
    )
    return reward, tuple(told["prompts"])


def campaign_reward(studio: Studio, campaign: Campaign) -> tuple[Reward, tuple[str, ...]]:
    """Fit the taste to a campaign's votes and those of the rounds after it.

    The campaign's prompts come with it. Raises TrainingError when there are too few votes.
    """
    from studio.training.preference.comparisons import comparisons_from_votes
    from studio.training.preference.reward import TRAINED_TOWARDS, fit_reward
    from studio.training.preference.reward_check import held_out_agreement

    preference = studio.preference
    votes = list(votes_behind(preference, campaign.id))
    pictures = dict.fromkeys(s for vote in votes for s in (vote.left, vote.right) if s)
    features, encoder = preference.taste.looked_at(list(pictures))
    learned = comparisons_from_votes(votes, features, encoder=(encoder.name, encoder.sha256))
    reward = fit_reward(learned, TRAINED_TOWARDS)
    if not learned.decisive.any():
        raise TrainingError(
            f"None of the {reward.votes} votes prefers a picture, so there is no taste to learn. "
            "Rate pairs in which one picture is better."
        )
    agreement = held_out_agreement(learned, TRAINED_TOWARDS)
    _say(
        f"Learned from {reward.votes} votes"
        + (
            f": unseen votes are predicted in {agreement.value:.0%} of cases "
            f"({agreement.low:.0%} to {agreement.high:.0%}; a coin gets 50 %)."
            if agreement
            else ", too few or of too few prompts to say how well they predict unseen ones."
        )
    )
    prompts = campaign.plan.prompts or tuple(dict.fromkeys(v.prompt for v in votes if v.prompt))
    return reward, prompts


def _sample_prompts() -> tuple[str, ...]:
    """Return the prompts of the first visit."""
    content = json.loads((ASSETS / "samples" / "samples.json").read_text(encoding="utf-8"))
    return tuple(sample["prompt"] for sample in content)


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / "run.lock")
    if not lock.acquire("finetune"):
        holder = lock.holder()
        process = f" (process {holder.pid})" if holder and holder.pid else ""
        raise StudioRunningError(
            f"Another run{process} is at work in {folder}. Wait for it, or choose another --output."
        )
    try:
        yield
    finally:
        lock.release()


def _show(event: StageProgress) -> None:
    """Write one line that replaces itself; nothing when nobody sits at a terminal."""
    if not sys.stderr.isatty():
        return
    left = "" if event.seconds_left is None else f", {event.seconds_left / 60:.0f} min left"
    epoch = f"epoch {event.metrics['epoch']:.0f}"
    sys.stderr.write(f"\r\x1b[K{epoch}: {event.stage}, {event.step} of {event.steps}{left}")
    sys.stderr.flush()


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


def _bad_prompts(reason: str) -> InvalidRequestError:
    return InvalidRequestError("prompts", f"{reason}; give a file with one prompt a line.")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**6:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def _minutes(text: str) -> float:
    if not 0 < float(text) <= 60 * 24 * 30:
        raise argparse.ArgumentTypeError(f"{text} is not a number of minutes")
    return float(text)
