"""The threat model of docs/security.md: a test for each of its lines, and hostile values for all that takes any."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib
import io
import json
import pickle
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from fakes import comfyui_pack, webui_face
from fakes.command import draw, files, levels_of, mist, toy_model  # noqa: F401
from fakes.toy import ToySurrogate
from fakes.watch import watched
from fakes.webui_face import QUICK, face, painting, protect_in_tab, shift
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mist_attack.command import flags
from mist_attack.errors import CheckpointError, MistError
from mist_attack.gallery import task
from mist_attack.hosts.headless import checkpoints
from mist_attack.pictures.reading import MAX_BYTES, MAX_PIXELS
from mist_attack.protection import protect
from mist_attack.sets.alternation import SetProtection
from mist_attack.sets.settings import SET_CONTROLS, SetSettings
from mist_attack.settings import LIMITS, Settings

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
LARGEST = face.jobs.OUTPUT_SIZES[1]
SECRET = "a-secret-of-the-environment"
CHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
FEW = settings(max_examples=80, database=None, derandomize=True, suppress_health_check=CHECKED)


def test_every_line_of_the_page_has_its_test_and_every_test_its_line():
    named = re.findall(r"`(test_\w+)`", PAGE.read_text("utf-8"))
    tests = [name for name in globals() if name.startswith("test_") and not name.startswith("test_every_line")]
    assert sorted(named) == sorted(tests)


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("MIST_TEST_SECRET", SECRET)


@pytest.fixture(autouse=True, scope="session")
def warm():
    """What torch and Pillow bring in at their first use is not the request's doing."""
    Image.init()
    sparing = Settings(objective="textural", steps=1, low_vram=True, working_size=64)
    protect(torch.rand(1, 3, 16, 16), ToySurrogate(), sparing)


def one_step(images, surrogate, wanted, **more):
    """The engine, whatever was asked for, in no time."""
    return protect(images, surrogate, dataclasses.replace(wanted, steps=1, working_size=64, view="whole"), **more)


# What is sent

HOSTILE = [
    "${oc.env:MIST_TEST_SECRET}",
    "a ${cat}",
    "$MIST_TEST_SECRET",
    "%MIST_TEST_SECRET%",
    "{0.__class__}",
    "/etc/passwd",
    "../../../etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x.png",
    "<script>alert(1)</script>",
    "\0",
    "\ud800",
    "\n\x1b[2J",
    "",
    "nan",
    "-1",
    "1e999",
    "9" * 5000,
    "x" * 6000,
    "!!python/object/apply:os.getcwd []",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*HOSTILE, 10**400, -(2**63), 2**63, 1e308, -5])
)
ANY = st.recursive(SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3))
CONTROLS = st.dictionaries(
    st.sampled_from([*face.controls.NAMES, "preset", "config", "self", "values", "epsilon"]) | st.text(max_size=9),
    ANY | st.sampled_from(["fused", "textural", "rings", "tiles", "sds"]) | st.integers(1, 200),
    max_size=4,
)


# The web UI


def small_set(members, surrogate, wanted, chosen, **more):
    """A set, whatever was asked for, in no time."""
    wanted = dataclasses.replace(wanted, steps=1, working_size=64, view="whole")
    return SetProtection(members, surrogate, wanted, SetSettings(rounds=1, lora_steps=1), **more)


@pytest.fixture
def shared(monkeypatch, tmp_path):
    found = webui_face.start(monkeypatch, tmp_path)
    monkeypatch.setattr(face.jobs, "protect", one_step)
    for module in (face.sets, face.sets.sets):
        monkeypatch.setattr(module, "SetProtection", small_set)
    monkeypatch.setattr(face.jobs, "OUTPUT_SIZES", (8, 64))
    return found


@pytest.fixture
def client(shared):
    """Raises what the server would answer with 500."""
    return client_of(shared)


def client_of(shared, **options):
    vars(shared.cmd_opts).update(options)
    app = FastAPI()
    face.api.on_app_started(None, app)
    return TestClient(app)


def encoded(data=None, kind="PNG", **options):
    if data is None:
        buffer = io.BytesIO()
        painting().save(buffer, kind, **options)
        data = buffer.getvalue()
    return base64.b64encode(data).decode()


def ask(client, **body):
    """(status, the answer as text). The body may hold what no JSON should."""
    return posted(client, "/mist/v1/protect", {"image": encoded()} | body)


