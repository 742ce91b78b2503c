"""The adapter shelf, and pictures drawn with what is on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from studio.core.errors import ModelError, NotFoundError
from studio.core.request import AdapterUse, GenerationRequest
from studio.core.settings import Settings
from studio.services.adapter_shelf import AdapterShelf
from studio.services.job_view import JobView
from studio.services.studio import Studio, open_studio

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def write_lora(path: Path, size: float = 0.5, metadata: dict[str, str] | None = None) -> Path:
    """A LoRA on one layer of the tiny model, which changes its pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    down, up = torch.full((2, 24), size), torch.full((24, 2), size)
    up[::2] = -size
    tensors = {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.fixture
def shelf(tiny_settings: Settings) -> AdapterShelf:
    return AdapterShelf(tiny_settings)


def ended(studio: Studio, request: GenerationRequest, key: str = "1") -> JobView:
    """Draw a request and wait for its end."""
    job = studio.generation.submit(request, key=key)
    view = studio.generation.view(job.id)
    while not view.over:
        view = studio.generation.wait(job.id, view.version, 5)
    return view


def draw(studio: Studio, request: GenerationRequest, key: str = "1") -> bytes:
    """The pixels of a request's picture."""
    view = ended(studio, request, key)
    assert view.state == "done", view.error
    with Image.open(studio.gallery.file(view.pictures[0])) as image:
        return image.convert("RGB").tobytes()


def test_a_new_data_folder_has_no_adapters(shelf: AdapterShelf) -> None:
    assert shelf.entries() == []


def test_adapters_are_listed_by_name_with_hash_and_lineage(
    tiny_settings: Settings, shelf: AdapterShelf
) -> None:
    folder = tiny_settings.data_dir / "adapters"
    told = {"easel.lineage": '{"base": "starter", "votes": 300}'}
    path = write_lora(folder / "soft" / "adapter.safetensors", metadata=told)
    write_lora(folder / "Bold.safetensors", size=0.2)
    (folder / "broken.safetensors").write_bytes(b"nothing")
    bold, broken, soft = shelf.entries()
    assert [e.name for e in (bold, broken, soft)] == ["Bold", "broken", "soft"]
    assert soft.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (soft.base, soft.lineage["votes"], soft.problem) == ("starter", 300, "")
    assert "damaged" in broken.problem
    assert bold.lineage == {}


def test_a_file_is_put_on_the_shelf_once(
    tmp_path: Path, tiny_settings: Settings, shelf: AdapterShelf
) -> None:
    file = write_lora(tmp_path / "my style!.safetensors")
    first = shelf.add(file)
    assert shelf.add(file) == first
    assert (first.name, first.path.parent) == ("my-style", tiny_settings.data_dir / "adapters")
    assert first.path.read_bytes() == file.read_bytes()
    other = shelf.add(write_lora(tmp_path / "else" / "my style!.safetensors", size=0.1))
    assert other.sha256 != first.sha256
    assert len(shelf.entries()) == 2


def test_the_result_of_a_run_gets_its_folder_s_name(tmp_path: Path, shelf: AdapterShelf) -> None:
    assert shelf.add(write_lora(tmp_path / "warm" / "adapter.safetensors")).name == "warm"


def test_a_changed_file_is_another_adapter(tiny_settings: Settings, shelf: AdapterShelf) -> None:
    path = write_lora(tiny_settings.data_dir / "adapters" / "a.safetensors")
    [before] = shelf.entries()
    write_lora(path, size=0.25, metadata={"title": "longer"})
    [after] = shelf.entries()
    assert before.sha256 != after.sha256
    with pytest.raises(NotFoundError, match="Put its file there again"):
        shelf.find(before.sha256)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100])
def test_a_damaged_file_is_not_put_on_the_shelf(
    tmp_path: Path, shelf: AdapterShelf, content: bytes
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        shelf.add(path)
    with pytest.raises((NotFoundError, ModelError)):
        shelf.add(tmp_path / "nowhere.safetensors")
    assert shelf.entries() == []


def test_a_picture_with_an_adapter_differs_and_the_next_one_does_not(
    studio: Studio, tmp_path: Path, request_tiny: GenerationRequest
) -> None:
    use = studio.adapters.add(write_lora(tmp_path / "a.safetensors")).use()
    plain = draw(studio, request_tiny, "1")
    assert draw(studio, request_tiny.with_changes(adapters=(use,)), "2") != plain
    assert studio.gallery.page()[0].request.adapters == (use,)
    assert draw(studio, request_tiny, "3") == plain


def test_strength_zero_is_the_base_even_when_the_file_is_gone(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    use = AdapterUse("gone", "ab" * 32, 0.0)
    without = draw(studio, request_tiny, "1")
    assert draw(studio, request_tiny.with_changes(adapters=(use,)), "2") == without


def test_an_adapter_that_is_gone_is_refused_at_submission(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    request = request_tiny.with_changes(adapters=(AdapterUse("gone", "ab" * 32),))
    with pytest.raises(NotFoundError, match="not in the data folder's 'adapters' any more"):
        studio.generation.submit(request, key="1")


def test_an_adapter_of_another_base_is_drawn_with_and_said(
    studio: Studio, tmp_path: Path, request_tiny: GenerationRequest
) -> None:
    told = {"easel.lineage": '{"base_sha256": "00"}'}
    use = studio.adapters.add(write_lora(tmp_path / "a.safetensors", metadata=told)).use()
    view = ended(studio, request_tiny.with_changes(adapters=(use,)))
    assert view.state == "done"
    assert any("another state of the model" in notice for notice in view.notices)


def test_an_adapter_that_does_not_fit_fails_the_job_with_a_sentence(
    studio: Studio, tmp_path: Path, request_tiny: GenerationRequest
) -> None:
    path = tmp_path / "a.safetensors"
    zeros = torch.zeros(2, 2)
    save_file({"unet.other.lora_A.weight": zeros, "unet.other.lora_B.weight": zeros.clone()}, path)
    use = studio.adapters.add(path).use()
    view = ended(studio, request_tiny.with_changes(adapters=(use,)))
    assert view.state == "failed"
    assert "does not fit this model" in view.error
    assert draw(studio, request_tiny, "2")


def test_a_recipe_is_drawn_again_from_the_shelf_of_a_new_process(
    tiny_settings: Settings, tmp_path: Path, request_tiny: GenerationRequest
) -> None:
    found = []
    for number in range(2):
        studio = open_studio(tiny_settings)
        if number == 0:
            use = studio.adapters.add(write_lora(tmp_path / "a.safetensors")).use(0.6)
        found.append(draw(studio, request_tiny.with_changes(adapters=(use,)), str(number)))
        studio.close()
    assert found[0] == found[1]
