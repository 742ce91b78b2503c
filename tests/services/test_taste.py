"""The taste is learned from votes in the background, and put to use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count

import pytest

from studio.core.campaign import Campaign, CampaignPlan
from studio.core.errors import TrainingError
from studio.core.picture import Picture
from studio.core.settings import Settings
from studio.services.studio import Studio, open_studio
from studio.services.worker import Priority
from tests.services.rated import answer, file_pictures, gallery_campaign, next_pair, vote_many
from tests.waiting import until


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio whose artist has voted for the redder picture of every pair, 60 times."""
    data_dir = tmp_path_factory.mktemp("taste")
    opened = open_studio(replace(Settings(), data_dir=data_dir, device="cpu"))
    pictures = {p.sha256: p for p in file_pictures(opened, prompts=12, each=4)}
    redness = {sha256: red(opened, picture) for sha256, picture in pictures.items()}
    campaign = gallery_campaign(opened, repeat_share=0, strategy="eig")
    vote_for_the_redder(opened, campaign, redness, 60)
    until(lambda: knows_every_vote(opened))
    yield opened
    opened.close()


def vote_for_the_redder(
    studio: Studio, campaign: Campaign, redness: Mapping[str, float], count: int
) -> None:
    store = studio.preference.campaigns._store
    for _ in range(count):
        pair = next_pair(studio, campaign)
        shown = store.pair(pair.pair)
        choice = "left" if redness[shown.left] > redness[shown.right] else "right"
        studio.preference.rating.vote(answer(pair, choice))


def red(studio: Studio, picture: Picture) -> float:
    from PIL import Image

    with Image.open(studio.gallery.file(picture)) as image:
        r, g, b = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
    return r - (g + b) / 2


def knows_every_vote(studio: Studio) -> bool:
    taste = studio.preference.taste
    taste.refresh()  # which is nothing while it learns
    return taste.now.events == studio.preference.votes.events()


def test_a_taste_for_red_is_learned_and_judged(studio: Studio):
    now = studio.preference.taste.now
    assert now.reward is not None
    assert now.agreement is not None and now.agreement.value > 0.6
    assert now.agreement.low <= now.agreement.value <= now.agreement.high
    assert now.encoder
    assert studio.preference.votes.tally().held_out > 0
    assert now.votes == 60 - studio.preference.votes.tally().held_out


def test_the_gallery_stands_in_the_order_of_taste(studio: Studio):
    ordered, total = studio.preference.favourites.by_taste(0, 48)
    assert total == len(ordered) == 48
    half = len(ordered) // 2
    redness = [red(studio, picture) for picture in ordered]
    assert sum(redness[:half]) / half > sum(redness[half:]) / half + 20
    page, _ = studio.preference.favourites.by_taste(10, 5)
    assert page == ordered[10:15]


def test_a_picture_tells_its_score_when_asked(studio: Studio):
    ordered, _ = studio.preference.favourites.by_taste(0, 48)
    best, worst = (studio.preference.favourites.score(p) for p in (ordered[0], ordered[-1]))
    assert best.value > worst.value
    assert "Your taste gives it" in best.sentence


def test_the_quiet_line_speaks_of_the_taste(studio: Studio):
    sentence = studio.preference.standing.sentence("", "ann")
    assert sentence.startswith("60 votes. Your taste is predicted in ")
    assert "a coin gets 50" in sentence
    teaching = 60 - studio.preference.votes.tally().held_out
    assert f"{teaching} of 60 votes teach and are a beginning" in sentence


def test_the_next_pair_is_chosen_by_what_it_would_teach(studio: Studio):
    selections = {v.selection for v in studio.preference.votes.votes()}
    assert "random" in selections  # what nothing was known about was chosen at random
    plan = {"strategy": "eig", "repeat_share": 0, "held_out_share": 0}
    campaign = gallery_campaign(studio, name="after learning", **plan)
    raters = (f"rater {number}" for number in count())
    until(lambda: "eig" in drawn_ahead(studio, campaign, next(raters)))


