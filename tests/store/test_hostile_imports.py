"""Broken and hostile files of votes bring nothing in, and say why."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from studio.core.errors import DiskFullError, ImportRefusedError
from studio.store.database import Database
from tests.store.foreign_votes import filled, pickapic_row, pictures_in, write_pickapic
from tests.store.voting import Voting, png, vote


def pair(**changes: object) -> dict:
    return {"prompt": "x", "chosen": "0.png", "rejected": "1.png"} | changes


def as_dpo(*rows: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pictures_in(folder)
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return folder

    return write


def as_text(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pictures_in(folder)
        raw = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(raw)
        return folder

    return write


def as_parquet(*rows: dict, columns: tuple[str, ...] = ()) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        if columns:
            table = pyarrow.Table.from_pylist([dict.fromkeys(columns, "x")])
            parquet.write_table(table, folder / "a.parquet")
        else:
            write_pickapic(folder / "a.parquet", list(rows))
        return folder

    return write


def as_bomb(folder: Path) -> Path:
    folder.mkdir()
    stream = io.BytesIO()
    Image.new("1", (13_000, 13_000)).save(stream, "PNG")
    (folder / "0.png").write_bytes(stream.getvalue())
    (folder / "1.png").write_bytes(png(1))
    (folder / "pairs.jsonl").write_text(json.dumps(pair()))
    return folder


def as_link(folder: Path) -> Path:
    as_dpo(pair())(folder)
    (folder.parent / "secret.png").write_bytes(png(77))
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to(folder.parent / "secret.png")
    return folder


def as_zip(*entries: tuple[str, bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries:
                archive.writestr(name, content)
        return folder / "a.zip"

    return write


def as_zip_link(folder: Path) -> Path:
    folder.mkdir()
    entry = zipfile.ZipInfo("pairs.jsonl")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    return folder / "a.zip"


def own(**changes: object) -> dict:
    return {"easel": vote().to_dict() | changes}


GOOD = pair(prompt="good", rejected="2.png")
HOSTILE = {
    "a row without its prompt": ("dpo", as_dpo(GOOD, {"chosen": "0.png"}), "row 2 lacks"),
    "a row without a picture": ("dpo", as_dpo(GOOD, {"prompt": "x"}), "row 2 names no picture"),
    "a picture that is not there": ("dpo", as_dpo(GOOD, pair(chosen="9.png")), "is not there"),
    "a folder as picture": ("dpo", as_dpo(pair(chosen=".")), "is not there"),
    "a way up": ("dpo", as_dpo(GOOD, pair(chosen="../secret.png")), "leads out of the folder"),
    "an absolute name": ("dpo", as_dpo(pair(chosen="/etc/passwd")), "leads out of the folder"),
    "a drive": ("dpo", as_dpo(pair(chosen="C:\\secret.png")), "leads out of the folder"),
    "a way up on Windows": ("dpo", as_dpo(pair(chosen="..\\s.png")), "leads out of the folder"),
    "a line break in a name": ("dpo", as_dpo(pair(chosen="a\n.png")), "leads out of the folder"),
    "a link out": ("dpo", as_link, "link out of the folder"),
    "a bomb": ("dpo", as_bomb, "more than 64,000,000 pixels"),
    "a text as picture": ("dpo", as_dpo(GOOD, pair(chosen="pairs.jsonl")), "not a PNG"),
    "one picture twice": ("dpo", as_dpo(GOOD, pair(rejected="0.png")), "different pictures"),
    "another one's vote": ("dpo", as_dpo(GOOD, pair() | own()), "other pictures"),
    "a vote that is none": ("dpo", as_dpo(pair(easel=[1])), "is not a vote"),
    "a vote with a stranger": ("dpo", as_dpo(pair() | own(admin=True)), "no field 'admin'"),
    "no object": ("dpo", as_dpo(GOOD, [1, 2]), "row 2 is not a JSON object"),
    "half a file": ("dpo", as_text("pairs.jsonl", json.dumps(pair())[:-5]), "not JSON"),
    "not UTF-8": ("dpo", as_text("pairs.jsonl", b"\xff\xfe{}"), "not text in UTF-8"),
    "nesting without end": ("dpo", as_text("pairs.jsonl", "[" * 100_000), "not JSON"),
    "deep rows": ("dpo", as_text("pairs.jsonl", '{"a":' * 90_000), "not JSON"),
    "a row without end": ("dpo", as_text("pairs.jsonl", '{"prompt": "' + "x" * 2**21), "longer"),
    "an empty file": ("dpo", as_text("pairs.jsonl", ""), "holds no votes"),
    "an array that goes on": ("hpdv2", as_text("train.json", "[{}] {}"), "lacks|not JSON"),
    "no comma": ("hpdv2", as_text("train.json", '[{"a":1} {"a":1}]'), "lacks|not JSON"),
    "a preference of five": (
        "hpdv2",
        as_text("train.json", json.dumps([{"human_preference": [5, 0], "prompt": "x",
                                           "file_path": ["0.png", "1.png"]}])),
        "human_preference is",
    ),
    "ranks of others": (
        "hpdv2",
        as_text("test.json", json.dumps([{"prompt": "x", "image_path": ["0.png", "1.png"],
                                          "raw_annotations": [{"rank": [1]}]}])),
        "lacks a rank for each",
    ),
    "rows without a rank": (
        "imagereward",
        as_text("m.jsonl", "\n".join(json.dumps({"image_path": f"{n}.png", "prompt_id": 1,
                                                 "prompt": "x"}) for n in range(2))),
        "lack a 'rank'",
    ),
    "no parquet": ("pickapic", as_text("a.parquet", "PAR1 holiday letters PAR1"), "cannot be read"),
    "wrong columns": ("pickapic", as_parquet(columns=("caption", "jpg_0")), "lacks the column"),
    "wrong types": (
        "pickapic", as_parquet(columns=("caption", "jpg_0", "jpg_1", "label_0")), "no picture"
    ),
    "addresses instead of pictures": (
        "pickapic", as_parquet(pickapic_row(1), pickapic_row(1, jpg_0=None)), "row 2 .*nothing from"
    ),
    "an unheard-of label": ("pickapic", as_parquet(pickapic_row(0.7)), "label_0 is 1, 0 or 0.5"),
    "a zip with a way up": ("dpo", as_zip(("../../pairs.jsonl", b"{}")), "leads out"),
    "a zip with an absolute name": ("dpo", as_zip(("/pairs.jsonl", b"{}")), "leads out"),
    "a zip bomb": ("dpo", as_zip(("pairs.jsonl", bytes(30_000_000))), "times its size"),
    "a zip with links": ("dpo", as_zip_link, "holds links"),
    "no zip": ("dpo", lambda folder: as_text("a.zip", "PK")(folder) / "a.zip", "no zip file"),
    "an unknown version": (
        "jsonl",
        lambda folder: as_text("images.jsonl", "")(
            as_text("votes.jsonl", '{"schema_version": 99}')(folder)
        ),
        "schema version 99",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_import_is_a_sentence_and_brings_nothing_in(
    case: str, voting: Voting, tmp_path: Path
):
    name, write, sentence = HOSTILE[case]
    path = write(tmp_path / "hostile")
    with pytest.raises(ImportRefusedError, match=sentence):
        voting.transfer.import_votes(name, path)
    assert list(voting.votes.votes(include_undone=True)) == []
    assert voting.folder() == {}
    assert not list(voting.data_dir.glob(".transfer*"))


def native(voting: Voting, folder: Path) -> tuple[list[dict], Callable[[list[dict]], None]]:
    """A native export's votes, and a function that writes them changed."""
    filled(voting)
    voting.transfer.export_votes("jsonl", folder)
    rows = [json.loads(line) for line in (folder / "votes.jsonl").read_text().splitlines()]

    def write(changed: list[dict]) -> None:
        (folder / "votes.jsonl").write_text("\n".join(map(json.dumps, changed)))

    return rows, write


