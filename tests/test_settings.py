import dataclasses
import math

import pytest

from mist_attack.errors import SettingsError
from mist_attack.settings import Controls, Settings, preset_descriptions, preset_names, resolve


def test_defaults_are_mists_numbers():
    settings = resolve()
    assert settings == Settings()
    assert settings.epsilon == pytest.approx(16 / 255)
    assert settings.step_size == pytest.approx(1 / 255)
    assert (settings.steps, settings.working_size, settings.objective) == (100, 512, "fused")
    assert settings.semantic_weight == pytest.approx(10**4)
    assert settings.prompt == "a painting"


@pytest.mark.parametrize("weight", [0, 1, 2.5, 5])
def test_fusion_weight_is_mists_exponent(weight):
    assert resolve(fusion_weight=weight).semantic_weight == pytest.approx(10 ** (weight + 3))


def test_later_layers_win(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("strength: 4\nsteps: 7\n", encoding="utf-8")
    settings = resolve("gentle", config, steps=9, seed=None)
    assert settings.strength_levels == 4
    assert settings.steps == 9
    assert settings.seed == Settings().seed
    assert resolve("gentle").strength_levels == 8


def test_every_preset_resolves_and_says_what_it_is():
    for name in preset_names():
        assert isinstance(resolve(name), Settings)
        assert len(preset_descriptions()[name]) > 20
    assert not resolve("mist").keep_tone


def test_every_control_reaches_a_setting():
    changed = Controls(
        strength=3, steps=5, step=2, step_decay=True, objective="semantic", fusion_weight=2, gradient="sds",
        momentum=0.5, direction="descent", view="tiles", working_size=256, keep_tone=False, prompt="x", target="rings",
        low_vram=True, seed=1,
    )  # fmt: skip
    differing = [f.name for f in dataclasses.fields(Settings) if getattr(changed.settings(), f.name) != f.default]
    assert set(differing) == {f.name for f in dataclasses.fields(Settings)} - {"random_start"}
    assert len(dataclasses.fields(Controls)) == len(differing)


@pytest.mark.parametrize(
    "override, said",
    [
        ({"strength": -1}, "strength"),
        ({"strength": 256}, "between 0 and 255"),
        ({"strength": math.nan}, "strength"),
        ({"steps": 0}, "steps"),
        ({"step": 0}, "step size"),
        ({"objective": "texture"}, "textural, semantic, fused"),
        ({"view": "half"}, "whole, tiles, both"),
        ({"gradient": "fast"}, "exact, sds"),
        ({"working_size": 8}, "working size"),
        ({"strength": "much"}, "strength"),
        ({"colour": 3}, "Known controls"),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(override, said):
    with pytest.raises(SettingsError, match=said):
        resolve(**override)


def test_unknown_preset_lists_the_known():
    with pytest.raises(SettingsError, match="gentle"):
        resolve("strongest")


@pytest.mark.parametrize("text", ["- a\n- b\n", "strength: [", "stength: 3\n", "just words"])
def test_bad_files_are_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError):
        resolve(config=path)
    with pytest.raises(SettingsError, match="Cannot read"):
        resolve(config=tmp_path / "missing.yaml")


def test_a_request_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().steps = 3
