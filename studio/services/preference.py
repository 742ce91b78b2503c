"""Everything about preference, put together once: votes, campaigns, rating, taste, standing."""

from __future__ import annotations

from dataclasses import dataclass

from studio.core.settings import Settings
from studio.services.adapter_shelf import AdapterShelf
from studio.services.campaigns import Campaigns
from studio.services.favourites import Favourites
from studio.services.models import ModelShelf
from studio.services.opinions import Opinions
from studio.services.queues import Queues
from studio.services.rating import Rating
from studio.services.standing import Standing
from studio.services.taste import Taste
from studio.services.worker import GpuWorker
from studio.store.campaigns import CampaignStore
from studio.store.database import Database
from studio.store.pictures import PictureStore
from studio.store.raters import RaterStore
from studio.store.vote_formats.transfer import VoteTransfer
from studio.store.vote_pictures import VotePictures
from studio.store.votes import VoteStore


@dataclass(frozen=True)
class Preference:
    """What the Rate tab, the drawing tabs and the `votes` command use."""

    votes: VoteStore
    raters: RaterStore
    campaigns: Campaigns
    pictures: VotePictures
    queues: Queues
    rating: Rating
    taste: Taste
    standing: Standing
    transfer: VoteTransfer
    opinions: Opinions
    favourites: Favourites


def open_preference(
    settings: Settings,
    database: Database,
    pictures: PictureStore,
    shelf: ModelShelf,
    worker: GpuWorker,
) -> Preference:
    """Put the services of preference together; draws and learns nothing yet.

    `database` is the one that holds the votes: the data folder's, or a server's.
    """
    votes, raters = VoteStore(database), RaterStore(database)
    rated = VotePictures(database, settings.data_dir, pictures)
    campaigns = CampaignStore(database, share=rated.share)
    taste = Taste(settings, votes, campaigns, rated, worker)
    queues = Queues(votes, campaigns, taste.strategy)
    rating = Rating(votes, campaigns, raters, rated, queues)
    return Preference(
        votes=votes,
        raters=raters,
        campaigns=Campaigns(campaigns, pictures, shelf, worker, AdapterShelf(settings)),
        pictures=rated,
        queues=queues,
        rating=rating,
        taste=taste,
        standing=Standing(votes, campaigns, rating, rated, taste),
        transfer=VoteTransfer(votes, raters, rated, settings.data_dir),
        opinions=Opinions(votes),
        favourites=Favourites(pictures, votes, taste, worker),
    )