def ask_for_set(client, **body):
    usual = {"images": [encoded()] * 2, "settings": {"objective": "fused"}}
    return posted(client, "/mist/v1/protect-set", usual | body)


def posted(client, path, body):
    content = json.dumps(body).encode()
    with watched():
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert SECRET not in answer.text and "Traceback" not in answer.text and "root:x:" not in answer.text
    return answer.status_code, answer.text


def test_api_settings_name_controls_and_nothing_else(client, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("strength: 1\nsecret words")
    for name in ("config", "preset", "values", "self", "epsilon", "path", "seed.x"):
        for value in (str(file), "gentle", 3):
            status, text = ask(client, settings={name: value})
            assert status == 400 and f"Unknown control '{name}'" in text and "secret words" not in text
            status, text = ask_for_set(client, set={name: value})
            assert status == 400 and f"set: Unknown control '{name}'" in text and "secret words" not in text
    for asking in (ask, ask_for_set):
        status, text = asking(client, strength=8)
        assert status == 400 and "Unknown field 'strength'" in text


def test_api_text_is_never_looked_up(client):
    for text in HOSTILE[:6]:
        status, answer = ask(client, settings={"prompt": text})
        assert status == 200 and json.loads(answer)["report"]["settings"]["prompt"] == text
        status, answer = ask_for_set(client, captions=[text])
        assert status == 200
        assert {one["report"]["settings"]["prompt"] for one in json.loads(answer)["pictures"]} == {text}
    assert ask(client, settings={"steps": "${oc.env:MIST_TEST_SECRET}"})[0] == 400
    assert ask_for_set(client, set={"rounds": "${oc.env:MIST_TEST_SECRET}"})[0] == 400


def test_api_numbers_have_bounds(client):
    for name, (low, high) in LIMITS.items():
        for value in (low - 1, high + 1, float("nan"), float("inf"), 10**400, True, [1], "many"):
            if not (name == "seed" and value == -1):
                status, text = ask(client, settings={name: value})
                assert status == 400 and name.split("_")[0] in text
    for known in SET_CONTROLS:
        ends = (known.least - 1, known.most + 1) if known.limits else ()
        for value in (*ends, float("nan"), float("inf"), 10**400, True, [1], "many"):
            status, text = ask_for_set(client, set={known.name: value})
            assert status == 400 and "set: " in text and known.name.split("_")[-1] in text
    for asking in (ask, ask_for_set):
        for task_id in ("x" * 201, "\ud800", "\n"):
            assert asking(client, force_task_id=task_id)[0] in (400, 422)
        for size in (-5, 1, 100_000, 10**30):
            assert asking(client, output_size=size)[0] in (400, 422)
    assert LARGEST**2 <= MAX_PIXELS
    assert ask_for_set(client, images=[encoded()] * 101)[0] == 400
    assert ask_for_set(client, captions=["x"] * 3)[0] == ask_for_set(client, masks=[encoded()] * 3)[0] == 400


def test_api_decodes_what_the_command_decodes(client, monkeypatch):
    whole = base64.b64decode(encoded())
    wide = whole[:16] + (12_000).to_bytes(4, "big") * 2 + whole[24:29]
    wide += zlib.crc32(wide[12:29]).to_bytes(4, "big") + whole[33:]
    jpeg = base64.b64decode(encoded(kind="JPEG"))
    frames = encoded(kind="GIF", save_all=True, append_images=[painting(seed=1)])
    for data in (whole[:-40], wide, jpeg[:-200], b"%!PS-Adobe-3.0 EPSF-3.0\n", b"P6 1 1 255 abc", b"\0"):
        status, text = ask(client, image=encoded(data))
        assert status == 400 and "image: " in text, data[:20]
    for text in (frames, encoded(kind="TGA"), encoded(kind="PPM"), "", "no picture", "data:image/png,x", "/etc/passwd"):
        assert ask(client, image=text)[0] == 400
    for text in (
        base64.encodebytes(whole).decode(),
        f" data:image/png;base64,{encoded()}".strip(),
        encoded(kind="WEBP"),
    ):
        assert ask(client, image=text, mask=text, target=text)[0] == 200
    monkeypatch.setattr(face.pictures, "MAX_BYTES", 100)
    assert MAX_BYTES == 2**31 and "at most 100 bytes" in ask(client)[1]


def test_api_opens_no_file_that_a_picture_names(client, monkeypatch, tmp_path):
    """The host's reader of infotext takes EXIF that is none for the name of a file."""
    file = tmp_path / "file"
    file.write_text("secret words")

    def read(image):
        exif = image.info.get("exif", b"Exif\0\0")
        return (exif[6:].decode("latin-1") if exif[:6] == b"Exif\0\0" else Path(exif.decode()).read_text()), {}

    monkeypatch.setitem(vars(face.pictures.images), "read_info_from_image", read)
    for kind in ("WEBP", "PNG"):
        status, text = ask(client, image=encoded(kind=kind, exif=str(file).encode()))
        assert status == 200 and "secret words" not in text


FIELDS = {
    "image": st.just(encoded()) | ANY,
    "mask": st.just(encoded()) | ANY,
    "target": st.just(encoded()) | ANY,
    "preset": st.sampled_from(["default", "mist", "gentle", "quick"]) | ANY,
    "settings": CONTROLS | ANY,
    "output_size": st.integers(0, 64) | ANY,
    "include_difference": st.booleans() | ANY,
    "force_task_id": ANY,
    "unknown": ANY,
}


MANY = st.lists(st.just(encoded()) | ANY, max_size=3)
FIELDS_OF_SET = FIELDS | {
    "images": st.just([encoded()] * 2) | MANY | ANY,
    "captions": st.lists(st.text(max_size=9) | ANY, max_size=3) | ANY,
    "masks": MANY | ANY,
    "set": st.dictionaries(st.sampled_from([known.name for known in SET_CONTROLS]), st.integers(0, 9) | ANY) | ANY,
}
for name in ("image", "mask"):
    del FIELDS_OF_SET[name]


def bodies(fields):
    """Requests that have some of these fields."""
    return st.dictionaries(st.sampled_from(list(fields)), st.none(), max_size=4).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )


