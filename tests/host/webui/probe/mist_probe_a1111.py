"""What the probe looks at in AUTOMATIC1111's web UI alone."""

from mist_probe_gradients import run
from modules import call_queue, sd_hijack


def modules(model):
    return [model]


def denoiser(model):
    """Whose `apply_model` is the UNet."""
    return model


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


ROUTES = (check_attention, unknown_attention)
