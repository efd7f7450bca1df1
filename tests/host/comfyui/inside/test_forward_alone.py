"""What nobody has checked the derivative of is asked for predictions alone: weights in a format of a node pack (as GGUF
ones are), foreign attention kernels, compiled models. Each against the host's own guider."""

import comfy.ops
import comfy.sd
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from families import conditioning, model, vae
from test_families import SIDE, Asked

import mist_attack.protection
from mist_attack.hosts.comfyui.adapter import ComfySurrogate
from mist_attack.settings import Settings


class Packed(torch.Tensor):
    """Eight bits of a weight and one scale, in a class of its own: what its numbers are, only its layer knows."""

    @staticmethod
    def __new__(cls, weight):
        scale = weight.abs().max() / 127
        made = (weight / scale).round().to(torch.int8).as_subclass(cls)
        made.scale = scale
        return made


class PackOps(comfy.ops.manual_cast):
    """As the node packs for GGUF have them: a layer that brings its weight back for each call."""

    class Linear(comfy.ops.manual_cast.Linear):
        calls = 0

        def forward(self, x):
            if not isinstance(self.weight.data, Packed):
                self.packed = Packed(self.weight.data)
            assert torch.is_inference_mode_enabled()
            type(self).calls += 1
            weight = self.packed.as_subclass(torch.Tensor).to(x.dtype) * self.packed.scale
            return torch.nn.functional.linear(x, weight, self.bias)


def packed():
    state = model("flux").model.diffusion_model.state_dict()
    options = {"custom_operations": PackOps, "dtype": torch.float32}
    return comfy.sd.load_diffusion_model_state_dict(dict(state), model_options=options)


class Kernel:
    calls = 0

    def __call__(self, own, *args, **kwargs):
        Kernel.calls += 1
        assert not torch.is_grad_enabled() or torch.is_inference_mode_enabled()
        return own(*args, **kwargs) * 1.001


def with_a_foreign_kernel():
    clone = model("flux").clone()
    clone.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = Kernel()
    return clone


def compiled():
    clone = model("flux").clone()
    set_torch_compile_wrapper(model=clone, backend="eager", keys=["diffusion_model.final_layer.linear"])
    return clone


@pytest.mark.parametrize("make", [packed, with_a_foreign_kernel, compiled], ids=lambda make: make.__name__)
def test_it_predicts_as_in_a_generation_and_is_protected_against(make):
    made, latents = make(), torch.randn(1, 16, 8, 8)
    surrogate = ComfySurrogate(vae("flux"), made, positive=conditioning("flux"))
    sigma = surrogate.sigmas[[3000]]

    def job(ready):
        with torch.no_grad():
            return ready.denoise(latents, sigma, ready.conditioning(""))

    found, asked = surrogate.run(job, 1, SIDE, SIDE), Asked(latents, sigma)
    guider = comfy.samplers.CFGGuider(made)
    guider.inner_set_conds({"positive": conditioning("flux")})
    guider.sample(torch.zeros_like(latents), torch.zeros_like(latents), asked, torch.tensor([1.0, 0.5]), seed=0)
    assert torch.equal(found, asked.denoised)
    before = PackOps.Linear.calls, Kernel.calls
    settings = Settings(objective="fused", gradient="sds", steps=2, step_size=8 / 255, working_size=SIDE)
    (report,) = mist_attack.protection.protect(torch.rand(1, 3, SIDE, SIDE), surrogate, settings).reports
    assert report.budget_used_levels > 0 and report.notices == []
    if make is not compiled:
        assert (PackOps.Linear.calls, Kernel.calls) != before
