"""Campaigns, their pictures, the queues of pairs, and raters; on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from studio.core.campaign import CampaignPicture, CampaignPlan, Contestant, PairDraft
from studio.core.errors import NotFoundError, VoteRefusedError
from studio.core.request import AdapterUse, GenerationRequest
from tests.postgres_server import on_both_databases
from tests.store.voting import Voting, sha

pytestmark = on_both_databases
PLAN = CampaignPlan(
    name="Storms 猫",
    prompts=("a storm", 'a "calm" sea'),
    contestants=(Contestant("a", "ab" * 32), Contestant("a", "", (AdapterUse("t", "cd", 0.5),))),
    pictures_per_prompt=3,
    template=GenerationRequest(width=64, height=96, steps=7, seed=2**31),
    target=321,
    strategy="tournament",
    repeat_share=0.05,
    held_out_share=0.2,
)


def test_a_campaign_comes_back_as_it_was_planned(voting: Voting):
    made = voting.campaigns.create(PLAN)
    assert voting.campaigns.get(made.id) == made
    assert (made.plan, made.state, made.pictures, made.name) == (PLAN, "running", 0, PLAN.name)
    assert voting.campaigns.find(PLAN.name) == made


def test_a_campaign_is_paused_resumed_and_archived(voting: Voting):
    campaigns, made = voting.campaigns, voting.campaigns.create(PLAN)
    assert campaigns.pause(made.id).state == "paused"
    assert campaigns.resume(made.id).state == "running"
    assert campaigns.archive(made.id).state == "archived"
    assert campaigns.all("running") == []
    assert [c.id for c in campaigns.all()] == [made.id]


def test_a_plan_can_be_changed_and_is_checked_again(voting: Voting):
    made = voting.campaigns.create(PLAN)
    assert voting.campaigns.change(made.id, target=5, strategy="eig").plan.target == 5
    with pytest.raises(VoteRefusedError, match="one of eig, random, tournament"):
        voting.campaigns.set_strategy(made.id, "alphabetical")
    assert voting.campaigns.get(made.id).plan.strategy == "eig"


def test_two_campaigns_never_share_a_name(voting: Voting):
    voting.campaigns.create(PLAN)
    other = voting.campaigns.create(CampaignPlan("other"))
    with pytest.raises(VoteRefusedError, match="already; choose another name"):
        voting.campaigns.create(PLAN)
    with pytest.raises(VoteRefusedError, match="already; choose another name"):
        voting.campaigns.change(other.id, name=PLAN.name)


@pytest.mark.parametrize(
    "plan",
    [
        CampaignPlan(""),
        CampaignPlan("a\nb"),
        CampaignPlan("a", target=0),
        CampaignPlan("a", pictures_per_prompt=65),
        CampaignPlan("a", repeat_share=0.6),
        CampaignPlan("a", prompts=("x",) * 10_001),
    ],
    ids=lambda plan: str(plan)[:40],
)
def test_a_plan_that_cannot_be_is_refused(plan: CampaignPlan, voting: Voting):
    with pytest.raises(VoteRefusedError):
        voting.campaigns.create(plan)
    assert voting.campaigns.all() == []


def test_pictures_take_part_once(voting: Voting):
    campaign = voting.campaign(pictures=3)
    again = [CampaignPicture(sha(n), "a red apple", seed=n) for n in range(1, 5)]
    assert voting.campaigns.add_pictures(campaign.id, again) == 1
    found = list(voting.campaigns.pictures(campaign.id))
    assert [(p.sha256, p.seed) for p in found] == [(sha(n), n) for n in range(1, 5)]
    assert list(voting.campaigns.pictures(campaign.id, after=found[1].number)) == found[2:]
    assert voting.campaigns.get(campaign.id).pictures == 4


def test_two_studios_that_draw_the_same_seed_count_once(voting: Voting):
    campaign = voting.campaign(pictures=0)
    mine = CampaignPicture(sha(1), "a red apple", contestant="starter", seed=5)
    theirs = CampaignPicture(sha(2), "a red apple", contestant="starter", seed=5)
    other = CampaignPicture(sha(3), "a red apple", contestant="tuned", seed=5)
    assert voting.campaigns.add_pictures(campaign.id, [mine]) == 1
    assert voting.campaigns.add_pictures(campaign.id, [theirs, other]) == 1


def test_many_pictures_are_read_page_by_page(voting: Voting):
    campaign = voting.campaign(pictures=2300)
    assert len(list(voting.campaigns.pictures(campaign.id))) == 2300


def test_sides_are_shuffled_by_the_store(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 300)
    sides = Counter(pair.left for pair in voting.campaigns.waiting(campaign.id, "Ann", 300))
    assert set(sides) == {sha(1), sha(2)}
    assert 100 < sides[sha(1)] < 200  # 5.8 standard deviations


def test_a_repeat_keeps_the_sides_that_it_was_given(voting: Voting):
    campaign = voting.campaign()
    drafts = [
        PairDraft("Ann", "x", sha(2), sha(1), selection="repeat", repeat_of="earlier")
        for _ in range(40)
    ]
    pairs = voting.campaigns.draw_ahead(campaign.id, drafts)
    assert {(pair.left, pair.right, pair.repeat_of) for pair in pairs} == {
        (sha(2), sha(1), "earlier")
    }


def test_public_names_are_random_and_lead_to_their_picture(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 5)
    pairs = voting.campaigns.waiting(campaign.id, "Ann", 9)
    names = {name for pair in pairs for name in (pair.left_name, pair.right_name)}
    assert len(names) == 10 and all(len(name) == 24 for name in names)
    for pair in pairs:
        assert voting.campaigns.picture_named(pair.left_name) == pair.left
        assert voting.campaigns.picture_named(pair.right_name) == pair.right
    with pytest.raises(NotFoundError):
        voting.campaigns.picture_named(sha(1))


def test_each_rater_has_a_queue_of_his_own(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 2, "Ann")
    voting.draw_ahead(campaign, 3, "Bob")
    assert voting.campaigns.waiting_count(campaign.id, "Ann") == 2
    assert {p.rater for p in voting.campaigns.waiting(campaign.id, "Bob", 9)} == {"Bob"}
    assert voting.campaigns.drop_waiting(campaign.id, "Ann") == 2
    assert voting.campaigns.waiting(campaign.id, "Ann") == []
    assert voting.campaigns.drop_waiting(campaign.id) == 3


def test_an_answered_pair_is_not_dropped(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 1)
    given = voting.answer(campaign)
    voting.campaigns.drop_pair(given.pair_id)
    assert voting.campaigns.pair(given.pair_id).state == "answered"


def test_what_may_be_asked_again_is_old_decisive_standing_and_new_to_the_rater(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 8)
    given = [voting.answer(campaign, choice) for choice in ("left", "tie", "right", "left", "left")]
    voting.votes.undo(given[3].id, "u")  # its pair waits again, at its old place
    voting.answer(campaign, "both_bad")
    repeatable = voting.campaigns.repeatable(campaign.id, "Ann", at_least_ago=2)
    assert repeatable == [given[2].id, given[0].id]
    asked = PairDraft("Ann", "x", sha(1), sha(2), selection="repeat", repeat_of=given[2].id)
    voting.campaigns.draw_ahead(campaign.id, [asked])
    assert voting.campaigns.repeatable(campaign.id, "Ann", at_least_ago=2) == [given[0].id]
    assert voting.campaigns.repeatable(campaign.id, "Bob") == []


@pytest.mark.parametrize("ask", ["get", "pause", "pair"])
def test_what_is_not_there_is_a_sentence(ask: str, voting: Voting):
    with pytest.raises(NotFoundError):
        getattr(voting.campaigns, ask)("nothing")


def test_nothing_is_drawn_or_added_for_a_campaign_that_is_not_there(voting: Voting):
    with pytest.raises(NotFoundError):
        voting.campaigns.draw_ahead("none", [PairDraft("Ann", "x", sha(1), sha(2))])
    with pytest.raises(NotFoundError):
        voting.campaigns.add_pictures("none", [CampaignPicture(sha(1), "x")])


def test_a_rater_is_made_once_and_keeps_his_pseudonym(voting: Voting):
    raters = []
    threads = [
        threading.Thread(target=lambda: raters.append(voting.raters.ensure(" Ann ")))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(raters) == 12 and len(set(raters)) == 1
    ann = raters[0]
    assert (ann.name, ann.role) == ("Ann", "rater")
    assert "Ann" not in ann.pseudonym
    assert voting.raters.ensure("Ann", "artist") == ann
    assert voting.raters.set_role("Ann", "artist").role == "artist"
    assert voting.raters.pseudonyms() == {"Ann": ann.pseudonym}


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb", "a\0b"])
def test_an_impossible_name_is_refused(name: str, voting: Voting):
    with pytest.raises(VoteRefusedError, match="1 to 200 printable characters"):
        voting.raters.ensure(name)
    assert voting.raters.all() == []