@settings(FEW, max_examples=150)
@given(body=bodies(FIELDS), of_set=bodies(FIELDS_OF_SET))
def test_api_answers_any_request(client, body, of_set):
    for status, text in (ask(client, **body), ask_for_set(client, **of_set)):
        assert status < 500 and len(text) < 100_000


def mutated(data, position, change):
    at = int(position * len(data))
    return data[:at] + change + data[at + len(change) :]


@settings(FEW)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6)), max_size=4),
    end=st.floats(0.3, 1),
    field=st.sampled_from(["image", "mask", "target"]),
)
def test_api_answers_any_bytes_as_a_picture(client, kind, changes, end, field):
    data = base64.b64decode(encoded(kind=kind))
    for position, change in changes:
        data = mutated(data, position, change)
    assert ask(client, **{field: encoded(data[: int(end * len(data))])})[0] < 500


def test_api_is_off_or_locked_as_the_hosts_own(shared):
    assert client_of(shared, api=False).get("/mist/v1/info").status_code == 404
    for auth, user in (("me:secret", ("me", "wrong")), ("mistyped", ("mistyped", "")), ("me:secret", None)):
        client = client_of(shared, api=True, api_auth=auth)
        assert client.get("/mist/v1/info", auth=user).status_code == 401
        for path, body in (("protect", {"image": encoded()}), ("protect-set", {"images": [encoded()] * 2})):
            assert client.post(f"/mist/v1/{path}", json=body, auth=user).status_code == 401
    assert client.post("/mist/v1/protect", json={"image": encoded()}, auth=("me", "secret")).status_code == 200


def generation():
    p = SimpleNamespace(iteration=0, batch_index=0, batch_size=1, n_iter=1, width=64, height=64)
    p.extra_generation_params, p.comment = {}, lambda text: None
    return p


def infotext_of(p):
    values = {key: value(p, 0) for key, value in p.extra_generation_params.items()}
    return {key: value for key, value in values.items() if value is not None}


@settings(FEW)
@given(arguments=st.lists(ANY, max_size=3) | CONTROLS.map(lambda values: [values]))
def test_always_on_takes_any_arguments(shared, arguments):
    p, pp = generation(), SimpleNamespace(image=painting())
    webui_face.said.clear()
    with watched():
        face.always_on.MistScript().postprocess_image_after_composite(p, pp, True, *arguments)
    found = infotext_of(p)
    assert ("Mist strength" in found) != ("Mist error" in found)
    if "Mist error" in found:
        assert shift(pp.image, painting()).max() == 0 and "NOT protected" in webui_face.said[0]
        assert "unexpected" not in found["Mist error"]
    else:
        assert shift(pp.image, painting()).max() <= float(found["Mist strength"])
    assert SECRET not in str(found) + str(webui_face.said)


