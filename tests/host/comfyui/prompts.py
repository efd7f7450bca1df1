"""Graphs as a user would draw them, in the API's form."""

from itertools import count

from .client import Graph

SIDE = 64
COUNT = count()


class Drawing(Graph):
    """A graph that begins with a checkpoint and a prompt; LoRA and v-prediction where asked."""

    def __init__(self, checkpoint="sd1", *, lora=False, v_prediction=False):
        super().__init__()
        loaded = self.add("CheckpointLoaderSimple", ckpt_name=f"{checkpoint}.safetensors")
        self.model, self.clip, self.vae = loaded[0], loaded[1], loaded[2]
        if lora:
            both = {"model": self.model, "clip": self.clip, "strength_model": 1.0, "strength_clip": 1.0}
            patched = self.add("LoraLoader", lora_name="lora.safetensors", **both)
            self.model, self.clip = patched[0], patched[1]
        if v_prediction:
            self.model = self.add("ModelSamplingDiscrete", model=self.model, sampling="v_prediction", zsnr=False)[0]
        self.positive = self.add("CLIPTextEncode", clip=self.clip, text="a harbour at dusk")[0]
        self.negative = self.add("CLIPTextEncode", clip=self.clip, text="")[0]

    def empty_latent(self):
        return self.add("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1)[0]

    def after(self, value, after=None):
        """`value`, but not before `after` is done, and never served from the host's cache."""
        return self.add("TestAfter", value=value, number=next(COUNT), **({} if after is None else {"after": after}))[0]

    def sample(self, latent, *, seed=7, steps=2, denoise=1.0):
        schedule = {"sampler_name": "euler", "scheduler": "normal", "steps": steps, "denoise": denoise, "cfg": 5.0}
        ends = {"model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": latent}
        return self.add("KSampler", seed=seed, **schedule, **ends)

    def save(self, samples, name):
        """The latents, as floats."""
        return self.add("SaveLatent", samples=samples[0], filename_prefix=name)

    def show(self, samples, name):
        """The picture, in 8 bits."""
        decoded = self.add("VAEDecode", samples=samples[0], vae=self.vae)
        return self.add("SaveImage", images=decoded[0], filename_prefix=name)

    def load(self, name):
        """LoadImage: picture and mask."""
        return self.add("LoadImage", image=name)

    def protect(self, image, mode="fused", *, steps=2, model=None, vae=None, **more):
        ends = {"image": image, "vae": vae or self.vae}
        if mode != "textural":
            ends |= {"model": model or self.model, "clip": self.clip}
        widgets = {"strength": 8.0, "steps": steps, "mode": mode, "fusion_weight": 1.0, "seed": 23, "preset": "default"}
        return self.add("MistProtect", **ends | widgets | more)

    def saving(self, name, **more):
        """MistSaveImage's widgets."""
        widgets = {"filename_prefix": name, "format": "png", "data_mining": "off", "embed_workflow": False}
        return widgets | more

    def failing(self, mode, kind, at):
        """What the mode works through, failing once: at call number `at` of the VAE (textural) or the UNet."""
        if mode == "textural":
            return {"vae": self.add("TestFailingVAE", vae=self.after(self.vae), at=at, kind=kind)[0]}
        return {"model": self.add("TestFailingModel", model=self.after(self.model), at=at, kind=kind)[0]}
