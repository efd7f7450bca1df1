"""The parts by which a demo model is trained and judged, against closed forms."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from mist_attack.demo import generated
from mist_attack.hosts.headless import checkpoints, diffusers
from training import judge, style, train
from training.linear_start import start_linear, start_passing
from training.muon import Muon, orthogonal
from training.train import new_unet, new_vae, sd_schedule, sigmas


def smooth(count, side, seed=0):
    """(count, 3, side, side) in about [-1, 1], with the correlations of pictures."""
    noise = torch.randn(count, 3, side + 8, side + 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(noise.cumsum(2).cumsum(3), 9, 1).div(20).tanh()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 4, 3, 3)])
def test_muons_direction_has_equal_singular_values_and_the_gradients_vectors(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found, matrix = orthogonal(gradient).flatten(1), gradient.flatten(1)
    scale = 0.2 * max(matrix.shape) ** 0.5
    values = torch.linalg.svdvals(found) / scale
    assert values.min() > 0.5 and values.max() < 1.3  # the quintic's band
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert float((u.T @ found @ v.T).diagonal().min()) > 0.5 * scale


def test_muon_finds_a_least_squares_solution_and_resumes():
    torch.manual_seed(0)
    layer, wanted = nn.Linear(5, 3), nn.Linear(5, 3)
    x = torch.randn(64, 5)

    def steps(optimizer, count):
        for step in range(count):
            optimizer.rate = 0.1 * (1 - step / count)
            layer.zero_grad()
            (layer(x) - wanted(x)).square().mean().backward()
            optimizer.step()

    first = Muon(layer.parameters(), 0.1)
    steps(first, 3)
    state, weights = first.state_dict(), [p.detach().clone() for p in layer.parameters()]
    momenta = [momentum.clone() for momentum in state["momenta"]]
    steps(first, 200)
    assert (layer(x) - wanted(x)).square().mean().item() < 1e-3
    with torch.no_grad():
        for parameter, before in zip(layer.parameters(), weights, strict=True):
            parameter.copy_(before)
    second = Muon(layer.parameters(), 0.1)
    second.load_state_dict({"momenta": momenta, "rest": state["rest"]})
    assert all(torch.equal(a, b) for a, b in zip(second.momenta, momenta, strict=True))


def test_an_autoencoder_begins_at_the_principal_components():
    patches, picture = smooth(4000, 8), smooth(1, 64, seed=1)
    vae = new_vae().eval()
    start_linear(vae, patches)
    flat = patches.flatten(1) - patches.flatten(1).mean(0)
    spread, basis = torch.linalg.eigh(flat.T.cov())
    kernels = (basis[:, -4:] / spread[-4:].sqrt()).T.reshape(4, 3, 8, 8)
    with torch.no_grad():
        latents = vae.encode(picture).latent_dist.mean
        decoded = vae.decode(latents).sample
    wanted = nn.functional.conv2d(picture, kernels, stride=8)
    for found, component in zip(latents[0], wanted[0], strict=True):
        assert torch.corrcoef(torch.stack([found.flatten(), component.flatten()]))[0, 1] > 0.99
        assert float(found.std() / component.std()) == pytest.approx(1, abs=0.1)
    constant = float((picture - picture.mean((2, 3), keepdim=True)).square().mean())
    assert float((decoded - picture).square().mean()) < 0.5 * constant


def test_the_linear_codes_error_is_the_variance_it_leaves_out():
    patches = smooth(3000, 8).flatten(1) / 4 + 0.5
    code = judge.LinearCode.fitted(patches)
    left = torch.linalg.eigvalsh((patches - patches.mean(0)).T.cov())[:-4].sum() / 192
    errors = [code.error(patch.reshape(1, 3, 8, 8)) for patch in patches]
    assert sum(errors) / len(errors) == pytest.approx(float(left), rel=0.02)


def test_the_linear_denoiser_of_white_latents_is_wieners():
    """For independent latents of variance v: noise = s (x - mean) / (v + s^2), whose error is v / (v + s^2)."""
    generator = torch.Generator().manual_seed(0)
    variance, mean, sigma = 2.0, 0.5, torch.tensor([0.7])
    latents = variance**0.5 * torch.randn(3000, 4, 4, 4, generator=generator) + mean
    denoiser = judge.LinearDenoiser.fitted(latents)
    noise = torch.randn(1, 4, 4, 4, generator=generator)
    x = latents[:1] + sigma * noise
    wanted = sigma * (x - mean) / (variance + sigma**2)
    torch.testing.assert_close(denoiser(x, sigma), wanted, atol=0.12, rtol=0)
    noises = torch.randn(latents.shape, generator=generator)
    error = (denoiser(latents + sigma * noises, sigma.expand(3000)) - noises).square().mean()
    assert float(error) == pytest.approx(variance / (variance + 0.49), rel=0.03)
    assert float(denoiser.loss(sigma)) == pytest.approx(float(error), rel=0.03)


def test_a_denoiser_begins_by_passing_the_noised_latents():
    """What is right at SD's last timestep, where the noise is nearly all there is, within the little that is left."""
    unet = new_unet().eval()
    start_passing(unet)
    noise, latents = (torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    noised = sd_schedule().add_noise(latents, noise, torch.tensor([999, 999]))
    with torch.no_grad():
        eps_pred = unet(noised, torch.tensor([999, 999]), torch.randn(2, 8, 64)).sample
        assert (eps_pred - noised).square().mean() < 1e-3
    left = 1 / float(sigmas(sd_schedule())[-1]) ** 2
    assert float((eps_pred - noise).square().mean()) < 1.5 * left


def test_what_a_model_is_compared_with_is_kept_beside_it(tmp_path):
    code = judge.LinearCode.fitted(torch.rand(300, 192))
    denoiser = judge.LinearDenoiser.fitted(torch.randn(40, 4, 8, 8))
    judge.save_linear(tmp_path, code, denoiser)
    read, other = judge.load_linear(tmp_path)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 2.0])
    torch.testing.assert_close(other(x, sigma), denoiser(x, sigma))
    picture = torch.rand(1, 3, 16, 16)
    assert read.error(picture) == pytest.approx(code.error(picture))


