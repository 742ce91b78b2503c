"""What the votes are good for: counts, the quiet line, and a campaign's study report."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from PIL import Image

from studio.core.campaign import Campaign
from studio.core.errors import NotFoundError
from studio.core.vote import Tally
from studio.core.words import counted
from studio.services.rating import Pictures, Rating
from studio.services.study import Rate, Study, make_study
from studio.services.study_page import study_csv, study_html
from studio.store.campaigns import CampaignStore
from studio.store.vote_rows import BriefVote
from studio.store.votes import VoteStore
from studio.training.preference.agreement import raters_agreement
from studio.training.preference.intervals import wilson_interval
from studio.training.preference.taste_words import (
    LEAST_AGREEMENT_VOTES,
    Agreement,
    calibration_sentence,
    more_votes_sentence,
    taste_sentence,
    telling,
)

if TYPE_CHECKING:
    from studio.services.taste import Taste

MOST_COMPARED = 100_000  # votes that agreement between raters is taken over
FEW_REPEATS = 5  # below it, self-consistency says nothing
THUMBNAIL = 256  # pixels


@dataclass(frozen=True)
class TasteFigures:
    """How well a taste is known; each share with its interval, None while it cannot be told."""

    predicted: Agreement | None  # held_out_agreement: cross-validation by prompt
    held_out: Agreement | None  # on random pairs that nothing learned from
    consistency: Agreement | None  # of raters with themselves: the ceiling
    sentences: tuple[str, ...]
    bins: tuple[tuple[float, float, int], ...]  # predicted and observed share, votes
    votes: int  # that it learned from
    encoder: str  # whose features it sees


class Standing:
    """Reads votes and taste; changes nothing. Every method may be called from any thread."""

    def __init__(
        self,
        votes: VoteStore,
        campaigns: CampaignStore,
        rating: Rating,
        pictures: Pictures,
        taste: Taste,
    ) -> None:
        self._votes = votes
        self._campaigns = campaigns
        self._rating = rating
        self._pictures = pictures
        self._taste = taste

    def votes(self, campaign_id: str, rater: str | None = None) -> int:
        """Return how many answers of a campaign stand, of one rater or all."""
        return self._votes.count(campaign_id, rater)

    def sentence(self, campaign_id: str, rater: str) -> str:
        """Return the quiet line for a rater: how far, and what the votes are good for."""
        own, every = self._votes.tally(None, rater), self._votes.tally()
        prediction = self._prediction(every, own)
        if own.votes < every.votes:
            return f"{counted(own.votes, 'vote')} by you, {every.votes:,} in all. {prediction}"
        told = counted(own.votes, "vote")
        return prediction if prediction.startswith(f"{told} ") else f"{told}. {prediction}"

    def campaign_sentence(self, campaign_id: str) -> str:
        """Return the line for a campaign's card: what its own votes tell."""
        tally, every = self._votes.tally(campaign_id), self._votes.tally()
        if tally.votes in (0, every.votes):
            return self._prediction(tally, tally) if tally.votes else ""
        more = more_votes_sentence(tally.votes, None, None, tally.teaching)
        agreement = telling(self._taste.among((campaign_id,)))
        if agreement is None:  # too few votes, or measured in the background
            return more
        return f"{taste_sentence(agreement, _self_consistency(tally))} {more}"

    def taste(self) -> TasteFigures:
        """Return how well the taste behind all votes is known, for the page's figure."""
        now, tally = self._taste.now, self._votes.tally()
        agreement, calibration, bins = telling(now.agreement), now.calibration, ()
        sentences = [more_votes_sentence(tally.votes, now.gain_of_100, now.worth, tally.teaching)]
        if calibration is not None and agreement is not None:
            bins = tuple((b.predicted, b.observed, b.n) for b in calibration.bins if b.n)
            sure = sum(p * n for p, _, n in bins) / max(sum(n for *_, n in bins), 1)
            sentences.append(calibration_sentence(sure, agreement.value, calibration.n))
        return TasteFigures(
            predicted=agreement,
            held_out=now.held_out,
            consistency=_self_consistency(tally),
            sentences=tuple(sentences),
            bins=bins,
            votes=now.votes,
            encoder=now.encoder,
        )

    def report_page(self, campaign_id: str) -> str:
        """Return the study report of a campaign as one HTML page. Raises NotFoundError."""
        campaign = self._campaigns.get(campaign_id)
        return study_html(self._study(campaign), self._thumbnail, time.time())

    def report_table(self, campaign_id: str) -> str:
        """Return the study report of a campaign as CSV. Raises NotFoundError."""
        return study_csv(self._study(self._campaigns.get(campaign_id)))

    def report(self, campaign_id: str) -> tuple[str, str]:
        """Return page and table of one study. Raises NotFoundError."""
        study = self._study(self._campaigns.get(campaign_id))
        return study_html(study, self._thumbnail, time.time()), study_csv(study)

    def _prediction(self, tally: Tally, own: Tally) -> str:
        """Say how well taste is predicted, and whether more votes are worth it.

        `own` are the votes whose repeats are the ceiling that is told.
        """
        taste = self._taste.now
        more = more_votes_sentence(tally.votes, taste.gain_of_100, taste.worth, tally.teaching)
        if taste.agreement is None or tally.votes < LEAST_AGREEMENT_VOTES:
            return more
        return f"{taste_sentence(taste.agreement, _self_consistency(own))} {more}"

    def _study(self, campaign: Campaign) -> Study:
        labels = {
            sha256: picture.contestant
            for sha256, picture in self._rating.pool(campaign.id).pictures.items()
        }
        return make_study(
            campaign.name,
            self._votes.brief(campaign.id),
            labels,
            self._votes.tallies(campaign.id),
            self._votes.tally(campaign.id),
            _alpha(islice(self._votes.brief(campaign.id), MOST_COMPARED)),
        )

    def _thumbnail(self, sha256: str) -> bytes | None:
        try:
            content = self._pictures.content(sha256)
        except NotFoundError:
            return None
        with Image.open(io.BytesIO(content)) as image:
            small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        stream = io.BytesIO()
        small.save(stream, "WEBP", quality=85)
        return stream.getvalue()


def _self_consistency(tally: Tally) -> Agreement | None:
    """Return the share of repeats that were decided as before; None while there are few."""
    if tally.repeats < FEW_REPEATS:
        return None
    share = tally.repeats_same / tally.repeats
    return Agreement(share, *wilson_interval(share, tally.repeats), tally.repeats)


def _alpha(votes: Iterable[BriefVote]) -> Rate | None:
    """Return Krippendorff's alpha over pairs that several raters judged; None without any."""
    found = raters_agreement(votes)
    return None if found is None else Rate(found.value, found.low, found.high, found.units)
