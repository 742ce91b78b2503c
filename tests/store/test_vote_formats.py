"""Votes out of and into Easel: what leaves comes back, and what others wrote comes in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from studio.core.errors import ImportRefusedError
from studio.store.files import open_picture
from studio.store.metadata import read_metadata
from studio.store.vote_formats.incoming import ImportChoices
from studio.store.vote_formats.outgoing import ExportChoices
from studio.store.vote_formats.transfer import FORMATS
from tests.postgres_server import on_both_databases
from tests.store.foreign_votes import HOLDS, filled, pickapic_row, pictures_in, write_pickapic
from tests.store.voting import Voting, other_file, png, vote


@pytest.mark.parametrize("name", FORMATS)
@on_both_databases
def test_what_leaves_comes_back_as_it_was(
    name: str, voting: Voting, elsewhere: Voting, tmp_path: Path
):
    fitting = [v for v in filled(voting) if v.choice in HOLDS[name]]
    everything = len(list(voting.votes.votes(include_undone=True)))
    report = voting.transfer.export_votes(name, tmp_path / "out")
    assert report.votes == (everything if name == "jsonl" else len(fitting))
    assert report.votes + sum(report.left_out.values()) >= len(list(voting.votes.votes()))

    brought = elsewhere.transfer.import_votes(name, tmp_path / "out")
    assert (brought.votes, brought.known) == (report.votes, 0)
    assert list(elsewhere.votes.votes()) == fitting
    for sha256 in {p for v in fitting for p in (v.left, v.right) if p}:
        assert elsewhere.pictures.content(sha256) == voting.pictures.content(sha256)

    again = elsewhere.transfer.import_votes(name, tmp_path / "out")
    assert (again.votes, again.pictures, again.known) == (0, 0, report.votes)


def test_the_native_format_keeps_undone_votes_and_their_undos(
    voting: Voting, elsewhere: Voting, tmp_path: Path
):
    filled(voting)
    voting.transfer.export_votes("jsonl", tmp_path / "out")
    elsewhere.transfer.import_votes("jsonl", tmp_path / "out")
    assert list(elsewhere.votes.undos()) == list(voting.votes.undos())
    assert list(elsewhere.votes.votes(include_undone=True)) == list(
        voting.votes.votes(include_undone=True)
    )
    assert elsewhere.votes.tally() == voting.votes.tally()


def test_a_second_vote_on_an_undone_pair_survives_the_round_trip(
    voting: Voting, elsewhere: Voting, tmp_path: Path
):
    left, right = voting.pictures.add(png(1)), voting.pictures.add(png(2))
    first = vote(left=left, right=right, pair_id="p")
    voting.votes.add_all([first])
    voting.votes.undo(first.id, "u")
    second = replace(first, id="second", choice="right")
    voting.votes.add_all([second])
    voting.transfer.export_votes("jsonl", tmp_path / "out")
    elsewhere.transfer.import_votes("jsonl", tmp_path / "out")
    assert list(elsewhere.votes.votes()) == [second]


@pytest.mark.parametrize("name", FORMATS)
def test_names_and_recipes_stay_here_on_request(
    name: str, voting: Voting, elsewhere: Voting, tmp_path: Path
):
    filled(voting)
    choices = ExportChoices(pseudonyms=True, without_recipes=True)
    voting.transfer.export_votes(name, tmp_path / "out", choices)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for content in (path.read_bytes() for path in files):
        assert b"Ann" not in content and b"Bob" not in content and b"secret" not in content

    elsewhere.transfer.import_votes(name, tmp_path / "out")
    pseudonyms = voting.raters.pseudonyms()
    fitting = [v for v in voting.votes.votes() if v.choice in HOLDS[name]]
    for here, there in zip(fitting, elsewhere.votes.votes(), strict=True):
        assert (there.id, there.rater) == (here.id, pseudonyms[here.rater])
        kept = elsewhere.pictures.content(there.left)
        assert read_metadata(kept).origin == ""
        assert open_picture(kept) == open_picture(voting.pictures.content(here.left))


def test_one_campaign_leaves_alone(voting: Voting, tmp_path: Path):
    filled(voting)
    report = voting.transfer.export_votes("jsonl", tmp_path / "o", ExportChoices(campaign="c1"))
    assert report.votes == len(list(voting.votes.votes("c1", include_undone=True)))


def test_votes_whose_picture_is_gone_are_counted(voting: Voting, elsewhere: Voting, tmp_path: Path):
    left, right = voting.pictures.add(png(1)), voting.pictures.add(png(2))
    gone = voting.votes.add(vote(left=left, right=right))
    voting.pictures.path(right).unlink()
    report = voting.transfer.export_votes("hpdv2", tmp_path / "hpdv2")
    assert (report.votes, dict(report.left_out)) == (0, {"their pictures are gone": 1})
    assert "1 were left out: their pictures are gone" in str(report)
    assert voting.transfer.export_votes("jsonl", tmp_path / "jsonl").votes == 1
    elsewhere.transfer.import_votes("jsonl", tmp_path / "jsonl")
    assert list(elsewhere.votes.votes()) == [gone]


def test_an_export_does_not_touch_a_folder_that_holds_something(voting: Voting, tmp_path: Path):
    filled(voting)
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(ImportRefusedError, match="not empty"):
        voting.transfer.export_votes("jsonl", tmp_path)
    assert (tmp_path / "diary.txt").read_text() == "mine"


# What others wrote


def said(voting: Voting) -> list[tuple]:
    return [(v.left, v.right, v.choice, v.prompt, v.selection) for v in voting.votes.votes()]


def test_pick_a_pic_as_others_wrote_it(voting: Voting, tmp_path: Path):
    rows = [pickapic_row(1), pickapic_row(0), pickapic_row(0.5), pickapic_row(1, has_label=False)]
    write_pickapic(tmp_path / "train.parquet", rows)
    voting.transfer.import_votes("pickapic", tmp_path / "train.parquet")
    shown = hashlib.sha256(other_file("JPEG")).hexdigest(), hashlib.sha256(png(1)).hexdigest()
    assert said(voting) == [
        (*shown, choice, "a fox", "import") for choice in ("left", "right", "tie")
    ]
    first = next(voting.votes.votes())
    assert (first.rater, first.created_at) == ("pickapic:42", 1_680_000_000.5)


def test_hpdv2_as_others_wrote_it(voting: Voting, tmp_path: Path):
    shown = pictures_in(tmp_path / "train")
    rows = [
        {"human_preference": [0, 1], "prompt": "x", "file_path": ["train/0.png", "train/1.png"]},
        {"human_preference": [1, 0], "prompt": "y", "file_path": ["train/2.png", "train/3.png"]},
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows, indent=1))
    voting.transfer.import_votes("hpdv2", tmp_path)
    assert said(voting) == [
        (shown[0], shown[1], "right", "x", "import"),
        (shown[2], shown[3], "left", "y", "import"),
    ]


def test_a_ranking_by_several_people_becomes_a_vote_for_each_two_pictures(
    voting: Voting, tmp_path: Path
):
    shown = pictures_in(tmp_path / "test", 3)
    row = {
        "prompt": "x",
        "image_path": [f"test/{n}.png" for n in range(3)],
        "rank": [2, 1, 3],
        "raw_annotations": [
            {"rank": [2, 1, 3], "user_hash": "u1"},
            {"rank": [1, 2, 2], "user_hash": "u2"},
        ],
    }
    (tmp_path / "test.json").write_text(json.dumps([row]))
    voting.transfer.import_votes("hpdv2", tmp_path / "test.json")
    pairs = [(shown[0], shown[1]), (shown[0], shown[2]), (shown[1], shown[2])]
    choices = {"hpdv2:u1": ["right", "left", "left"], "hpdv2:u2": ["left", "left", "tie"]}
    for rater, expected in choices.items():
        found = [v for v in voting.votes.votes() if v.rater == rater]
        assert [(v.left, v.right) for v in found] == pairs
        assert [v.choice for v in found] == expected


def test_dpo_pairs_as_others_wrote_them(voting: Voting, tmp_path: Path):
    shown = pictures_in(tmp_path / "p")
    rows = [
        {"prompt": str(n), "chosen": "p/0.png", "rejected": f"p/{n % 3 + 1}.png"} for n in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    choices = ImportChoices(rater="Cleo", campaign="c9")
    voting.transfer.import_votes("dpo", tmp_path / "pairs.jsonl", choices)
    found = list(voting.votes.votes())
    assert {v.winner for v in found} == {shown[0]} and len(found) == 40
    assert 8 < sum(v.choice == "left" for v in found) < 32  # no side is the better one
    assert {(v.rater, v.campaign) for v in found} == {("Cleo", "c9")}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_imagereward_rows_as_others_wrote_them(kind: str, voting: Voting, tmp_path: Path):
    shown = pictures_in(tmp_path / "images")
    rows = [
        {"image_path": f"images/{n}.png", "prompt_id": p, "prompt": "x", "rank": rank}
        for n, p, rank in ((0, "1", 2), (1, "1", 1), (2, "2", 1), (3, "2", 1))
    ]
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    else:
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    voting.transfer.import_votes("imagereward", tmp_path)
    assert said(voting) == [
        (shown[0], shown[1], "right", "x", "import"),
        (shown[2], shown[3], "tie", "x", "import"),
    ]


def test_a_zip_is_read_like_its_folder(voting: Voting, elsewhere: Voting, tmp_path: Path):
    filled(voting)
    voting.transfer.export_votes("jsonl", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        for path in sorted((tmp_path / "out").rglob("*")):
            archive.write(path, path.relative_to(tmp_path / "out"))
    elsewhere.transfer.import_votes("jsonl", tmp_path / "out.zip")
    assert list(elsewhere.votes.votes()) == list(voting.votes.votes())


def test_a_campaign_leaves_as_a_zip_that_is_sent_while_it_is_made(
    voting: Voting, elsewhere: Voting, tmp_path: Path
):
    filled(voting)
    kept = voting.folder()
    whole = b"".join(voting.transfer.export_zip("c1"))
    assert voting.folder() == kept  # nothing is left behind
    (tmp_path / "out.zip").write_bytes(whole)
    elsewhere.transfer.import_votes("jsonl", tmp_path / "out.zip")
    everything = {"include_undone": True}
    assert list(elsewhere.votes.votes(**everything)) == list(voting.votes.votes("c1", **everything))
    assert list(elsewhere.votes.undos()) == list(voting.votes.undos("c1"))
    for brought in elsewhere.votes.votes():
        there = elsewhere.pictures.content(brought.left)
        assert there == voting.pictures.content(brought.left)


def test_a_zip_that_is_cut_off_imports_nothing(voting: Voting, elsewhere: Voting, tmp_path: Path):
    filled(voting)
    whole = b"".join(voting.transfer.export_zip("c1"))
    (tmp_path / "out.zip").write_bytes(whole[:-30])
    with pytest.raises(ImportRefusedError, match="zip"):
        elsewhere.transfer.import_votes("jsonl", tmp_path / "out.zip")
    assert elsewhere.votes.count() == 0


def test_what_a_killed_import_left_is_removed_by_the_next(voting: Voting, tmp_path: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = voting.data_dir / f".transfer.tmp-{gone.pid}-0123abcd"
    (left / "pictures").mkdir(parents=True)
    (left / "pictures" / "half").write_bytes(b"half")
    running = voting.data_dir / f".transfer.tmp-{os.getppid()}-0123abcd"
    running.mkdir()
    pictures_in(tmp_path / "p")
    pair = {"prompt": "x", "chosen": "0.png", "rejected": "1.png"}
    (tmp_path / "p" / "pairs.jsonl").write_text(json.dumps(pair))
    voting.transfer.import_votes("dpo", tmp_path / "p")
    assert (left.exists(), running.exists()) == (False, True)
