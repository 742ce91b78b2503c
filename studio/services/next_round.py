"""The next round of votes: what the tuned model draws now, far enough ahead to tell what it does.

Pictures of one prompt differ little between seeds, so votes about the base's pictures alone hardly
tell what is wanted from what goes with it. Along the adapter, further than it is used, the
difference shows; a vote for the base's picture says that the way is wrong. In five simulated tastes
such a round reached what one round missed (`tests/benchmarks/learning.py`, training/LOG.md).
"""

from __future__ import annotations

from dataclasses import replace

from studio.core.campaign import CampaignPlan, Contestant
from studio.core.errors import TrainingError
from studio.core.request import AdapterUse, GenerationRequest
from studio.core.run import Run, RunPlan
from studio.services.run_plan import MAX_NAME, joined_prompts

AHEAD = 2.0  # times its strength: how strongly the adapter draws what is voted on
PAIRS = 60  # of the tuned model's pictures with each other, and as many with the base's
PROMPTS = 60
MOST_EACH = 32  # pictures of one prompt that meet the base's; as many more meet those


def next_campaign(
    run: Run, use: AdapterUse, template: GenerationRequest, name: str, trained: float = 1.0
) -> CampaignPlan:
    """Return the campaign that compares a tuned model, ahead, with itself and with its base.

    Of each prompt half of the pairs are two pictures of the tuned model, half the first of them
    beside the base's of the same seed; every pair is asked once, and every vote teaches. `use` is
    the adapter as it draws otherwise, `trained` the share of its strength that its file holds,
    since a run that is content with less keeps less. Raises TrainingError at strength 0 of either.
    """
    if not use.strength or not trained:
        raise TrainingError(
            f"“{use.name}” is kept at strength 0, at which it draws as the base does, so there is "
            "nothing new to rate. Keep it at a higher strength first."
        )
    plan = run.plan
    prompts = plan.prompts[:PROMPTS]
    each = min(MOST_EACH, -(-PAIRS // len(prompts)))
    base = Contestant(plan.model, plan.model_hash)
    ahead = replace(use, strength=AHEAD * use.strength / trained)
    return CampaignPlan(
        name,
        prompts,
        (base, replace(base, adapters=(ahead,))),
        pictures_per_prompt=each,
        template=template,
        target=2 * each * len(prompts),
        strategy="random",
        repeat_share=0.0,
        held_out_share=0.0,
        same_seed=True,
        own_pairs=each,
        follows=plan.campaign,
    )


def next_plan(run: Run, *, voted: bool) -> RunPlan:
    """Return the plan of a run that goes on from what was kept, not parted yet.

    It trains on the same prompts and looks at the same, towards what the votes of all rounds teach:
    those of the run's campaign and its next rounds, or all. A known reward stays one until there
    are votes (`voted`).
    """
    plan = run.plan
    kept = run.kept if run.kept and run.kept.strength else None  # at 0 it draws as the base does
    return replace(
        plan,
        name=f"{plan.name}, next"[:MAX_NAME],
        prompts=joined_prompts(plan),
        held_out=(),
        reward="" if voted else plan.reward,
        start=kept.sha256 if kept else "",
    )
