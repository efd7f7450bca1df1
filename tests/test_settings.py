import dataclasses
import math

import pytest

from mist_attack.errors import SettingsError
from mist_attack.settings import LIMITS, MAX_TEXT, Controls, Settings, preset_descriptions, preset_names, resolve


def test_what_nothing_is_said_of_has_mists_number():
    settings = resolve("mist")
    assert settings == Settings(keep_tone=False)
    assert (settings.budget, settings.hiding, settings.chroma, settings.transforms) == ("linf", 0, 1, "none")
    assert settings.epsilon == pytest.approx(16 / 255)
    assert settings.step_size == pytest.approx(1 / 255)
    assert (settings.steps, settings.working_size, settings.objective) == (100, 512, "fused")
    assert settings.semantic_weight == pytest.approx(10**4)
    assert settings.prompt == "a painting"


@pytest.mark.parametrize("weight", [-9, 0, 1, 2.5, 5, 9])
def test_fusion_weight_is_mists_exponent(weight):
    assert resolve("default", {"fusion_weight": weight}).semantic_weight == pytest.approx(10 ** (weight + 3))


def test_later_layers_win(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("strength: 4\nsteps: 7\n", encoding="utf-8")
    settings = resolve("gentle", {"steps": 9, "seed": None}, config=config)
    assert settings.strength_levels == 4
    assert settings.steps == 9
    assert settings.seed == Settings().seed
    assert resolve("gentle").strength_levels == 8


def test_every_preset_resolves_and_says_what_it_is():
    for name in preset_names():
        assert isinstance(resolve(name), Settings)
        assert len(preset_descriptions()[name]) > 20
    assert not resolve("mist").keep_tone


def test_the_default_is_the_balanced_one_and_moves_no_value_further_than_mist():
    settings = resolve()
    assert settings == resolve("default") and settings.budget == "l2" and settings.transforms == "web"
    assert settings.epsilon == resolve("mist").epsilon and settings.rms < settings.epsilon and settings.steps <= 15


def test_every_control_reaches_a_setting():
    changed = Controls(
        strength=3, steps=5, step=2, step_decay=True, objective="semantic", fusion_weight=2, gradient="sds",
        momentum=0.5, direction="descent", view="tiles", working_size=256, keep_tone=False, prompt="x", target="rings",
        low_vram=True, seed=1, budget="l2", rms=3, hiding=1, chroma=0.5, transforms="web", autoencoder="small",
    )  # fmt: skip
    differing = [f.name for f in dataclasses.fields(Settings) if getattr(changed.settings(), f.name) != f.default]
    assert set(differing) == {f.name for f in dataclasses.fields(Settings)} - {"random_start"}
    assert len(dataclasses.fields(Controls)) == len(differing)


@pytest.mark.parametrize(
    "override, said",
    [
        ({"strength": -1}, "strength between"),
        ({"strength": 256}, "between 0 and 255"),
        ({"strength": math.nan}, "strength"),
        ({"strength": 10**400}, "strength"),
        ({"strength": "inf"}, "strength"),
        ({"strength": True}, "strength to be a number; got True"),
        ({"steps": 0}, "steps"),
        ({"steps": 7.5}, "steps to be a whole number"),
        ({"steps": 10**5000}, "a very large int"),
        ({"steps": "${oc.env:HOME}"}, "steps to be a whole number"),
        ({"step": 0}, "step size"),
        ({"objective": "texture"}, "textural, semantic, lunet, fused"),
        ({"objective": ["fused"]}, "objective .* to be text"),
        ({"view": "half"}, "whole, tiles, both"),
        ({"gradient": "fast"}, "exact, sds"),
        ({"working_size": 8}, "working size"),
        ({"strength": "much"}, "strength to be a number; got 'much'"),
        ({"fusion_weight": 400}, "fusion weight between -9 and 9; got 400"),
        ({"prompt": 5}, "prompt to be text"),
        ({"prompt": "\ud800"}, "prompt of Unicode"),
        ({"prompt": "a" * (MAX_TEXT + 1)}, f"prompt of at most {MAX_TEXT} characters"),
        ({"low_vram": [True]}, "low vram to be true or false"),
        ({"colour": 3}, "Unknown control 'colour'. Known controls"),
        ({"strenght": 3}, "Unknown control 'strenght'. Did you mean strength[?] Known controls"),
        (["strength"], "settings by name"),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(override, said):
    with pytest.raises(SettingsError, match=said):
        resolve("default", override)


@pytest.mark.parametrize("name", LIMITS)
def test_both_ends_of_a_limit_are_allowed_and_nothing_beyond(name):
    for end, beyond in zip(LIMITS[name], (-math.inf, math.inf), strict=True):
        resolve("default", {name: end})
        outside = end + math.copysign(1, beyond) if isinstance(end, int) else math.nextafter(end, beyond)
        with pytest.raises(SettingsError, match="between"):
            resolve("default", {name: outside})


def test_the_engines_own_request_is_checked_in_the_words_of_people():
    for bad, said in (({"semantic_weight": 1e13}, "fusion weight"), ({"epsilon": 2}, "strength between 0 and 255")):
        with pytest.raises(SettingsError, match=said):
            Settings(**bad)
    assert Settings(semantic_weight=0).semantic_weight == 0


@pytest.mark.parametrize("given", [8, 8.0, "8", " 8 ", "8e0"])
def test_numbers_may_come_as_text(given):
    assert resolve("default", {"strength": given}).strength_levels == 8


def test_sliders_may_give_floats_of_whole_numbers():
    assert resolve("default", {"steps": 20.0}).steps == 20


NAMES_OF_CODE = ["config", "preset", "values", "self", "path", "epsilon", "semantic_weight", "__class__", "nested.name"]


@pytest.mark.parametrize("name", NAMES_OF_CODE)
def test_what_people_name_is_a_control_and_never_a_parameter(name, tmp_path):
    secret = tmp_path / "secret.yaml"
    secret.write_text("strength: 3\n")
    for value in (str(secret), secret, "gentle", None, 3):
        with pytest.raises(SettingsError, match="Unknown control") as raised:
            resolve("default", {name: value})
        assert str(secret) not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", "a ${cat}", "${prompt}", "\\${x}", "${", "???", "%(x)s {x}", "$HOME"]
)
def test_text_is_text_and_nothing_in_it_is_looked_up(text, tmp_path):
    assert resolve("default", {"prompt": text, "target": text}).prompt == text
    config = tmp_path / "mine.yaml"
    config.write_text(f"prompt: '{text}'\n", encoding="utf-8")
    assert resolve(config=config).prompt == text


def test_unknown_names_are_cut_short():
    with pytest.raises(SettingsError) as raised:
        resolve("default", {"x" * 10_000 + "\n\x1b[2J": "a secret value"})
    assert len(str(raised.value)) < 400 and "secret" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("preset", ["strongest", "x" * 9999, ["mist"], None, 3])
def test_unknown_preset_lists_the_known(preset):
    with pytest.raises(SettingsError, match="gentle") as raised:
        resolve(preset)
    assert len(str(raised.value)) < 200


# Files


def settings_of(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return resolve(config=path)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("strength: 4\nfusion_weight: 400\n", 2, "'fusion_weight': Expected fusion weight between -9 and 9; got '?400"),
        ("\n\nstength: 3\n", 3, "'stength': Unknown control"),
        ("steps: many\n", 1, "'steps': Expected steps to be a whole number; got 'many'"),
        ("steps: 3\nsteps: 4\n", 2, "'steps': is there twice"),
        ("steps:\n  deep: 4\n", 1, "'steps': expected one plain value"),
        ("prompt: !!python/object/apply:os.getcwd []\n", 1, "'prompt': expected one plain value"),
        ("prompt: !!python/name:os.getcwd ''\n", 1, "'prompt': expected one plain value"),
        ("a: &a [x, x]\nprompt: *a\n", 1, "'a': expected one plain value"),
        ("<<: {steps: 3}\n", 1, "'<<': expected one plain value"),
        ("? [steps]\n: 3\n", 1, "expected the name of a control"),
        ("steps: 3\nstrength: [\n", 3, "expected lines like 'strength: 8'"),
    ],
)
def test_errors_in_a_file_name_the_file_the_line_and_the_key(tmp_path, text, line, said):
    with pytest.raises(SettingsError, match=rf"mine\.yaml, line {line}[,:] .*{said}"):
        settings_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "expected lines like"),
        ("just words", "expected lines like"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"prompt: \x00", "Cannot read"),
        (b"[" * 50_000, "not YAML"),
        (b"#" * 2**17, "at most 65536 bytes"),
        ("steps: 3\n---\nsteps: 4\n", "found another document"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, said):
    with pytest.raises(SettingsError, match=said):
        settings_of(tmp_path, text)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_asks_for_nothing(tmp_path, text):
    assert settings_of(tmp_path, text) == resolve()


def test_a_file_that_cannot_be_opened_is_named_once(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(SettingsError, match="Cannot read") as raised:
            resolve(config=path)
        assert str(raised.value).count(str(path)) == 1


def test_words_that_yaml_would_take_for_something_else_are_text_where_text_is_meant(tmp_path):
    assert settings_of(tmp_path, "prompt: no\nlow_vram: on\nstrength: 1e1\nseed:\n").prompt == "no"
    assert settings_of(tmp_path, b"\xef\xbb\xbfprompt: 2020-01-01").prompt == "2020-01-01"
    settings = settings_of(tmp_path, "low_vram: on\nstrength: 1e1\nseed: ~\n")
    assert settings.low_vram and settings.strength_levels == 10 and settings.seed == Settings().seed


def test_a_request_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().steps = 3


def test_no_setting_reads_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MIST_TEST_SECRET", "hidden in the environment")
    config = tmp_path / "mine.yaml"
    config.write_text("prompt: ${oc.env:MIST_TEST_SECRET}\n")
    for found in (resolve(config=config), resolve("default", {"prompt": "${oc.env:MIST_TEST_SECRET}"})):
        assert "hidden" not in str(found.as_dict())
