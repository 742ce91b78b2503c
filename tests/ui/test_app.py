"""The served page: what it exposes, what it weighs, how it starts and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from studio.core.settings import REPOSITORY
from studio.services.studio import Studio
from studio.ui.app import build_page
from tests.ui.served import Served

TXT2IMG = [
    ("prompt", "str"), ("negative_prompt", "str"), ("width", "int"), ("height", "int"),
    ("steps", "int"), ("guidance_scale", "float"), ("sampler", "str"), ("eta", "float"),
    ("seed", "int"), ("count", "int"), ("model", "str"), ("adapters", "list[dict(str, Any)]"),
]  # fmt: skip
MAX_COMPONENTS = 500

SERVE_ONCE = """
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from studio.core.settings import Settings
from studio.services.studio import open_studio
from studio.ui.app import make_app
data = Path(sys.argv[1])
studio = open_studio(Settings(data_dir=data, models_dir=data / "models"))
with TestClient(make_app(studio), base_url="http://127.0.0.1") as client:
    assert client.get("/").status_code == 200
    assert client.get("/easel/state").status_code == 200
    early = {"torch", "diffusers", "transformers"} & set(sys.modules)
    sys.stdout.write(" ".join(early))
studio.close()
"""


def test_the_api_lists_three_ways_to_draw_and_nothing_else(page: Served):
    info = page.ask("/gradio_api/info").json()
    assert info["unnamed_endpoints"] == {}
    assert list(info["named_endpoints"]) == ["/txt2img", "/img2img", "/inpaint"]
    endpoint = info["named_endpoints"]["/txt2img"]
    listed = [(p["parameter_name"], p["python_type"]["type"]) for p in endpoint["parameters"]]
    assert listed == TXT2IMG


def test_txt2img_draws_over_plain_http(page: Served):
    values = ["red apple", "", 0, 0, 2, 3.0, "DDIM", 0.0, 7, 1, "tiny", []]
    event = page.ask("/gradio_api/call/txt2img", "POST", body={"data": values}).json()["event_id"]
    stream = page.ask(f"/gradio_api/call/txt2img/{event}").body.decode()
    ((drawn,),) = json.loads(stream.partition("event: complete\ndata: ")[2])
    assert (drawn["seed"], drawn["width"], drawn["height"]) == (7, 64, 64)
    assert page.ask(drawn["url"]).body.startswith(b"\x89PNG")
    assert page.ask(f"/easel/thumbnail/{drawn['id']}").headers["content-type"] == "image/webp"


def test_txt2img_refuses_with_the_sentence_of_the_field(page: Served):
    values = ["red apple", "", 65, 0, 2, 3.0, "DDIM", 0.0, 7, 1, "tiny", []]
    event = page.ask("/gradio_api/call/txt2img", "POST", body={"data": values}).json()["event_id"]
    stream = page.ask(f"/gradio_api/call/txt2img/{event}").body.decode()
    assert "A width of 65 is not a multiple of 8; try 64 or 72." in stream


def test_the_page_has_few_components(studio: Studio):
    assert len(build_page(studio).blocks) <= MAX_COMPONENTS


def test_torch_is_not_imported_when_the_page_is_served(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", SERVE_ONCE, str(tmp_path)],
        capture_output=True, text=True, cwd=REPOSITORY, check=False,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_an_unknown_picture_gets_a_sentence(page: Served):
    answer = page.ask("/easel/pictures/99999/star", "POST", body={"starred": True})
    assert answer.status == 404
    assert answer.json()["sentence"].endswith(".")


def test_a_malformed_request_changes_nothing_and_says_so(page: Served):
    answer = page.ask("/easel/pictures/1/star", "POST", body={"starred": {"a": 1}})
    assert answer.status == 422
    assert answer.json()["sentence"] == "This request is malformed; nothing was changed."


def test_the_state_is_sent_again_only_when_it_changed(page: Served):
    first = page.ask("/easel/state").json()
    assert page.ask(f"/easel/state?known={first['version']}").status == 204


def test_samples_stand_there_before_anything_is_drawn(page: Served):
    samples = page.ask("/easel/samples").json()["samples"]
    assert len(samples) == 6
    for sample in samples:
        assert sample["prompt"]
        if sample["image"]:
            assert page.ask(sample["image"]).status == 200


def test_the_page_is_told_what_a_model_learned(page: Served):
    folder = REPOSITORY / "assets" / "starter"
    about = json.loads((folder / "easel.json").read_text(encoding="utf-8"))
    subjects = (folder / "subjects.txt").read_text(encoding="utf-8").split("\n")
    known = page.ask("/easel/subjects?model=starter").json()
    assert known["subjects"] == [subject for subject in subjects if subject]
    assert f"these {len(known['subjects'])} subjects" in known["sentence"]
    assert f"Its styles: {', '.join(about['styles'])}." in known["sentence"]
    assert all(word in known["sentence"] for word in about.get("words", []))


def test_replacing_settings_keeps_the_page_buildable_without_any_model(studio: Studio):
    bare = replace(studio, settings=replace(studio.settings, models_dir=Path("nowhere")))
    assert build_page(bare).blocks
