"""The Fine-tune tab's addresses, on a really started studio; and adapters in the form's text."""

from __future__ import annotations

import io
import zipfile
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from studio.core.errors import InvalidRequestError
from studio.core.request import AdapterUse, GenerationRequest
from studio.services.model_folder import ModelEntry
from studio.services.studio import Studio
from studio.ui.adapters import adapters_text, read_adapters
from studio.ui.controls import default_form, form_of, read_request, sound_form
from studio.ui.logins import may_rater_reach
from tests.ui.served import Served
from tests.waiting import until

START = {
    "name": "bright", "prompts": ["red apple", "castle", "cat"], "reward": "brightness",
    "model": "tiny", "minutes": 0, "epochs": 1,
    "settings": {"rank": 2, "steps": 2, "guidance_scale": 1, "updates": 1,
                 "prompts_per_epoch": 2, "images_per_prompt": 1},
}  # fmt: skip


def state(page: Served, query: str = "") -> dict:
    return page.ask(f"/easel/finetune/state{query}").json()


def post(page: Served, path: str, body: dict):
    return page.ask(f"/easel/finetune/{path}", "POST", body=body)


@pytest.fixture(scope="module")
def run(page: Served) -> dict:
    """A run that is trained."""
    begun = post(page, "start", START)
    assert "run" in begun.json(), begun.body
    look = partial(state, page, f"?run={begun.json()['run']['id']}")
    until(lambda: look()["run"]["state"] != "running")
    found = look()["run"]
    assert found["state"] == "trained", found["health"]
    return found


def test_the_state_is_sent_again_only_when_it_changed(page: Served, run: dict):
    now = state(page)
    assert page.ask(f"/easel/finetune/state?known={now['version']}").status == 204
    assert page.ask("/easel/finetune/state?known=other").status == 200
    assert now["taste"]["sentence"]


def test_a_run_is_told_with_its_figures_and_no_path_of_this_machine(page: Served, run: dict):
    assert [row["epoch"] for row in run["rows"]] == [0, 1]
    assert (run["ladder"], run["result"], run["over"]) == ([1], 1, True)
    assert run["verdicts"] == []
    assert run["health"].startswith("Done after 1 epoch. On held-out prompts the reward")
    assert str(page.data_dir) not in str(run)


def test_a_picture_of_the_strip_is_cut_out_and_others_are_not_there(page: Served, run: dict):
    path = f"/easel/finetune/runs/{run['id']}/strip"
    answer = page.ask(f"{path}/1/0.png")
    with Image.open(io.BytesIO(answer.body)) as image:
        assert (image.size, answer.headers["content-type"]) == ((64, 64), "image/png")
    for wrong in ("1/1.png", "7/0.png", "1/-1.png", "-1/9.png"):
        assert page.ask(f"{path}/{wrong}").status == 404


def test_what_is_kept_is_offered_at_its_strength_and_goes_along_as_a_zip(page: Served, run: dict):
    kept = post(page, f"runs/{run['id']}/keep", {"strength": 0.6, "name": "Warm light"})
    assert kept.json()["kept"]["strength"] == 0.6
    [offered] = page.ask("/easel/finetune/adapters").json()["adapters"]
    assert (offered["name"], offered["strength"], offered["base"]) == ("Warm-light", 0.6, "tiny")
    answer = page.ask(f"/easel/finetune/runs/{run['id']}/export.zip")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as zipped:
        assert {"bright/README.md", "bright/adapter.safetensors"} <= set(zipped.namelist())


def test_the_form_of_the_next_run_is_that_of_this_one_from_what_was_kept(page: Served, run: dict):
    kept = post(page, f"runs/{run['id']}/keep", {"name": "Warm light"}).json()["kept"]
    form = page.ask(f"/easel/finetune/runs/{run['id']}/next").json()
    assert form["prompts"].splitlines() == START["prompts"]
    assert (form["name"], form["model"], form["seed"]) == ("bright, next", "tiny", 0)
    assert (form["start"], form["reward"]) == (kept["sha256"], "brightness")
    assert form["settings"].items() >= START["settings"].items()
    assert page.ask("/easel/finetune/runs/nothing/next").status == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("start", START | {"reward": "beauty"}, 404, "no reward 'beauty'"),
        ("start", START | {"epochs": -1}, 422, "malformed"),
        ("start", {"name": "x"}, 422, "malformed"),
        ("runs/nothing/pause", {}, 404, "no run"),
        ("runs/nothing/keep", {}, 404, "no run"),
        ("prompts", {"prompt": 3}, 422, "malformed"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(page: Served, path, body, status, words):
    answer = post(page, path, body)
    assert answer.status == status
    assert words in answer.json()["sentence"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"prompts": []}, "no prompts"), ({"reward": "taste"}, "votes"), ({"model": "x"}, "no model")],
)
def test_a_run_that_cannot_begin_is_answered_with_the_reason(page: Served, change, words):
    answer = post(page, "start", START | change)
    assert (answer.status, words in answer.json()["refusal"]) == (200, True)


def test_a_prompt_that_is_sent_twice_stands_in_the_form_once(page: Served):
    for _ in range(2):
        post(page, "prompts", {"prompt": " a <b>tower</b>\n at night "})
    choices = page.ask("/easel/finetune/choices").json()
    assert choices["form"]["prompts"].splitlines().count("a <b>tower</b> at night") == 1


def test_raters_do_not_reach_the_tab():
    assert not may_rater_reach("/easel/finetune/state")
    assert not may_rater_reach("/easel/finetune/runs/a/export.zip")


SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
USES = st.builds(AdapterUse, st.text(min_size=1, max_size=20), SHA256, st.floats(0, 1.5))


@given(st.lists(USES, max_size=8).map(tuple))
def test_adapters_come_back_from_the_form_s_text_as_they_were(uses: tuple[AdapterUse, ...]):
    assert read_adapters(adapters_text(uses)) == uses


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '[{"name": "a"}]', "[" * 2000])
def test_a_text_that_names_no_adapters_is_refused_and_a_kept_form_survives_it(
    text: str, studio: Studio
):
    with pytest.raises(InvalidRequestError):
        read_adapters(text)
    entry: ModelEntry = studio.models.entry("tiny")
    kept = default_form(entry) | {"adapters": text}
    assert sound_form(kept, entry, ())["adapters"] == ""


def test_a_picture_s_adapters_are_in_the_form_that_draws_it_again(studio: Studio):
    use = AdapterUse("warm", "ab" * 32, 0.7)
    request = GenerationRequest(prompt="cat", width=64, height=64, model="tiny", adapters=(use,))
    form = default_form(studio.models.entry("tiny")) | form_of(request)
    assert read_request(form).adapters == (use,)
