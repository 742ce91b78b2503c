"""The verdict on a run: blind pairs, votes and reward, keeping, discarding, taking along."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from studio.core.campaign import CampaignPicture
from studio.core.errors import NotFoundError, TrainingError
from studio.core.request import AdapterUse, GenerationRequest
from studio.core.run import Run, Verdict
from studio.core.settings import Settings
from studio.services.model_card import archive, model_card
from studio.services.pairing import Pool
from studio.services.studio import Studio, open_studio
from studio.services.verdict import Outcome
from tests.services.finetune_plan import PLAN
from tests.services.rated import answer
from tests.services.test_adapter_shelf import draw
from tests.services.test_finetuning import ended, result, trained
from tests.waiting import until

__all__ = ["trained"]  # the fixture


@pytest.fixture(scope="module")
def compared(trained: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a comparison that is drawn and that the reward has seen."""
    data = tmp_path_factory.mktemp("compared")
    shutil.copytree(trained, data, dirs_exist_ok=True)
    studio = open_studio(Settings(data_dir=data, models_dir=tiny_models, device="cpu"))
    [run] = studio.finetuning.all()
    studio.verdicts.begin(run.id)
    until(lambda: studio.verdicts.by_reward(studio.verdicts.all(run.id)[0]) is not None)
    studio.close()
    return data


@pytest.fixture
def studio(
    request: pytest.FixtureRequest, trained: Path, tiny_settings: Settings
) -> Iterator[Studio]:
    """A studio with a run that is trained; with a comparison where a test asks for `drawn`."""
    wanted = "drawn" in request.fixturenames
    data = request.getfixturevalue("compared") if wanted else trained
    shutil.copytree(data, tiny_settings.data_dir, dirs_exist_ok=True)
    studio = open_studio(tiny_settings)
    yield studio
    studio.close()


@pytest.fixture
def run(studio: Studio) -> Run:
    return studio.finetuning.all()[0]


@pytest.fixture
def drawn(studio: Studio, run: Run) -> Verdict:
    """A comparison whose pictures are drawn and that the reward has seen."""
    return studio.verdicts.all(run.id)[0]


def tuned_side(studio: Studio, verdict: Verdict, pair_id: str) -> str:
    """Which side the tuned model's picture stands on; the page is never told."""
    pair = studio.preference.rating._campaigns.pair(pair_id)
    picture = studio.preference.rating.pool(verdict.campaign).pictures[pair.left]
    return "left" if picture.contestant == verdict.label else "right"


def judge(studio: Studio, verdict: Verdict, wanted: int) -> int:
    """Vote for the tuned model in three of four pairs; returns how many were asked."""
    rating, asked = studio.preference.rating, 0
    while asked < wanted and (pairs := rating.next_pairs(verdict.campaign, "ann", 1).pairs):
        side = tuned_side(studio, verdict, pairs[0].pair)
        choice = {"left": "right", "right": "left"}[side] if asked % 4 == 3 else side
        rating.vote(answer(pairs[0], choice))
        asked += 1
    return asked


def test_a_verdict_asks_each_pair_of_one_prompt_and_seed_once_and_counts_the_votes(
    studio: Studio, run: Run, drawn: Verdict
):
    pairs = studio.verdicts.pairs(drawn)
    assert len(pairs) == 20
    assert all((a.prompt, a.seed) == (b.prompt, b.seed) for a, b in pairs)
    assert {a.prompt for a, _ in pairs} == set(run.plan.held_out)
    assert judge(studio, drawn, 99) == 20
    outcome = studio.verdicts.by_votes(drawn)
    assert outcome == Outcome(tuned=15, base=5)
    votes = list(studio.preference.votes.votes(drawn.campaign))
    assert {tuple(sorted((v.left, v.right))) for v in votes} == {
        tuple(sorted((a.sha256, b.sha256))) for a, b in pairs
    }