def undo_of(row: dict, **changes: object) -> dict:
    undo = {"id": "u9", "vote_id": row["vote"]["id"], "rater": "A", "session_id": ""}
    return {"schema_version": 1, "event": "undo", "undo": undo | {"created_at": 1.0} | changes}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: [*rows, rows[3]], "stands there twice"),
        (lambda rows: [rows[0] | {"vote": rows[0]["vote"] | {"left": "ab" * 32}}], "images.jsonl"),
        (lambda rows: [rows[0], rows[1] | {"event": "delete"}], "neither a vote nor an undo"),
        (lambda rows: [rows[0], undo_of(rows[0], vote_id="none")], "no vote 'none'"),
        (lambda rows: [rows[0], undo_of(rows[0], created_at="now")], "without its id or time"),
        (lambda rows: [rows[0], undo_of(rows[0], more=1)], "is no undo"),
        (lambda rows: [rows[0] | {"vote": {"id": "x"}}], "lacks its"),
    ],
)
def test_a_changed_native_file_brings_nothing_in(
    change: Callable, sentence: str, voting: Voting, elsewhere: Voting, tmp_path: Path
):
    rows, write = native(voting, tmp_path / "out")
    write(change(rows))
    with pytest.raises(ImportRefusedError, match=sentence):
        elsewhere.transfer.import_votes("jsonl", tmp_path / "out")
    assert list(elsewhere.votes.votes(include_undone=True)) == []
    assert elsewhere.folder() == {}


