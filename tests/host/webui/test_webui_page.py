"""The page as a user meets it, in headless Chromium."""

import base64

import numpy as np
import pytest
from browser import page  # noqa: F401  # a fixture
from host_process import keep
from PIL import Image

from .server import levels, painting

READY = "typeof gradioApp == 'function' && typeof opts == 'object' && Object.keys(opts).length > 0"
OURS = "[...document.querySelectorAll('#tabs > .tab-nav button')].find(b => b.textContent.trim() == 'Mist')"
LOADED = "document.querySelector('#mist_picture img, #mist_picture canvas') != null"
NOT_OURS = ("cdnjs.cloudflare.com", "webui-assets")  # no network here; fonts come with another repository


@pytest.fixture(scope="module")
def webui(webui):
    """With defaults from the settings page."""
    webui.steps = 60
    webui.post("/sdapi/v1/options", {"mist_steps": webui.steps, "mist_strength": 8})
    webui.reload_ui()
    return webui


@pytest.fixture
def tab(page, webui):  # noqa: F811
    page.open(webui.url)
    page.wait_for(f"{READY} && !!document.querySelector('#mist_protect')")
    page.evaluate(f"{OURS}.click()")
    page.wait_for("document.querySelector('#mist_protect').offsetParent != null")
    return page


@pytest.fixture
def saved(webui):
    """Files the tab has saved since."""
    folder = webui.data / "outputs" / "mist-images"
    before = set(folder.glob("*"))
    return lambda: sorted(set(folder.glob("*")) - before)


def upload(page, path, picture):  # noqa: F811
    Image.fromarray(picture).save(path)
    page.choose_files("#mist_picture input[type=file]", path)
    page.wait_for(LOADED)


def begin(page):  # noqa: F811
    """Protect, and wait until the bar moves; or what the page says instead."""
    page.click("#mist_protect")
    bar, error = "document.querySelector('.progressDiv')", "document.querySelector('#mist_log .error')"
    said = page.wait_for(f"/Mist \\d+%/.test(({bar} || {{}}).textContent) || ({error} || {{}}).textContent")
    assert said is True


def set_number(page, name, value):  # noqa: F811
    """As a user does, in the field beside a slider."""
    field = f"document.querySelector('#mist_tab_{name} input[type=number]')"
    page.evaluate(f"{field}.value = {value}; updateInput({field}); {field}.dispatchEvent(new Event('change'))")


def console(page):  # noqa: F811
    return [entry for entry in page.console if not any(word in entry for word in NOT_OURS)]


def test_a_picture_is_protected_watched_saved_and_sent_on(tab, webui, saved, tmp_path):
    picture = painting(192, 256)
    upload(tab, tmp_path / "picture.png", picture)
    begin(tab)
    tab.wait_for("document.querySelector('#mist_gallery .livePreview img') != null")
    tab.wait_for("document.querySelector('#mist_report').textContent.includes('PSNR')")
    assert tab.evaluate("document.querySelectorAll('#mist_gallery img').length") >= 2
    (path,) = saved()
    shift = np.abs(levels(Image.open(path)) - picture)
    assert 0 < shift.max() <= 8 and "Mist strength: 8" in Image.open(path).info["parameters"]
    read = webui.post("/sdapi/v1/png-info", {"image": base64.b64encode(path.read_bytes()).decode()})["parameters"]
    assert read["Mist strength"] == "8" and read["Mist steps"] == str(webui.steps) and read["Mist mode"] == "fused"
    tab.wait_for("document.querySelector('.progressDiv') == null")
    for name, place in (("img2img", "img2img_image"), ("inpaint", "img2maskimg"), ("extras", "extras_image")):
        tab.evaluate(f"{OURS}.click()")
        tab.click(f"#mist_send_to_{name}")
        tab.wait_for(f"!!(document.querySelector('#{place} img') || {{}}).src")
        tab.wait_for(f"document.querySelector('#{place}').offsetParent != null")
    assert tab.evaluate("document.querySelector('#img2img_prompt textarea').value") == ""
    assert console(tab) == []


