"""`launch.py votes`: count, import, export and study the votes from the command line.

    votes stats [--json] [--campaign NAME]
    votes import --format jsonl|pickapic|hpdv2|dpo|imagereward PATH [--rater NAME]
                 [--campaign NAME]
    votes export --format jsonl|pickapic|hpdv2|dpo|imagereward --output DIR [--campaign NAME]
                 [--pseudonyms] [--without-recipes]
    votes report NAME --output DIR

Exit codes: 0 done, 1 refused by what is stored, 2 a flag that cannot be.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from studio.core.settings import Settings
from studio.core.words import counted
from studio.services.studio import Studio, open_studio
from studio.store.vote_formats.incoming import ImportChoices
from studio.store.vote_formats.outgoing import ExportChoices
from studio.store.vote_formats.transfer import FORMATS


@dataclass(frozen=True)
class Stats:
    """What `votes stats --json` prints; figures that cannot be had yet are None."""

    votes: int
    raters: int
    ties: int
    held_out_agreement: float | None  # share of decisive votes predicted right, 5-fold by prompt
    agreement_low: float | None  # of its 95 % interval
    agreement_high: float | None
    self_consistency: float | None  # share of pairs decided twice, decided alike
    encoder: str  # whose features the reward learned on


class FlagError(ValueError):
    """A flag that cannot be; exit code 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one sentence."""

    def error(self, message: str) -> None:
        """Say what is wrong."""
        raise FlagError(
            f"{message[:1].upper()}{message[1:].rstrip('.')}. "
            "All flags are explained by: python launch.py votes --help"
        )


def votes(rest: list[str], settings: Settings) -> int:
    """Run one of the subcommands with the words after `votes`; return the exit code."""
    try:
        args = make_parser().parse_args(rest)
    except FlagError as refusal:
        _say(str(refusal))
        return 2
    studio = open_studio(settings, owner=False)
    try:
        return args.run(args, studio)
    finally:
        studio.close()


def make_parser() -> Parser:
    """Return the parser of the words after `votes`."""
    parser = Parser(prog="launch.py votes", description="What people preferred.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    stats = commands.add_parser("stats", help="count the votes and say what they are worth")
    stats.add_argument("--json", action="store_true", help="print one JSON object")
    stats.set_defaults(run=_stats)
    taking = commands.add_parser("import", help="take in votes and their pictures")
    taking.add_argument("path", type=Path, help="a file or folder")
    taking.add_argument("--rater", default="", help="whose votes these are, where the file is mute")
    taking.set_defaults(run=_import)
    giving = commands.add_parser("export", help="write votes and their pictures")
    giving.add_argument("--output", type=Path, required=True, help="an empty or new folder")
    giving.add_argument("--pseudonyms", action="store_true", help="leave out the raters' names")
    giving.add_argument(
        "--without-recipes", action="store_true", help="leave prompt and seed out of the files"
    )
    giving.set_defaults(run=_export)
    report = commands.add_parser("report", help="write a campaign's study as HTML and CSV")
    report.add_argument("--output", type=Path, required=True, help="a folder")
    report.set_defaults(run=_report)
    for command in (taking, giving):
        command.add_argument("--format", choices=tuple(FORMATS), required=True, help="of the file")
    for command in (stats, taking, giving):
        command.add_argument(
            "--campaign", default="", help="name of one campaign; all unless given"
        )
    report.add_argument("campaign", help="name of the campaign")
    return parser


def _stats(args: argparse.Namespace, studio: Studio) -> int:
    found = stats(studio, args.campaign)
    if args.json:
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
    else:
        sys.stdout.write(_as_text(found))
    return 0


def stats(studio: Studio, campaign: str = "") -> Stats:
    """Count the votes, of one campaign or all, and see how well they predict each other.

    Raises NotFoundError for an unknown campaign.
    """
    preference, campaign_id = studio.preference, _campaign_id(studio, campaign)
    tally, taste = preference.votes.tally(campaign_id), preference.taste
    agreement = taste.measured([campaign_id]) if campaign_id else taste.learned().agreement
    return Stats(
        votes=tally.votes,
        raters=tally.raters,
        ties=tally.ties,
        held_out_agreement=None if agreement is None else round(agreement.value, 4),
        agreement_low=None if agreement is None else round(agreement.low, 4),
        agreement_high=None if agreement is None else round(agreement.high, 4),
        self_consistency=round(tally.repeats_same / tally.repeats, 4) if tally.repeats else None,
        encoder=taste.looked_at([])[1].name,
    )


def _import(args: argparse.Namespace, studio: Studio) -> int:
    campaign_id = _campaign_id(studio, args.campaign) or ""
    choices = ImportChoices(rater=args.rater, campaign=campaign_id)
    report = studio.preference.transfer.import_votes(args.format, args.path, choices)
    sys.stdout.write(f"{report}\n")
    return 0


def _export(args: argparse.Namespace, studio: Studio) -> int:
    choices = ExportChoices(
        campaign=_campaign_id(studio, args.campaign),
        pseudonyms=args.pseudonyms,
        without_recipes=args.without_recipes,
    )
    report = studio.preference.transfer.export_votes(args.format, args.output, choices)
    sys.stdout.write(f"{report}\n")
    return 0


def _campaign_id(studio: Studio, name: str) -> str | None:
    """Return the id of a campaign's name, None for no name. Raises NotFoundError."""
    return studio.preference.campaigns.named(name).id if name else None


def _report(args: argparse.Namespace, studio: Studio) -> int:
    campaign = studio.preference.campaigns.named(args.campaign)
    page, table = studio.preference.standing.report(campaign.id)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, text in (("study.html", page), ("study.csv", table)):
        (args.output / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{args.output / name}\n")
    return 0


def _as_text(found: Stats) -> str:
    raters, ties = counted(found.raters, "rater"), counted(found.ties, "tie")
    lines = [f"{counted(found.votes, 'vote')} by {raters}, {ties}."]
    if found.held_out_agreement is None:
        lines.append("Too few of them to learn a taste from; 200 are a good beginning.")
    else:
        lines.append(
            f"The taste behind them is predicted in {found.held_out_agreement:.1%} of unseen "
            f"pairs ({found.agreement_low:.1%} to {found.agreement_high:.1%}); a coin gets 50 %."
        )
    if found.self_consistency is not None:
        lines.append(f"Pairs decided twice were decided alike in {found.self_consistency:.1%}.")
    return "\n".join([*lines, f"Features: {found.encoder or 'none yet'}."]) + "\n"


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
