"""Where checkpoints are looked for, and files that are refused: other models, broken ones, and code."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from mist_attack.errors import CheckpointError
from mist_attack.hosts.headless import checkpoints, diffusers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_checkpoint_named(monkeypatch):
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)


def test_where_a_checkpoint_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="No model") as error:
        checkpoints.find_checkpoint(None)
    assert "MIST_CHECKPOINT" in str(error.value) and "model.ckpt" in str(error.value)
    usual = tmp_path / "models/ldm/stable-diffusion-v1/model.ckpt"
    usual.parent.mkdir(parents=True)
    usual.write_bytes(b"x")
    assert checkpoints.find_checkpoint(None).resolve() == usual
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x")
    monkeypatch.setenv("MIST_CHECKPOINT", str(other))
    assert checkpoints.find_checkpoint(None) == other
    assert checkpoints.find_checkpoint(str(usual)) == usual
    with pytest.raises(CheckpointError, match="nowhere"):
        checkpoints.find_checkpoint("nowhere.ckpt")
    assert checkpoints.find_checkpoint("demo").name == "seed0"
    assert checkpoints.demo_models() == ["demo:0", "demo:1"]
    with pytest.raises(CheckpointError, match="demo:7"):
        checkpoints.find_checkpoint("demo:7")


FOREIGN = {
    "a LoRA": {"unet.down_blocks.0.attn1.processor.to_q_lora.down.weight": (4, 4)},
    "a textual inversion": {"emb_params": (1, 768)},
    "the refiner": {"conditioner.embedders.0.model.ln_final.bias": (1,), checkpoints.UNET_IN: (384, 4, 3, 3)},
    "as EDM does": {"edm_mean": (1,), checkpoints.UNET_IN: (320, 4, 3, 3)},
    "without its text encoder": {checkpoints.UNET_IN: (320, 4, 3, 3), checkpoints.VAE_IN: (128, 3, 3, 3)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x": (1,)},
    "Flux": {"double_blocks.0.img_attn.qkv.weight": (1,)},
    "9 input channels": {checkpoints.UNET_IN: (320, 9, 3, 3), checkpoints.VAE_IN: (128, 3, 3, 3)},
    "a VAE alone": {checkpoints.VAE_IN: (128, 3, 3, 3)},
    "without its VAE": {checkpoints.UNET_IN: (320, 4, 3, 3)},
    "another kind": {"layers.0.weight": (2, 2)},
    "no tensors": {},
}


@pytest.mark.parametrize("said", FOREIGN)
def test_other_models_are_named_and_refused(tmp_path, said):
    save_file({name: torch.zeros(shape) for name, shape in FOREIGN[said].items()}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=said) as error:
        diffusers.load(tmp_path / "m.safetensors", CPU)
    assert "Accepted:" in str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("content", ["", "cut", "words"])
def test_broken_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"m{suffix}"
    if content == "cut":
        small = {"a": torch.zeros(100)}
        save_file(small, path) if suffix == ".safetensors" else torch.save(small, path)
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_text(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        diffusers.load(path, CPU)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "m.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"safetensors or \.ckpt"):
        diffusers.load(tmp_path / "m.bin", CPU)


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_ckpt_is_never_run(tmp_path):
    torch.save({"state_dict": Code(str(tmp_path / "ran"))}, tmp_path / "evil.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(Code(str(tmp_path / "ran")), protocol=2))
    for name in ("evil.ckpt", "old.ckpt"):
        with pytest.raises(CheckpointError, match="never run"):
            diffusers.load(tmp_path / name, CPU)
    assert not (tmp_path / "ran").exists()
