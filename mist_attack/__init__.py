"""Mist: protect pictures against imitation by latent-diffusion models. Importing this does nothing."""

__version__ = "0.1.0"
