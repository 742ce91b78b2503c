"""A1111's text, written exactly and read with all its traps."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import studio
from studio.core.request import GenerationRequest
from studio.store.infotext import (
    DEFAULTS,
    parse_infotext,
    quote,
    scan_pairs,
    unquote,
    write_infotext,
)
from studio.store.infotext_request import nearest_sampler, request_from_infotext, split_schedule

# The grammar as a pattern, from the reference; quadratic, so for short ordinary text only.
PAIR = re.compile(r'(?P<key>\w[\w /-]+):\s*(?P<value>"(?:[^"\\]|\\.)+"|[^,]*)(?:,|$)')

EXAMPLE = """a cat, (fluffy:1.2) <lora:foo:0.8>
Negative prompt: bad, "quoted"
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512, \
Model hash: abcdef1234, Model: toy, Denoising strength: 0.75, Mask blur: 4, \
Inpaint area: Only masked, Masked area padding: 32, Lora hashes: "foo: 1234abcd, bar: 99", \
Version: v1.10.1"""

EXAMPLE_FIELDS = {
    "Steps": "20",
    "Sampler": "DPM++ 2M",
    "Schedule type": "Karras",
    "CFG scale": "7",
    "Seed": "1",
    "Size-1": "512",
    "Size-2": "512",
    "Model hash": "abcdef1234",
    "Model": "toy",
    "Denoising strength": "0.75",
    "Mask blur": "4",
    "Inpaint area": "Only masked",
    "Masked area padding": "32",
    "Lora hashes": "foo: 1234abcd, bar: 99",
    "Version": "v1.10.1",
}


def test_the_reference_example_is_read_field_by_field():
    read = parse_infotext(EXAMPLE)
    assert read.prompt == "a cat, (fluffy:1.2) <lora:foo:0.8>"
    assert read.negative_prompt == 'bad, "quoted"'
    assert len(read.written) == 14
    assert dict(read.parameters) == {**DEFAULTS, "Emphasis": "Original", **EXAMPLE_FIELDS}


def test_the_writer_gives_a1111s_text_exactly():
    request = GenerationRequest(
        prompt="a cat,\nsitting",
        negative_prompt="bad",
        width=512,
        height=768,
        steps=20,
        guidance_scale=7.5,
        sampler="DPM++ 2M",
        eta=0.5,
        seed=40,
        count=3,
        model="toy: one",
        model_hash="abcdef1234" + "0" * 54,
        source="ff" * 32,
        strength=0.75,
    )
    assert write_infotext(request, index=2) == (
        "a cat,\nsitting\nNegative prompt: bad\n"
        "Steps: 20, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 42, Size: 512x768, "
        'Model hash: abcdef1234, Model: "toy: one", Denoising strength: 0.75, Eta: 0.5, '
        f"Version: Easel {studio.__version__}"
    )


def test_the_writer_leaves_out_what_is_not_there():
    text = write_infotext(GenerationRequest(prompt="", guidance_scale=3.0))
    assert text == (
        "Steps: 20, Sampler: DDIM, CFG scale: 3, Seed: 0, Size: 128x128, Model: starter, "
        f"Version: Easel {studio.__version__}"
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("a, b", '"a, b"'),
        ("a:b", '"a:b"'),
        ("a\nb", '"a\\nb"'),
        (7, "7"),
        ('say "x"', 'say "x"'),
        ('"x", y', '"\\"x\\", y"'),
        ("猫: 犬", '"猫: 犬"'),
    ],
)
def test_values_are_quoted_only_where_they_must_be(value: object, written: str):
    assert quote(value) == written
    assert unquote(written) == str(value)


@given(st.text())
def test_every_quoted_value_reads_back(value: str):
    text = f"Steps: 1, Model: {quote(value)}, Seed: 2"
    if set(value) & set(",\n:"):
        assert dict(scan_pairs(text))["Model"] == quote(value)
        assert unquote(quote(value)) == value


ORDINARY = st.lists(
    st.sampled_from([*list('ab_1é猫 -/:,"\\x.<>()\t'), '": "', ': "a, b",', "Steps: 20, ", "k:"]),
    max_size=40,
).map("".join)


@given(ORDINARY | st.text(alphabet=st.characters(exclude_characters="\n"), max_size=40))
def test_the_scanner_finds_exactly_the_pairs_of_the_pattern(line: str):
    expected = [match.group("key", "value") for match in PAIR.finditer(line)]
    assert list(scan_pairs(line)) == expected


@pytest.mark.parametrize(
    "line",
    [
        "a" * 60000,
        "a " * 30000,
        "a:" * 30000,
        'ab:"' * 15000,
        'ab: "\\",' * 7500,
        'ab:"\\' * 12000,
        ", ab:" * 12000,
        ":" * 60000,
        "- " * 30000,
        '"' * 60000,
    ],
    ids=range(10),
)
def test_sixty_kilobytes_of_anything_are_scanned_at_once(line: str):
    started = time.process_time()
    parse_infotext(f"prompt\nSteps: 1, {line}")
    assert time.process_time() - started < 1.0  # the pattern needs minutes for some of these


def test_a_prompt_line_that_begins_like_the_negative_prompt_switches_as_in_a1111():
    read = parse_infotext(
        "one\nNegative prompt: two\nthree\nNegative prompt: four\nSteps: 5, A1: b, C1: d"
    )
    assert (read.prompt, read.negative_prompt) == ("one", "two\nthree\nfour")


def test_a_prompt_without_parameters_is_a_prompt():
    read = parse_infotext("a castle: old, wide: shot")
    assert (read.prompt, read.written) == ("a castle: old, wide: shot", ())


def test_a_last_prompt_line_with_three_pairs_is_saved_by_the_steps_line():
    text = "sky: blue, sea: green, sand: gold,\nSteps: 20, Seed: 5, Size: 64x64"
    read = parse_infotext(text)
    assert read.prompt == "sky: blue, sea: green, sand: gold,"
    assert read.parameters["Seed"] == "5"


def test_a_line_of_three_pairs_without_steps_is_the_parameter_line():
    read = parse_infotext("cat\nSize: 64x32, Seed: 5, Model: toy")
    assert (read.prompt, read.parameters["Size-1"], read.parameters["Size-2"]) == (
        "cat",
        "64",
        "32",
    )


def test_an_empty_value_is_kept_empty():
    read = parse_infotext("cat\nSteps: 20, Model: , Seed: 5")
    assert read.parameters["Model"] == ""
    assert read.parameters["Seed"] == "5"


def test_lines_are_stripped_as_a1111_strips_them():
    read = parse_infotext(
        "  one  \n   two\nNegative prompt:   three \nSteps: 20, Seed: 5, Size: 64x64"
    )
    assert (read.prompt, read.negative_prompt) == ("one\ntwo", "three")


@pytest.mark.parametrize(
    "tail",
    ["Template: a {cat|dog}", "Negative Template: bad", "Template: x: 1, yy: 2, zz: 3, kk: 4"],
)
def test_templates_of_dynamic_prompts_are_cut_off(tail: str):
    read = parse_infotext(f"a cat\nSteps: 20, Sampler: Euler, Seed: 5, Size: 64x64\n{tail}")
    assert read.prompt == "a cat"
    assert dict(read.written) == {"Steps": "20", "Sampler": "Euler", "Seed": "5", "Size": "64x64"}


def test_templates_are_cut_off_without_a_steps_line_too():
    read = parse_infotext("a cat\nSeed: 5, Size: 64x64, Model: toy\nTemplate: a {cat|dog}")
    assert (read.prompt, read.parameters["Model"]) == ("a cat", "toy")


def test_old_hypernets_move_into_the_prompt():
    read = parse_infotext("cat\nSteps: 20, Seed: 1, Hypernet: anime, Hypernet strength: 0.5")
    assert read.prompt == "cat<hypernet:anime:0.5>"


def test_the_old_first_pass_size_becomes_the_size():
    read = parse_infotext("cat\nSteps: 20, Seed: 1, Size: 1024x768, First pass size: 512x384")
    sizes = [read.parameters[k] for k in ("Size-1", "Size-2", "Hires resize-1", "Hires resize-2")]
    assert sizes == ["512", "384", "1024", "768"]


@pytest.mark.parametrize(
    "value", ['"' + "[" * 5000 + '"', '"\\ud800"', '"unclosed', '"\\x"', "9" * 5000]
)
def test_hostile_values_stay_text(value: str):
    read = parse_infotext(f"cat\nSteps: 20, Model: {value}, Seed: 1")
    assert "Model" in read.parameters
    request_from_infotext(read)


@given(st.text(max_size=300))
def test_no_text_is_an_error(text: str):
    request, notices = request_from_infotext(parse_infotext(text))
    assert isinstance(request, GenerationRequest)
    assert all(notice.endswith(".") for notice in notices)


WORDS = st.text(alphabet="abc xyz猫é(),:1.2<>\"'", max_size=30).map(str.strip)


@given(prompt=WORDS, negative=WORDS, seed=st.integers(0, 2**32 - 1), guidance=st.floats(0, 50))
def test_ordinary_requests_come_back_from_the_text_alone(prompt, negative, seed, guidance):
    request = GenerationRequest(
        prompt=prompt,
        negative_prompt=negative,
        seed=seed,
        guidance_scale=guidance,
        width=640,
        eta=0.25,
    )
    read, notices = request_from_infotext(parse_infotext(write_infotext(request)))
    assert (read, notices) == (request, ())


def test_writing_what_was_read_is_a_fixed_point():
    request, _ = request_from_infotext(parse_infotext(EXAMPLE))
    once = write_infotext(request)
    again, _ = request_from_infotext(parse_infotext(once))
    assert write_infotext(again) == once


@pytest.mark.parametrize(
    ("name", "ours", "exact"),
    [
        ("DPM++ 2M Karras", "DPM++ 2M", True),
        ("dpm++ 2m", "DPM++ 2M", True),
        ("Euler a", "Euler a", True),
        ("k_euler_a", "Euler a", False),
        ("DPM++ 2M SDE Karras", "DPM++ 2M", False),
        ("Heun", "Euler", False),
        ("PLMS", "DDIM", False),
        ("DDIM", "DDIM", True),
        ("UniPC", "UniPC", True),
        ("", "DDIM", True),
        ("Made Up", "DDIM", False),
    ],
)
def test_samplers_become_the_nearest_of_ours_and_say_so(name: str, ours: str, exact: bool):
    sampler, notice = nearest_sampler(name)
    assert (sampler, notice == "") == (ours, exact)


def test_schedules_are_split_from_old_sampler_names():
    assert split_schedule("DPM++ 2M Karras") == ("DPM++ 2M", "Karras")
    assert split_schedule("DPM++ SDE SGM Uniform") == ("DPM++ SDE", "SGM Uniform")
    assert split_schedule("Euler a") == ("Euler a", "")


def test_absurd_numbers_are_brought_into_range():
    text = "cat\x07\nSteps: 99999, CFG scale: nan, Seed: -1, Size: 99999x70, Eta: 1e999"
    request, notices = request_from_infotext(parse_infotext(text))
    assert (request.steps, request.guidance_scale, request.seed) == (500, 3.0, 0)
    assert (request.width, request.height, request.eta, request.prompt) == (4096, 64, 1.0, "cat")
    assert any("The seed -1 became 0" in notice for notice in notices)
    assert any("99999x70 became 4096x64" in notice for notice in notices)
