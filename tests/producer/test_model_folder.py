"""Finding a generator and naming it by its contents."""

import hashlib
import json
from pathlib import Path

import pytest

from penstock.producer import model_folder
from penstock.protocol.errors import ModelError

INDEX = {
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}


def _folder(path: Path) -> Path:
    (path / "unet").mkdir(parents=True)
    (path / "safety_checker").mkdir()
    (path / "tokenizer").mkdir()
    (path / "model_index.json").write_text(json.dumps(INDEX | {"_class_name": "StableDiffusionPipeline"}))
    (path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    (path / "unet" / "config.json").write_text("{}")
    (path / "tokenizer" / "merges.txt").write_text("a b")
    return path


def test_the_digest_is_sha256_over_the_index_and_the_parts_that_make_pixels(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "sd")
    text = json.dumps({name: INDEX[name] for name in ("tokenizer", "unet")})
    for name in ("tokenizer/merges.txt", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"):
        text += f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n"
    assert model_folder.digest(folder) == hashlib.sha256(text.encode()).hexdigest()


def test_what_makes_no_pixels_changes_no_digest(tmp_path: Path) -> None:
    first, second = _folder(tmp_path / "a"), _folder(tmp_path / "deep" / "b")
    (second / "README.md").write_text("A fine model.")
    (second / "unet" / "card.png").write_bytes(b"a picture")
    (second / "safety_checker" / "model.safetensors").write_bytes(b"weights")
    # A clone of a model's page has its variants and other formats, a download has not.
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"):
        (second / "unet" / name).write_bytes(b"variant")
    for name in ("diffusion_pytorch_model.fp16.safetensors.index.json", "model.onnx_data", "openvino_model.xml"):
        (second / "unet" / name).write_bytes(b"{}")
    assert model_folder.digest(first) == model_folder.digest(second)


@pytest.mark.parametrize(
    ("name", "num_digests"),
    # Weights of another name are not loaded: they are missing.
    [("unet/diffusion_pytorch_model.safetensors", 3), ("unet/config.json", 4), ("tokenizer/merges.txt", 4)],
)
def test_a_changed_renamed_or_missing_file_is_another_model(name: str, num_digests: int, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "sd")
    digests = {model_folder.digest(folder)}
    path = folder / name
    path.write_bytes(path.read_bytes() + b" ")
    digests.add(model_folder.digest(folder))
    path.rename(path.with_stem("other"))
    digests.add(model_folder.digest(folder))
    path.with_stem("other").unlink()
    digests.add(model_folder.digest(folder))
    assert len(digests) == num_digests


def test_a_folder_is_found_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(tmp_path / "sd")
    assert model_folder.find(str(folder)) == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_folder.find("~/sd") == folder
    monkeypatch.chdir(tmp_path)
    assert model_folder.find("sd").resolve() == folder


@pytest.mark.parametrize("name", ["missing", "/nowhere/at/all", ""])
def test_a_missing_folder_is_one_line_with_what_to_give(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        model_folder.find(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_or_file_that_is_no_pipeline_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        model_folder.find(str(tmp_path))
    (tmp_path / "sd.ckpt").write_bytes(b"weights")
    with pytest.raises(ModelError, match=r"sd\.ckpt"):
        model_folder.find(str(tmp_path / "sd.ckpt"))


def test_a_hub_id_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"model 'nobody/nothing'.*no folder of that name here") as caught:
        model_folder.find("nobody/nothing")
    assert "\n" not in str(caught.value)
