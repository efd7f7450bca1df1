"""Small autoencoders: whatever file they come in, what they are recognised as, and what is refused in which words."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny as made
from fakes.command import draw, levels_of, mist
from fakes.tiny import FAMILIES, TAEF2, TAESANA, TAESD, TAESD3
from PIL import Image
from real import real
from safetensors.torch import save_file

from mist_attack.errors import CheckpointError
from mist_attack.hosts.headless import choice, diffusers, tiny
from mist_attack.hosts.tiny import lean
from mist_attack.protection import protect
from mist_attack.settings import Settings

CPU = torch.device("cpu")
PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
names = [family.name for family in FAMILIES]


def encoded(surrogate, picture=PICTURE):
    with torch.no_grad():
        return surrogate.run(lambda model: model.encode(picture), 1, 32, 32).detach()


def expected(family, picture=PICTURE):
    """By the layers one after the other, in [0, 1], and nothing before or after them."""
    module = family.encoder()
    module.load_state_dict(made.tensors(family))
    with torch.no_grad():
        return module(picture)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((family, torch.float32) for family in FAMILIES), (TAESD, torch.float16)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_published_file_is_its_family_and_its_latents_are_the_encoders(tmp_path, family, dtype):
    path = made.write(tmp_path, family, dtype=dtype)
    surrogate = choice.load(path, CPU)
    assert surrogate.name == f"{family.name} (taesd_encoder.pth)" and len(surrogate.sigmas) == 0
    assert {p.dtype for p in surrogate.encoder.parameters()} == {torch.float32}
    found = encoded(surrogate)
    assert found.shape == (1, family.channels, 32 // family.factor, 32 // family.factor)
    torch.testing.assert_close(found, expected(family), rtol=1e-3, atol=1e-5 if dtype == torch.float32 else 2e-3)


@pytest.mark.parametrize(
    ("family", "channels", "scaled"), [(TAESD, 4, {}), (TAESD3, 16, {"scaling_factor": 0.5, "shift_factor": 0.25})]
)
def test_a_diffusers_folder_gives_what_diffusers_gives_in_the_unets_scale(tmp_path, family, channels, scaled):
    """AutoencoderTiny takes [-1, 1]; pipelines scale as its configuration says: published, by 1 and 0."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(0)
    theirs = AutoencoderTiny(latent_channels=channels, **scaled).eval()
    theirs.save_pretrained(tmp_path / "model" / "vae")
    scale, shift = scaled.get("scaling_factor", 1.0), scaled.get("shift_factor", 0.0)
    for folder in (tmp_path / "model", tmp_path / "model" / "vae"):
        surrogate = choice.load(folder, CPU)
        assert surrogate.family == family
        with torch.no_grad():
            latents = (theirs.encode(PICTURE * 2 - 1).latents - shift) * scale
            pictures = (theirs.decode(latents / scale + shift).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(encoded(surrogate), latents, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(surrogate.decode(latents).detach(), pictures, rtol=1e-3, atol=1e-5)


def _taesd_file(path):
    save_file(made.both(), path)


def _of_class(path):
    save_file(made.both(TAESD, "encoder.", "decoder."), path)


def _in_diffusers_layout(path):
    halves = made.both(TAESD, "encoder.layers.", "decoder.layers.")
    shifted = {}
    for name, tensor in halves.items():
        first, layers, number, rest = name.split(".", 3)
        shifted[f"{first}.{layers}.{int(number) - (first == 'decoder')}.{rest}"] = tensor
    save_file(shifted, path)


@pytest.mark.parametrize("write", [_taesd_file, _of_class, _in_diffusers_layout])
def test_both_halves_in_one_file(tmp_path, write):
    write(tmp_path / "small.safetensors")
    surrogate = choice.load(tmp_path / "small.safetensors", CPU)
    torch.testing.assert_close(encoded(surrogate), expected(TAESD), rtol=1e-3, atol=1e-5)
    decoder = TAESD.decoder()
    decoder.load_state_dict(made.tensors(TAESD, "decoder", 1))
    latents = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(surrogate.decode(latents), decoder(latents).clamp(0, 1), rtol=1e-3, atol=1e-5)


def test_a_decoder_beside_it_serves_and_its_absence_is_told(tmp_path):
    path = made.write(tmp_path)
    assert choice.load(path, CPU).decode(torch.zeros(1, 4, 2, 2)).shape == (1, 3, 16, 16)
    (tmp_path / "taesd_decoder.pth").unlink()
    with pytest.raises(CheckpointError, match="no decoder beside it"):
        choice.load(path, CPU).decode(torch.zeros(1, 4, 2, 2))


def test_a_folder_of_one(tmp_path):
    made.write(tmp_path, TAEF2, "taef2")
    assert choice.load(tmp_path, CPU).name == "TAEF2 (taef2_encoder.pth)"


def other_factor():
    """Of 16 pixels to a latent: one halving more."""
    found = made.tensors()
    moved = {
        f"{int(k.split('.')[0]) + 4 * (int(k.split('.')[0]) > 1)}.{k.split('.', 1)[1]}": t for k, t in found.items()
    }
    return moved | {name: tensor for name, tensor in found.items() if name.split(".")[0] in ("2", "3", "4", "5")}


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


BAD = {
    "decoder": (lambda: made.tensors(half="decoder"), "expected an encoder, found the decoder of TAESD or TAESDXL"),
    "another f": (other_factor, "of no known family .3 channels in, 4 out, the scale changed 4 times"),
    "incomplete": (
        lambda: without(made.tensors(), "3.conv.0.bias"),
        r"the encoder of TAESD or TAESDXL without 1 of its tensors .3\.conv\.0\.bias",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_will_not_do_is_refused_with_what_it_is(tmp_path, case):
    write, said = BAD[case]
    torch.save(write(), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=said):
        choice.load(tmp_path / "file.pth", CPU)


def test_families_that_are_mixed_in_a_folder_are_named(tmp_path):
    made.write(tmp_path), made.write(tmp_path, TAESANA, "taesana")
    with pytest.raises(
        CheckpointError, match=r"TAESANA in taesana_enc.*TAESD or TAESDXL in taesd_enc.*Name one encoder's"
    ):
        choice.load(tmp_path, CPU)
    (tmp_path / "taesd_encoder.pth").unlink(), (tmp_path / "taesana_decoder.pth").unlink()
    with pytest.raises(CheckpointError, match="expected one small autoencoder"):  # an encoder and another's decoder
        choice.load(tmp_path, CPU)


class Code:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("named", ["file", "folder"])
@pytest.mark.parametrize(
    ("content", "said"),
    [("cut", "cannot be read"), ("text", "it is not a checkpoint"), ("pickle", "code in a checkpoint is never run")],
)
def test_truncated_and_pickled_files_are_refused_and_nothing_runs(tmp_path, capsys, content, said, named):
    path = made.write(tmp_path)
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"hello", "pickle": pickle.dumps(Code(), 2)}[content])
    with pytest.raises(CheckpointError, match=said):
        choice.load(path if named == "file" else tmp_path, CPU)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("stride", "side"), [(1, 4), (2, 4), (2, 5)])
def test_lean_layers_have_the_slopes_of_the_plain_ones(stride, side):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(2, 3, 3, stride=stride, padding=1).double().requires_grad_(False)
    convs = [torch.nn.Conv2d(2, 2, 3, padding=1).double().requires_grad_(False) for _ in range(3)]
    x = torch.randn(1, 2, side, side + 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: lean.convolved(x, conv), x)
    assert torch.autograd.gradcheck(lambda x: lean.residual(x, convs), x)


@pytest.mark.parametrize("family", FAMILIES, ids=names)
def test_the_gradient_is_the_central_difference(tmp_path, family):
    """In float64, where nothing but the slope is left: within 0.1 %."""
    surrogate = tiny.load(made.write(tmp_path, family), CPU)
    side = 32 // family.factor
    picture, weights = PICTURE.double(), torch.randn(1, family.channels, side, side).double()

    def job(model):
        model.encoder.double()

        def value(x):
            return (model.encode(x) * weights).sum()

        x = picture.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(x), x)
        direction = gradient / gradient.norm()
        with torch.no_grad():
            difference = (value(picture + 1e-6 * direction) - value(picture - 1e-6 * direction)) / 2e-6
        return float(difference), float(gradient.norm())

    difference, slope = surrogate.run(job, 1, 32, 32)
    assert slope > 0 and difference == pytest.approx(slope, rel=1e-3)