class Latents:
    """A model whose latents are the picture's colours and a constant."""

    def encode(self, image):
        return torch.cat([image, image[:, :1] * 0], 1)


def test_the_distance_between_styles_is_frechets():
    generator = torch.Generator().manual_seed(0)
    some = [torch.randn(1, 3, 40, 40, generator=generator) for _ in range(3)]
    assert style.distance(Latents(), some, some) == pytest.approx(0, abs=1e-6)
    moved = [x + 0.5 for x in some]
    assert style.distance(Latents(), some, moved) == pytest.approx(12 * 0.25, rel=1e-3)  # 2 x 2 x 3 numbers move
    wider = [2 * x for x in some]
    spread = sum(float(numbers.var()) for numbers in nn.functional.unfold(torch.cat(some), 2).unbind(1))
    assert style.distance(Latents(), some, wider) == pytest.approx(spread, rel=0.02)  # (2 - 1)^2 of each variance


def test_a_lora_learns_its_pictures_and_leaves_nothing():
    torch.manual_seed(0)
    model = diffusers.load(checkpoints.find_checkpoint("demo"), torch.device("cpu"))
    pictures = [picture[:, :, :64, :64] for picture in generated.style(4)]

    def loss(ready):
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            z = torch.cat([ready.encode(picture) for picture in pictures])
            sigma, noise = ready.sigmas[[300, 450, 600, 750]], torch.randn(z.shape, generator=generator)
            noised = ready.noising.noised(z, noise, sigma)
            denoised = ready.denoise(noised, sigma, ready.conditioning("a drawing"))
            return float(((noised - denoised) / sigma.view(-1, 1, 1, 1) - noise).square().mean())

    def job(ready):
        before = loss(ready)
        with style.taught(ready, pictures, "a drawing", 40):
            assert any(isinstance(layer, style.LowRank) for layer in ready.unet.modules())
            taught = loss(ready)
        assert not any(isinstance(layer, style.LowRank) for layer in ready.unet.modules())
        return before, taught, loss(ready)

    before, taught, after = model.run(job, 1, 64, 64)
    assert taught < 0.97 * before
    assert after == before


def test_generated_pictures_are_of_four_kinds_and_always_the_same():
    pictures = generated.unseen(2)
    assert set(pictures) == {"drawing", "lineart", "painting", "photograph"}
    for kind, members in pictures.items():
        assert [x.shape for x in members] == [(1, 3, 256, 256)] * 2, kind
        assert all(float(x.min()) >= 0 and float(x.max()) <= 1 and float(x.std()) > 0.05 for x in members)
        assert not torch.equal(members[0], members[1])
    again = generated.unseen(1)
    assert all(torch.equal(pictures[kind][0], again[kind][0]) for kind in pictures)
    lines = pictures["lineart"][0]
    assert float((lines.amax(1) - lines.amin(1)).max()) < 0.02  # no colour
    assert isinstance(generated.painted(Image.new("RGB", (256, 256), "gray"), 0), Image.Image)


def test_training_goes_on_from_a_trained_model(tmp_path):
    (tmp_path / "pictures" / "drawing").mkdir(parents=True)
    Image.new("RGB", (256, 256), "red").save(tmp_path / "pictures" / "drawing" / "red.png")
    begun, out = checkpoints.find_checkpoint("demo"), tmp_path / "model"
    steps = ["--vae-steps", "0", "--sensitive-steps", "0", "--unet-steps", "0", "--latents", "8"]
    train.main(["--pictures", str(tmp_path / "pictures"), "--out", str(out), "--begun", str(begun), *steps])
    for name in ("vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model", "prompts"):
        before, after = (load_file(folder / f"{name}.safetensors") for folder in (begun, out))
        assert all(torch.equal(tensor, after[key]) for key, tensor in before.items()), name
