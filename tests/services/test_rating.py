"""Raters' queues, votes and undo: what is promised to whoever rates and to whoever counts."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Event

import pytest
from PIL import Image
from sqlalchemy.exc import IntegrityError

from studio.core.campaign import Campaign, CampaignPicture, CampaignPlan, Contestant
from studio.core.errors import NotFoundError, VoteRefusedError
from studio.core.events import Notice
from studio.core.settings import Settings
from studio.services.pairing import Pool
from studio.services.queues import FILL, FIRST
from studio.services.shared_device import SharedDevice
from studio.services.status import Status
from studio.services.studio import Studio, open_studio
from studio.services.worker import GpuWorker
from tests.services.rated import (
    answer,
    file_pictures,
    gallery_campaign,
    next_pair,
    vote_many,
)


@pytest.fixture
def studio(settings: Settings) -> Iterator[Studio]:
    opened = open_studio(settings)
    file_pictures(opened)
    yield opened
    opened.close()


@pytest.fixture
def campaign(studio: Studio) -> Campaign:
    return gallery_campaign(studio)


def votes(studio: Studio, campaign: Campaign, rater: str | None = None):
    return list(studio.preference.votes.votes(campaign.id, rater))


def test_a_pair_waits_until_it_is_answered(studio: Studio, campaign: Campaign):
    first = next_pair(studio, campaign)
    assert next_pair(studio, campaign) == first
    studio.preference.rating.vote(answer(first))
    assert next_pair(studio, campaign).pair != first.pair


def test_a_vote_keeps_what_was_shown(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign)
    studio.preference.rating.vote(answer(pair, "right", response_ms=1234))
    (vote,) = votes(studio, campaign)
    stored = studio.preference.campaigns._store.pair(pair.pair)
    assert (vote.left, vote.right, vote.choice) == (stored.left, stored.right, "right")
    assert (vote.rater, vote.prompt, vote.response_ms) == ("ann", pair.prompt, 1234)
    assert (vote.session_id, vote.pair_id) == ("session-1", pair.pair)
    assert vote.app_version


def test_a_double_click_is_one_vote(studio: Studio, campaign: Campaign):
    click = answer(next_pair(studio, campaign))
    first = studio.preference.rating.vote(click)
    assert studio.preference.rating.vote(click) == first
    assert len(votes(studio, campaign)) == 1


def test_a_second_tab_cannot_answer_the_same_pair_again(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign)
    studio.preference.rating.vote(answer(pair, "left"))
    with pytest.raises(VoteRefusedError, match="answered already"):
        studio.preference.rating.vote(answer(pair, "right"))
    assert [vote.choice for vote in votes(studio, campaign)] == ["left"]


def test_nobody_answers_another_raters_pair(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign, "ann")
    with pytest.raises(VoteRefusedError, match="another rater's"):
        studio.preference.rating.vote(answer(pair, rater="bob"))


def test_an_answer_that_does_not_exist_is_refused(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign)
    with pytest.raises(VoteRefusedError, match="An answer is one of"):
        studio.preference.rating.vote(answer(pair, "star"))
    with pytest.raises(NotFoundError):
        studio.preference.rating.vote(answer(pair, "left").__class__(
            "event-123", "no such pair", "ann", "session-1", "left", 5
        ))  # fmt: skip


def test_a_clock_that_jumps_is_cut_to_what_can_be(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign)
    vote = studio.preference.rating.vote(answer(pair, response_ms=10**12))
    assert vote.response_ms == 24 * 3600 * 1000


def test_undo_keeps_the_first_vote_and_asks_again(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign)
    vote = studio.preference.rating.vote(answer(pair, "left"))
    again = studio.preference.rating.undo(vote.id, "undo-event", "ann")
    assert again == pair == next_pair(studio, campaign)
    assert votes(studio, campaign) == []
    kept = list(studio.preference.votes.votes(campaign.id, include_undone=True))
    assert kept == [vote]
    studio.preference.rating.vote(answer(pair, "right"))
    assert [v.choice for v in votes(studio, campaign)] == ["right"]


def test_nobody_takes_back_another_raters_vote(studio: Studio, campaign: Campaign):
    vote = studio.preference.rating.vote(answer(next_pair(studio, campaign)))
    with pytest.raises(VoteRefusedError):
        studio.preference.rating.undo(vote.id, "undo-event", "bob")


def test_the_best_of_a_batch_stays_when_another_pick_is_cut_short(studio: Studio):
    opinions, store = studio.preference.opinions, studio.preference.votes
    batch = studio.gallery.page(job_id="job0", limit=64)
    assert opinions.best_of_batch(batch[0], batch) == 3
    assert opinions.best_of_batch(batch[1], batch) == 3
    picked = list(store.votes())
    assert {vote.winner for vote in picked} == {batch[1].sha256} and len(picked) == 3
    with studio.database.writer.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER cut_short BEFORE INSERT ON votes WHEN "
            "(SELECT count(*) FROM votes) = 7 BEGIN SELECT RAISE(ABORT, 'cut short'); END"
        )
    with pytest.raises(IntegrityError, match="cut short"):
        opinions.best_of_batch(batch[2], batch)
    assert list(store.votes()) == picked
    assert (store.tally().votes, store.tally().undone) == (3, 3)


def test_a_blind_pair_says_nothing_but_its_prompt_and_size(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign)
    assert set(asdict(pair)) == {"pair", "prompt", "left", "right", "width", "height"}
    stored = studio.preference.campaigns._store.pair(pair.pair)
    told = str(asdict(pair))
    for secret in (stored.left, stored.right, "tiny", "job", "100"):
        assert secret not in told


def test_a_picture_is_served_without_its_recipe(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign)
    content = studio.preference.rating.picture(pair.left)
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert image.info == {}
        assert image.size == (64, 64)
    assert b"tEXt" not in content and b"iTXt" not in content
    with pytest.raises(NotFoundError):
        studio.preference.rating.picture("0" * 24)


def test_a_newcomer_gets_a_few_pairs_at_once_and_more_follow(studio: Studio, campaign: Campaign):
    rating = studio.preference.rating
    first = rating.next_pairs(campaign.id, "ann", 4).pairs
    assert len(first) == 2
    studio.preference.queues.settled()
    assert rating.next_pairs(campaign.id, "ann", 4).pairs[:2] == first
    assert len(rating.next_pairs(campaign.id, "ann", 4).pairs) == 4


def test_many_tabs_at_once_fill_a_queue_once(studio: Studio, campaign: Campaign):
    rating = studio.preference.rating
    with ThreadPoolExecutor(8) as tabs:
        asked = list(tabs.map(lambda _: rating.next_pairs(campaign.id, "ann", 1).pairs, range(24)))
    assert len(set(asked)) == 1
    studio.preference.queues.settled()
    waiting = studio.preference.campaigns._store.waiting_count(campaign.id, "ann")
    assert waiting == FIRST + FILL


def test_each_pair_gives_its_pictures_names_of_its_own(studio: Studio, campaign: Campaign):
    names = []
    for rater in ("ann", "bob"):
        next_pair(studio, campaign, rater)
        studio.preference.queues.settled()
        for pair in studio.preference.rating.next_pairs(campaign.id, rater, 4).pairs:
            names += [pair.left, pair.right]
    assert len(set(names)) == len(names) == 16


def test_repeats_come_with_sides_swapped_in_their_share(studio: Studio):
    file_pictures(studio, prompts=30, each=5)
    campaign = gallery_campaign(studio, name="many")
    vote_many(studio, campaign, 150)
    given = {vote.id: vote for vote in votes(studio, campaign)}
    repeats = [vote for vote in given.values() if vote.repeat_of]
    assert 2 <= len(repeats) <= 29  # 8 percent are 11; less than once in 10,000 runs outside
    order = list(given)
    for vote in repeats:
        before = given[vote.repeat_of]
        assert (vote.left, vote.right) == (before.right, before.left)
        assert vote.selection == "repeat"
        assert order.index(vote.id) - order.index(before.id) >= 10


def test_held_out_pairs_are_the_same_for_all_raters_and_never_taught(studio: Studio):
    file_pictures(studio, prompts=10, each=4)
    campaign = gallery_campaign(studio, name="shared", held_out_share=0.3, repeat_share=0)
    kept, taught = {}, {}
    for rater in ("ann", "bob"):
        vote_many(studio, campaign, 40, rater)
        given = votes(studio, campaign, rater)
        for held_out, side in ((True, kept), (False, taught)):
            side[rater] = [frozenset((v.left, v.right)) for v in given if v.held_out is held_out]
    assert 4 <= len(kept["ann"]) <= 24
    common = min(len(kept["ann"]), len(kept["bob"]))
    assert set(kept["ann"][:common]) == set(kept["bob"][:common])
    assert not {*kept["ann"], *kept["bob"]} & {*taught["ann"], *taught["bob"]}


def test_a_repeat_of_a_held_out_pair_is_never_taught(studio: Studio):
    file_pictures(studio, prompts=10, each=4)
    campaign = gallery_campaign(studio, name="both", held_out_share=0.5, repeat_share=0.5)
    vote_many(studio, campaign, 60)
    given = votes(studio, campaign)
    kept = {frozenset((v.left, v.right)) for v in given if v.held_out}
    again = [v for v in given if v.repeat_of and frozenset((v.left, v.right)) in kept]
    assert again and all(v.held_out for v in again)
    assert not kept & {frozenset((v.left, v.right)) for v in given if not v.held_out}


def test_no_pair_is_shown_twice_but_as_a_repeat(studio: Studio, campaign: Campaign):
    vote_many(studio, campaign, 30)
    shown = [frozenset((v.left, v.right)) for v in votes(studio, campaign) if not v.repeat_of]
    assert len(set(shown)) == len(shown)


def test_a_campaign_ends_when_all_was_seen(studio: Studio):
    campaign = gallery_campaign(studio, repeat_share=0.0)
    vote_many(studio, campaign, 36)  # 6 prompts of 6 pairs
    end = studio.preference.rating.next_pairs(campaign.id, "ann")
    assert (end.pairs, end.over) == ((), True)
    assert "every pair" in end.sentence
    assert next_pair(studio, campaign, "bob")  # each rater has a queue of their own


def test_sides_are_shuffled(studio: Studio):
    file_pictures(studio, prompts=30, each=4, models=("a", "b"))
    campaign = gallery_campaign(studio, name="sides", repeat_share=0)
    vote_many(studio, campaign, 100)
    first = sum(vote.left < vote.right for vote in votes(studio, campaign))
    assert 25 <= first <= 75  # five standard deviations around one half


def test_contestants_meet_each_other_and_not_themselves(studio: Studio):
    pool = Pool("c", mixed=True)
    pool.add(
        CampaignPicture(name * 64, "p", contestant=contestant, number=number)
        for number, (name, contestant) in enumerate(("aX", "bX", "cY"), start=1)
    )
    [(_, group)] = pool.groups()
    assert sorted(pool.pairs_of(group)) == [("a" * 64, "c" * 64), ("b" * 64, "c" * 64)]
    assert pool.pair_count() == 2


@pytest.mark.parametrize("models", [("a",), ("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("same_seed", [False, True])
def test_how_many_pairs_a_campaign_will_have_is_known_before_it_is_drawn(
    studio: Studio, models: tuple[str, ...], same_seed: bool
):
    if same_seed and len(models) == 1:
        return  # one picture of a seed has nobody to meet
    plan = CampaignPlan("c", ("p", "q"), tuple(map(Contestant, models)), 3, same_seed=same_seed)
    pool = Pool("c", len(models) > 1, same_seed=same_seed)
    drawn = itertools.product(plan.prompts, models, range(3))
    pool.add(
        CampaignPicture(f"{number:064x}", prompt, contestant=model, seed=seed, number=number)
        for number, (prompt, model, seed) in enumerate(drawn, start=1)
    )
    known = studio.preference.rating.pair_count(Campaign("c", plan, "running", 0.0))
    assert known == pool.pair_count() == sum(map(len, map(pool.pairs_of, pool.by_prompt.values())))


def test_how_many_pairs_the_gallery_has_is_told_before_a_campaign_begins(studio: Studio):
    campaigns = studio.preference.campaigns
    assert campaigns.gallery_pairs(starred=False) == 36  # 6 prompts of 6 pairs
    for picture in studio.gallery.page(limit=3):
        studio.gallery.star(picture.id, True)
    assert campaigns.gallery_pairs(starred=True) == 3
    assert studio.preference.rating.pair_count(gallery_campaign(studio)) == 36


def test_the_header_says_what_is_drawn_for_a_campaign(studio: Studio):
    begun, let_go = Event(), Event()

    def busy() -> Iterator[Notice]:
        begun.set()
        let_go.wait(60)
        yield Notice("done")

    assert studio.status.queue() == "Idle"
    studio.worker.submit("busy", busy)
    begun.wait(60)
    studio.preference.campaigns.create(CampaignPlan("foxes", ("a fox",), (Contestant(),)))
    assert studio.status.queue() == "Drawing for a campaign"
    studio.preference.campaigns.pause(studio.preference.campaigns.all()[0].id)
    let_go.set()


@pytest.mark.parametrize(("job", "words"), [("finetune-1", "Fine-tuning"), ("teach-1", "Teaching")])
def test_the_header_says_what_learns_and_not_what_is_paused(studio: Studio, job: str, words: str):
    begun, let_go = Event(), Event()

    def learn() -> Iterator[Notice]:
        begun.set()
        let_go.wait(60)
        yield Notice("done")

    worker, shared = GpuWorker(), SharedDevice(studio.settings.data_dir)
    campaigns = studio.preference.campaigns
    status = Status(
        studio.settings, studio.models, studio.generation, shared, campaigns, worker
    )  # one that nobody else listens to
    worker.submit(job, learn)
    begun.wait(60)
    assert status.background() == words
    worker.hold(job)
    assert status.background() == ""
    let_go.set()
    worker.close()


def test_a_paused_campaign_asks_nobody(studio: Studio, campaign: Campaign):
    studio.preference.campaigns.pause(campaign.id)
    asked = studio.preference.rating.next_pairs(campaign.id, "ann")
    assert (asked.pairs, asked.over) == ((), True)
    studio.preference.campaigns.resume(campaign.id)
    assert next_pair(studio, campaign)


def test_a_picture_in_the_bin_takes_its_pairs_along(studio: Studio, campaign: Campaign):
    pair = next_pair(studio, campaign)
    stored = studio.preference.campaigns._store.pair(pair.pair)
    for picture in studio.gallery.page(limit=200):
        if picture.sha256 == stored.left:
            studio.gallery.delete(picture.id)
    shown = studio.preference.rating.next_pairs(campaign.id, "ann", 8)
    assert pair.pair not in [p.pair for p in shown.pairs]
    with pytest.raises(VoteRefusedError, match="not there any more"):
        studio.preference.rating.vote(answer(pair))


@pytest.mark.parametrize("name", ["", "  ", "x" * 41, "two\nlines"])
def test_an_impossible_name_is_refused_in_a_sentence(studio: Studio, campaign: Campaign, name: str):
    with pytest.raises(VoteRefusedError):
        studio.preference.rating.next_pairs(campaign.id, name)
