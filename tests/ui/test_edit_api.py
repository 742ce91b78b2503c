"""Editing from outside a running studio: gradio_client's endpoints, and our own addresses."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio.services.comparison import WORDS
from studio.store.sources import pixel_hash
from studio.ui.labels import LABELS
from tests.services.test_adapter_shelf import write_lora
from tests.store.test_files import encoded, png_claiming
from tests.ui.served import Served

SKETCH = Image.effect_noise((100, 75), 60).convert("RGB")
FEW = {"model": "tiny", "steps": 2, "seed": 7}
FOREIGN = {"Origin": "http://evil.example"}


@pytest.fixture(scope="module")
def client(page: Served) -> Iterator[Client]:
    opened = Client(page.url, verbose=False, analytics_enabled=False)
    yield opened
    opened.close()


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    path = tmp_path / "sketch.png"
    SKETCH.save(path)
    return path


def downloaded(page: Served, drawn: dict) -> Image.Image:
    image = Image.open(io.BytesIO(page.ask(drawn["url"]).body))
    image.load()
    return image


def test_img2img_takes_a_file_and_draws_it_at_its_own_size(
    client: Client, page: Served, sketch: Path
):
    (drawn,) = client.predict(
        handle_file(sketch), prompt="red apple", strength=0.5, api_name="/img2img", **FEW
    )
    assert (drawn["width"], drawn["height"], drawn["seed"]) == (100, 75, 7)
    assert downloaded(page, drawn).tobytes() != SKETCH.tobytes()
    assert drawn["edit"]["source"] == pixel_hash(SKETCH)
    again = client.predict(
        pixel_hash(SKETCH), "red apple", strength=0.0, api_name="/img2img", **FEW
    )
    assert downloaded(page, again[0]).tobytes() == SKETCH.tobytes()


def test_an_adapter_is_named_and_changes_the_picture(client: Client, page: Served):
    kept = write_lora(page.data_dir / "adapters" / "warm.safetensors")
    warm = [{"name": "warm", "strength": 0.5}]
    ask = partial(client.predict, "red apple", api_name="/txt2img", **FEW)
    (plain,), (drawn,) = ask(), ask(adapters=warm)
    assert drawn["adapters"] == [["warm", 0.5]]
    assert downloaded(page, drawn).tobytes() != downloaded(page, plain).tobytes()
    with pytest.raises(AppError, match="There is no adapter 'cold'; there is: warm"):
        ask(adapters=[{"name": "cold"}])
    with pytest.raises(AppError, match="An adapter has a name, a sha256 and a strength"):
        ask(adapters=[{"name": "warm", "weight": 1}])
    kept.unlink()  # other tests look at the same studio's shelf


def test_inpaint_keeps_what_the_mask_leaves_out_and_files_the_parent(
    client: Client, page: Served, sketch: Path, tmp_path: Path
):
    (first,) = client.predict(handle_file(sketch), api_name="/img2img", **FEW)
    mask = Image.new("L", SKETCH.size, 0)
    mask.paste(255, (60, 40, 90, 70))
    mask.save(tmp_path / "mask.png")
    (drawn,) = client.predict(
        handle_file(sketch), handle_file(tmp_path / "mask.png"), strength=1.0,
        mask_blur=1.0, parent_id=first["id"], api_name="/inpaint", **FEW,
    )  # fmt: skip
    result = downloaded(page, drawn)
    assert result.crop((0, 0, 50, 75)).tobytes() == SKETCH.crop((0, 0, 50, 75)).tobytes()
    assert result.crop((65, 45, 85, 65)).tobytes() != SKETCH.crop((65, 45, 85, 65)).tobytes()
    assert drawn["edit"]["parent"] == first["id"]
    told = page.ask(f"/easel/lineage/{drawn['id']}").json()
    assert [parent["id"] for parent in told["parents"]] == [first["id"]]
    told = page.ask(f"/easel/lineage/{first['id']}").json()
    assert [child["id"] for child in told["children"]] == [drawn["id"]]


def test_inpaint_extends_a_picture_and_leaves_it_untouched(
    client: Client, page: Served, sketch: Path
):
    (drawn,) = client.predict(
        handle_file(sketch), extend=[0, 0, 28, 5], api_name="/inpaint", mask_blur=0.0, **FEW
    )
    assert (drawn["width"], drawn["height"]) == (128, 80)
    assert downloaded(page, drawn).crop((0, 0, 100, 75)).tobytes() == SKETCH.tobytes()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("0a" * 32, "Choose the picture once more"),
        ("", "The source is missing"),
        ({}, "The source is missing"),
        ({"path": 7}, "The source is missing"),
        ({"path": "/etc/passwd"}, "not an uploaded file"),
        ({"path": "../easel.sqlite3"}, "not an uploaded file"),
    ],
)
def test_a_source_that_was_not_handed_over_is_a_sentence(
    source: object, sentence: str, page: Served
):
    values = [source, "", "", 0.5, 0, 0, "just resize", 1, 2, 3.0, "DDIM", 0.0, 7, 1, "tiny", 0, []]
    event = page.ask("/gradio_api/call/img2img", "POST", body={"data": values}).json()["event_id"]
    assert sentence in page.ask(f"/gradio_api/call/img2img/{event}").body.decode()


def test_a_file_that_is_no_picture_is_a_sentence_to_the_client(client: Client, tmp_path: Path):
    (tmp_path / "poem.png").write_text("a poem")
    with pytest.raises(AppError, match="not a PNG, JPEG or WebP"):
        client.predict(handle_file(tmp_path / "poem.png"), api_name="/img2img", **FEW)


# Our own addresses -----------------------------------------------------------------------------


def test_a_source_is_uploaded_and_comes_back_with_the_same_pixels(page: Served):
    told = page.ask("/easel/source", "POST", body=encoded(SKETCH, "WEBP", lossless=True)).json()
    assert told == {"sha256": pixel_hash(SKETCH), "width": 100, "height": 75}
    answer = page.ask(f"/easel/source/{told['sha256']}.png")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.body)).tobytes() == SKETCH.tobytes()


def test_a_mask_painted_at_1536_pixels_arrives_at_1536_pixels(page: Served):
    painted = Image.effect_noise((1536, 1536), 90)  # the least compressible drawing there is
    content = encoded(painted.convert("RGBA"), "PNG")
    assert len(content) > 2_000_000
    assert page.ask("/easel/draft/mask-1536", "POST", body=content).status == 200
    assert page.ask("/easel/draft/mask-1536").body == content
    told = page.ask("/easel/source?kind=mask", "POST", body=content).json()
    assert (told["width"], told["height"]) == (1536, 1536)
    kept = Image.open(io.BytesIO(page.ask(f"/easel/source/{told['sha256']}.png").body))
    assert (kept.mode, kept.tobytes()) == ("L", painted.tobytes())


def test_a_bad_draft_leaves_the_last_one(page: Served):
    good = encoded(Image.new("L", (40, 30), 200), "PNG")
    assert page.ask("/easel/draft/kept", "POST", body=good).status == 200
    answer = page.ask("/easel/draft/kept", "POST", body=good[:50])
    assert answer.status == 400 and answer.json()["sentence"].endswith(".")
    assert page.ask("/easel/draft/kept").body == good
    assert page.ask("/easel/draft/another").status == 404


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a poem", "not a PNG, JPEG or WebP"),
        (png_claiming(20_000, 20_000), "more than 64,000,000 pixels"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixels"),
        (bytes(70_000_000), "larger than 64 MB"),
    ],
    ids=["text", "bomb", "one pixel", "too many bytes"],
)
def test_what_is_no_source_is_answered_with_a_sentence(content: bytes, sentence: str, page: Served):
    answer = page.ask("/easel/source", "POST", body=content)
    assert answer.status == 400
    assert sentence in answer.json()["sentence"]


@pytest.mark.parametrize("path", ["/easel/source", "/easel/draft/mask", "/easel/send?tab=img2img"])
def test_a_foreign_page_hands_over_nothing(path: str, page: Served):
    assert page.ask(path, "POST", FOREIGN, encoded(SKETCH, "PNG")).status == 403
    assert page.ask(path, "POST", {"Sec-Fetch-Site": "cross-site"}, b"").status == 403


@pytest.mark.parametrize(
    "path", ["/easel/source/..%2feasel.sqlite3", "/easel/source/abc.png", "/easel/draft/..%2fform"]
)
def test_no_name_reaches_another_file(path: str, page: Served):
    assert page.ask(path).status == 404


def test_a_dropped_file_brings_its_settings(page: Served):
    info = PngInfo()
    text = "a pear\nSteps: 9, Sampler: Euler, CFG scale: 6, Seed: 3, Size: 64x64, Model: tiny"
    info.add_text("parameters", text)
    sent = page.ask("/easel/send?tab=inpaint", "POST", body=encoded(SKETCH, "PNG", pnginfo=info))
    told = sent.json()
    wanted = {"prompt": "a pear", "steps": 9, "seed": 3, "source": pixel_hash(SKETCH)}
    assert {name: told["values"][name] for name in wanted} == wanted
    assert told["size"] == [100, 75] and told["notices"] == []


def test_two_pictures_are_compared_in_words(client: Client, page: Served):
    ids = [
        client.predict("red apple", seed=seed, steps=2, model="tiny", api_name="/txt2img")[0]["id"]
        for seed in (7, 8)
    ]
    told = page.ask(f"/easel/compare?a={ids[0]}&b={ids[1]}").json()
    assert told["differences"] == [{"label": "Seed", "values": ["7", "8"]}]
    assert json.dumps(told).count("/tmp") == 0  # no path goes out


def test_comparing_uses_the_words_that_stand_beside_the_controls():
    beside = {name: LABELS[name].name for name in WORDS if name in LABELS}
    assert {name: WORDS[name] for name in beside} == beside
    assert len(beside) > 15
