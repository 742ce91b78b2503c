"""The next round: who meets whom, as in the learning benchmark; what the next run learns from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.campaign import Campaign, CampaignPicture, CampaignPlan
from studio.core.request import AdapterUse, GenerationRequest
from studio.core.run import Run
from studio.services.next_round import PAIRS, next_campaign
from studio.services.pairing import Pool, pool_of
from studio.services.run_plan import MAX_PROMPTS, joined_prompts, parted, split_prompts
from studio.services.run_reward import readiness
from studio.services.studio import Studio
from tests.services.finetune_plan import PLAN
from tests.services.rated import answer, file_pictures, gallery_campaign, vote_many
from tests.services.test_finetuning import ended
from tests.waiting import until

USE = AdapterUse("warm", "ab" * 32, 0.75)
SEED = 6000


def planned(prompts: int) -> CampaignPlan:
    names = tuple(f"thing {number}" for number in range(prompts))
    run = Run("r", replace(PLAN, prompts=names, campaign="first"), "kept", 0.0)
    return next_campaign(run, USE, GenerationRequest(seed=SEED), "warm, next round")


def test_a_result_that_was_kept_weaker_is_drawn_as_far_ahead_as_it_was_trained():
    run = Run("r", parted(PLAN), "kept", 0.0)
    plan = next_campaign(run, USE, GenerationRequest(), "next", trained=0.25)
    assert plan.contestants[1].adapters == (replace(USE, strength=6.0),)


def drawn(plan: CampaignPlan) -> Pool:
    """A pool with every picture that a plan asks for; named by what it is."""
    pool, number = pool_of("c", plan), 0
    for prompt in plan.prompts:
        for who, contestant in zip(("base", "tuned"), plan.contestants, strict=True):
            for seed in range(SEED, SEED + plan.pictures_of(contestant)):
                number += 1
                name = f"{who} {seed - SEED} {prompt}"
                label = contestant.label
                pool.add([CampaignPicture(name, prompt, "", label, seed, number)])
    return pool


def every_pair(pool: Pool) -> dict[str, set[frozenset[str]]]:
    """The pairs of each prompt, by names such as 'base 0'."""
    return {
        prompt: {
            frozenset(name.removesuffix(f" {prompt}") for name in pair)
            for pair in pool.pairs_of(group)
        }
        for (prompt, _), group in pool.groups()
    }


def test_of_sixty_prompts_the_pairs_are_those_of_the_benchmark(studio: Studio):
    plan = planned(64)
    pool = drawn(plan)
    found = every_pair(pool)
    assert len(found) == 60
    wanted = {frozenset(("tuned 0", "tuned 1")), frozenset(("tuned 0", "base 0"))}
    assert all(pairs == wanted for pairs in found.values())
    assert len(pool.pictures) == plan.wanted_pictures == 180
    assert pool.pair_count() == plan.target == 2 * PAIRS
    assert (plan.repeat_share, plan.held_out_share) == (0, 0)  # each once, and each teaches
    assert plan.contestants[1].adapters == (replace(USE, strength=1.5),)
    assert plan.follows == "first"


@pytest.mark.parametrize("prompts", [1, 2, 7, 59])
def test_of_fewer_prompts_half_of_the_pairs_are_against_the_base_of_the_same_seed(
    studio: Studio, prompts: int
):
    plan = planned(prompts)
    pool = drawn(plan)
    for pairs in every_pair(pool).values():
        kinds = Counter(" ".join(sorted(name.split()[0] for name in pair)) for pair in pairs)
        assert kinds["tuned tuned"] == kinds["base tuned"] == plan.own_pairs
        against = [pair for pair in pairs if any(name.startswith("base") for name in pair)]
        assert all(len({name.split()[1] for name in pair}) == 1 for pair in against)
        among = [name for pair in pairs for name in pair if pair not in against]
        assert len(set(among)) == len(among)  # no picture of it meets two of its own
    assert pool.pair_count() == plan.target
    campaign = Campaign("c", plan, "running", 0.0)
    assert studio.preference.rating.pair_count(campaign) == plan.target
    assert prompts == 1 or plan.target >= 2 * PAIRS
    studio.preference.campaigns._store.create(plan)  # none that a campaign may not be


@given(st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_prompts_are_put_back_so_that_they_are_parted_as_before(count: int, seed: int):
    prompts = tuple(map(str, range(count)))
    plan = parted(replace(PLAN, prompts=prompts, seed=seed))
    assert count <= MAX_PROMPTS
    assert joined_prompts(plan) == prompts
    assert split_prompts(joined_prompts(plan), seed) == (plan.prompts, plan.held_out)


def test_the_next_run_begins_with_what_was_kept_and_learns_from_the_votes_of_both_rounds(
    studio: Studio,
):
    file_pictures(studio, prompts=4, each=4)
    first = gallery_campaign(studio, held_out_share=0.0)
    vote_many(studio, first, 12)
    unrelated = gallery_campaign(studio, name="of others")
    vote_many(studio, unrelated, 3)
    names = tuple(f"thing {number}" for number in range(8))
    plan = replace(PLAN, reward="", campaign=first.id, prompts=names, epochs=1)
    run = ended(studio, studio.finetuning.start(plan, anyway=True))
    assert run.state == "trained", run.sentence
    kept = studio.verdicts.keep(run.id, strength=0.7).kept

    second = studio.verdicts.rate_on(run.id)
    rating = studio.preference.rating
    until(lambda: rating.next_pairs(second.id, "ann", 1).pairs)
    for _ in range(5):
        until(lambda: rating.next_pairs(second.id, "ann", 1).pairs)
        [shown] = rating.next_pairs(second.id, "ann", 1).pairs
        told = repr(shown)
        assert not any(word in told for word in (kept.sha256, kept.name, "tiny", "seed", "at 1.4"))
        rating.vote(answer(shown))
    studio.preference.campaigns.pause(second.id)
    assert studio.preference.campaigns.rounds(first.id) == [first.id, second.id]
    assert readiness(studio.preference, first.id).votes == 17

    wanted = studio.verdicts.next_plan(run.id)
    assert (wanted.start, wanted.campaign) == (kept.sha256, first.id)
    after = studio.finetuning.start(wanted, anyway=True)
    until(lambda: studio.finetuning.get(after.id).about)  # told when the taste is fitted
    assert studio.finetuning.get(after.id).about["votes"] == 17
    assert (after.plan.prompts, after.plan.held_out) == (run.plan.prompts, run.plan.held_out)
    done = ended(studio, after)
    lineage = studio.verdicts.adapter(done.id).lineage
    assert lineage["began_with"] == {"sha256": kept.sha256, "strength": 0.7}
    assert len(lineage["reward_sha256"]) == 64


def test_what_was_kept_at_strength_zero_is_the_base_and_nothing_to_go_on_from(studio: Studio):
    run = ended(studio, studio.finetuning.start(replace(PLAN, epochs=1)))
    studio.verdicts.keep(run.id, strength=0)
    assert studio.verdicts.next_plan(run.id).start == ""


def test_a_known_reward_stays_one_until_there_are_votes(studio: Studio):
    run = studio.finetuning._store.create(parted(PLAN))
    assert studio.verdicts.next_plan(run.id).reward == "brightness"
    file_pictures(studio, prompts=4, each=4)
    vote_many(studio, gallery_campaign(studio, held_out_share=0.0), 12)
    assert studio.verdicts.next_plan(run.id).reward == ""