def test_only_what_is_painted_changes(tab, easel, saved, tmp_path):
    picture = painting(192, 256)
    upload(tab, tmp_path / "picture.png", picture)
    set_number(tab, "steps", 3)
    canvas = f"document.querySelector({easel(tab)!r}).getBoundingClientRect()"
    left, top, width, height = tab.evaluate(f"(r => [r.left, r.top, r.width, r.height])({canvas})")
    tab.drag((left + width * 0.25, top + height * 0.5), (left + width * 0.5, top + height * 0.5))
    tab.click("#mist_protect")
    tab.wait_for("document.querySelector('#mist_report').textContent.includes('PSNR')")
    (path,) = saved()
    shift = np.abs(levels(Image.open(path)) - picture).max(axis=2)
    rows, columns = np.nonzero(shift)
    assert len(rows) and rows.min() > 48 and rows.max() < 144 and columns.min() > 16 and columns.max() < 192
    assert console(tab) == []


def test_an_interrupt_shows_what_was_reached_and_saves_nothing(tab, saved, tmp_path):
    upload(tab, tmp_path / "picture.png", painting(192, 256))
    set_number(tab, "steps", 500)
    begin(tab)
    tab.click("#mist_interrupt")
    tab.wait_for("document.querySelector('#mist_report').textContent.includes('Interrupted after')")
    assert saved() == []


def test_the_last_result_is_evaluated_where_two_pictures_are(tab, saved, tmp_path):
    """Its pictures take their places there, and the report says in words what it is worth."""
    picture = painting(64, 64)
    upload(tab, tmp_path / "picture.png", picture)
    set_number(tab, "steps", 3)
    tab.click("#mist_protect")
    report = "document.querySelector('#mist_report').textContent.trim()"
    tab.wait_for(f"{report}.startsWith('Changed by at most ') && {report}.includes('PSNR')")
    tab.click("#mist_evaluate_last")
    tab.wait_for(f"{report}.includes('times as far from the original as random noise')", 600)
    chosen = "document.querySelector('#mist_sources > .tab-nav .selected').textContent.trim()"
    assert tab.evaluate(chosen) == "Evaluate"
    for place in ("before", "after"):
        tab.wait_for(f"(document.querySelector('#mist_evaluate_{place} img') || {{}}).naturalWidth == 64")
    told = tab.evaluate(report)
    places = [told.index(words) for words in ("times as far from", "Changed by at most", "PSNR, dB:", '"format": 1')]
    assert places == sorted(places) and "Left from the original" in told
    assert tab.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('#mist_report pre'))")
    assert len(saved()) == 1 and console(tab) == []


def test_without_a_picture_the_page_says_so(tab):
    tab.click("#mist_protect")
    tab.wait_for("document.querySelector('#mist_log').textContent.includes('Choose a picture first')")


def test_a_preset_sets_the_controls(tab):
    field = "document.querySelector('#mist_tab_strength input[type=number]').value"
    assert tab.evaluate(field) == "8"  # from the settings page
    option = "[...document.querySelectorAll('#mist_tab_preset li')].find(l => l.textContent.trim().endsWith('mist'))"
    tab.press("document.querySelector('#mist_tab_preset input')")
    tab.wait_for(f"!!{option}")
    tab.press(option)
    tab.wait_for(f"{field} == '16'")