def test_the_two_sides_of_a_pair_are_shown_without_their_recipe(
    studio: Studio, run: Run, drawn: Verdict
):
    sides = studio.verdicts.pairs(drawn)[3]
    for tuned, picture in enumerate(sides):
        shown = studio.verdicts.picture(run.id, drawn.number, 3, tuned=bool(tuned))
        with Image.open(io.BytesIO(shown)) as image:
            assert image.info == {}
            kept = studio.preference.pictures.content(picture.sha256)
            assert image.tobytes() == Image.open(io.BytesIO(kept)).convert("RGB").tobytes()
    for number, place in ((drawn.number, 20), (drawn.number + 1, 0)):
        with pytest.raises(NotFoundError, match="not there"):
            studio.verdicts.picture(run.id, number, place, tuned=True)


def test_the_reward_judges_the_same_pairs(studio: Studio, drawn: Verdict):
    outcome = studio.verdicts.by_reward(drawn)
    assert outcome is not None
    assert outcome.pairs == 20
    assert {"base_mean", "tuned_mean"} <= drawn.by_reward.keys()


def test_a_rater_is_told_nothing_that_tells_the_sides_apart(studio: Studio, drawn: Verdict):
    [shown] = studio.preference.rating.next_pairs(drawn.campaign, "ann", 1).pairs
    told = json.dumps(shown.__dict__)
    assert not any(word in told for word in (drawn.sha256, drawn.label, "tiny", "seed"))


@pytest.mark.parametrize(
    ("outcome", "share", "words"),
    [
        (Outcome(13, 7), 0.65, "chance"),
        (Outcome(16, 4), 0.8, "better than the base"),
        (Outcome(3, 17), 0.15, "worse than the base"),
        (Outcome(10, 6, ties=4), 0.6, "4 were ties"),
        (Outcome(0, 0, both_bad=3), 0.5, "chance"),
    ],
)
def test_an_outcome_has_a_share_and_a_sentence(outcome, share, words):
    assert outcome.share == share
    assert words in outcome.sentence


def test_the_interval_is_wilson_s():
    low, high = Outcome(13, 7).interval  # 0.4329 to 0.8188: Wilson's for 13 of 20
    assert (round(low, 4), round(high, 4)) == (0.4329, 0.8188)


def test_pictures_of_different_seeds_do_not_meet_in_such_a_pool():
    pool = Pool("c", mixed=True, same_seed=True)
    pictures = [
        CampaignPicture(f"{who}{seed}", "cat", "", who, seed) for who in "ab" for seed in (1, 2)
    ]
    pool.add(replace(p, number=n) for n, p in enumerate(pictures, start=1))
    assert pool.pair_count() == 2
    assert sorted(pool.pairs_of(pool.groups()[0][1])) == [("a1", "b1"), ("a2", "b2")]


def test_what_is_kept_is_on_the_shelf_at_once_in_both_namings(studio: Studio, run: Run):
    kept = studio.verdicts.keep(run.id, strength=0.7)
    [entry] = studio.adapters.entries()
    assert (kept.state, kept.kept.strength) == ("kept", 0.7)
    assert kept.kept.epoch == studio.verdicts.result(run.id)
    assert (entry.name, entry.sha256) == ("bright", result(studio, run))
    assert {path.name for path in entry.path.parent.iterdir()} >= {
        "adapter.safetensors", "adapter.kohya.safetensors",
    }  # fmt: skip
    again = studio.verdicts.keep(run.id, strength=0.4)
    assert (len(studio.adapters.entries()), again.kept.strength) == (1, 0.4)


def test_a_picture_at_strength_zero_is_the_base_s_and_at_one_is_not(
    studio: Studio, run: Run, request_tiny: GenerationRequest
):
    kept = studio.verdicts.keep(run.id).kept
    pixels = []
    for strength in (0.0, 1.0):
        use = AdapterUse(kept.name, kept.sha256, strength)
        pixels.append(draw(studio, request_tiny.with_changes(adapters=(use,)), str(strength)))
    plain = draw(studio, request_tiny, "plain")
    assert pixels[0] == plain != pixels[1]


