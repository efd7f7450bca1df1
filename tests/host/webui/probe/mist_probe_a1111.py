"""What the probe looks at in AUTOMATIC1111's web UI alone."""

import torch
from mist_probe_gradients import run
from modules import call_queue, sd_hijack
from modules.models.sd3 import mmdit, other_impls, sd3_cond, sd3_impls
from safetensors.torch import save_file


def modules(model):
    return [model]


def denoiser(model):
    """Whose `apply_model` is the UNet."""
    return model


@torch.no_grad()
def denoised(model, noised, sigma, conditioning):
    """As its samplers ask for it; only of SD3 that is the clean latents."""
    return model.apply_model(noised, sigma, dict(conditioning))


def borrowed():
    return {
        "attention": sd_hijack.model_hijack.optimization_method,
        "infotext": dict(sd_hijack.model_hijack.extra_generation_params),
    }


def check_attention():
    """Relative difference of the gradient between each attention optimisation and the first."""
    options = ["None", *(option.title() for option in sd_hijack.optimizers)]
    gradients = {}
    for option in options:
        with call_queue.queue_lock:
            sd_hijack.model_hijack.apply_optimizations(option)
        gradients[option] = run(lambda f, x: f(x)[1])
    with call_queue.queue_lock:
        sd_hijack.model_hijack.apply_optimizations()
    first = gradients[options[0]]
    return {option: float((g - first).norm() / first.norm()) for option, g in gradients.items()}


def unknown_attention():
    """An optimisation with no backward, as xformers' old builds: the adapter must not use it."""
    from modules.sd_hijack_optimizations import SdOptimizationSdp

    class Broken(SdOptimizationSdp):
        name = "xformers"

        def apply(self):
            import ldm.modules.attention as attention

            forward = attention.CrossAttention.forward
            attention.CrossAttention.forward = lambda layer, x, **o: forward(layer, x.detach(), **o).detach()

    expected = run(lambda f, x: f(x)[1])
    with call_queue.queue_lock:
        before = sd_hijack.current_optimizer
        broken = Broken()
        broken.apply()
        sd_hijack.current_optimizer = broken
        import ldm.modules.attention as attention

        borrowed = attention.CrossAttention.forward
    try:
        gradient = run(lambda f, x: f(x)[1])
        restored = attention.CrossAttention.forward is borrowed
    finally:
        sd_hijack.current_optimizer = before
        sd_hijack.model_hijack.apply_optimizations()
    return {"relative": float((gradient - expected).norm() / expected.norm()), "restored": restored}


CLIP = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3}


class NoT5Tokenizer:
    """In place of one that would be fetched from the network; T5 itself is switched off, as the web UI has it."""

    @classmethod
    def from_pretrained(cls, *_):
        return cls()

    def __call__(self, *_, **__):
        return {"input_ids": [1, 0]}

    def get_vocab(self):
        return {}


def know_small_sd3():
    """The sizes that the host has in its code and does not read from the file."""
    for config in (sd3_cond.CLIPL_CONFIG, sd3_cond.CLIPG_CONFIG):
        config.update(CLIP)
    sd3_cond.T5TokenizerFast = other_impls.T5TokenizerFast = NoT5Tokenizer
    sd3_impls.VAEEncoder.__init__.__defaults__ = (32, (1, 1, 2, 2), 1, 3, 16, torch.float32, None)
    sd3_impls.VAEDecoder.__init__.__defaults__ = (32, 3, (1, 1, 2, 2), 1, 256, 16, torch.float32, None)


@torch.no_grad()
def write_sd3(file: str):
    """A checkpoint with random weights."""
    torch.manual_seed(3)
    context = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 64}}
    sizes = {"input_size": None, "in_channels": 16, "depth": 1, "num_patches": 32**2, "pos_embed_max_size": 32}
    texts = {"clip_l": sd3_cond.CLIPL_CONFIG, "clip_g": sd3_cond.CLIPG_CONFIG}
    parts = {
        "model.diffusion_model.": mmdit.MMDiT(adm_in_channels=128, context_embedder_config=context, **sizes),
        "first_stage_model.": sd3_impls.SDVAE(),
        **{
            f"text_encoders.{name}.transformer.": other_impls.CLIPTextModel(config, torch.float32, "cpu")
            for name, config in texts.items()
        },
    }
    tensors = {}
    for prefix, module in parts.items():
        for parameter in module.parameters():
            parameter.normal_(0, parameter[0].numel() ** -0.5) if parameter.ndim > 1 else None
        tensors |= {prefix + key: value.contiguous() for key, value in module.state_dict().items()}
    save_file(tensors, file)
    return {}


know_small_sd3()
ROUTES = (write_sd3, check_attention, unknown_attention)
