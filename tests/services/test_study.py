"""The study report says what the votes say, in one page that asks for nothing."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

import pytest

from studio.core.campaign import Campaign
from studio.core.settings import Settings
from studio.core.vote import Tally, Vote
from studio.services.studio import Studio, open_studio
from studio.services.study import make_study, rater_flags
from studio.services.study_page import study_csv, study_html
from tests.services.rated import answer, file_pictures, gallery_campaign, next_pair

HOSTILE = "<img src=x onerror=alert(1)>"


def vote(number: int, choice: str, left: str = "a", right: str = "b", **fields: object) -> Vote:
    values = {"rater": "ann", "response_ms": 900, "prompt": HOSTILE} | fields
    created = 1_700_000_000.0 + 60 * number
    return Vote(
        f"vote-{number}", created, left=left * 64, right=right * 64, choice=choice, **values
    )


LABELS = {"a" * 64: "tuned", "b" * 64: "base", "c" * 64: "base"}


def study_of(votes: list[Vote], **tally: int):
    counted = Tally(**({"votes": len(votes), "raters": 1} | tally))
    return make_study(HOSTILE, votes, LABELS, {"ann": counted}, counted)


def test_wins_ties_and_losses_are_counted_from_either_side():
    votes = [vote(1, "left"), vote(2, "right", "b", "a"), vote(3, "tie"), vote(4, "right")]
    first, second = study_of(votes).contestants
    assert (first.label, first.wins, first.ties, first.losses) == ("tuned", 2, 1, 1)
    assert (second.label, second.wins, second.ties, second.losses) == ("base", 1, 1, 2)
    assert (first.raw.value, first.raw.n) == (0.625, 4)
    assert first.raw.low < 0.625 < first.raw.high


def test_repeats_skips_and_both_bad_rank_nobody():
    votes = [vote(1, "left"), vote(2, "skip"), vote(3, "both_bad")]
    votes.append(vote(4, "right", "b", "a", repeat_of="vote-1", selection="repeat"))
    [first, _] = study_of(votes).contestants
    assert (first.wins, first.ties, first.losses) == (1, 0, 0)


def test_pictures_of_one_contestant_are_no_comparison():
    assert study_of([vote(1, "left", "b", "c")]).contestants == ()


def test_votes_over_time_are_all_there_in_at_most_two_dozen_bars():
    study = study_of([vote(number**2, "left") for number in range(40)])
    assert len(study.per_period) <= 24
    assert sum(votes for _, votes in study.per_period) == 40


def test_the_page_holds_no_markup_of_others_and_no_address():
    page = study_html(study_of([vote(n, "left") for n in range(5)]), lambda sha: b"webp", 0.0)
    assert HOSTILE not in page
    assert "&lt;img src=x" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "http" not in page


def test_a_picture_that_is_gone_is_left_out_of_the_examples():
    page = study_html(study_of([vote(1, "left")]), lambda sha: None, 0.0)
    assert "<figure>" not in page


def test_the_table_reads_back_and_runs_no_formula():
    votes = [vote(1, "left")]
    study = make_study("=cmd()", votes, LABELS, {"+ann": Tally(votes=1)}, Tally(votes=1))
    rows = list(csv.DictReader(io.StringIO(study_csv(study))))
    assert {"campaign", "contestant", "against", "time", "rater"} <= {r["section"] for r in rows}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "@"))]
    [won] = [r for r in rows if r["metric"] == "win_rate_raw" and r["section"] == "contestant"][:1]
    assert (won["name"], float(won["value"]), won["n"]) == ("tuned", 1.0, "1")


@pytest.mark.parametrize(
    ("tally", "fast", "flags"),
    [
        (Tally(votes=30, left=15, right=15), 0.1, 0),
        (Tally(votes=30, left=15, right=15), 0.6, 1),
        (Tally(votes=30, left=28, right=2), 0.0, 1),
        (Tally(votes=30, left=2, right=28), 0.6, 2),
        (Tally(votes=10, left=10, right=0), 0.9, 0),  # too few to say anything
        (Tally(votes=90, left=45, right=45, repeats=20, repeats_same=12), 0.0, 1),  # as a coin
        (Tally(votes=90, left=45, right=45, repeats=20, repeats_same=19), 0.0, 0),
    ],
)
def test_fast_one_sided_and_inconsistent_raters_are_flagged(tally: Tally, fast: float, flags: int):
    assert len(rater_flags(tally, fast)) == flags


@pytest.fixture
def studio(settings: Settings) -> Iterator[Studio]:
    opened = open_studio(settings)
    file_pictures(opened, prompts=4, each=2, models=("plain", "tuned"))
    yield opened
    opened.close()


def rate(studio: Studio, campaign: Campaign, rater: str) -> None:
    """Prefer 'tuned' on every pair that the campaign has."""
    pictures = studio.preference.rating.pool(campaign.id).pictures
    store = studio.preference.campaigns._store
    for _ in range(20):
        pair = next_pair(studio, campaign, rater)
        left = pictures[store.pair(pair.pair).left].contestant
        right = pictures[store.pair(pair.pair).right].contestant
        choice = "tie" if left == right else ("left" if left == "tuned" else "right")
        studio.preference.rating.vote(answer(pair, choice, rater))


def test_a_campaigns_report_names_the_winner_and_the_agreement(studio: Studio):
    campaign = gallery_campaign(studio, name="plain or tuned", repeat_share=0)
    for rater in ("ann", "bob"):
        rate(studio, campaign, rater)
    study = studio.preference.standing._study(campaign)
    assert [row.label for row in study.contestants] == ["tuned", "plain"]
    assert study.contestants[0].losses == 0
    assert study.contestants[0].fitted.low > 0.5
    assert study.alpha is not None and study.alpha.value == 1  # both always said the same
    page = studio.preference.standing.report_page(campaign.id)
    assert page.count("<figure>") == 6
    assert "data:image/webp;base64," in page
