"""`finetune` as a user meets it: flags, one JSON object an epoch, an adapter, an exit code."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import launch
from studio.core.campaign import CampaignPlan
from studio.core.errors import InvalidRequestError
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.core.vote import Vote
from studio.diffusion.adapter_files import read_lineage
from studio.services import command_line
from studio.services.finetune_command import finetune, read_prompts, split_prompts
from studio.services.studio import open_studio
from studio.store.campaigns import CampaignStore
from studio.store.lock import FileLock
from tests.services.test_adapter_shelf import write_lora

FIGURES = [
    *("epoch", "images", "reward_mean", "reward_held_out", "kl", "clip_fraction", "diversity"),
    "seconds",
]
QUICK = (
    *("--model", "tiny", "--steps", "3", "--prompts-per-epoch", "2", "--images-per-prompt", "2"),
    *("--guidance", "1", "--learning-rate", "0.00001"),
)


@dataclass(frozen=True)
class Run:
    code: int
    epochs: list[dict[str, Any]]
    said: str


@pytest.fixture
def run(tiny_settings: Settings, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """The command inside this process, where torch is imported already."""
    threads = torch.get_num_threads()

    def call(*flags: str) -> Run:
        capsys.readouterr()
        code = finetune(list(map(str, flags)), tiny_settings)
        streams = capsys.readouterr()
        return Run(code, [json.loads(line) for line in streams.out.splitlines()], streams.err)

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("# things\nred apple\n\ncastle\ncat\ncastle\n", encoding="utf-8")
    return path


def test_each_epoch_is_one_line_of_json_and_the_result_an_adapter_that_draws(
    run, prompts: Path, tmp_path: Path, tiny_settings: Settings, capsys
) -> None:
    output = tmp_path / "out"
    flags = ("--reward", "brightness", "--prompts", prompts, "--epochs", 2, "--output", output)
    done = run(*QUICK, *flags)
    assert done.code == 0
    assert [list(line) for line in done.epochs] == [FIGURES, FIGURES]
    assert [(line["epoch"], line["images"]) for line in done.epochs] == [(1, 4), (2, 4)]
    words = ["generate", "--prompt", "red apple", "--model", "tiny", "--steps", "2", "--seed", "1"]
    shas = []
    for strength in ("0", "1"):
        adapter = ["--adapter", str(output / "adapter.safetensors"), "--adapter-strength", strength]
        assert command_line.generate(launch.parse([*words, *adapter]), tiny_settings) == 0
        shas.append(json.loads(capsys.readouterr().out)["sha256"])
    assert shas[0] != shas[1]  # the recipes differ at least
    studio = open_studio(tiny_settings)
    used = [picture.request.adapters[0].strength for picture in studio.gallery.page()]
    studio.close()
    assert sorted(used) == [0.0, 1.0]


def test_the_same_command_goes_on_and_computes_nothing_twice(run, prompts, tmp_path) -> None:
    flags = ("--reward", "random", "--prompts", prompts, "--epochs", 1, "--output", tmp_path / "o")
    assert len(run(*QUICK, *flags).epochs) == 1
    again = run(*QUICK, *flags)
    assert (again.code, again.epochs) == (0, [])


def test_minutes_end_a_run_too(run, prompts: Path, tmp_path: Path) -> None:
    flags = ("--reward", "saturation", "--prompts", prompts, "--minutes", 0.0001)
    assert len(run(*QUICK, *flags, "--output", tmp_path / "out").epochs) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--reward", "beauty"), "There is no reward 'beauty'. Choose one of brightness"),
        (("--campaign", "nobody"), "nobody"),
        (("--reward", "random", "--model", "other"), "There is no model 'other'"),
    ],
)
def test_what_is_not_there_is_refused_with_a_sentence(run, tmp_path, flags, words) -> None:
    done = run(*flags, "--epochs", "1", "--output", str(tmp_path / "out"))
    assert (done.code, done.epochs) == (1, [])
    assert words in done.said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "required"),
        (("--reward", "a", "--campaign", "b"), "not allowed with"),
        (("--reward", "a", "--epochs", "0"), "from 1 on"),
        (("--reward", "a", "--minutes", "-1"), "minutes"),
        (("--reward", "a", "--seed", "x"), "from 0 on"),
        (("--reward", "a", "--colour"), "--colour"),
        (("--reward", "random", "--prompts", "nowhere.txt"), "cannot be read"),
        (("--reward", "random", "--kl-weight", "0.1", "--algorithm", "nft"), "Add --algorithm ppo"),
        (("--reward", "random", "--window", "2", "--algorithm", "nft"), "Add --algorithm ppo"),
    ],
)
def test_a_flag_that_cannot_be_has_exit_code_two(run, tmp_path, flags, words) -> None:
    done = run(*flags, "--output", str(tmp_path / "out"))
    assert done.code == 2
    assert words in done.said
    assert len(done.said.splitlines()) == 1


def test_two_runs_in_one_folder_are_one_too_many(run, prompts, tmp_path) -> None:
    lock = FileLock(tmp_path / "out" / "run.lock")
    assert lock.acquire("finetune")
    done = run("--reward", "random", "--prompts", prompts, "--output", tmp_path / "out")
    lock.release()
    assert done.code == 3
    assert "Another run" in done.said
    assert "choose another --output" in done.said


def test_a_changed_base_model_is_noticed(run, own_models, prompts, tmp_path, capsys) -> None:
    flags = [*QUICK, "--reward", "random", "--prompts", str(prompts), "--epochs", "1"]
    flags += ["--output", str(tmp_path / "out")]
    assert finetune(flags, own_models) == 0
    config = own_models.models_dir / "tiny" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"v_prediction"', '"epsilon"'))
    assert finetune(flags, own_models) == 1
    assert "its base model has changed since" in capsys.readouterr().err


def test_an_adapter_of_another_rank_is_not_trained_further(run, prompts, tmp_path) -> None:
    file = write_lora(tmp_path / "a.safetensors")
    flags = ("--reward", "random", "--prompts", prompts, "--epochs", 1, "--adapter", file)
    done = run(*QUICK, *flags, "--output", tmp_path / "out")
    assert done.code == 1
    assert "cannot be trained further" in done.said


def vote(campaign: str, left: str, right: str, choice: str, prompt: str) -> Vote:
    return Vote(
        id=str(uuid.uuid4()), created_at=1.0, session_id="s", rater="artist", campaign=campaign,
        prompt=prompt, negative_prompt="", left=left, right=right, choice=choice,
        response_ms=900, selection="random", app_version="0",
    )  # fmt: skip


def higher(left: str, right: str, _number: int) -> str:
    return "left" if left > right else "right"


def voted(settings: Settings, votes: int, choose: Callable[[str, str, int], str] = higher) -> None:
    """A campaign 'taste' of three pictures for each of four prompts, with so many votes."""
    studio = open_studio(settings)
    prompts = ("red apple", "castle", "cat", "house")
    request = GenerationRequest(
        prompt="x", width=64, height=64, steps=1, count=3, model="tiny", guidance_scale=1.0
    )
    shas: dict[str, list[str]] = {}
    for number, prompt in enumerate(prompts):
        job = studio.generation.submit(
            request.with_changes(prompt=prompt, seed=9 * number), key=prompt
        )
        view = studio.generation.view(job.id)
        while not view.over:
            view = studio.generation.wait(job.id, view.version, 5)
        shas[prompt] = [picture.sha256 for picture in view.pictures]
    campaign = CampaignStore(studio.databases.shared).create(CampaignPlan("taste", ("red apple",)))
    for number in range(votes):
        prompt = prompts[number % 4]
        left, right = shas[prompt][number % 3], shas[prompt][(number + 1) % 3]
        choice = choose(left, right, number)
        studio.preference.votes.add(vote(campaign.id, left, right, choice, prompt))
    studio.close()


def test_a_campaign_s_votes_become_an_adapter_that_names_them(
    run, tiny_settings: Settings, tmp_path: Path
) -> None:
    voted(tiny_settings, 24)
    done = run(*QUICK, "--campaign", "taste", "--epochs", "1", "--output", str(tmp_path / "out"))
    assert done.code == 0, done.said
    assert "Learned from 24 votes" in done.said
    told = read_lineage(tmp_path / "out" / "adapter.safetensors")
    assert (told["reward"], told["votes"]) == ("taste", 24)
    assert len(told["votes_sha256"]) == 64


def test_a_run_goes_on_with_the_votes_that_it_began_with_when_more_came(
    run, tiny_settings: Settings, tmp_path: Path
) -> None:
    voted(tiny_settings, 24)
    flags = (*QUICK, "--epochs", "1", "--output", tmp_path / "out", "--campaign")
    first = run(*flags, "taste")
    assert first.code == 0, first.said
    studio = open_studio(tiny_settings)
    old = next(iter(studio.preference.votes.votes()))
    CampaignStore(studio.databases.shared).create(CampaignPlan("other", ("red apple",)))
    studio.preference.votes.add(vote(old.campaign, old.left, old.right, "right", old.prompt))
    studio.close()
    again = run(*flags, "taste")
    assert again.code == 0, again.said
    assert "the 24 votes that it began with" in again.said
    refused = run(*flags, "other")
    assert refused.code == 1
    assert "another campaign" in refused.said


def test_a_campaign_without_votes_is_refused_with_a_sentence(
    run, tiny_settings: Settings, tmp_path: Path
) -> None:
    studio = open_studio(tiny_settings)
    CampaignStore(studio.databases.shared).create(CampaignPlan("taste", ("red apple",)))
    studio.close()
    done = run(*QUICK, "--campaign", "taste", "--epochs", "1", "--output", str(tmp_path / "out"))
    assert done.code == 1
    assert "vote" in done.said


@pytest.mark.parametrize(
    "choose",
    [
        lambda *_: "tie",
        lambda *_: "skip",
        lambda *_: "both_bad",
    ],
)
def test_votes_that_prefer_nothing_teach_nothing_and_a_sentence_says_so(
    run, tiny_settings: Settings, tmp_path: Path, choose
) -> None:
    voted(tiny_settings, 24, choose)
    done = run(*QUICK, "--campaign", "taste", "--epochs", "1", "--output", str(tmp_path / "out"))
    assert done.code == 1, done.said
    assert "vote" in done.said
    assert len(done.said.splitlines()) == 1
    assert not (tmp_path / "out" / "adapter.safetensors").exists()


@pytest.mark.parametrize(
    "choose",
    [
        lambda *_: "left",  # of one side only
        lambda left, right, number: (
            higher(left, right, 0) if number // 12 else higher(right, left, 0)
        ),
    ],
)
def test_votes_of_one_side_or_against_each_other_are_learned_with_what_they_are_worth(
    run, tiny_settings: Settings, tmp_path: Path, choose
) -> None:
    voted(tiny_settings, 24, choose)
    done = run(*QUICK, "--campaign", "taste", "--epochs", "1", "--output", str(tmp_path / "out"))
    assert done.code == 0, done.said
    assert "Learned from 24 votes" in done.said
    assert "a coin gets 50 %" in done.said


def test_comments_empty_lines_and_repetitions_are_no_prompts(prompts: Path) -> None:
    assert read_prompts(prompts) == ("red apple", "castle", "cat")


@pytest.mark.parametrize("content", [b"", b"# only\n", b"\xff\xfe", b"x" * 20_001])
def test_a_file_that_holds_no_prompts_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match="one prompt a line"):
        read_prompts(path)


def test_ten_thousand_prompts_are_read_and_few_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"thing {i}" for i in range(10_000)), encoding="utf-8")
    train, held_out = split_prompts(read_prompts(path), seed=1)
    assert (len(train), len(held_out)) == (9988, 12)


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=40), st.integers(0, 99))
def test_no_prompt_is_lost_and_none_is_on_both_sides(prompts: list[str], seed: int) -> None:
    train, held_out = split_prompts(tuple(prompts), seed)
    assert set(train) | set(held_out) == set(prompts)
    assert train and held_out
    assert len(prompts) < 3 or not set(train) & set(held_out)
    assert split_prompts(tuple(prompts), seed) == (train, held_out)
