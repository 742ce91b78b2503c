"""Votes: added, taken back by an event, never changed; on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
from sqlalchemy import delete, insert, text, update
from sqlalchemy.exc import IntegrityError

from studio.core.errors import NotFoundError, VoteRefusedError
from studio.core.vote import Tally, Undo, Vote, vote_from_dict
from studio.services.study import make_study
from studio.store.database import Database
from studio.store.migrate import upgrade_to_newest
from studio.store.tables import UNDOS, VOTES
from studio.store.vote_rows import BriefVote
from studio.store.votes import PAGE, VoteStore
from studio.training.preference.agreement import raters_agreement
from tests.postgres_server import on_both_databases
from tests.store.voting import Voting, sha, vote

pytestmark = on_both_databases


@pytest.fixture
def votes(voting: Voting) -> VoteStore:
    return voting.votes


def test_a_vote_comes_back_as_it_was_given(votes: VoteStore):
    given = vote(
        prompt="飛行機 \"quoted\" 'x'\n",
        negative_prompt="blurry",
        campaign="c",
        choice="tie",
        strength=0.1 + 0.2,
        selection="eig",
        repeat_of="earlier",
        held_out=True,
        created_at=1_750_000_000.123456,
    )
    assert votes.add(given) == given
    assert votes.get(given.id) == given
    assert list(votes.votes()) == [given]
    assert vote_from_dict(given.to_dict()) == given


def test_a_double_click_is_one_vote(votes: VoteStore):
    click = vote()
    votes.add(click)
    assert votes.add(replace(click, created_at=click.created_at + 5, response_ms=7)) == click
    assert votes.count() == 1


def test_twenty_clicks_at_once_with_one_id_are_one_vote(votes: VoteStore):
    click, answers = vote(), []
    threads = [threading.Thread(target=lambda: answers.append(votes.add(click))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [click] * 20
    assert list(votes.votes()) == [click]
    assert votes.tally() == Tally(votes=1, left=1, raters=1)


def test_another_vote_under_a_known_id_is_refused(votes: VoteStore):
    first = votes.add(vote(id="x"))
    with pytest.raises(VoteRefusedError, match="Another vote is stored under the id 'x'"):
        votes.add(vote(id="x", choice="right"))
    assert list(votes.votes()) == [first]


def test_two_tabs_on_one_pair_give_one_vote_and_a_sentence(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 1)
    [pair] = voting.campaigns.waiting(campaign.id, "Ann")
    first = voting.answer(campaign, id="tab one")
    second = replace(first, id="tab two", choice="right")
    with pytest.raises(VoteRefusedError, match="answered already, perhaps in another tab"):
        voting.votes.add(second)
    assert list(voting.votes.votes()) == [first]
    assert voting.campaigns.pair(pair.id).state == "answered"


def test_twenty_tabs_at_once_on_one_pair_give_one_vote(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 1)
    [pair] = voting.campaigns.waiting(campaign.id, "Ann")
    said = []

    def click(number: int) -> None:
        values = {"session_id": "", "response_ms": 1, "app_version": "", "created_at": 1.0}
        try:
            voting.votes.add(pair.vote("left", id=f"tab {number}", **values))
            said.append("stored")
        except VoteRefusedError:
            said.append("refused")

    threads = [threading.Thread(target=click, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["refused"] * 19 + ["stored"]
    assert voting.votes.count() == 1


def test_a_stale_pair_is_refused(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 1)
    [pair] = voting.campaigns.waiting(campaign.id, "Ann")
    voting.campaigns.drop_pair(pair.id)
    values = {"session_id": "", "response_ms": 1, "app_version": "", "created_at": 1.0}
    with pytest.raises(VoteRefusedError, match="not there any more; go on with the next one"):
        voting.votes.add(pair.vote("left", id="late", **values))
    assert voting.votes.count() == 0


@pytest.mark.parametrize(
    "changes", [{"rater": "Bob"}, {"left": sha(9)}, {"campaign": "other"}, {"pair_id": "nothing"}]
)
def test_a_vote_that_does_not_fit_its_pair_is_refused(changes: dict, voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 1)
    [pair] = voting.campaigns.waiting(campaign.id, "Ann")
    values = {"session_id": "", "response_ms": 1, "app_version": "", "created_at": 1.0}
    with pytest.raises(VoteRefusedError):
        voting.votes.add(replace(pair.vote("left", id="v", **values), **changes))
    assert voting.votes.count() == 0


def test_undo_keeps_the_first_vote(votes: VoteStore):
    first = votes.add(vote())
    assert votes.undo(first.id, "undo-1") == first
    assert votes.get(first.id) == first
    assert list(votes.votes()) == []
    assert list(votes.votes(include_undone=True)) == [first]
    assert votes.is_undone(first.id)
    assert [undo.vote_id for undo in votes.undos()] == [first.id]


def test_an_undone_pair_waits_again_and_takes_a_second_vote(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 2)
    [pair] = voting.campaigns.waiting(campaign.id, "Ann")
    first = voting.answer(campaign)
    voting.votes.undo(first.id, "undo-1")
    assert voting.campaigns.waiting(campaign.id, "Ann") == [pair]
    second = voting.answer(campaign, "right")
    assert list(voting.votes.votes()) == [second]
    assert list(voting.votes.votes(include_undone=True)) == [first, second]


def test_a_replayed_undo_changes_nothing_more(voting: Voting):
    campaign = voting.campaign()
    voting.draw_ahead(campaign, 2)
    first = voting.answer(campaign)
    voting.votes.undo(first.id, "undo-1")
    second = voting.answer(campaign, "right")
    for event in ("undo-1", "undo-2"):
        voting.votes.undo(first.id, event)
    assert voting.campaigns.pair(second.pair_id).state == "answered"
    assert len(list(voting.votes.undos())) == 1
    assert voting.votes.tally() == Tally(votes=1, right=1, undone=1, raters=1)


def test_nobody_takes_back_the_vote_of_another(votes: VoteStore):
    first = votes.add(vote(rater="Ann"))
    with pytest.raises(VoteRefusedError, match="another rater's"):
        votes.undo(first.id, "u", rater="Bob")
    assert not votes.is_undone(first.id)


def test_an_undo_of_no_vote_is_a_sentence(votes: VoteStore):
    with pytest.raises(NotFoundError, match="There is no vote 'none'"):
        votes.undo("none", "u")


def test_one_undo_takes_back_one_vote(votes: VoteStore):
    one, other = votes.add(vote()), votes.add(vote())
    votes.undo(one.id, "same")
    with pytest.raises(VoteRefusedError, match="used for another vote"):
        votes.undo(other.id, "same")
    assert list(votes.votes()) == [other]


@pytest.mark.parametrize("table", [VOTES, UNDOS], ids=["votes", "undos"])
@pytest.mark.parametrize("how", ["update", "delete"])
def test_the_database_itself_refuses_changes(how: str, table, votes: VoteStore, database: Database):
    first = votes.add(vote())
    votes.undo(first.id, "u")
    statement = update(table).values(rater="Eve") if how == "update" else delete(table)
    with (
        pytest.raises(IntegrityError, match="append-only"),
        database.writer.begin() as connection,
    ):
        connection.execute(statement)
    assert votes.get(first.id) == first and votes.is_undone(first.id)


def test_the_database_itself_refuses_to_replace_or_truncate(votes: VoteStore, database: Database):
    first = votes.add(vote())
    if database.is_sqlite:
        statement = "INSERT OR REPLACE INTO votes SELECT * FROM votes"
    else:
        statement = "TRUNCATE votes CASCADE"
    with (
        pytest.raises(IntegrityError, match="append-only"),
        database.writer.begin() as connection,
    ):
        connection.execute(text(statement))
    assert list(votes.votes()) == [first]


@pytest.mark.parametrize(
    "changes",
    [
        {"choice": "maybe"},
        {"selection": "whim"},
        {"response_ms": -1},
        {"left": "short"},
        {"right": ""},
        {"right": sha(1)},
        {"rater": ""},
        {"choice": "rating"},
    ],
    ids=str,
)
def test_the_database_itself_refuses_votes_that_cannot_be(
    changes: dict, votes: VoteStore, database: Database
):
    values = vote().to_dict() | {"held_out": 0, "attempt": 0} | changes
    with pytest.raises(IntegrityError), database.writer.begin() as connection:
        connection.execute(insert(VOTES).values(values))
    with pytest.raises(VoteRefusedError):
        vote(**changes)


def test_no_clock_can_disturb_the_order(votes: VoteStore):
    times = (1_750_000_000.0, 1_600_000_000.0, 0.0, 1_900_000_000.0)
    given = [votes.add(vote(created_at=at)) for at in times]
    assert list(votes.votes()) == given
    assert votes.newest("Ann") == given[-1]


def test_the_newest_vote_is_the_sessions_own_and_stands(votes: VoteStore):
    first = votes.add(vote(session_id="one"))
    second = votes.add(vote(session_id="one"))
    votes.add(vote(session_id="two"))
    votes.undo(second.id, "u")
    assert votes.newest("Ann", "one") == first
    assert votes.newest("Bob") is None


def test_votes_of_a_campaign_and_rater_are_read_page_by_page(votes: VoteStore):
    made = [
        vote(campaign="ab"[n % 2], rater=("Ann", "Bob")[n % 3 == 0], response_ms=n)
        for n in range(2600)
    ]
    assert votes.add_all(made) == 2600
    assert list(votes.votes()) == made
    assert list(votes.votes("a", "Bob")) == [
        v for v in made if (v.campaign, v.rater) == ("a", "Bob")
    ]
    numbered = list(votes.numbered())
    assert [v for _, v in votes.numbered(after=numbered[1999][0])] == made[2000:]
    assert votes.newest_number() == numbered[-1][0]
    of_a = [v for v in made if v.campaign == "a"]
    assert list(votes.votes("a", after=votes.before_newest(500, ["a"]))) == of_a[-500:]
    assert list(votes.votes("a", after=votes.before_newest(500, ["a", "b"]))) == of_a[-250:]
    assert votes.before_newest(2600, ["a", "b"]) == 0


def test_a_reader_may_keep_to_what_was_there_when_it_began(votes: VoteStore):
    first, other = votes.add(vote(campaign="c", pair_id="")), votes.add(vote(campaign="d"))
    votes.undo(other.id, "of d")
    began = votes.newest_number()
    votes.undo(first.id, "of c")
    later = votes.add(vote(campaign="c"))
    votes.undo(later.id, "of later")
    kept = list(votes.votes("c", include_undone=True, up_to=began))
    assert kept == [first]
    assert [undo.id for undo in votes.undos("c", up_to=began)] == ["of c"]
    assert [undo.id for undo in votes.undos("c")] == ["of c", "of later"]
    assert [undo.id for undo in votes.undos()] == ["of d", "of c", "of later"]


def test_a_study_of_brief_votes_says_what_one_of_whole_votes_says(votes: VoteStore):
    draw, made = random.Random(9), []
    for _ in range(2600):
        made.append(replace(random_vote(draw, made), response_ms=draw.randrange(200, 70_000)))
    taken_back = draw.sample(made, 100)
    votes.add_all(made, [Undo(f"u{n}", v.id, 1.0, v.rater) for n, v in enumerate(taken_back)])
    brief, whole = list(votes.brief("a")), list(votes.votes("a"))
    assert len(brief) > PAGE
    fields = BriefVote._fields[1:]
    assert [v[1:] for v in brief] == [tuple(getattr(v, name) for name in fields) for v in whole]
    labels, tallies = {sha(1): "tuned", sha(2): "base"}, votes.tallies("a")
    studies = [make_study("a", read, labels, tallies, votes.tally("a")) for read in (brief, whole)]
    assert studies[0] == studies[1]
    assert studies[0].contestants[0].raw.n > 200
    assert raters_agreement(brief) == raters_agreement(whole)


def test_many_votes_come_in_whole_or_not_at_all(votes: VoteStore):
    first = votes.add(vote(id="known"))
    many = [*(vote() for _ in range(1200)), vote(id="known", choice="right")]
    with pytest.raises(VoteRefusedError):
        votes.add_all(many)
    assert list(votes.votes()) == [first]
    assert votes.tally() == Tally(votes=1, left=1, raters=1)
    assert votes.add_all(many[:-1]) == 1200
    assert votes.add_all(many[:-1]) == 0
    assert votes.count() == 1201


def test_many_votes_may_hold_undone_ones_but_no_two_that_stand_on_a_pair(votes: VoteStore):
    one, two = vote(pair_id="p"), vote(pair_id="p", choice="right")
    undo = Undo("u", one.id, 1.0, "Ann", "")
    with pytest.raises(VoteRefusedError, match="second one of its rater on a pair"):
        votes.add_all([one, two])
    assert votes.add_all([one, two], [undo]) == 2
    assert list(votes.votes()) == [two]


def recount(votes: VoteStore, campaign: str | None = None, rater: str | None = None) -> Tally:
    """The counts, from the votes themselves."""
    standing = list(votes.votes(campaign, rater))
    by_id = {v.id: v for v in votes.votes()}
    on_pairs = [v for v in standing if v.choice in ("left", "right", "tie", "both_bad")]
    repeats = [
        (v, by_id[v.repeat_of])
        for v in on_pairs
        if v.repeat_of in by_id and {v.choice, by_id[v.repeat_of].choice} <= {"left", "right"}
    ]
    every = list(votes.votes(campaign, rater, include_undone=True))
    choices = [v.choice for v in standing]
    return Tally(
        votes=len(on_pairs),
        left=choices.count("left"),
        right=choices.count("right"),
        ties=choices.count("tie"),
        both_bad=choices.count("both_bad"),
        skips=choices.count("skip"),
        on_one_picture=choices.count("star") + choices.count("rating"),
        held_out=sum(v.held_out for v in on_pairs),
        repeats=len(repeats),
        repeats_same=sum(
            (one.choice == other.choice) == (one.left == other.left) for one, other in repeats
        ),
        undone=len(every) - len(standing),
        raters=len({v.rater for v in on_pairs}),
    )


def random_vote(draw: random.Random, known: list[Vote]) -> Vote:
    rare = ["tie", "both_bad", "skip", "star", "rating"]
    choice = draw.choice(["left", "right"] * 3 + rare)
    changes: dict[str, object] = {
        "choice": choice,
        "campaign": draw.choice("ab"),
        "rater": draw.choice(["Ann", "Bob", "Cleo"]),
        "held_out": draw.random() < 0.2,
    }
    if choice in ("star", "rating"):
        return vote(**changes, right="", strength=1)
    earlier = [v for v in known if v.right]
    if earlier and draw.random() < 0.4:
        first = draw.choice(earlier)
        changes |= {"repeat_of": first.id, "left": first.right, "right": first.left}
    return vote(**changes)


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_the_votes_whatever_happened(seed: int, votes: VoteStore):
    draw, known = random.Random(seed), []
    for number in range(60):
        if known and draw.random() < 0.25:
            votes.undo(draw.choice(known).id, f"undo-{number}")
        else:
            known.append(votes.add(random_vote(draw, known)))
    votes.add_all([random_vote(draw, known) for _ in range(20)])
    for campaign in (None, "a", "b"):
        for rater in (None, "Ann", "Bob", "Cleo"):
            assert votes.tally(campaign, rater) == recount(votes, campaign, rater)
    raters = {v.rater for v in votes.votes("a", include_undone=True)}
    assert votes.tallies("a") == {name: recount(votes, "a", name) for name in raters}


def test_a_repeat_on_swapped_sides_is_the_same_answer_when_the_picture_is(votes: VoteStore):
    first = votes.add(vote(choice="left"))
    swapped = {"left": first.right, "right": first.left, "repeat_of": first.id}
    votes.add(vote(**swapped, choice="right"))
    votes.add(vote(**swapped, choice="left"))
    assert (votes.tally().repeats, votes.tally().repeats_same) == (2, 1)
    votes.undo(first.id, "u")
    assert (votes.tally().repeats, votes.tally().repeats_same) == (0, 0)


def test_only_repeats_that_were_decided_both_times_are_a_ceiling(votes: VoteStore):
    for before, after in (("left", "tie"), ("both_bad", "both_bad"), ("tie", "right")):
        first = votes.add(vote(choice=before))
        swapped = {"left": first.right, "right": first.left, "repeat_of": first.id}
        votes.add(vote(**swapped, choice=after))
    first = votes.add(vote(choice="left"))
    votes.add(vote(choice="left", left="c" * 64, right="d" * 64, repeat_of=first.id))  # imported
    assert (votes.tally().votes, votes.tally().repeats, votes.tally().repeats_same) == (8, 0, 0)


def test_counts_of_an_older_folder_are_made_anew(votes: VoteStore, database: Database):
    draw, known = random.Random(5), []
    for number in range(80):
        if known and draw.random() < 0.1:
            votes.undo(draw.choice(known).id, f"undo-{number}")
        else:
            known.append(votes.add(random_vote(draw, known)))
    right = votes.tallies()
    assert sum(tally.repeats for tally in right.values()) > 3
    with database.writer.begin() as connection:
        connection.execute(text("UPDATE tallies SET repeats = votes, repeats_same = 1"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0004'"))
    assert votes.tallies() != right
    upgrade_to_newest(database.engine.execution_options(write=True), None)
    assert votes.tallies() == right


def test_stars_and_ratings_are_votes_on_one_picture(votes: VoteStore):
    rated = votes.add(vote(choice="rating", right="", strength=4, selection="stars"))
    votes.add(vote(choice="star", right="", strength=0, selection="stars"))
    assert votes.get(rated.id).strength == 4
    assert (votes.count(), votes.tally().on_one_picture) == (0, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"strength": float("nan")},
        {"response_ms": 10**9},
        {"response_ms": True},
        {"response_ms": 1.5},
        {"created_at": float("inf")},
        {"created_at": -1.0},
        {"prompt": "x" * 20_001},
        {"prompt": "a\0b"},
        {"prompt": "\ud800"},
        {"prompt": "\udfff"},
        {"rater": None},
        {"rater": "x" * 201},
        {"left": "A" * 64},
        {"left": "a" * 64 + "\n"},
        {"held_out": 1},
        {"choice": ["left"]},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_what_is_no_vote_is_refused_in_a_sentence(changes: dict, votes: VoteStore):
    with pytest.raises(VoteRefusedError, match=r"^[A-Z'].*[.]$"):
        vote(**changes)


def test_events_tell_a_reader_that_something_happened(votes: VoteStore):
    seen = [votes.events()]
    first = votes.add(vote())
    seen.append(votes.events())
    votes.undo(first.id, "u")
    seen.append(votes.events())
    assert len(set(seen)) == 3
