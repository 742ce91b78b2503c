"""The Fine-tune tab: one place, which `assets/page/finetune.js` fills; and what it is told."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from studio.core.campaign import Campaign
from studio.core.errors import NotFoundError
from studio.core.run import JUDGED, Run, Verdict
from studio.core.words import counted
from studio.services.run_plan import ALGORITHMS, KNOBS, REWARDS, USUAL_ALGORITHM
from studio.services.run_reward import agreement_so_far, readiness
from studio.services.run_view import health
from studio.services.studio import Studio
from studio.services.verdict import Outcome
from studio.ui.places import place

FORM = "finetune"  # name under which the tab's form is kept
EXAMPLES = 6  # pictures that are loved, and as many that are not
TASTE = "taste"  # the reward that all votes teach; 'taste:ID' a campaign's, else a known one
LISTED = 30  # runs
SHOWN_PAIRS = 12  # of a comparison, once it is unveiled


def build_finetune() -> None:
    """Build the tab's one place."""
    place("easel-finetune")


def finetune_state(studio: Studio, run_id: str = "", reward: str = TASTE) -> dict[str, Any]:
    """Return all that the tab shows, and a `version` that names it.

    `run_id` is the run that is looked at; without one it is the newest that is not put away.
    """
    finetuning = studio.finetuning
    runs = finetuning.all()[:LISTED]
    shown = next((run for run in runs if run.id == run_id), None) or _newest(runs)
    state = {
        "taste": taste_json(studio, reward),
        "run": run_json(studio, shown) if shown else None,
        "runs": [
            {"id": r.id, "name": r.name, "state": r.state, "created_at": r.created_at} for r in runs
        ],
        "busy": any(run.state in ("running", "paused") for run in runs),
    }
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    return state | {"version": digest}


def taste_json(studio: Studio, reward: str) -> dict[str, Any]:
    """Return what the votes are good for, with the pictures that the taste loves and hates."""
    preference = studio.preference
    preference.taste.keep_up()
    campaign, known = read_reward(reward)
    ready = readiness(preference, campaign, known)
    agreement = agreement_so_far(preference, campaign)
    return {
        "votes": ready.votes,
        "possible": ready.possible,
        "enough": ready.enough,
        "sentence": ready.sentence,
        "agreement": asdict(agreement) if agreement else None,
        **preference.favourites.extremes(EXAMPLES),
    }


def run_json(studio: Studio, run: Run) -> dict[str, Any]:
    """Return a run with its figures and where it is."""
    epochs = studio.finetuning.epochs(run.id)
    plan = run.plan
    return {
        "id": run.id,
        "name": run.name,
        "state": run.state,
        "over": run.state in JUDGED,
        "health": health(run, epochs),
        "stopping": studio.finetuning.is_stopping(run.id),
        "progress": asdict(studio.finetuning.progress(run.id)),
        "model": plan.model,
        "reward": REWARDS.get(plan.reward, plan.reward) if plan.reward else _whose(studio, run),
        "minutes": plan.minutes,
        "epochs": run.epochs or plan.epochs,
        "prompts": len(plan.prompts),
        "held_out": list(plan.held_out),
        "apart": plan.held_out != plan.prompts,  # fewer than three prompts are both
        "limits": limits(run),
        "rows": [{"epoch": row.epoch, **row.figures} for row in epochs],
        "about": dict(run.about),
        "kept": asdict(run.kept) if run.kept else None,
        "ladder": studio.verdicts.ladder(run.id) if run.state in JUDGED else [],
        "result": studio.verdicts.result(run.id) if run.state in JUDGED else 0,
        "verdicts": [verdict_json(studio, verdict) for verdict in studio.verdicts.all(run.id)],
    }