# The command


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    draw("a.png", (32, 24))
    return str(made.write(tmp_path))


def run(*words, steps=2):
    return mist("protect", "a.png", "--out", "out", "--steps", steps, "--report", "r.json", *words)


def test_the_command_takes_textural_by_itself_and_nothing_of_diffusers(small, capsys, monkeypatch):
    monkeypatch.setattr(diffusers, "load", None)
    assert run("--checkpoint", small) == 0
    assert "TAESD or TAESDXL (taesd_encoder.pth) on cpu" in capsys.readouterr().out
    settings = json.loads(Path("r.json").read_text("utf-8"))[0]["report"]["settings"]
    assert settings["objective"] == "textural"
    assert 0 < np.abs(levels_of("out/a.png") - levels_of("a.png")).max() <= 16


@pytest.mark.parametrize("words", [("--objective", "fused"), ("--objective", "semantic"), ("--config", "c.yaml")])
def test_the_command_says_what_needs_a_whole_model(small, capsys, words):
    Path("c.yaml").write_text("objective: fused", "utf-8")
    assert run("--checkpoint", small, *words) == 1
    assert "without a UNet: only the textural objective" in capsys.readouterr().err
    assert not Path("out/a.png").exists()


def test_mists_own_flags_keep_meaning_mists(small, capsys):
    asked = ("protect", "-img", "a.png", "--steps", 1, "--input_size", 64, "--checkpoint", small)
    assert mist(*asked) == 1 and "Mist's --mode 1" in capsys.readouterr().err
    assert mist(*asked, "--mode", 1) == 0
    assert Image.open("outputs/images/misted_sample_16_1_64_1_1_1_0_0.png").size == (64, 64)


