"""The model shelf: what it lists, what it refuses, what it keeps in memory."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from threading import Event, Thread

import pytest

from studio.core.errors import ModelError
from studio.core.events import Progress
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.services.models import DeviceFacts, ModelShelf, usable_cores
from studio.services.remaining import DecodeClock
from studio.services.shared_device import SharedDevice
from studio.store.lock import FileLock


@pytest.fixture
def shelf(own_models: Settings) -> ModelShelf:
    return ModelShelf(own_models)


@pytest.fixture
def tiny(own_models: Settings) -> Path:
    return own_models.models_dir / "tiny"


def test_a_folder_is_listed_with_its_native_size(shelf: ModelShelf, tiny: Path) -> None:
    entry = shelf.entry("tiny")
    assert (entry.name, entry.folder, entry.native_size) == ("tiny", tiny, (64, 64))
    assert (entry.problem, entry.subjects, entry.trained_sizes) == ("", (), ())


def test_the_starter_model_is_always_the_first(shelf: ModelShelf) -> None:
    assert [entry.name for entry in shelf.entries()] == ["starter", "tiny"]


def test_what_a_model_was_trained_for_is_read_from_its_folder(
    shelf: ModelShelf, tiny: Path
) -> None:
    about = {
        "title": "Tiny toy",
        "trained_sizes": [[64, 64], [96, 64]],
        "styles": ["pencil sketch"],
        "words": ["at night"],
        "unknown": {"to": "us"},
    }
    (tiny / "easel.json").write_text(json.dumps(about), encoding="utf-8")
    (tiny / "subjects.txt").write_text("red apple\n\n  blue castle \n", encoding="utf-8")
    entry = shelf.entry("tiny")
    assert entry.title == "Tiny toy"
    assert entry.trained_sizes == ((64, 64), (96, 64))
    assert entry.styles == ("pencil sketch",)
    assert entry.words == ("at night",)
    assert entry.subjects == ("red apple", "blue castle")
    assert [entry.knows_size(*size) for size in ((96, 64), (64, 96))] == [True, False]


@pytest.mark.parametrize("about", ["{", "[]", '{"trained_sizes": 5}', '{"trained_sizes": [[1]]}',
                                   '{"styles": 3}', '{"trained_sizes": [["a", "b"]]}'])  # fmt: skip
def test_a_broken_easel_json_is_a_sentence_and_hides_no_model(
    shelf: ModelShelf, tiny: Path, about: str
) -> None:
    (tiny / "easel.json").write_text(about, encoding="utf-8")
    assert shelf.entry("tiny").problem.endswith(".")


@pytest.mark.parametrize("part", ["model_index.json", "unet/config.json", "vae", "tokenizer",
                                  "unet/diffusion_pytorch_model.safetensors"])  # fmt: skip
def test_a_damaged_folder_is_listed_with_what_is_wrong(
    shelf: ModelShelf, tiny: Path, part: str
) -> None:
    path = tiny / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    entry = shelf.entry("tiny")
    assert entry.problem.endswith(".")
    with pytest.raises(ModelError, match=r"\.$"):
        shelf.load("tiny")
    assert (shelf.state.phase, shelf.state.sentence) == ("failed", entry.problem)


def test_single_files_and_foreign_folders_are_listed_and_hidden_ones_are_not(
    shelf: ModelShelf, tiny: Path
) -> None:
    (tiny.parent / "old.ckpt").write_bytes(b"pickle")
    (tiny.parent / ".hidden").mkdir()
    (tiny.parent / "README.txt").write_text("notes", encoding="utf-8")
    (tiny.parent / "photos").mkdir()
    (tiny.parent / "starter").mkdir()
    problems = {entry.name: bool(entry.problem) for entry in shelf.entries()[1:]}
    assert problems == {"old.ckpt": True, "photos": True, "starter (own)": True, "tiny": False}


def test_the_hash_is_remembered_and_follows_the_files(
    shelf: ModelShelf, own_models: Settings, tiny: Path
) -> None:
    first = shelf.hash_of(shelf.entry("tiny"))
    assert ModelShelf(own_models).hash_of(shelf.entry("tiny")) == first
    remembered = own_models.data_dir / "model-hashes.json"
    assert first in remembered.read_text(encoding="utf-8")
    index = tiny / "model_index.json"
    index.write_text(index.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert shelf.hash_of(shelf.entry("tiny")) != first


def test_damaged_memory_of_hashes_is_made_again(own_models: Settings, shelf: ModelShelf) -> None:
    first = shelf.hash_of(shelf.entry("tiny"))
    for text in ("{", "[]", '{"a": 1}'):
        (own_models.data_dir / "model-hashes.json").write_text(text, encoding="utf-8")
        again = ModelShelf(own_models)
        assert again.hash_of(again.entry("tiny")) == first


def test_a_loaded_model_is_kept_until_another_one_is_wanted(shelf: ModelShelf, tiny: Path) -> None:
    shutil.copytree(tiny, tiny.parent / "other")
    first = shelf.load("tiny")
    assert shelf.load("tiny") is first
    assert first.sha256 == shelf.hash_of(shelf.entry("tiny"))
    forgotten = weakref.ref(first.unet)
    del first
    other = shelf.load("other")
    gc.collect()
    assert forgotten() is None
    assert (shelf.is_loaded("tiny"), shelf.is_loaded("other"), other.name) == (False, True, "other")
    assert (shelf.state.phase, shelf.state.sentence) == ("ready", "other is ready.")


def test_a_model_whose_files_changed_is_read_again(shelf: ModelShelf, tiny: Path) -> None:
    first = shelf.load("tiny")
    config = tiny / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert shelf.load("tiny") is not first


def test_loading_uses_all_cores_unless_the_environment_says_otherwise(
    shelf: ModelShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads: list[int] = []

    def work() -> None:
        torch.set_num_threads(1)
        shelf.load("tiny")
        threads.append(torch.get_num_threads())

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert threads == [usable_cores()]


def test_the_device_is_known_only_after_a_model_was_loaded(shelf: ModelShelf) -> None:
    shelf.measure_device()
    assert shelf.device == DeviceFacts()
    assert list(shelf.warm_up("tiny"))
    assert shelf.device == DeviceFacts("cpu", "CPU")


def test_a_warm_up_leaves_the_model_alone_that_somebody_drew_with(
    shelf: ModelShelf, tiny: Path
) -> None:
    shutil.copytree(tiny, tiny.parent / "other")
    shelf.load("other")
    assert list(shelf.warm_up("tiny")) == []
    assert shelf.is_loaded("other")


def test_a_new_tokenizer_reads_as_the_model_s_own(shelf: ModelShelf) -> None:
    own = shelf.load("tiny").tokenizer
    another = shelf.new_tokenizer("tiny")
    assert another is not own
    assert another("red apple, flat").input_ids == own("red apple, flat").input_ids


def test_time_left_counts_the_decoding_of_the_pictures_that_are_not_finished() -> None:
    now = [0.0]
    clock = DecodeClock(lambda: now[0])
    request = GenerationRequest(width=128, height=128, count=4)
    assert clock.stepped(Progress(1, 1, 0.0), request, finished=0).seconds_left == 0.0
    now[0] = 2.0  # a batch of two comes out two seconds after its last step
    clock.drawn(request)
    now[0] = 2.1
    clock.drawn(request)
    assert clock.stepped(Progress(2, 3, 5.0), request, finished=2).seconds_left == 7.0
    larger = request.with_changes(width=256, height=256, count=1)
    assert clock.stepped(Progress(1, 2, 5.0), larger, finished=0).seconds_left == 9.0
    assert clock.stepped(Progress(1, 2, None), larger, finished=0).seconds_left is None


def test_waiting_for_the_device_names_who_has_it_and_ends_when_stopped(tmp_path: Path) -> None:
    other = FileLock(tmp_path / "device.lock")
    assert other.acquire("train unet")
    device = SharedDevice(tmp_path)
    seen: list[str] = []
    stop = Event()

    def stopped() -> bool:
        seen.append(device.waits_for)
        return stop.is_set() or len(seen) > 2

    with device.hold(stopped):
        pass
    assert seen == ["", "train unet", "train unet"]
    assert device.waits_for == ""
    other.release()
    with device.hold(lambda: False):
        assert not other.acquire("generate")
    assert other.acquire("generate")
    other.release()