def test_only_protected_pixels_say_so(shared):
    p, pp = generation(), SimpleNamespace(image=painting())
    face.always_on.MistScript().postprocess_image_after_composite(p, pp, True, QUICK)
    text = f"a cat\nSeed: 5, {face.infotext.line_of(infotext_of(p))}"
    for image, says in ((pp.image, True), (painting(), False), (pp.image.resize((256, 256)), False)):
        params = SimpleNamespace(p=p, image=image, pnginfo={"parameters": text})
        face.always_on.strip_from_copies(params)
        assert ("Mist strength" in params.pnginfo["parameters"]) == says


def in_the_tab(*, chosen=1, values=(QUICK,), **named):
    return protect_in_tab(painting() if chosen == 0 else None, None, *values, chosen=chosen, **named)[1:]


def test_tab_hides_directories_as_the_host_does(shared, tmp_path):
    painting().save(tmp_path / "a.png")
    assert "1 pictures" in face.tab._counted(str(tmp_path), "", False)
    options = {}
    shared.opts.add_option = options.__setitem__
    shared.hide_dirs, shared.cmd_opts.hide_ui_dir_config = {"visible": False}, True
    face.options.on_ui_settings()
    assert "mist_outdir" in shared.restricted_opts and options["mist_outdir"].component_args == {"visible": False}
    with watched():
        for together in (False, True):
            assert "--hide-ui-dir-config" in in_the_tab(source=str(tmp_path), together=together)[2]
        assert "--hide-ui-dir-config" in face.tab._counted(str(tmp_path), "", False)
    assert not (tmp_path / "mist").exists()