def test_what_is_done_is_skipped_and_another_autoencoder_is_another_model(small, tmp_path, capsys):
    assert run("--checkpoint", small) == 0
    first = (tmp_path / "out" / "a.png").read_bytes()
    assert run("--checkpoint", small) == 0 and (tmp_path / "out" / "a.png").read_bytes() == first
    (tmp_path / "other").mkdir()
    capsys.readouterr()
    assert run("--checkpoint", made.write(tmp_path / "other", TAESD3, "taef1")) == 0
    assert "TAESD3 or TAEF1" in capsys.readouterr().out and (tmp_path / "out" / "a.png").read_bytes() != first


def test_a_dry_run_and_info(small, capsys):
    assert run("--checkpoint", small, "--dry-run") == 0
    assert "objective textural" in (told := capsys.readouterr().out) and "GiB" in told
    assert mist("info", "--checkpoint", small) == 0
    assert "checkpoint: TAESD or TAESDXL (taesd_encoder.pth), from" in capsys.readouterr().out


def test_the_web_uis_control_is_refused_by_the_command(small, capsys):
    Path("c.yaml").write_text("autoencoder: small", "utf-8")
    assert run("--checkpoint", small, "--config", "c.yaml") == 1
    assert "Autoencoder is for the web UI" in capsys.readouterr().err


# The real ones


@pytest.mark.parametrize(("name", "family"), [("taef2_encoder.pth", TAEF2), ("taesana_encoder.pth", TAESANA)])
def test_a_real_one_is_recognised_and_moved(name, family):
    surrogate = choice.load(real(name), CPU)
    assert surrogate.family == family
    x = torch.linspace(0, 1, 96).expand(1, 3, 96, 96).mul(255).round() / 255
    report = protect(x, surrogate, Settings(objective="textural", steps=4, step_size=4 / 255)).reports[0]
    assert report.after["target_distance"] < 0.9 * report.before["target_distance"]


def test_the_real_decoder_gives_the_picture_back():
    """And so scale, shift and range are right: a wrong one would not look like the picture."""
    surrogate = choice.load(real(), CPU)
    y, x = torch.meshgrid(torch.linspace(0, 3, 128), torch.linspace(0, 3, 128), indexing="ij")
    picture = torch.stack([0.5 + 0.3 * torch.sin(x), 0.5 + 0.3 * torch.cos(y), 0.5 + 0.3 * torch.sin(x + y)])[None]
    with torch.no_grad():
        error = surrogate.decode(surrogate.encode(picture)) - picture
    assert float(error.square().mean().sqrt()) < 0.05
