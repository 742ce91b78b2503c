"""`launch.py votes`: counts, reports, votes out and in, and refusals in a sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from studio.core.settings import Settings
from studio.services.studio import open_studio
from studio.services.votes_command import votes
from tests.services.rated import file_pictures, gallery_campaign, vote_many


@pytest.fixture
def rated(settings: Settings) -> Settings:
    """A closed studio in whose campaign 'colours' Ann gave six votes."""
    studio = open_studio(settings)
    file_pictures(studio, prompts=3, each=2, models=("plain", "tuned"))
    vote_many(studio, gallery_campaign(studio), 6)
    studio.close()
    return settings


def test_a_report_is_one_study_as_page_and_table(rated: Settings, tmp_path: Path):
    assert votes(["report", "colours", "--output", str(tmp_path / "out")], rated) == 0
    page = (tmp_path / "out" / "study.html").read_text("utf-8")
    rows = list(csv.DictReader((tmp_path / "out" / "study.csv").open(encoding="utf-8")))
    [given] = [r["value"] for r in rows if (r["section"], r["metric"]) == ("campaign", "votes")]
    assert given == "6"
    assert "6 votes by 1 rater" in page
    assert {"plain", "tuned"} <= {r["name"] for r in rows}


def test_counts_are_one_json_object(rated: Settings, capsys: pytest.CaptureFixture[str]):
    assert votes(["stats", "--json", "--campaign", "colours"], rated) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["votes"], found["raters"], found["ties"]) == (6, 1, 0)
    assert {"held_out_agreement", "agreement_low", "agreement_high", "encoder"} <= found.keys()


def test_a_campaigns_figures_are_of_its_own_votes_alone(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    studio = open_studio(settings)
    file_pictures(studio, prompts=8, each=4)
    plan = {"held_out_share": 0.0, "repeat_share": 0.0}
    campaign = gallery_campaign(studio, name="clear", **plan)
    vote_many(studio, campaign, 40)
    vote_many(studio, gallery_campaign(studio, name="noise", **plan), 46, "bob")
    own = studio.preference.taste.measured([campaign.id])
    studio.close()
    told = []
    for words in (["--campaign", "clear"], []):
        assert votes(["stats", "--json", *words], settings) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert (told[0]["votes"], told[1]["votes"]) == (40, 86)
    named = ("held_out_agreement", "agreement_low", "agreement_high")
    assert [told[0][name] for name in named] == [
        round(figure, 4) for figure in (own.value, own.low, own.high)
    ]
    assert own.n == 40
    assert [told[1][name] for name in named] != [told[0][name] for name in named]
    assert told[0]["encoder"] == told[1]["encoder"] != ""


def test_imported_votes_teach_the_same_taste(rated: Settings, tmp_path: Path):
    first = open_studio(rated)
    file_pictures(first, prompts=12, each=3, first_prompt=20)
    more = gallery_campaign(first, name="more", repeat_share=0.0)
    vote_many(first, more, 40)
    for picture, stars in zip(first.gallery.page(limit=6), (1, 5, 2, 4, 3, 5), strict=True):
        first.gallery.rate(picture.id, stars)
        first.preference.opinions.rated(first.gallery.get(picture.id))
    original = first.preference.taste.learned()
    pictures = sorted({p.sha256 for p in first.gallery.page(limit=200)} & original.features.keys())
    first.close()
    assert votes(["export", "--format", "jsonl", "--output", str(tmp_path / "out")], rated) == 0
    elsewhere = Settings(data_dir=tmp_path / "elsewhere", models_dir=rated.models_dir)
    elsewhere.data_dir.mkdir()
    assert votes(["import", "--format", "jsonl", str(tmp_path / "out")], elsewhere) == 0
    second = open_studio(elsewhere)
    imported = second.preference.taste.learned()
    second.close()
    assert imported.votes == original.votes > 40
    assert imported.reward.votes_hash == original.reward.votes_hash
    assert imported.held_out == original.held_out
    expected, found = original.scores(pictures), imported.scores(pictures)
    assert len(expected) > 30 and expected.keys() >= found.keys() == imported.features.keys()
    assert list(found.values()) == pytest.approx([expected[name] for name in found], abs=1e-5)
    assert max(expected.values()) - min(expected.values()) > 0.01


def test_votes_that_went_out_come_into_another_studio(
    rated: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--format", "jsonl"]
    assert votes(["export", *words, "--output", str(tmp_path / "out")], rated) == 0
    elsewhere = Settings(data_dir=tmp_path / "elsewhere", models_dir=rated.models_dir)
    elsewhere.data_dir.mkdir()
    assert votes(["import", *words, str(tmp_path / "out")], elsewhere) == 0
    assert "Took in 6 votes" in capsys.readouterr().out


def test_a_command_that_nobody_wrote_is_refused_in_a_sentence(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    assert votes(["count"], settings) == 2
    assert capsys.readouterr().err.endswith("python launch.py votes --help\n")
