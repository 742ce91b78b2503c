"""A run of fine-tuning: resumed to the bit, stopped in time, and never in a drawing's way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from studio.core.errors import DiskFullError, TrainingError
from studio.core.events import EpochDone, Notice, StageProgress
from studio.core.request import GenerationRequest
from studio.core.settings import REPOSITORY, STARTER_MODEL
from studio.diffusion.adapter_files import read_lineage
from studio.diffusion.adapters import (
    AppliedAdapters,
    adapter_state,
    add_trainable_adapter,
    continue_from,
    restore_adapter,
    weakened,
)
from studio.diffusion.model import load_model
from studio.diffusion.sampler import Drawn, sample
from studio.training.finetune import Start, finetune
from studio.training.guards import EpochFigures, GuardConfig, why_to_stop
from studio.training.ppo import spread_within
from studio.training.probes import diversity, draw_look, likeness, load_tools, probe, sharpness
from studio.training.rewards import RewardFunction, known_reward
from studio.training.rollout import PolicyConfig, TextFeatures
from studio.training.run_folder import FineTuneConfig, RunFolder, RunState
from tests.training.drawn_pictures import with_stable_diffusion_1_s_schedule
from tests.training.finetune_program import CONFIG, TOOLS

PROGRAM = REPOSITORY / "tests/training/finetune_program.py"
BRIGHTNESS = known_reward("brightness")
pytestmark = pytest.mark.usefixtures("one_thread")


def load(folder):
    return load_model(folder, "tiny", "cpu", torch.float32, sha256="ab")


def events_of(folder, run, config=CONFIG, reward=BRIGHTNESS):
    return list(finetune(load(folder), reward, config, TOOLS, run))


def epochs(events) -> list[EpochDone]:
    return [event for event in events if isinstance(event, EpochDone)]


def result(run: Path) -> bytes:
    return (run / "adapter.safetensors").read_bytes()


def timeless(events) -> list[EpochDone]:
    return [replace(event, seconds=0.0) for event in epochs(events)]


def program(folder, run, *words):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), folder, run, *words],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=280, check=False,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_a_run_that_is_killed_at_u_net_calls_ends_as_if_it_had_not_been(folder, tmp_path):
    whole, killed = program(str(folder), str(tmp_path), "calls", "2", "9", "12", "8")
    assert killed.pop("killed") == 4
    assert whole.pop("killed") == 0
    assert killed == whole
    assert [epoch["epoch"] for epoch in whole["metrics"]] == [1, 2, 3]


def test_a_run_that_is_killed_at_file_calls_ends_as_if_it_had_not_been(folder, tmp_path):
    whole, *killed = program(str(folder), str(tmp_path), "files", "31")
    assert len(killed) >= 3
    for run in killed:
        assert (run["adapter"], run["metrics"]) == (whole["adapter"], whole["metrics"])


def test_stopping_and_going_on_anywhere_in_an_epoch_gives_the_same_run(folder, tmp_path):
    whole = events_of(folder, tmp_path / "whole")
    model, seen = load(folder), []
    for stop in (1, 11, 17, None):
        run = finetune(model, BRIGHTNESS, CONFIG, TOOLS, tmp_path / "stopped")
        for number, event in enumerate(run):
            seen.append(event)
            if number == stop:
                break
        run.close()
    assert timeless(seen) == timeless(whole)
    assert result(tmp_path / "stopped") == result(tmp_path / "whole")


def test_the_same_seed_gives_the_same_run_and_another_gives_another(folder, tmp_path):
    first, second = (events_of(folder, tmp_path / name) for name in "ab")
    other = events_of(folder, tmp_path / "c", replace(CONFIG, seed=1))
    assert timeless(first) == timeless(second)
    assert result(tmp_path / "a") == result(tmp_path / "b")
    assert timeless(first) != timeless(other)


def test_a_picture_drawn_in_the_middle_equals_the_one_before_and_the_run_does_not_notice(
    folder, tmp_path
):
    whole = events_of(folder, tmp_path / "whole")
    model = load(folder)  # the studio's own; a run has its own copy
    request = GenerationRequest(prompt="red apple", width=64, height=64, steps=3, seed=3)

    def picture():
        [drawn] = [e for e in sample(model, request) if isinstance(e, Drawn)]
        return np.asarray(drawn.image)

    before, seen = picture(), []
    for event in finetune(load(folder), BRIGHTNESS, CONFIG, TOOLS, tmp_path / "shared"):
        seen.append(event)
        if isinstance(event, StageProgress) and event.step % 5 == 1:
            assert np.array_equal(picture(), before)
    assert timeless(seen) == timeless(whole)
    assert result(tmp_path / "shared") == result(tmp_path / "whole")


def test_every_u_net_call_gives_way(folder, tmp_path):
    model, calls, between = load(folder), [], []
    model.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    for _ in finetune(model, BRIGHTNESS, CONFIG, TOOLS, tmp_path / "run"):
        between.append(len(calls))
    assert max(np.diff([0, *between])) == 1
    assert len(calls) > 20


def test_progress_counts_the_calls_of_an_epoch(folder, tmp_path):
    events = events_of(folder, tmp_path / "run")
    last = [e for e in events if isinstance(e, StageProgress) and e.metrics["epoch"] == 2.0][-1]
    assert (last.step, last.stage) == (last.steps, "look")
    assert last.seconds_left is not None


def test_the_model_is_given_back_as_it_was(folder, tmp_path):
    model = load(folder)
    before = {name: weight.clone() for name, weight in model.unet.state_dict().items()}
    list(finetune(model, BRIGHTNESS, CONFIG, TOOLS, tmp_path / "run"))
    after = model.unet.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_the_result_is_an_adapter_with_its_lineage_and_draws(folder, tmp_path):
    events_of(folder, tmp_path / "run")
    told = read_lineage(tmp_path / "run" / "adapter.safetensors")
    assert (told["base_sha256"], told["reward"], told["epoch"]) == ("ab", "brightness", 3)
    assert told["config"]["ppo"]["clip_nats"] == 1.64
    assert told["config"]["prompts"]["count"] == 3
    model = load(folder)
    found = []
    for file in ("adapter.safetensors", "adapter.kohya.safetensors"):
        applied = AppliedAdapters(model, [(tmp_path / "run" / file, 1.0)])
        with applied.on(), torch.no_grad():
            found.append(model.unet(torch.ones(1, 4, 8, 8), 5, torch.ones(1, 77, 16)).sample)
        applied.remove()
    assert torch.equal(*found)


def test_training_goes_on_from_an_adapter(folder, tmp_path):
    events_of(folder, tmp_path / "first", replace(CONFIG, epochs=1))
    path = tmp_path / "first" / "adapter.safetensors"
    again = finetune(load(folder), BRIGHTNESS, CONFIG, TOOLS, tmp_path / "second", Start(path, 0.5))
    assert epochs(again)[0].kl > 0
    told = read_lineage(tmp_path / "second" / "adapter.safetensors")["began_with"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert told == {"sha256": digest, "strength": 0.5}


def test_a_run_that_goes_on_from_an_adapter_is_compared_with_the_base(folder, tmp_path):
    far = replace(CONFIG, epochs=1, ppo=replace(CONFIG.ppo, learning_rate=0.3))
    events_of(folder, tmp_path / "first", far)
    start = Start(tmp_path / "first" / "adapter.safetensors")
    list(finetune(load(folder), BRIGHTNESS, CONFIG, TOOLS, tmp_path / "second", start))
    strips = [tmp_path / name / "pictures" / "epoch-0000.png" for name in ("first", "second")]
    assert strips[0].read_bytes() == strips[1].read_bytes()
    first, second = (RunFolder(tmp_path / name).latest(CONFIG)[0] for name in ("first", "second"))
    assert second.base == first.base
    assert first.start is None
    assert second.start.reward_held_out != second.base.reward_held_out


def test_the_learning_rate_falls_to_its_share_over_the_planned_epochs(folder, tmp_path):
    config = replace(CONFIG, ppo=replace(CONFIG.ppo, final_rate=0.0), epochs=3)
    run, ladder = tmp_path / "run", []
    events_of(folder, run, config)
    for epoch in (1, 2, 3):
        ladder.append(load_file(run / "ladder" / f"epoch-{epoch:04d}" / "adapter.safetensors"))
    second, third = (
        max(float((after[n] - w).abs().max()) for n, w in before.items())
        for before, after in pairwise(ladder)
    )
    assert second > 0
    assert third == 0  # its rate was nought


def test_the_ladder_keeps_a_bounded_number_of_adapters(folder, tmp_path):
    events = events_of(folder, tmp_path / "run", replace(CONFIG, epochs=7, rungs=3))
    assert not [event for event in events if isinstance(event, Notice)]
    rungs = sorted(path.name for path in (tmp_path / "run" / "ladder").iterdir())
    assert rungs == ["epoch-0003", "epoch-0006"]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 8


def test_minutes_become_epochs_once_after_the_first():
    state = RunState(rollout_batch=1, update_batch=1, epoch=1, spent=30.0)
    config = replace(CONFIG, epochs=0, minutes=2.0)
    state.plan(config, seconds=20.0)
    assert state.epochs == 1 + 4
    state.plan(config, seconds=1.0)
    assert state.epochs == 5


@pytest.mark.parametrize(("minutes", "limit", "planned"), [(0.1, 0, 1), (2.0, 3, 3), (2.0, 99, 5)])
def test_whichever_limit_comes_first_ends_the_run(minutes, limit, planned):
    state = RunState(rollout_batch=1, update_batch=1, epoch=1, spent=30.0)
    state.plan(replace(CONFIG, epochs=limit, minutes=minutes), seconds=20.0)
    assert state.epochs == planned


def test_a_resumed_run_keeps_the_plan_that_its_minutes_became(folder, tmp_path):
    config = replace(CONFIG, epochs=0, minutes=0.001)
    first = epochs(events_of(folder, tmp_path / "run", config))
    assert [done.epoch for done in first] == [1]
    assert epochs(events_of(folder, tmp_path / "run", config)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "cd"}, "base model has changed"),
        ({"reward": known_reward("darkness")}, "reward was another one"),
        ({"config": replace(CONFIG, prompts=("cat",))}, "settings or prompts were others"),
        ({"config": replace(CONFIG, seed=9)}, "settings or prompts were others"),
    ],
)
def test_another_run_in_the_same_folder_is_refused_and_nothing_is_lost(
    folder, tmp_path, change, words
):
    run = tmp_path / "run"
    events_of(folder, run, replace(CONFIG, epochs=1))
    before = result(run)
    model = load(folder)
    model.sha256 = change.get("sha256", "ab")
    config = change.get("config", CONFIG)
    events = finetune(
        model, change.get("reward", BRIGHTNESS), replace(config, epochs=1), TOOLS, run
    )
    with pytest.raises(TrainingError, match=words):
        list(events)
    assert result(run) == before


def rewarding(score, name="test", learned=False) -> RewardFunction:
    return RewardFunction(name, name, score, learned=learned)


def test_a_reward_that_is_not_a_number_ends_the_run_at_the_last_good_epoch(folder, tmp_path):
    calls = []

    def score(images, prompts):
        calls.append(1)
        value = BRIGHTNESS.score(images, prompts)
        return value * float("nan") if len(calls) == 4 else value  # look, epoch 1 twice, epoch 2

    events = events_of(folder, tmp_path / "run", reward=rewarding(score))
    assert [done.epoch for done in epochs(events)] == [1]
    [notice] = [event.sentence for event in events if isinstance(event, Notice)]
    assert "not numbers" in notice
    assert "epoch 1 is kept" in notice
    events_of(folder, tmp_path / "one", replace(CONFIG, epochs=1), rewarding(BRIGHTNESS.score))
    ours, theirs = (
        (tmp_path / name / "adapter.safetensors").read_bytes() for name in ("run", "one")
    )
    assert ours[-2000:] == theirs[-2000:]


def test_the_result_is_the_epoch_that_drew_the_held_out_prompts_best(folder, tmp_path):
    looks = []

    def score(images, prompts):
        if prompts[0] not in CONFIG.held_out:
            return BRIGHTNESS.score(images, prompts)
        looks.append(1)
        return torch.full((len(images),), {1: 0.0, 2: 0.1, 3: 0.3, 4: 0.2}[len(looks)])

    run = tmp_path / "run"
    assert len(epochs(events_of(folder, run, reward=rewarding(score)))) == 3
    assert read_lineage(run / "adapter.safetensors")["epoch"] == 2
    best, last = (run / "ladder" / f"epoch-000{n}" / "adapter.safetensors" for n in (2, 3))
    result, rung, later = (load_file(p) for p in (run / "adapter.safetensors", best, last))
    assert all(torch.equal(weight, rung[name]) for name, weight in result.items())
    assert any(not torch.equal(weight, later[name]) for name, weight in result.items())


@pytest.mark.parametrize(("count", "drawn"), [(1, 1), (24, 24), (25, 13), (10_000, 24)])
def test_a_result_is_settled_on_many_prompts_whatever_their_number(count, drawn):
    prompts = tuple(f"subject {i}" for i in range(count))
    plan = FineTuneConfig(prompts, ("cat", "dog"), epochs=1).settling((64, 64), 16)
    assert len(plan.prompts) == len(plan.seeds) == drawn + 2
    assert plan.prompts[-2:] == ("cat", "dog")
    assert set(plan.prompts[:-2]) <= set(prompts)


@pytest.mark.parametrize("learned", [True, False])
def test_a_result_is_weakened_until_its_pictures_are_like_the_base_s(folder, tmp_path, learned):
    run, reward = tmp_path / "run", replace(BRIGHTNESS, learned=learned)
    plain = replace(CONFIG, epochs=1, guards=replace(CONFIG.guards, likeness=0.0))
    events_of(folder, run, plain, reward)
    trained = load_file(run / "adapter.safetensors")
    model = load(folder)
    add_trainable_adapter(model.unet, CONFIG.rank, CONFIG.seed)
    continue_from(model.unet, run / "adapter.safetensors")
    whole = adapter_state(model.unet)

    def alike(strength: float) -> float:
        pictures = []
        for part in (0.0, strength):
            restore_adapter(model.unet, weakened(whole, part))
            look = plain.settling(model.native_size, plain.batch)
            *_, images = draw_look(model, TextFeatures(model), look)
            pictures.append(images)
        return likeness(*pictures)

    least = (alike(0.5) + alike(0.4)) / 2
    assert alike(1.0) < alike(0.5) < least < alike(0.4)
    config = replace(plain, guards=replace(plain.guards, likeness=least))
    events = events_of(folder, tmp_path / "alike", config, reward)
    result = load_file(tmp_path / "alike" / "adapter.safetensors")
    kept = read_lineage(tmp_path / "alike" / "adapter.safetensors")["strength"]
    assert kept == (0.4 if learned else 1.0)
    for name, weight in result.items():
        assert torch.allclose(weight, trained[name] * (kept if "lora_B" in name else 1))
    notices = [event.sentence for event in events if isinstance(event, Notice)]
    assert [f"Kept at {kept:.0%} of its strength" in n for n in notices] == [True] * learned


def test_memory_that_runs_out_while_sampling_makes_smaller_batches_and_the_same_pictures(
    folder, tmp_path
):
    whole = epochs(events_of(folder, tmp_path / "whole", replace(CONFIG, epochs=1)))
    model = load(folder)

    def refuse(_, inputs):
        if not torch.is_grad_enabled() and len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    model.unet.register_forward_pre_hook(refuse)
    config = replace(CONFIG, epochs=1)
    small = epochs(finetune(model, BRIGHTNESS, config, TOOLS, tmp_path / "small"))
    assert small[0].reward_mean == pytest.approx(whole[0].reward_mean, abs=1e-4)


def test_a_full_disk_is_a_sentence_and_the_run_goes_on_later(folder, tmp_path):
    run = tmp_path / "run"
    events = finetune(load(folder), BRIGHTNESS, CONFIG, TOOLS, run)
    for event in events:
        if isinstance(event, EpochDone):
            break
    (run / "pictures").rename(run / "away")
    (run / "pictures").write_text("in the way")
    with pytest.raises(DiskFullError, match="goes on from the last epoch"):
        list(events)
    (run / "pictures").unlink()
    (run / "away").rename(run / "pictures")
    rest = events_of(folder, run)
    assert [done.epoch for done in epochs(rest)] == [2, 3]
    events_of(folder, tmp_path / "whole")
    assert result(run) == result(tmp_path / "whole")


def test_over_the_budget_the_run_stops_with_the_last_epoch_within_it(folder, tmp_path):
    config = replace(CONFIG, guards=GuardConfig(kl_budget=1e-9, diversity_drop=1.0))
    events = events_of(folder, tmp_path / "run", config)
    last = epochs(events)[-1]
    assert last.epoch < CONFIG.epochs
    [notice] = [event.sentence for event in events if isinstance(event, Notice)]
    assert "budget" in notice
    assert "draws as the base does" in notice
    told = read_lineage(tmp_path / "run" / "adapter.safetensors")
    assert (told["epoch"], told["strength"]) == (0, 0)


def test_a_first_epoch_over_the_budget_is_kept_at_the_strength_that_is_within_it(folder, tmp_path):
    whole = epochs(events_of(folder, tmp_path / "whole", replace(CONFIG, epochs=1)))[0]
    config = replace(CONFIG, guards=replace(CONFIG.guards, kl_budget=whole.kl * 0.4))  # .6 squared
    events = events_of(folder, tmp_path / "run", config)
    assert [epoch.epoch for epoch in epochs(events)] == [1]
    [notice] = [event.sentence for event in events if isinstance(event, Notice)]
    assert "Kept at 60% of its strength, within what a run may change" in notice
    told = read_lineage(tmp_path / "run" / "adapter.safetensors")
    assert (told["epoch"], told["strength"]) == (1, 0.6)
    kept = load_file(tmp_path / "run" / "adapter.safetensors")
    full = load_file(tmp_path / "whole" / "adapter.safetensors")
    for name, weight in full.items():
        assert torch.allclose(kept[name], weight * (0.6 if "lora_B" in name else 1.0)), name


# The guards, on figures.


def figures(kl=1.0, mean=0.0, held_out=0.0, **probes) -> EpochFigures:
    usual = {"diversity": 1.0, "prompt_fidelity": 0.3, "brightness": 0.5}
    return EpochFigures(kl, mean, held_out, usual | probes)


@pytest.mark.parametrize(
    ("now", "learned", "words"),
    [
        (figures(), True, ""),
        (figures(kl=59), False, ""),
        (figures(kl=61), False, "budget"),
        (figures(diversity=0.84), False, "became alike"),
        (figures(diversity=0.86), False, ""),
        (figures(prompt_fidelity=0.25), False, "left their prompts"),
        (figures(brightness=1.1), True, "brightness went from 0.500 to 1.100"),
        (figures(brightness=1.1), False, ""),
    ],
)
def test_each_guard_stops_at_its_limit_and_not_before(now, learned, words):
    reason = why_to_stop([figures(), now], figures(), GuardConfig(), learned=learned)
    assert words in reason
    assert bool(reason) == bool(words)


@pytest.mark.parametrize(
    ("spread", "held_out", "learned", "stops"),
    [
        (0.2, 0.31, True, True),
        (0.2, 0.29, True, False),
        (0.2, 9.0, False, False),
        (0, 9.0, True, False),
    ],
)
def test_a_learned_reward_is_followed_as_far_as_votes_compared(spread, held_out, learned, stops):
    base, now = (replace(figures(held_out=h), spread=spread) for h in (1.0, 1.0 + held_out))
    reason = why_to_stop([now], base, GuardConfig(reach=1.5), learned=learned)
    assert ("Rate the new pictures" in reason) == stops


def test_what_pictures_may_lose_counts_from_the_base_and_the_reach_from_this_round_s_start():
    base, start = figures(), replace(figures(held_out=5.0, diversity=0.9), spread=1.0)
    lost, risen, within = (
        figures(held_out=5.0, diversity=0.84),
        figures(held_out=7.1),
        figures(held_out=6.9),
    )
    reasons = [
        why_to_stop([now], base, GuardConfig(), learned=True, start=start)
        for now in (lost, risen, within)
    ]
    assert "became alike" in reasons[0]
    assert "Rate the new pictures" in reasons[1]
    assert reasons[2] == ""


def test_the_spread_is_that_between_pictures_of_one_prompt():
    rewards = torch.tensor([1.0, 3.0, 10.0, 10.0, 13.0, 7.0])
    prompts = ("a", "a", "b", "b", "c", "c")
    assert spread_within(rewards, prompts) == pytest.approx(((2 + 0 + 18) / 3) ** 0.5)
    assert spread_within(rewards, "abcdef") == 0


def test_a_reward_that_rises_in_training_and_falls_on_held_out_prompts_stops_the_run():
    config = GuardConfig(patience=2)
    hacked = [figures(mean=m, held_out=h) for m, h in ((0, 0), (1, 0), (2, -1), (3, -1))]
    honest = [figures(mean=m, held_out=m) for m in range(4)]
    noisy = [*hacked[:3], figures(mean=3, held_out=0.1)]
    assert "held-out ones" in why_to_stop(hacked, figures(), config, learned=True)
    assert why_to_stop(honest, figures(), config, learned=True) == ""
    assert why_to_stop(noisy, figures(), config, learned=True) == ""


# The probes.


def test_diversity_is_the_mean_distance_between_pictures():
    alike, opposite = torch.ones(3, 5), torch.tensor([[1.0, 0], [-1.0, 0]])
    assert diversity(alike) == pytest.approx(0)
    assert diversity(opposite) == pytest.approx(2)
    assert diversity(torch.eye(4)) == pytest.approx(1)
    assert diversity(torch.ones(1, 5)) == 0


def test_a_blurred_picture_is_less_sharp():
    chance = np.random.default_rng(0)
    noise = chance.random((32, 32))
    blurred = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    assert sharpness(blurred) < 0.7 * sharpness(noise)
    assert sharpness(np.full((8, 8), 0.7)) == pytest.approx(0)


def test_the_starter_s_own_towers_tell_a_picture_s_prompt_from_another():
    """Prompt fidelity of the sample pictures: higher with their own prompts than shifted by one."""
    from PIL import Image

    samples = json.loads((REPOSITORY / "assets/samples/samples.json").read_text("utf-8"))
    files = [REPOSITORY / "assets/samples" / sample["file"] for sample in samples]
    pictures = np.stack(
        [np.asarray(Image.open(f).convert("RGB").resize((128, 128))) for f in files]
    )
    prompts = [sample["prompt"] for sample in samples]
    tools = load_tools(load_model(STARTER_MODEL, "starter", "cpu", torch.float32), STARTER_MODEL)
    own = probe(pictures, prompts, tools)["prompt_fidelity"]
    other = probe(pictures, prompts[1:] + prompts[:1], tools)["prompt_fidelity"]
    assert own > other


def test_a_model_without_towers_has_no_probe_of_fidelity(folder):
    tools = load_tools(load(folder), folder)
    found = probe(np.zeros((2, 64, 64, 3), np.uint8), ["a", "b"], tools)
    assert set(found) == {"brightness", "saturation", "sharpness", "diversity"}


# What a run is.


def test_every_prompt_comes_once_before_one_comes_again():
    config = FineTuneConfig(tuple("abcdefg"), ("x",), epochs=1, prompts_per_epoch=3)
    rounds = [p for epoch in range(1, 8) for p in dict.fromkeys(config.epoch_prompts(epoch))]
    assert sorted(rounds[:7]) == sorted(rounds[7:14]) == list("abcdefg")
    assert rounds[:7] != rounds[7:14]
    each = config.images_per_prompt
    assert config.epoch_prompts(1) == tuple(p for p in rounds[:3] for _ in range(each))


def test_fewer_prompts_than_an_epoch_wants_share_its_pictures():
    config = FineTuneConfig(("a", "b"), ("x",), epochs=1, prompts_per_epoch=8, images_per_prompt=2)
    assert config.epoch_prompts(3).count("a") == 8


def test_ten_thousand_prompts_are_no_burden():
    prompts = tuple(f"a thing with the number {i}" for i in range(10_000))
    config = FineTuneConfig(prompts, ("x",), epochs=1)
    assert len(set(config.epoch_prompts(700))) == 8
    assert len(json.dumps(config.summary())) < 3000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": ()}, "no prompts"),
        ({"epochs": 0}, "how long"),
        ({"prompts_per_epoch": 1, "images_per_prompt": 1}, "two pictures"),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_a_sentence(changes, words):
    with pytest.raises(TrainingError, match=words):
        replace(CONFIG, **changes)


# Stable Diffusion 1.x: noise prediction on its own schedule, and the sampler its files name.


@pytest.mark.parametrize("algorithm", ["ppo", "nft"])
def test_a_model_with_stable_diffusion_1_s_schedule_learns_and_draws(folder, tmp_path, algorithm):
    old = with_stable_diffusion_1_s_schedule(folder, tmp_path / "sd1")
    config = replace(
        CONFIG,
        algorithm=algorithm,
        epochs=2,
        policy=PolicyConfig(steps=4, guidance_scale=3.0),
        ppo=replace(CONFIG.ppo, updates=1, kl_weight=0.0),
    )
    events = list(finetune(load(old), BRIGHTNESS, config, TOOLS, tmp_path / "run"))
    assert [0 < epoch.kl < 1e3 for epoch in epochs(events)] == [True, True]
    model = load(old)
    drawn = []
    for strength in (0.0, 1.0):
        applied = AppliedAdapters(model, [(tmp_path / "run" / "adapter.safetensors", strength)])
        with applied.on():
            *_, images = draw_look(model, TextFeatures(model), config.look((64, 64), 4))
        applied.remove()
        drawn.append(images)
    assert not np.array_equal(*drawn)
