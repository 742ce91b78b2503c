"""The request: what may be asked for, and the sentences that say what may not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core import request as module
from studio.core.errors import InvalidRequestError
from studio.core.request import AdapterUse, GenerationRequest

LETTERS = st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Z"))
WORDS = st.text(LETTERS, max_size=80)
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())
)
SIDES = st.integers(8, 128).map(lambda eighths: eighths * 8)
REQUESTS = st.builds(
    GenerationRequest,
    prompt=WORDS,
    negative_prompt=WORDS,
    width=SIDES,
    height=SIDES,
    steps=st.integers(1, module.MAX_STEPS),
    guidance_scale=st.floats(0, 50),
    sampler=st.sampled_from(module.SAMPLERS),
    eta=st.floats(0, 1),
    seed=st.integers(0, module.MAX_SEED),
    count=st.integers(1, module.MAX_COUNT),
    adapters=st.lists(
        st.builds(AdapterUse, name=WORDS, sha256=st.just("ab" * 32), strength=st.floats(0, 2)),
        max_size=2,
    ).map(tuple),
    source=st.just("cd" * 32),
    mask=st.sampled_from(("", "ef" * 32)),
    strength=st.floats(0, 1),
    resize_mode=st.sampled_from(module.RESIZE_MODES),
    extend=st.tuples(*[st.integers(0, 64)] * 4),
    inpaint_area=st.sampled_from(module.INPAINT_AREAS),
    masked_content=st.sampled_from(module.MASKED_CONTENTS),
    soft_inpainting=st.booleans(),
    resampling=st.integers(1, 20),
)


def test_an_edit_may_have_any_size_and_a_drawing_may_not():
    edit = GenerationRequest(source="cd" * 32, width=131, height=33)
    assert (edit.width, edit.height) == (131, 33)
    with pytest.raises(module.InvalidRequestError, match="multiple of 8"):
        GenerationRequest(width=131)


@given(REQUESTS)
def test_a_request_comes_back_equal_from_json(request_: GenerationRequest):
    assert GenerationRequest.from_json(request_.to_json()) == request_


@given(REQUESTS)
def test_equal_requests_have_equal_json(request_: GenerationRequest):
    backwards = dict(reversed(json.loads(request_.to_json()).items()))
    assert GenerationRequest.from_mapping(backwards).to_json() == request_.to_json()


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("width", 130, "128 or 136"),
        ("height", 100, "96 or 104"),
        ("width", 8, "64 to 4096"),
        ("width", 5000, "64 to 4096"),
        ("width", 128.0, "whole number"),
        ("steps", 0, "1 to 500"),
        ("steps", 100_000, "1 to 500"),
        ("steps", True, "whole number"),
        ("guidance_scale", float("nan"), "number"),
        ("guidance_scale", 51, "0 to 50"),
        ("sampler", "LMS", "DDIM, Euler"),
        ("eta", 1.5, "0 to 1"),
        ("strength", -0.1, "0 to 1"),
        ("seed", -1, "0 to 4294967295"),
        ("seed", "7", "whole number"),
        ("count", 65, "1 to 64"),
        ("prompt", "a\x00b", "control characters"),
        ("prompt", "\ud800", "control characters"),
        ("prompt", "x" * 20_001, "20,000"),
        ("prompt", None, "must be text"),
        ("mask", "ab" * 32, "needs a source"),
        ("extend", (0, 8, 0, 0), "needs a source"),
        ("extend", (0, 8, 0), "whole pixels"),
        ("extend", (0, -8, 0, 0), "whole pixels"),
        ("mask_blur", 65, "0 to 64"),
        ("mask_invert", 1, "on or off"),
        ("masked_content", "blank", "fill, original"),
        ("inpaint_area", "half", "whole picture, only masked"),
        ("resize_mode", "squash", "crop and resize"),
        ("loopback", 0, "1 to 16"),
        ("variation_strength", 2, "0 to 1"),
        ("hires_scale", 0.5, "1 to 8"),
        ("hires_strength", float("inf"), "must be a number"),
    ],
)
def test_a_bad_value_is_refused_at_its_field_with_the_way_out(field, value, hint):
    with pytest.raises(InvalidRequestError) as refused:
        GenerationRequest(**{field: value})
    assert refused.value.field == field
    assert hint in str(refused.value)
    assert str(refused.value).endswith(".") or str(refused.value).endswith(").")


def test_too_many_pixels_are_refused_though_each_side_is_allowed():
    with pytest.raises(InvalidRequestError, match="draw smaller"):
        GenerationRequest(width=4096, height=4096)


def test_line_breaks_and_any_script_are_ordinary_text():
    assert GenerationRequest(prompt="a\n\tb 猫 \U0001f431").prompt == "a\n\tb 猫 \U0001f431"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"colour": 1}', '{"adapters": 3}', '{"adapters": [{}]}', "[" * 99_999]
)
def test_text_that_is_no_request_is_refused_in_a_sentence(text):
    with pytest.raises(InvalidRequestError, match=r"\.$"):
        GenerationRequest.from_json(text)


@given(st.dictionaries(st.sampled_from([f.name for f in fields(GenerationRequest)]), ANYTHING))
def test_any_json_value_is_accepted_or_refused_but_never_crashes(values):
    try:
        GenerationRequest.from_mapping(values)
    except InvalidRequestError as refused:
        assert refused.field in values


def test_core_imports_neither_torch_nor_gradio_nor_a_database():
    heavy = {"torch", "gradio", "sqlalchemy", "diffusers", "PIL", "numpy"}
    program = (
        "import sys; import studio.core.request, studio.core.events, studio.core.settings; "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
