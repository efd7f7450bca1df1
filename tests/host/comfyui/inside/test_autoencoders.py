"""VAEs of every kind that is taken, against the host's own encode and decode, which stay as they are."""

import comfy.sd
import pytest
import torch
from autoencoders import FAMILIES, TAEHV, latent_format, vae
from host.comfyui.make_checkpoints import randomised

from mist_attack.errors import CheckpointError
from mist_attack.hosts.comfyui.adapter import ComfySurrogate

SIDE = 64
each = pytest.mark.parametrize("name", FAMILIES)


def pictures(count=1):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def by_the_host(name, batch, dtype=torch.float32):
    """Each picture alone: the host makes one video of a batch."""
    latents = torch.cat([vae(name, dtype).encode(picture[None].movedim(1, -1)) for picture in batch])
    own = latent_format(name)
    latents = latents if own is None else own.process_in(latents)
    return latents.squeeze(2) if latents.ndim == 5 else latents


def run(name, job, dtype=torch.float32, **options):
    return ComfySurrogate(vae(name, dtype)).run(job, 2, SIDE, SIDE, **options)


@each
def test_latents_are_the_hosts_in_the_scale_of_the_family(name):
    batch = pictures(2)
    found = run(name, lambda model: model.encode(batch))
    torch.testing.assert_close(found, by_the_host(name, batch), rtol=1e-4, atol=1e-4)
    assert found.ndim == 4 and found.shape[2] == SIDE // ComfySurrogate(vae(name)).spatial_multiple("textural")


@each
def test_reconstructions_are_the_hosts(name):
    batch = pictures(2)
    found = run(name, lambda model: model.decode(model.encode(batch)))
    shown = [vae(name).decode(vae(name).encode(picture[None].movedim(1, -1))) for picture in batch]
    shown = torch.stack([picture.reshape(SIDE, SIDE, -1)[..., :3].movedim(-1, 0) for picture in shown])
    torch.testing.assert_close(found, shown, rtol=1e-3, atol=1e-3)


def gradient(name, dtype=torch.float32, **options):
    def job(model):
        x = pictures(2).requires_grad_()
        return torch.autograd.grad(model.encode(x).square().mean(), x)[0]

    return run(name, job, dtype, **options)


@each
def test_the_low_vram_way_gives_the_same_gradient(name):
    expected = gradient(name)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(name, low_vram=True), expected, rtol=1e-4, atol=1e-7)


@each
def test_the_hosts_own_results_stay_bit_identical(name):
    model, image = vae(name), pictures().movedim(1, -1)
    latents = model.encode(image)
    shown = model.decode(latents)

    def failing(surrogate):
        surrogate.decode(surrogate.encode(pictures()))
        raise ValueError

    for low_vram in (False, True):
        gradient(name, low_vram=low_vram)
        with pytest.raises(ValueError):
            run(name, failing, low_vram=low_vram)
        assert torch.equal(model.encode(image), latents) and torch.equal(model.decode(latents), shown)
    assert all(value.is_inference() for value in model.first_stage_model.parameters())


@each
def test_half_precision_computes_in_float32_with_the_rounded_weights(name):
    half = vae(name, torch.bfloat16)
    assert {value.dtype for value in half.first_stage_model.parameters()} == {torch.bfloat16}
    found = gradient(name, torch.bfloat16)
    before = half.first_stage_model
    rounded = vae(name).first_stage_model
    kept = {key: value.clone() for key, value in rounded.state_dict().items()}
    rounded.load_state_dict(before.state_dict())
    expected = gradient(name)
    rounded.load_state_dict(kept)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_what_encodes_no_picture_is_refused_by_name():
    found = {"PixelspaceConversionVAE": {"pixel_space_vae": torch.tensor(1.0)}}
    if TAEHV is not None:  # of LTX 2, which makes videos alone
        found |= {"TAEHV \\(for videos\\)": randomised(TAEHV(128))}
    for words, state in found.items():
        with pytest.raises(CheckpointError, match=rf"Expected a VAE for pictures.*found {words}.*Load VAE"):
            ComfySurrogate(comfy.sd.VAE(sd=state))