def test_tab_reads_one_folder_and_never_a_disk(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path)), monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("a.png", "deep/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        painting().save(tmp_path / name)
    assert face.tab._counted("~", "", False).startswith("1 pictures")
    assert face.tab._counted("~", "", True).startswith("2 pictures")
    assert "1 of 1 protected" in in_the_tab(source="~")[1] and (tmp_path / "mist" / "a.png").is_file()
    root = Path(tmp_path.anchor)
    for names in ((str(root), ""), (f"{root}/./", ""), (str(tmp_path / ("../" * 30)), ""), ("~", str(root))):
        with watched():
            for together in (False, True):
                named = {"source": names[0], "destination": names[1], "together": together}
                assert "root of a disk" in in_the_tab(deep=True, **named)[2]
            assert "root of a disk" in face.tab._counted(*names, True)


PLACES = st.sampled_from(
    ["", " ", "/", "//", "~nobody-of-that-name", "\0", "C:\\", "@list", "*", "x" * 5000, "\ud800", None]
)


@settings(FEW)
@given(
    chosen=st.sampled_from([0, 1]),
    source=PLACES,
    destination=PLACES,
    deep=ANY,
    size=ANY | st.integers(0, 64),
    values=st.lists(ANY, max_size=3) | CONTROLS.map(lambda values: [values]),
    together=ANY,
    of_set=st.lists(ANY, max_size=5),
)
def test_tab_and_extras_take_any_values(
    shared, tmp_path, chosen, source, destination, deep, size, values, together, of_set
):
    named = {"source": source, "destination": destination, "deep": deep, "size": size}
    as_set = {"together": together, "of_set": of_set}
    with watched(tmp_path):
        gallery, _, log = in_the_tab(chosen=chosen, values=values, **named, **as_set)
        assert (gallery is None) == log.startswith("<div class='error'>")
        face.tab._counted(source, destination, deep)
        with contextlib.suppress(MistError):
            face.extras.MistPostprocessing().process(
                SimpleNamespace(image=painting(), info={}), True, **named_in(values)
            )
    assert SECRET not in log and not files(tmp_path)


@settings(FEW, max_examples=40)
@given(of_set=st.lists(ANY | st.integers(1, 9), max_size=5), together=ANY)
def test_tab_takes_any_values_of_a_set(shared, tmp_path_factory, of_set, together):
    folder = tmp_path_factory.mktemp("gallery")
    for name in "ab":
        painting().save(folder / f"{name}.png")
    with watched(folder):
        gallery, report, log = in_the_tab(source=str(folder), together=together, of_set=of_set)
    assert (gallery is None) == log.startswith("<div class='error'>") and SECRET not in log + report
    assert gallery is None or "2 of 2 protected" in report


def named_in(values):
    """What the host would hand over as keywords."""
    found = values[0] if values and isinstance(values[0], dict) else {}
    return {name: value for name, value in found.items() if name not in ("self", "pp", "enable")}


def test_tab_shows_names_as_text(shared, tmp_path):
    bad = "<img src=x onerror=alert(1)>"
    folder = tmp_path / bad
    folder.mkdir()
    (folder / f"{bad}.png").write_bytes(b"no picture")
    for number in range(2):
        painting(seed=number).save(folder / f"{bad}{number}.png")
        (folder / f"{bad}{number}.prompt.txt").write_text(bad)
    for together in (False, True):
        for shown in (
            *in_the_tab(source=str(folder), together=together)[1:],
            face.tab._counted(str(folder), "", False),
        ):
            assert "<img" not in shown
    assert "<img" not in in_the_tab(source=bad)[2] + in_the_tab(chosen=0, values=[{bad: 1}])[2]


# The command


@pytest.fixture
def command(toy_model, monkeypatch, tmp_path):  # noqa: F811
    """In an empty folder that holds one picture; it computes one step, whatever is asked for."""
    monkeypatch.setattr(task, "protect", one_step)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    draw("a.png", (16, 16))
    return tmp_path


def test_a_settings_file_runs_nothing(command, capsys):
    hostile = ["prompt: !!python/object/apply:os.mkdir [made]", "config: other.yaml", "<<: *x", "strength: ${steps}"]
    for text in hostile:
        Path("mine.yaml").write_text(text)
        with watched(command):
            assert mist("protect", "a.png", "--out", "out", "--config", "mine.yaml") == 1
        assert re.search(r"mist: mine\.yaml, line 1[,:]", capsys.readouterr().err)
    Path("mine.yaml").write_text("prompt: ${oc.env:MIST_TEST_SECRET}")
    assert mist("protect", "a.png", "--out", "out", "--config", "mine.yaml", "--report", "r.json") == 0
    assert json.loads(Path("r.json").read_text())[0]["report"]["settings"]["prompt"] == "${oc.env:MIST_TEST_SECRET}"
    assert files() == ["a.png", "mine.yaml", "out/a.png", "r.json"]


def test_a_prompt_file_is_text(command, capsys):
    for text in HOSTILE[:6]:
        Path("a.prompt.txt").write_text(text)
        assert mist("protect", "a.png", "--out", "out", "--report", "r.json") == 0
        assert json.loads(Path("r.json").read_text())[0]["report"]["settings"]["prompt"] == text
    Path("a.prompt.txt").write_text("x" * 6000)
    assert mist("protect", "a.png", "--out", "out") == 1 and "at most 5000 characters" in capsys.readouterr().err


ARGUMENTS = [text for text in HOSTILE if "\0" not in text] + ["\udcff", "0", "9999", "0.5", "fused", "a.png", "."]


def flags_of_protect():
    """Every flag but those that end the program or begin another one."""
    _, parser, *_ = flags.parser()
    skipped = {"--help", "--engine", "--address", "--url"}
    actions = [action for action in parser._actions if action.option_strings]
    return [action for action in actions if not skipped & set(action.option_strings)]


@settings(FEW, max_examples=120)
@given(
    chosen=st.lists(
        st.tuples(
            st.sampled_from(flags_of_protect()), st.sampled_from([*HOSTILE, "0", "9999", "0.5", "fused", "a.png", "."])
        ),
        min_size=1,
        max_size=2,
    ),
    inputs=st.sampled_from([["a.png"], ["."], ["@a.png"], ["*"], ["[", "a.png"], []]),
)
def test_command_takes_any_flags(command, capsys, chosen, inputs):
    words = []
    for action, value in chosen:
        words += [action.option_strings[-1]] if action.nargs == 0 else [f"{action.option_strings[-1]}={value}"]
    outside = {"/etc/passwd", "../../../etc/passwd"}
    if any(value in outside for _, value in chosen):
        words = [word for word in words if not word.startswith(("--out=", "--report="))]  # these name what is written
    with watched(command, "/etc/passwd"):
        code = mist("protect", *inputs, "--out", "out", *words)
    said = capsys.readouterr()
    assert code in (0, 1, 2) and "Traceback" not in said.err and SECRET not in said.out + said.err


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "made",)

    for write in (torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))):
        write({"state_dict": Trap()}, tmp_path / "sd.ckpt")
        with pytest.raises(CheckpointError):
            checkpoints.read_tensors(tmp_path / "sd.ckpt")
    assert not (tmp_path / "made").exists()