def verdict_json(studio: Studio, verdict: Verdict) -> dict[str, Any]:
    """Return a blind comparison; what came of it only when its pairs are answered."""
    campaign = studio.verdicts.campaign(verdict)
    target = campaign.plan.target
    pairs = studio.verdicts.pairs(verdict)
    answered = studio.preference.standing.votes(campaign.id)
    unveiled = answered >= target
    by_reward = studio.verdicts.by_reward(verdict) if unveiled else None
    return {
        "number": verdict.number,
        "epoch": verdict.epoch,
        "campaign": campaign.id,
        "name": campaign.name,
        "target": target,
        "answered": min(answered, target),
        "doing": studio.preference.campaigns.doing(campaign),
        "ready": bool(pairs),
        "unveiled": unveiled,
        "pairs": [base.prompt for base, _ in pairs[:SHOWN_PAIRS]] if unveiled else [],
        "by_votes": outcome_json(studio.verdicts.by_votes(verdict)) if unveiled else None,
        "by_reward": outcome_json(by_reward) if by_reward else None,
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome with its share, interval and sentence."""
    low, high = outcome.interval
    told = {"share": outcome.share, "low": low, "high": high, "sentence": outcome.sentence}
    return {**asdict(outcome), "pairs": outcome.pairs, **told}


def adapters_json(studio: Studio) -> list[dict[str, Any]]:
    """Return the adapters that can be drawn with, each at the strength that it was kept at."""
    kept = {run.kept.sha256: run.kept for run in studio.finetuning.all() if run.kept}
    return [
        {
            "name": entry.name,
            "sha256": entry.sha256,
            "base": entry.base,
            "strength": kept[entry.sha256].strength if entry.sha256 in kept else 1.0,
            "problem": entry.problem,
        }
        for entry in studio.adapters.entries()
    ]


def taste_title(campaign: Campaign, rounds: int = 0) -> str:
    """Return what the taste in a campaign's votes is called, with those of further rounds."""
    more = f" and {counted(rounds, 'further round')}" if rounds else ""
    return f"The taste in “{campaign.name}”{more}"


def limits(run: Run) -> dict[str, float]:
    """Return where the guards stop a run."""
    wanted = ("kl_budget", "diversity_drop")
    values = {knob.name: knob.default for knob in KNOBS if knob.name in wanted}
    return values | {name: run.plan.settings[name] for name in wanted if name in run.plan.settings}


def choices_json(studio: Studio) -> dict[str, Any]:
    """Return what the form offers: models, rewards, adapters to go on from, knobs."""
    campaigns = studio.preference.campaigns.all()
    rounds = Counter(campaign.plan.follows for campaign in campaigns)
    learned = [{"value": TASTE, "title": "My taste, from all votes"}] + [
        {"value": f"{TASTE}:{c.id}", "title": taste_title(c, rounds[c.id])} for c in campaigns
    ]
    known = [{"value": name, "title": title} for name, title in REWARDS.items()]
    sources = [{"value": "starred", "title": "Starred pictures"}] + [
        {"value": c.id, "title": f"“{c.name}”"} for c in campaigns
    ]
    return {
        "models": [
            {"value": e.name, "title": e.title} for e in studio.models.entries() if not e.problem
        ],
        "learned": learned,
        "known": known,
        "prompts": sources,
        "adapters": [
            {"value": e.sha256, "title": e.name, "base": e.base}
            for e in studio.adapters.entries()
            if not e.problem and "config" in e.lineage
        ],
        "knobs": [asdict(knob) for knob in KNOBS],
        "algorithm": USUAL_ALGORITHM,
        "algorithms": [{"value": name, "title": title} for name, title in ALGORITHMS.items()],
        "form": studio.form.load(FORM),
    }


def next_form(studio: Studio, run_id: str) -> dict[str, Any]:
    """Return the form's values for a run that goes on from this one. Raises NotFoundError."""
    plan = studio.verdicts.next_plan(run_id)
    taste = f"{TASTE}:{plan.campaign}" if plan.campaign else TASTE
    return {
        "name": plan.name,
        "prompts": "\n".join(plan.prompts),
        "reward": plan.reward or taste,
        "model": plan.model,
        "start": plan.start,
        "seed": plan.seed,
        "settings": dict(plan.settings),
    }


def read_reward(text: str) -> tuple[str, str]:
    """Return (campaign, known reward) of a choice such as 'taste', 'taste:ID' or 'brightness'."""
    kind, _, campaign = text.partition(":")
    if kind == TASTE:
        return campaign, ""
    if text not in REWARDS:
        raise NotFoundError(f"There is no reward '{text[:40]}'; reload the page.")
    return "", text


def prompts_of(studio: Studio, source: str) -> list[str]:
    """Return the prompts of a campaign, or of the starred pictures. Raises NotFoundError."""
    if source == "starred":
        starred = studio.gallery.page(starred=True, limit=200)
        return list(dict.fromkeys(p.request.prompt for p in starred if p.request.prompt))
    campaign = studio.preference.campaigns.get(source)
    if campaign.plan.prompts:
        return list(campaign.plan.prompts)
    pool = studio.preference.rating.pool(source).pictures.values()
    return list(dict.fromkeys(picture.prompt for picture in pool if picture.prompt))


def _newest(runs: list[Run]) -> Run | None:
    """Return the run that is most likely meant: at work, else not judged, else the newest."""
    for states in (("running", "paused"), ("interrupted", "failed", "trained"), ("kept",)):
        found = next((run for run in runs if run.state in states), None)
        if found is not None:
            return found
    return None


def _whose(studio: Studio, run: Run) -> str:
    if not run.plan.campaign:
        return "My taste, from all votes"
    try:
        return taste_title(studio.preference.campaigns.get(run.plan.campaign))
    except NotFoundError:
        return "The taste in a campaign that is gone"