def choose_folder(tab, folder):
    """With two pictures and what is none."""
    folder.mkdir()
    for number in range(2):
        Image.fromarray(painting(seed=number)).save(folder / f"p{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    tab.evaluate("[...document.querySelectorAll('#mist_sources button')][1].click()")
    for name, value in (("in", folder), ("out", folder / "out")):
        field = f"document.querySelector('#mist_folder_{name} textarea')"
        tab.evaluate(f"{field}.value = {str(value)!r}; updateInput({field})")
    tab.evaluate(f"{field}.dispatchEvent(new FocusEvent('blur'))")  # a page without a window has no focus to lose
    tab.wait_for("document.querySelector('#mist_folder_count').textContent.includes('3 pictures')")


def test_a_directory_is_protected_with_a_row_for_each_file(tab, tmp_path):
    folder = tmp_path / "gallery"
    choose_folder(tab, folder)
    set_number(tab, "steps", 3)
    tab.click("#mist_protect")
    tab.wait_for("document.querySelector('#mist_report').textContent.includes('2 of 3 protected')")
    assert "broken.png" in tab.evaluate("document.querySelector('#mist_report').textContent")
    for number in range(2):
        made = Image.open(folder / "out" / f"p{number}.png")
        assert 0 < np.abs(levels(made) - painting(seed=number)).max() <= 8 and "Mist" in made.info["parameters"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["p0.png", "p1.png"]


def set_of(tab, name, value):
    field = f"document.querySelector('#mist_set_{name} input[type=number]')"
    tab.evaluate(f"{field}.value = {value}; updateInput({field}); {field}.dispatchEvent(new Event('change'))")


def test_a_directory_is_protected_as_one_set_and_goes_on_after_an_interrupt(tab, tmp_path):
    folder = tmp_path / "gallery"
    choose_folder(tab, folder)
    is_open = "document.querySelector('#mist_set_rounds').offsetParent != null"
    assert not tab.evaluate(is_open)
    tab.click("#mist_folder_set .label-wrap")  # which also checks its box
    tab.wait_for(is_open)
    set_of(tab, "rounds", 2), set_of(tab, "lora_steps", 3), set_number(tab, "steps", 400)
    keep(tab.screenshot(tmp_path / "webui_set.png"))
    tab.click("#mist_protect")
    bar, report = (
        f"(document.querySelector('{name}') || {{}}).textContent" for name in (".progressDiv", "#mist_report")
    )
    tab.wait_for(f"({bar} || '').includes('Mist: round 1 of 2, p0.png')")
    tab.wait_for("document.querySelector('#mist_gallery .livePreview img') != null")
    tab.click("#mist_interrupt")
    tab.wait_for(f"{report}.includes('Interrupted: the pictures are written as they are by now')")
    told = tab.evaluate(report)
    assert "0 of 3 protected" in told and "p0.pnginterrupted after " in told and "broken.pngfailed: " in told
    keep(tab.screenshot(tmp_path / "webui_set-interrupted.png"))
    tab.wait_for("document.querySelector('.progressDiv') == null")
    set_number(tab, "steps", 4)  # another set: from the beginning
    for said in ("as one of a set of 2: 2 rounds, in each 3 steps", "protected already"):
        tab.click("#mist_protect")
        tab.wait_for(f"{report}.includes('2 of 3 protected') && {report}.includes({said!r})")
        keep(tab.screenshot(tmp_path / "webui_set-done.png"))
        tab.wait_for("document.querySelector('.progressDiv') == null")
    for number in range(2):
        made = Image.open(folder / "out" / f"p{number}.png")
        assert 0 < np.abs(levels(made) - painting(seed=number)).max() <= 8
        assert "Mist rounds: 2" in made.info["parameters"]
    assert console(tab) == []


def choose_tab(tab, name):
    """Forge writes them with capitals."""
    buttons = "[...document.querySelectorAll('#tabs > .tab-nav button')]"
    tab.evaluate(f"{buttons}.find(b => b.textContent.trim().toLowerCase() == {name.lower()!r}).click()")


def outputs(webui, folder):
    return set((webui.data / "outputs" / folder).rglob("*.png"))


def test_extras_protects_what_was_sent_to_it(tab, webui, tmp_path):
    before = outputs(webui, "extras-images")
    choose_tab(tab, "Extras")
    picture = painting(64, 64)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    tab.choose_files("#extras_image input[type=file]", tmp_path / "picture.png")
    tab.wait_for("!!(document.querySelector('#extras_image img') || {}).src")
    tab.click("#extras_upscale-visible-checkbox")
    tab.click("#mist_extras_enable-visible-checkbox")
    tab.click("#extras_generate")
    tab.wait_for("document.querySelector('#tab_extras').textContent.includes('Mist strength: 8')")
    (path,) = outputs(webui, "extras-images") - before
    assert 0 < np.abs(levels(Image.open(path).convert("RGB")) - picture).max() <= 8
    assert console(tab) == []


def test_txt2img_protects_what_it_makes(tab, webui):
    before = outputs(webui, "txt2img-images")
    choose_tab(tab, "txt2img")
    tab.click("#mist_txt2img_enable-visible-checkbox")
    for name in ("width", "height"):
        field = f"document.querySelector('#txt2img_{name} input[type=number]')"
        tab.evaluate(f"{field}.value = 128; updateInput({field}); {field}.dispatchEvent(new Event('change'))")
    tab.click("#txt2img_generate")
    tab.wait_for("document.querySelector('#html_info_txt2img').textContent.includes('Mist strength: 8')")
    (path,) = outputs(webui, "txt2img-images") - before
    assert "Mist strength: 8" in Image.open(path).info["parameters"]
    assert console(tab) == []
