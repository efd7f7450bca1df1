"""The small autoencoder of a web UI: the one that fits the loaded model, never downloaded, and never touched."""

import importlib
from pathlib import Path

import pytest
import torch
from fakes import tiny as made
from fakes import webui, webui_face
from fakes.tiny import FAMILIES
from fakes.toy import ToySurrogate

from mist_attack.errors import CheckpointError

host = webui.modules["sd_vae_taesd"]
face = webui_face.face
CPU = torch.device("cpu")


@pytest.fixture
def taesd(monkeypatch, tmp_path):
    """As the web UI's sd_vae_taesd: downloads what is not there, keeps what it has loaded, in the host's precision."""
    path = tmp_path / "models" / "VAE-taesd" / "taesd_encoder.pth"
    path.parent.mkdir(parents=True)

    def encoder_model():
        host.download_model(str(path), "https://example.org/taesd_encoder.pth")
        encoder = made.TAESD.encoder()
        encoder.load_state_dict(torch.load(path, weights_only=True))
        return encoder.half()

    def download_model(path, url):
        raise AssertionError("Mist tried to download")

    monkeypatch.setattr(host, "encoder_model", encoder_model)
    monkeypatch.setattr(host, "download_model", download_model)
    return path


def small_of(model=None):
    with webui.installed():
        return importlib.import_module("mist_attack.hosts.taesd").small_of(model or ToySurrogate())


def test_it_takes_the_place_of_the_models_own(taesd):
    made.write(taesd.parent)
    surrogate = small_of()
    assert surrogate.name == "small autoencoder of toy, seed 0" and surrogate.device == CPU
    picture = torch.rand(1, 3, 32, 32)
    encoder = made.TAESD.encoder()
    encoder.load_state_dict({name: tensor.half().float() for name, tensor in made.tensors().items()})
    with torch.no_grad():
        found = surrogate.run(lambda model: model.encode(picture), 1, 32, 32)
        torch.testing.assert_close(found, encoder(picture), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_every_family_that_a_web_ui_may_have(taesd, monkeypatch, family):
    monkeypatch.setattr(host, "encoder_model", family.encoder)
    assert small_of().family == family


def test_gradients_go_through_weights_that_were_loaded_in_inference_mode(taesd, monkeypatch):
    with torch.inference_mode():
        theirs = made.TAESD.encoder()
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    monkeypatch.setattr(host, "encoder_model", lambda: theirs)

    def job(model):
        x = torch.rand(1, 3, 32, 32, requires_grad=True)
        return torch.autograd.grad(model.encode(x).square().sum(), x)[0]

    with torch.inference_mode():
        gradient = small_of().run(job, 1, 32, 32)
    assert gradient.abs().max() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in theirs.state_dict().items())
    assert all(p.is_inference() and p.requires_grad for p in theirs.parameters())


def test_what_is_missing_is_named_and_not_downloaded(taesd):
    kept = host.download_model
    with pytest.raises(CheckpointError, match=r"no taesd_encoder\.pth in models/VAE-taesd, and Mist downloads nothing"):
        small_of()
    assert host.download_model is kept


def test_a_broken_file_is_told(taesd):
    taesd.write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"cannot load its TAESD.*choose the full autoencoder"):
        small_of()


@pytest.mark.parametrize(
    ("objective", "autoencoder", "small", "told"),
    [
        ("textural", "full", False, ""),
        ("textural", "small", True, ""),
        ("fused", "small", False, "autoencoder small is for the textural mode alone: fused used the model's own"),
    ],
)
def test_it_is_used_where_it_is_asked_for(monkeypatch, tmp_path, objective, autoencoder, small, told):
    webui_face.start(monkeypatch, tmp_path)
    asked = []
    monkeypatch.setattr(face.jobs, "loaded_model", lambda **options: asked.append(options) or ToySurrogate())
    settings = face.options.settings_from({"objective": objective, "autoencoder": autoencoder, "steps": 1})
    outcome = face.jobs.protect_picture(webui_face.painting(), settings)
    assert [options["small"] for options in asked] == [small]
    assert "; ".join(outcome.report.notices) == told
    assert face.infotext.keys_of(outcome.report).get("Mist autoencoder") == (
        autoencoder if objective == "textural" else None
    )


def test_the_loaded_model_is_replaced_where_small_is_asked_for(taesd, monkeypatch):
    from mist_attack.hosts import detect

    made.write(Path(taesd.parent))
    monkeypatch.setattr(webui.modules["shared"], "sd_model", webui.Model(), raising=False)
    with webui.installed():
        webui.adapter(), small_of()
        assert detect.loaded_model(small=True).name == "small autoencoder of SD1 (tiny-sd1)"
        assert detect.loaded_model().name == "SD1 (tiny-sd1)"
