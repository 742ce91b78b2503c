"""Runs of fine-tuning as jobs of the studio: given way for, paused, killed, refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.errors import DiskFullError, ModelError, NotFoundError, TrainingError
from studio.core.request import GenerationRequest
from studio.core.run import Run
from studio.core.settings import REPOSITORY, Settings
from studio.services.finetuning import Finetuning
from studio.services.ownership import TRAINING_LOCK
from studio.services.run_plan import (
    ALGORITHMS,
    KNOBS,
    REWARDS,
    USUAL_ALGORITHM,
    make_config,
    parted,
    written_out,
)
from studio.services.run_reward import agreement_so_far, readiness
from studio.services.studio import Studio, open_studio
from studio.services.training_place import TrainingPlace
from studio.store.lock import FileLock
from studio.store.runs import RunStore
from studio.training.rewards import KNOWN
from studio.training.run_folder import ALGORITHMS as OF_ENGINE
from studio.training.run_folder import FineTuneConfig
from tests.services.finetune_plan import PLAN
from tests.services.rated import answer, file_pictures, gallery_campaign, next_pair, vote_many
from tests.services.test_adapter_shelf import draw
from tests.waiting import PATIENCE, until


def ended(studio: Studio, run: Run) -> Run:
    until(lambda: studio.finetuning.get(run.id).state != "running")
    return studio.finetuning.get(run.id)


def begun(studio: Studio, run: Run, steps: int = 3) -> None:
    until(lambda: studio.finetuning.progress(run.id).step >= steps)


def result(studio: Studio, run: Run) -> str:
    path = studio.finetuning.folder(run.id) / "adapter.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def timeless(studio: Studio, run: Run) -> list[dict]:
    rows = studio.finetuning.epochs(run.id)
    return [{"epoch": row.epoch} | {**row.figures, "seconds": 0} for row in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Path:
    """A data folder in which nobody disturbed the run; its tests take copies."""
    data = tmp_path_factory.mktemp("trained")
    studio = open_studio(Settings(data_dir=data, models_dir=tiny_models, device="cpu"))
    run = ended(studio, studio.finetuning.start(PLAN))
    assert run.state == "trained", run.sentence
    studio.close()
    return data


@pytest.fixture
def after(trained: Path, tiny_settings: Settings) -> Iterator[Studio]:
    """A studio with the run that is trained."""
    shutil.copytree(trained, tiny_settings.data_dir, dirs_exist_ok=True)
    studio = open_studio(tiny_settings)
    yield studio
    studio.close()


@pytest.fixture
def whole(after: Studio) -> tuple[str, list[dict]]:
    """What an undisturbed run gives: its adapter and its figures."""
    [run] = after.finetuning.all()
    return result(after, run), timeless(after, run)


def test_a_run_is_stored_with_a_row_and_a_strip_for_each_epoch(after: Studio):
    studio = after
    [run] = studio.finetuning.all()
    assert (run.epochs, run.about["reward"], run.plan.model_hash != "") == (2, "brightness", True)
    rows = studio.finetuning.epochs(run.id)
    assert [row.epoch for row in rows] == [0, 1, 2]
    assert all((studio.settings.data_dir / row.picture).is_file() for row in rows)
    assert {"reward_mean", "reward_held_out", "kl", "clip_fraction"} <= rows[2].figures.keys()
    assert not (studio.finetuning.folder(run.id) / "checkpoints").exists()


def test_a_picture_in_the_middle_is_the_one_from_before_and_the_run_does_not_notice(
    after: Studio, whole, request_tiny: GenerationRequest
):
    studio = after
    before = draw(studio, request_tiny, "before")
    run = studio.finetuning.start(replace(PLAN, name="again"))
    for number in range(3):
        begun(studio, run, 1 + 3 * number)
        assert studio.finetuning.get(run.id).state == "running"
        assert draw(studio, request_tiny, f"during {number}") == before
    assert ended(studio, run).state == "trained"
    assert (result(studio, run), timeless(studio, run)) == whole


def test_a_paused_run_rests_while_pictures_are_drawn_and_goes_on_as_if_it_had_not(
    after: Studio, whole, request_tiny: GenerationRequest
):
    studio = after
    run = studio.finetuning.start(replace(PLAN, name="again"))
    begun(studio, run)
    assert studio.finetuning.pause(run.id).state == "paused"
    draw(studio, request_tiny, "1")
    rested = studio.finetuning.progress(run.id)
    draw(studio, request_tiny.with_changes(seed=8), "2")
    assert studio.finetuning.progress(run.id) == rested
    assert studio.finetuning.resume(run.id).state == "running"
    assert ended(studio, run).state == "trained"
    assert (result(studio, run), timeless(studio, run)) == whole


def test_a_run_that_the_studio_s_end_cut_short_goes_on_and_ends_the_same(
    after: Studio, whole, tiny_settings: Settings
):
    studio = after
    run = studio.finetuning.start(replace(PLAN, name="again"))
    until(lambda: len(studio.finetuning.epochs(run.id)) == 2)
    studio.close()
    again = open_studio(tiny_settings)
    assert again.finetuning.get(run.id).state == "interrupted"
    again.finetuning.resume(run.id)
    assert ended(again, run).state == "trained"
    assert (result(again, run), timeless(again, run)) == whole
    again.close()


def test_a_run_whose_studio_was_killed_goes_on_and_ends_as_if_it_had_not(
    whole, settings: Settings, tiny_models: Path, tmp_path: Path
):
    data = tmp_path / "killed"
    data.mkdir()
    program = REPOSITORY / "tests/services/killed_studio.py"
    words = [sys.executable, str(program), str(data), str(tiny_models), "9"]
    child = subprocess.run(
        words, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
        timeout=PATIENCE,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL
    studio = open_studio(replace(settings, data_dir=data, models_dir=tiny_models, device="cpu"))
    [run] = studio.finetuning.all()
    assert (run.state, len(studio.finetuning.epochs(run.id))) == ("interrupted", 2)
    studio.finetuning.resume(run.id)
    run = ended(studio, run)
    assert run.state == "trained", run.sentence
    assert (result(studio, run), timeless(studio, run)) == whole
    studio.close()


def test_what_was_running_when_the_studio_was_killed_is_interrupted(studio: Studio):
    run = studio.finetuning.start(PLAN)
    assert studio.finetuning.recover() == 1  # as a start after a kill does
    assert studio.finetuning.get(run.id).state == "interrupted"


def test_a_stopped_run_gives_the_adapter_of_its_last_epoch(studio: Studio):
    run = studio.finetuning.start(replace(PLAN, epochs=50))
    until(lambda: len(studio.finetuning.epochs(run.id)) >= 2)
    studio.finetuning.stop(run.id)
    run = ended(studio, run)
    assert (run.state, "Stopped by you" in run.sentence) == ("trained", True)
    assert result(studio, run)


def test_a_run_that_is_stopped_before_its_first_epoch_leaves_nothing_to_judge(studio: Studio):
    run = studio.finetuning.start(PLAN)
    begun(studio, run, 1)
    studio.finetuning.pause(run.id)
    studio.finetuning.stop(run.id)
    run = ended(studio, run)
    assert run.state == "discarded"
    assert "nothing to judge" in run.sentence


def test_a_second_run_at_once_is_refused_with_a_sentence(studio: Studio):
    run = studio.finetuning.start(replace(PLAN, epochs=50))
    with pytest.raises(TrainingError, match="“bright” is being trained"):
        studio.finetuning.start(replace(PLAN, name="second"))
    studio.finetuning.pause(run.id)
    with pytest.raises(TrainingError, match="“bright” is paused"):
        studio.finetuning.start(replace(PLAN, name="second"))
    assert len(studio.finetuning.all()) == 1


def test_a_run_for_which_the_disk_has_no_room_is_refused_and_none_is_left_behind(studio: Studio):
    place = TrainingPlace(
        studio.settings, studio.worker, studio.models, studio.adapters, free=lambda _: 2**20
    )
    crowded = Finetuning(place, RunStore(studio.databases.own), studio.preference)
    with pytest.raises(DiskFullError, match=r"A run needs about 256 MB .* Make room"):
        crowded.start(PLAN)
    assert studio.finetuning.all() == []


def test_a_run_keeps_the_defaults_that_it_began_with(after: Studio):
    [run] = after.finetuning.all()
    assert {knob.name for knob in KNOBS} <= run.plan.settings.keys()
    assert run.plan.settings["rank"] == 2


def test_the_command_line_s_training_in_the_same_folder_comes_first(studio: Studio):
    lock = FileLock(studio.settings.data_dir / TRAINING_LOCK)
    assert lock.acquire("finetune")
    run = ended(studio, studio.finetuning.start(PLAN))
    lock.release()
    assert (run.state, "is being trained in this data" in run.sentence) == ("failed", True)
    studio.finetuning.resume(run.id)
    assert ended(studio, run).state == "trained"


def test_a_base_that_changed_or_is_gone_stops_the_run_and_nothing_is_lost(own_models: Settings):
    studio = open_studio(own_models)
    run = studio.finetuning.start(replace(PLAN, epochs=50))
    until(lambda: len(studio.finetuning.epochs(run.id)) >= 2)
    studio.close()
    config = own_models.models_dir / "tiny" / "scheduler" / "scheduler_config.json"
    before = config.read_text()
    config.write_text(before.replace('"v_prediction"', '"epsilon"'))
    studio = open_studio(own_models)
    with pytest.raises(TrainingError, match="have changed since this run began"):
        studio.finetuning.resume(run.id)
    config.write_text(before)
    moved = own_models.models_dir.parent / "moved"
    (own_models.models_dir / "tiny").rename(moved)
    with pytest.raises(ModelError, match="no model 'tiny'"):
        studio.finetuning.resume(run.id)
    moved.rename(own_models.models_dir / "tiny")
    known = len(studio.finetuning.epochs(run.id))
    studio.finetuning.resume(run.id)
    until(lambda: len(studio.finetuning.epochs(run.id)) > known)
    studio.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": ("", "  ", "# no")}, "no prompts"),
        ({"prompts": tuple(map(str, range(10_001)))}, "at most 10,000"),
        ({"name": " "}, "name"),
        ({"epochs": 0}, "minutes"),
        ({"settings": {"rank": 0}}, "Rank is a number from 1 to 128"),
        ({"settings": {"rank": 1.5}}, "whole"),
        ({"settings": {"colour": 1}}, "no setting 'colour'"),
        ({"settings": {"algorithm": "magic"}}, "algorithm"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_a_sentence(studio: Studio, change, words):
    with pytest.raises(TrainingError, match=words):
        studio.finetuning.start(replace(PLAN, **change))
    assert studio.finetuning.all() == []


def test_an_adapter_or_a_model_that_is_not_there_is_refused(studio: Studio):
    with pytest.raises(NotFoundError, match="adapter"):
        studio.finetuning.start(replace(PLAN, start="ab" * 32))
    with pytest.raises(ModelError, match="no model 'other'"):
        studio.finetuning.start(replace(PLAN, model="other"))


def test_ten_thousand_prompts_are_parted_and_few_are_held_out():
    plan = parted(replace(PLAN, prompts=tuple(f"thing {i}" for i in range(10_000))))
    assert (len(plan.prompts), len(plan.held_out)) == (9988, 12)


def test_votes_say_whether_there_is_enough_to_train_on(studio: Studio):
    preference = studio.preference
    nothing = readiness(preference)
    assert (nothing.possible, "no votes" in nothing.sentence) == (False, True)
    file_pictures(studio, prompts=4, each=4)
    campaign = gallery_campaign(studio, held_out_share=0.0)
    vote_many(studio, campaign, 4)
    assert "Rate 6 more pairs" in readiness(preference, campaign.id).sentence
    vote_many(studio, campaign, 8)
    preference.opinions.starred(studio.gallery.page(limit=1)[0])
    assert readiness(preference).sentence.startswith("12 votes are a beginning")
    assert readiness(preference).votes == preference.standing.votes(campaign.id) == 12
    few = readiness(preference, campaign.id)
    assert (few.possible, few.enough, "Rate 188 more" in few.sentence) == (True, False, True)
    learned = replace(PLAN, reward="", campaign=campaign.id)
    with pytest.raises(TrainingError, match="begin nevertheless"):
        studio.finetuning.start(learned)
    run = ended(studio, studio.finetuning.start(replace(learned, epochs=1), anyway=True))
    assert run.state == "trained", run.sentence
    assert (run.about["votes"], len(run.about["votes_sha256"])) == (12, 64)


def test_what_is_counted_before_a_run_is_what_the_reward_then_learns_from(studio: Studio):
    preference = studio.preference
    pictures = file_pictures(studio, prompts=1, each=20)

    def rated(number: int, stars: int) -> None:
        studio.gallery.rate(pictures[number].id, stars)
        preference.opinions.rated(studio.gallery.get(pictures[number].id))

    for number in range(20):
        for starred in (True, False, True):
            studio.gallery.star(pictures[number].id, starred)
            preference.opinions.starred(studio.gallery.get(pictures[number].id))
        rated(number, 3)
        rated(number, 4)
    alike = readiness(preference)
    assert (alike.possible, "Rate 10 more pairs" in alike.sentence) == (False, True)
    assert alike.sentence.startswith("Stars, and ratings that are alike, teach")
    assert preference.taste.learned().reward is None
    rated(0, 5)
    told = readiness(preference)
    assert told.sentence.startswith("19 comparisons of ratings are a beginning")
    assert "Rate 198 more" in told.sentence  # one picture above 19: two judgements in all
    assert preference.taste.learned().reward.votes == 19
    campaign = gallery_campaign(studio, held_out_share=0.5, repeat_share=0.0)
    vote_many(studio, campaign, 30)
    teaching = sum(not vote.held_out for vote in preference.votes.votes(campaign.id))
    told = readiness(preference, campaign.id).sentence
    assert told.startswith(f"{teaching} of 30 votes") and f"Rate {200 - teaching} more" in told
    studio.gallery.delete(pictures[0].id)
    with_it = [
        v for v in preference.votes.votes(campaign.id) if pictures[0].sha256 in (v.left, v.right)
    ]
    left = teaching - sum(not vote.held_out for vote in with_it)
    assert readiness(preference, campaign.id).sentence.startswith(f"{left} of 30 votes")


def test_a_campaign_is_judged_by_its_own_votes(studio: Studio):
    file_pictures(studio, prompts=8, each=5)
    preference = studio.preference
    clear = gallery_campaign(studio, name="clear", held_out_share=0.0, repeat_share=0.0)
    vote_many(studio, gallery_campaign(studio, name="of others"), 40)
    vote_many(studio, clear, 48)
    assert preference.taste.measured([clear.id]).n == 48
    assert agreement_so_far(preference, clear.id) is None  # under fifty
    vote_many(studio, clear, 6)
    until(lambda: agreement_so_far(preference, clear.id))
    assert agreement_so_far(preference, clear.id).n == 54
    preference.taste.refresh()
    until(lambda: (now := preference.taste.now.agreement) and now.n > 54)
    assert agreement_so_far(preference, clear.id).n == 54


def test_votes_for_one_side_alone_are_pointed_out(studio: Studio):
    file_pictures(studio, prompts=4, each=4)
    campaign = gallery_campaign(studio, repeat_share=0.0)
    for _ in range(14):
        studio.preference.rating.vote(answer(next_pair(studio, campaign), "right"))
    found = readiness(studio.preference, campaign.id)
    assert not found.enough
    assert "All 14 votes chose the right picture" in found.sentence


def test_votes_that_come_later_do_not_change_what_a_run_is_trained_towards(
    studio: Studio, tiny_settings: Settings
):
    file_pictures(studio, prompts=4, each=4)
    campaign = gallery_campaign(studio, held_out_share=0.0)
    vote_many(studio, campaign, 12)
    plan = replace(PLAN, reward="", campaign=campaign.id)
    run = studio.finetuning.start(plan, anyway=True)
    until(lambda: len(studio.finetuning.epochs(run.id)) == 2)
    studio.close()
    again = open_studio(tiny_settings)
    vote_many(again, campaign, 4)
    again.finetuning.resume(run.id)
    done = ended(again, run)
    assert (done.state, done.about["votes"]) == ("trained", 12), done.sentence
    again.close()


def test_what_the_page_calls_defaults_are_the_engine_s():
    config = FineTuneConfig(("a",), ("b",), epochs=1)
    for knob in KNOBS:
        part = getattr(config, knob.part) if knob.part else config
        assert getattr(part, knob.name) == knob.default, knob.name
    assert tuple(ALGORITHMS) == tuple(OF_ENGINE)
    assert set(REWARDS) == set(KNOWN)
    turned = make_config(parted(replace(PLAN, settings={"algorithm": "ppo", "kl_weight": 0.5})))
    assert (turned.algorithm, turned.ppo.kl_weight) == ("ppo", 0.5)
    usual = replace(parted(replace(PLAN, settings={})), settings=written_out({}))
    assert make_config(usual).algorithm == USUAL_ALGORITHM
