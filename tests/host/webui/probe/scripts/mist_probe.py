"""Test routes inside the real web UI's process: what the adapter computes there, and in which state it leaves it."""

import hashlib
from pathlib import Path

import mist_probe_device  # noqa: F401  # first: it may choose the device
import numpy as np
import torch
from mist_probe_gradients import differences, predicted, run
from modules import call_queue, images, paths_internal, postprocessing, script_callbacks, scripts, sd_vae_taesd, shared
from pydantic import BaseModel

from mist_attack.hosts import detect

if detect.webui() == "forge":
    import mist_probe_forge as host
else:
    import mist_probe_a1111 as host


def check_gradient(low_vram: bool = False, step: float = 5e-4):
    found, expected = run(lambda f, x: differences(f, x, step), low_vram)
    return {"differences": found, "gradient": expected, "relative": abs(found / expected - 1)}


def gradient_digest(low_vram: bool = False, file: str = ""):
    """`file`: where the gradient itself is left."""
    gradient = run(lambda f, x: f(x)[1], low_vram).cpu()
    if file:
        np.save(file, gradient.numpy())
    return {"norm": float(gradient.norm()), "digest": hashlib.sha256(gradient.numpy().tobytes()).hexdigest()}


def check_sds():
    return predicted(lambda *given: host.denoised(shared.sd_model, *given))


def state():
    """Everything an adapter borrows, as one comparable value."""
    with call_queue.queue_lock:
        modules = host.modules(shared.sd_model)
        parameters = [p for module in modules for p in module.parameters()]
        layers = [layer for module in modules for layer in module.modules()]
        weights = hashlib.sha256()
        for parameter in parameters:
            weights.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {
            "weights": weights.hexdigest(),
            "gradients": sum(p.requires_grad for p in parameters),
            "kept": sum(p.grad is not None for p in parameters),
            "inference": sum(p.is_inference() for p in parameters),
            "training": sum(layer.training for layer in layers),
            "dtypes": sorted({str(p.dtype) for p in parameters}),
            "overridden": sum("forward" in vars(layer) for layer in layers),
            "flags": [getattr(layer, "use_checkpoint", None) for layer in layers],
            "casts": [getattr(layer, "parameters_manual_cast", None) for layer in layers],
            "rng": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
            "overwrite": torch.__future__.get_overwrite_module_params_on_conversion(),
            "job": shared.state.job,
            **host.borrowed(),
        }


failing = vars(shared).setdefault("mist_probe_failing", {"step": 0, "error": ""})  # outlives a reload of the page
ERRORS = {
    "RuntimeError": RuntimeError("made up by a test"),
    "OutOfMemory": RuntimeError("out of memory, made up by a test"),
    "GradientError": None,
}


def fail_at(step: int, error: str, times: int = 1_000_000):
    """From now on the UNet fails from its n-th call with gradients on, and so often; 0 for never."""
    failing.update(step=step, error=error, calls=0, times=times)


def wrap_apply_model(model):
    owner = host.denoiser(model)
    original = owner.apply_model

    def apply_model(x, *arguments, **options):
        if failing["step"] and torch.is_grad_enabled():
            failing["calls"] += 1
            if failing["step"] <= failing["calls"] < failing["step"] + failing["times"]:
                if ERRORS[failing["error"]] is not None:
                    raise ERRORS[failing["error"]]
                return original(x * torch.nan, *arguments, **options)
        return original(x, *arguments, **options)

    owner.apply_model = apply_model


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


def write_small_encoder(name: str):
    """A TAESD's encoder with weights of chance, where the web UI looks for one."""
    folder = Path(paths_internal.models_path) / "VAE-taesd"
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = sd_vae_taesd.encoder().state_dict()
    # The web UI refuses what the newest torch adds to an archive: as older ones wrote it.
    torch.save(weights, folder / name, _use_new_zipfile_serialization=False)


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
        check_sds,
        gradient_digest,
        state,
        fail_at,
        last_comments,
        write_small_encoder,
        reload_ui,
        *host.ROUTES,
    ):
        app.add_api_route(f"/mist_probe/{function.__name__}", function, methods=["GET"])


script_callbacks.on_app_started(routes)
script_callbacks.on_model_loaded(wrap_apply_model)