def test_a_picture_that_was_exchanged_is_noticed(voting: Voting, elsewhere: Voting, tmp_path: Path):
    native(voting, tmp_path / "out")
    victim = next((tmp_path / "out" / "images").glob("*.png"))
    victim.write_bytes(png(200))
    with pytest.raises(ImportRefusedError, match="its hash differs"):
        elsewhere.transfer.import_votes("jsonl", tmp_path / "out")
    assert elsewhere.folder() == {}


def test_a_vote_under_a_known_id_keeps_the_whole_import_out(voting: Voting, tmp_path: Path):
    rows, write = native(voting, tmp_path / "out")
    before, files = list(voting.votes.votes()), voting.folder()
    fresh = rows[2] | {"vote": rows[2]["vote"] | {"id": "fresh"}}
    write([fresh, rows[1] | {"vote": rows[1]["vote"] | {"prompt": "something else"}}])
    with pytest.raises(ImportRefusedError, match=r"Another vote is stored .* Nothing was taken in"):
        voting.transfer.import_votes("jsonl", tmp_path / "out")
    assert list(voting.votes.votes()) == before and voting.folder() == files


def test_an_unknown_format_or_path_is_a_sentence(voting: Voting, tmp_path: Path):
    with pytest.raises(ImportRefusedError, match="no format 'csv'; one of jsonl, pickapic"):
        voting.transfer.import_votes("csv", tmp_path)
    with pytest.raises(ImportRefusedError, match=r"There is no .*nowhere"):
        voting.transfer.import_votes("dpo", tmp_path / "nowhere")
    with pytest.raises(ImportRefusedError, match=r"There is no pairs\.jsonl"):
        voting.transfer.import_votes("dpo", tmp_path / "data")


def test_a_full_disk_during_an_import_brings_nothing_in(
    voting: Voting, database: Database, tmp_path: Path
):
    with database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    pictures_in(tmp_path / "d")
    rows = [pair(prompt=f"{n} {'x' * 2000}") for n in range(3000)]
    (tmp_path / "d" / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with database.engine.connect() as connection:  # the pool hands this one out again
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 100}")
    with pytest.raises(DiskFullError, match="disk is full"):
        voting.transfer.import_votes("dpo", tmp_path / "d")
    assert list(voting.votes.votes()) == [] and voting.folder() == {}