# The nodes


class HostModel(ToySurrogate):
    def __init__(self, vae, **_):
        with torch.inference_mode(False):
            super().__init__()


@pytest.fixture
def pack(monkeypatch, tmp_path):
    """The nodes by id, and their errors."""
    comfyui_pack.install(monkeypatch, tmp_path / "output")
    module, nodes = comfyui_pack.load(monkeypatch)
    adapter = ModuleType(f"{module.__name__}.mist_attack.hosts.comfyui.adapter")
    adapter.ComfySurrogate = HostModel
    monkeypatch.setitem(sys.modules, adapter.__name__, adapter)
    engine = importlib.import_module(f"{module.__name__}.mist_attack.protection")
    own_protect = engine.protect
    quick = lambda images, model, wanted, **more: own_protect(  # noqa: E731
        images, model, dataclasses.replace(wanted, steps=1, working_size=64, view="whole"), **more
    )
    monkeypatch.setattr(engine, "protect", quick)
    nodes["MistSaveImage"].hidden = SimpleNamespace(prompt=None, extra_pnginfo=None)
    return SimpleNamespace(nodes=nodes, errors=importlib.import_module(f"{module.__name__}.mist_attack.errors"))


IMAGES = ("image", "before", "after", "picture", "target", "mask", "alpha")
LINKS = {"vae": "VAE", "model": "MODEL", "clip": "CLIP", "conditioning": None, "options": None}


def inputs_of(node):
    """(valid values of all, names of the widgets)."""
    valid, widgets = {}, []
    for x in node.GET_SCHEMA().inputs:
        if x.id in ("image", "before", "after"):
            valid[x.id] = torch.rand(1, 16, 16, 3)
        elif LINKS.get(x.id):
            valid[x.id] = LINKS[x.id]
        elif x.id not in IMAGES and x.id not in LINKS:
            valid[x.id] = x.keywords["default"]
            widgets.append(x.id)
    return valid, widgets


@settings(FEW, max_examples=150)
@given(
    name=st.sampled_from(["MistProtect", "MistTarget", "MistOptions", "MistEvaluate", "MistSaveImage"]), data=st.data()
)
def test_nodes_take_any_widgets(pack, tmp_path, name, data):
    node = pack.nodes[name]
    valid, widgets = inputs_of(node)
    changed = data.draw(st.dictionaries(st.sampled_from(widgets), ANY, max_size=2))
    options = data.draw(CONTROLS | ANY) if "options" in [x.id for x in node.GET_SCHEMA().inputs] else None
    more = {} if options is None else {"options": options}
    with (
        watched(tmp_path / "output"),
        contextlib.suppress(pack.errors.MistError, comfyui_pack.Outside),
        torch.inference_mode(),
    ):
        text = str(node.execute(**valid | changed | more).args)
        assert SECRET not in text
    if name in ("MistProtect", "MistEvaluate"):
        assert isinstance(node.validate_inputs(mode=changed.get("mode"), model=None), str | bool)


def test_nodes_write_into_the_output_folder_alone(pack, tmp_path):
    node = pack.nodes["MistSaveImage"]
    valid, _ = inputs_of(node)
    for changed in (
        {"format": "/../../../escaped.png"},
        {"format": "../escaped.png"},
        {"format": ["png"]},
        {"data_mining": "prohibit"},
        {"filename_prefix": "../../escaped"},
        {"filename_prefix": str(tmp_path / "escaped")},
        {"filename_prefix": ["x"]},
    ):
        with pytest.raises((pack.errors.SettingsError, comfyui_pack.Outside)), watched(tmp_path / "output"):
            node.execute(**valid | changed)
    with watched(tmp_path / "output"):
        node.execute(**valid)
    assert files(tmp_path) == ["output/mist/protected_00001_.png"]
