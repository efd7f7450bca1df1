"""Test routes inside the real web UI's process: what the adapter computes there, and in which state it leaves it."""

import hashlib

import torch
from modules import call_queue, devices, images, postprocessing, script_callbacks, scripts, sd_hijack, shared
from pydantic import BaseModel

import mist_attack  # so that the imports below find it when a request comes
import mist_attack.errors
import mist_attack.loss
import mist_attack.objectives
import mist_attack.views
from mist_attack.hosts import detect

SIDE = 128


def fused(model, generator):
    """The engine's own fused loss at a fixed target, with the weight at which both terms count."""
    target = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(3))
    textural = mist_attack.objectives.Textural(target)
    semantic = mist_attack.objectives.Semantic(model, model.conditioning("a (painting:1.2)"))
    objective = mist_attack.objectives.Fused(textural, semantic, semantic_weight=16384)
    views = mist_attack.views.plan(SIDE, SIDE, "whole", 512, model.spatial_multiple("fused"))
    return mist_attack.loss.PictureLoss(model, views, [objective], generator)


def with_gradient(low_vram=False):
    """(value and gradient as functions of the picture, a picture) inside the adapter's `run`."""
    generator = torch.Generator(devices.device)
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)) * 0.8 + 0.1

    def job(model):
        loss = fused(model, generator)

        def value_and_gradient(x):
            generator.manual_seed(11)
            value, gradient = loss.value_and_gradient(x)
            return float(value.double()), gradient.double()

        return value_and_gradient, picture

    return job, low_vram


def run(task, low_vram=False):
    job, _ = with_gradient()
    with call_queue.queue_lock:
        surrogate = detect.loaded_model()
        return surrogate.run(lambda model: task(*job(model)), 1, SIDE, SIDE, low_vram=low_vram)


def differences(value_and_gradient, picture, step=5e-4):
    """Slope by differences of the fourth order along the gradient, and what the gradient says it is."""
    _, gradient = value_and_gradient(picture)
    direction = (gradient / gradient.norm()).float() * SIDE * 3**0.5

    def value(factor):
        return value_and_gradient(picture + factor * step * direction)[0]

    slope = (value(-2) - 8 * value(-1) + 8 * value(1) - value(2)) / (12 * step)
    return slope, float(gradient.norm()) * SIDE * 3**0.5


def check_gradient(low_vram: bool = False, step: float = 5e-4):
    found, expected = run(lambda f, x: differences(f, x, step), low_vram)
    return {"differences": found, "gradient": expected, "relative": abs(found / expected - 1)}


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


def gradient_digest(low_vram: bool = False):
    gradient = run(lambda f, x: f(x)[1], low_vram)
    return {"norm": float(gradient.norm()), "digest": hashlib.sha256(gradient.numpy().tobytes()).hexdigest()}


def state():
    """Everything an adapter borrows, as one comparable value."""
    with call_queue.queue_lock:
        model = shared.sd_model
        weights = hashlib.sha256()
        for parameter in model.parameters():
            weights.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return {
            "weights": weights.hexdigest(),
            "gradients": sum(p.requires_grad for p in model.parameters()),
            "kept": sum(p.grad is not None for p in model.parameters()),
            "training": sum(layer.training for layer in model.modules()),
            "dtypes": sorted({str(p.dtype) for p in model.parameters()}),
            "overridden": sum("forward" in vars(layer) for layer in model.modules()),
            "flags": [getattr(layer, "use_checkpoint", None) for layer in model.modules()],
            "attention": sd_hijack.model_hijack.optimization_method,
            "rng": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
            "overwrite": torch.__future__.get_overwrite_module_params_on_conversion(),
            "infotext": dict(sd_hijack.model_hijack.extra_generation_params),
            "job": shared.state.job,
        }


failing = {"step": 0, "error": ""}
ERRORS = {
    "RuntimeError": RuntimeError("made up by a test"),
    "OutOfMemory": RuntimeError("out of memory, made up by a test"),
    "GradientError": None,
}


def fail_at(step: int, error: str, times: int = 1_000_000):
    """From now on the UNet fails from its n-th call with gradients on, and so often; 0 for never."""
    failing.update(step=step, error=error, calls=0, times=times)


def wrap_apply_model(model):
    original = type(model).apply_model

    def apply_model(x, *arguments, **options):
        if failing["step"] and torch.is_grad_enabled():
            failing["calls"] += 1
            if failing["step"] <= failing["calls"] < failing["step"] + failing["times"]:
                if ERRORS[failing["error"]] is not None:
                    raise ERRORS[failing["error"]]
                return original(model, x * torch.nan, *arguments, **options)
        return original(model, x, *arguments, **options)

    model.apply_model = apply_model


comments = []


class Remember(scripts.Script):
    """The comments that the page shows under a generation's images."""

    def title(self):
        return "Mist probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess(self, p, processed, *arguments):
        comments.append(processed.comments)


def last_comments():
    return {"comments": comments[-1]}


def reload_ui():
    """What the button of that name does."""
    shared.state.request_restart()


class ExtrasJob(BaseModel):
    mode: int
    source: str
    destination: str
    controls: dict


def extras(job: ExtrasJob):
    """The Extras tab's own function with Mist switched on; 0 is a single picture, 2 a directory."""
    runner = scripts.scripts_postproc
    runner.create_args_for_run({})  # makes the widgets
    values = {
        script.name: {name: widget.value for name, widget in script.controls.items()}
        for script in runner.scripts_in_preferred_order()
    }
    values["Mist"] |= {"enable": True, **job.controls}
    arguments = runner.create_args_for_run(values)
    image = images.read(job.source) if job.mode == 0 else None
    with call_queue.queue_lock:
        answer = postprocessing.run_postprocessing(
            job.mode, image, [], job.source, job.destination, True, *arguments, save_output=True
        )
    return {"count": len(answer[0]), "html": answer[1]}


def routes(_, app):
    app.add_api_route("/mist_probe/extras", extras, methods=["POST"])
    for function in (
        check_gradient,
        check_attention,
        unknown_attention,
        gradient_digest,
        state,
        fail_at,
        last_comments,
        reload_ui,
    ):
        app.add_api_route(f"/mist_probe/{function.__name__}", function, methods=["GET"])


script_callbacks.on_app_started(routes)
script_callbacks.on_model_loaded(wrap_apply_model)