def test_another_rung_of_the_ladder_can_be_kept(studio: Studio, run: Run):
    assert studio.verdicts.ladder(run.id) == [1, 2]
    other = 3 - studio.verdicts.result(run.id)
    kept = studio.verdicts.keep(run.id, epoch=other).kept
    assert (kept.epoch, kept.sha256 != result(studio, run)) == (other, True)
    with pytest.raises(NotFoundError, match="no adapter of epoch 7"):
        studio.verdicts.keep(run.id, epoch=7)


def test_a_strength_that_cannot_be_is_refused(studio: Studio, run: Run):
    with pytest.raises(TrainingError, match="strength from 0 to 2"):
        studio.verdicts.keep(run.id, strength=-0.1)


def test_a_discarded_run_frees_its_disk_and_can_still_be_kept(studio: Studio, run: Run):
    assert studio.verdicts.discard(run.id).state == "discarded"
    assert not (studio.finetuning.folder(run.id) / "ladder").exists()
    assert studio.adapters.entries() == []
    assert studio.verdicts.keep(run.id).state == "kept"


def test_a_run_at_work_is_neither_judged_nor_discarded(studio: Studio):
    run = studio.finetuning.start(replace(PLAN, name="next", epochs=50))
    with pytest.raises(TrainingError, match="no result yet"):
        studio.verdicts.begin(run.id)
    with pytest.raises(TrainingError, match="Stop it first"):
        studio.verdicts.discard(run.id)


def test_the_next_run_goes_on_from_what_was_kept_with_its_rank(studio: Studio, run: Run):
    kept = studio.verdicts.keep(run.id).kept
    settings = {name: value for name, value in PLAN.settings.items() if name != "rank"}
    plan = replace(PLAN, name="next", epochs=1, start=kept.sha256, settings=settings)
    after = ended(studio, studio.finetuning.start(plan))
    assert (after.state, after.plan.settings["rank"]) == ("trained", 2), after.sentence
    assert result(studio, after) != kept.sha256


def test_the_next_round_draws_at_twice_the_strength_beside_the_base(studio: Studio, run: Run):
    unkept = studio.verdicts.rate_on(run.id).plan
    last = studio.verdicts.adapter(run.id, studio.verdicts.ladder(run.id)[-1])
    assert unkept.contestants[1].adapters == (AdapterUse("bright", last.sha256, 2.0),)
    kept = studio.verdicts.keep(run.id, strength=0.8).kept
    campaign = studio.verdicts.rate_on(run.id)
    base, tuned = campaign.plan.contestants
    assert (base.adapters, campaign.name) == ((), "bright, next round (2)")
    assert tuned.adapters == (AdapterUse(kept.name, kept.sha256, 1.6),)
    assert {base.model_hash, tuned.model_hash} == {run.plan.model_hash}
    assert campaign.plan.prompts == run.plan.prompts


def test_what_is_kept_at_strength_zero_has_no_next_round(studio: Studio, run: Run):
    studio.verdicts.keep(run.id, strength=0)
    with pytest.raises(TrainingError, match="Keep it at a higher strength first"):
        studio.verdicts.rate_on(run.id)


def test_the_archive_has_both_files_and_a_card_that_tells_where_it_comes_from(
    studio: Studio, run: Run
):
    adapter = studio.verdicts.adapter(run.id)
    epochs = studio.finetuning.epochs(run.id)
    card = model_card(run, adapter, epochs, Outcome(16, 4), Outcome(12, 8))
    for told in (
        adapter.sha256, run.plan.model_hash, "known:brightness", "16 of 20 pairs",
        '"learning_rate": 0.01', "adapter.kohya.safetensors",
    ):  # fmt: skip
        assert told in card
    content = archive(card, adapter, studio.finetuning.folder(run.id), "bright")
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        names = set(zipped.namelist())
        assert zipped.read("bright/adapter.safetensors") == adapter.path.read_bytes()
        assert zipped.read("bright/README.md").decode() == card
    assert names >= {"bright/adapter.kohya.safetensors", "bright/metrics.jsonl", "bright/base.png"}
