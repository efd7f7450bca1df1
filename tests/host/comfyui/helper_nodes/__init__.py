"""Nodes for tests alone: an order of execution, conditionings without a text encoder, failures at a chosen call."""

import copy

import torch


class AnyType(str):
    __slots__ = ()

    def __ne__(self, other):
        return False


ANY = AnyType("*")


class Node:
    CATEGORY = "tests"
    FUNCTION = "run"


class After(Node):
    """`value`, once `after` is there. `number` makes equal calls differ for the host's cache."""

    RETURN_TYPES = (ANY,)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802  # the host's name
        return {"required": {"value": (ANY,), "number": ("INT",)}, "optional": {"after": (ANY,)}}

    def run(self, value, number, after=None):
        return (value,)


class List(Node):
    """Two pictures of any sizes, as nodes that load a folder hand them on."""

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"first": ("IMAGE",), "second": ("IMAGE",)}}

    def run(self, first, second):
        return ([first, second],)


class RandomConditioning(Node):
    """What a text encoder would give for a family: (1, 77, width), and a pooled vector where it has one."""

    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"width": ("INT",), "pooled": ("INT",), "seed": ("INT",)}}

    def run(self, width, pooled, seed):
        generator = torch.Generator().manual_seed(seed)
        extra = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return ([[torch.randn(1, 77, width, generator=generator), extra]],)


def fail(kind):
    if kind == "out of memory":
        raise torch.cuda.OutOfMemoryError("Allocation on device: out of memory")
    raise RuntimeError("made to fail by a test")


class Countdown:
    """Fails at call number `at`, and at no other."""

    def __init__(self, at, kind):
        self.left, self.kind = at, kind

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            fail(self.kind)


FAILURE = {"at": ("INT",), "kind": (["error", "out of memory"],)}


class FailingModel(Node):
    """The model; its UNet fails once, at call number `at`."""

    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), **FAILURE}}

    def run(self, model, at, kind):
        model, countdown = model.clone(), Countdown(at, kind)

        def wrapper(apply_model, options):
            countdown()
            return apply_model(options["input"], options["timestep"], **options["c"])

        model.set_model_unet_function_wrapper(wrapper)
        return (model,)


class FailingVAE(Node):
    """The VAE; reading a picture fails once, at call number `at`."""

    RETURN_TYPES = ("VAE",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"vae": ("VAE",), **FAILURE}}

    def run(self, vae, at, kind):
        failing, countdown = copy.copy(vae), Countdown(at, kind)

        def process_input(image):
            countdown()
            return vae.process_input(image)

        failing.process_input = process_input
        return (failing,)


class SaveTensor(Node):
    """A picture or mask as it is, for comparing floats: output/NAME.pt."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"value": (ANY,), "name": ("STRING",)}}

    def run(self, value, name):
        import folder_paths

        torch.save(value, f"{folder_paths.get_output_directory()}/{name}.pt")
        return {}


NODE_CLASS_MAPPINGS = {
    f"Test{node.__name__}": node for node in (After, List, RandomConditioning, FailingModel, FailingVAE, SaveTensor)
}