def drawn_ahead(studio: Studio, campaign: Campaign, rater: str) -> set[str]:
    """Why the pairs were chosen that wait for a newcomer."""
    next_pair(studio, campaign, rater)
    studio.preference.queues.settled()
    waiting = studio.preference.campaigns._store.waiting(campaign.id, rater, 20)
    return {pair.selection for pair in waiting}


def test_pictures_that_came_after_learning_are_looked_at_before_they_are_chosen_among(
    studio: Studio,
):
    plan = {"strategy": "eig", "repeat_share": 0, "held_out_share": 0}
    fresh = file_pictures(studio, prompts=1, each=5, models=("new",), first_prompt=40)
    campaign = studio.preference.campaigns.create_from_gallery(
        CampaignPlan("fresh pictures", **plan), fresh
    )
    raters = (f"rater {number}" for number in count())
    until(lambda: "eig" in drawn_ahead(studio, campaign, next(raters)))
    assert {p.sha256 for p in fresh} <= studio.preference.taste.now.features.keys()


def test_sheets_of_loved_and_disputed_pictures_are_png(studio: Studio):
    for kind in ("loved", "disputed"):
        assert studio.preference.favourites.sheet(kind).startswith(b"\x89PNG")


def test_best_of_n_keeps_the_reddest_and_bins_the_rest(studio: Studio):
    batch = studio.gallery.page(job_id="job3", limit=64)
    scores = studio.preference.taste.now.scores([p.sha256 for p in batch])
    said = studio.preference.favourites.keep_best("job3", 1, over=True)
    assert said == "The best 1 stay; the others go to the bin."
    until(lambda: len(studio.gallery.page(job_id="job3", limit=64)) == 1)
    [kept] = studio.gallery.page(job_id="job3", limit=64)
    assert kept.sha256 == max(scores, key=scores.__getitem__)
    for picture in batch:
        studio.gallery.restore(picture.id)


def test_without_votes_there_is_no_taste_and_it_is_said(settings: Settings):
    studio = open_studio(settings)
    try:
        [picture, *_] = file_pictures(studio, prompts=1, each=1)
        assert studio.preference.favourites.score(picture).value is None
        with pytest.raises(TrainingError, match="Rate some pairs"):
            studio.preference.favourites.keep_best("job0", 1, over=True)
        with pytest.raises(TrainingError):
            studio.preference.favourites.by_taste(0, 10)
    finally:
        studio.close()


def test_learning_gives_way_to_drawing(studio: Studio):
    order = []

    def drawing():
        order.append("drawing")
        yield from ()

    studio.worker.listen(lambda job_id, event: order.append(job_id))
    blocker = studio.worker
    blocker.submit("slow", lambda: iter(()), priority=Priority.BACKGROUND)
    studio.preference.taste.refresh()
    blocker.submit("sketch", drawing)
    until(lambda: order.count("taste") >= 2 and "drawing" in order)
    assert order.index("drawing") < len(order) - 1 - order[::-1].index("taste")


def test_each_campaigns_card_tells_how_well_its_own_votes_are_predicted(studio: Studio):
    alike = {"repeat_share": 0, "held_out_share": 0}
    sure = gallery_campaign(studio, name="the redder", **alike)
    blind = gallery_campaign(studio, name="left and right in turn", **alike)
    pictures = {p.sha256: red(studio, p) for p in studio.gallery.page(limit=200)}
    vote_for_the_redder(studio, sure, pictures, 60)
    vote_many(studio, blind, 60)
    preference = studio.preference

    def cards() -> list[str]:
        return [preference.standing.campaign_sentence(one.id) for one in (sure, blind)]

    until(lambda: all("is predicted in" in card for card in cards()))
    shares = [int(card.split(" predicted in ")[1].split(" %")[0]) for card in cards()]
    assert shares[0] > 70
    assert shares[1] < 65
    own = preference.taste.among((sure.id,))
    assert own is not None and shares[0] == round(100 * own.value)
