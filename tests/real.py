"""Autoencoders that strangers trained on real pictures, for the machines that have them: the repository has none."""

import os
from pathlib import Path

import pytest

from mist_attack.bench.judges import ENVIRONMENT

USUAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real_autoencoders"


def folder():
    """Where they would be."""
    return Path(os.environ.get(ENVIRONMENT) or USUAL)


def real(name="taef2_encoder.pth"):
    """The path of one of their files; a test that asks for it is skipped where it is not."""
    path = folder() / name
    if not path.is_file():
        pytest.skip(f"no real autoencoder: {path} is not there (the variable {ENVIRONMENT} names its folder)")
    return path
