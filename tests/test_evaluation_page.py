"""The page of an evaluation: each number on it recomputed, and the page itself in headless Chromium."""

import json
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from browser import opened
from fakes.toy import ToySurrogate
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mist_attack.evaluation.judging import judge
from mist_attack.evaluation.page.writing import page as written
from mist_attack.evaluation.results import Pair, as_json, results
from mist_attack.evaluation.transforms import SUITE, transformed
from mist_attack.settings import resolve
from mist_attack.words import figure

SEED = 7
HEIGHT, WIDTH = 48, 64


def arrays():
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    before = np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).copy()
    before[:20, :30] = 90  # flat
    change = np.random.default_rng(1).integers(-9, 10, (HEIGHT // 8, WIDTH // 8, 3)).repeat(8, 0).repeat(8, 1)
    return before, (before.astype(int) + change).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def found():
    """The pair, everything that was found of it, and the page."""
    before, after = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in arrays())
    pair = Pair(
        "a.png", "b.png", before, after, [judge(ToySurrogate(), before, after, resolve("default", {"seed": SEED}))]
    )
    everything = json.loads(as_json(results([pair.figures()], {}, {})))
    return pair, everything, written(everything, [pair])


class Tables(HTMLParser):
    """Text by the table's label, the row's header and the column's."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.text = {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if attributes.get("role") == "region":
            self.label, self.columns = attributes["aria-label"], []
        elif tag in ("th", "td"):
            self.text, self.scope = "", attributes.get("scope")

    def handle_data(self, data):
        self.text = None if self.text is None else self.text + data

    def handle_endtag(self, tag):
        if tag not in ("th", "td"):
            return
        text, self.text = " ".join(self.text.split()), None
        if self.scope == "col":
            self.columns.append(text)
        elif self.scope == "row":
            self.row, self.rest = text, iter(self.columns[1:])
        else:
            self.cells[self.label, self.row, next(self.rest)] = text


def test_each_cell_of_the_page_is_the_figure_that_was_found(found):
    _, everything, text = found
    cells = Tables(text).cells
    (pair,) = everything["pairs"]
    (model,) = pair["models"]
    whole = model["views"]["whole"]
    seen = "whole picture, 64 x 48 pixels"
    told = [cells[key] for key in cells if key[0] == "What one sees of b.png"]
    assert told == [shown(value) for value in pair["visibility"].values()]
    told = [cells[key] for key in cells if key[0] == f"Effect, seen as the {seen}"]
    assert told == [shown(value) for value in whole["effect"].values()]
    after = f"Left after each change, seen as the {seen}"
    assert tuple(dict.fromkeys(column for label, _, column in cells if label == after)) == LEFT
    for name, transform in SUITE.items():
        row = [cells[after, transform.words, column] for column in LEFT]
        assert row == [shown(whole["survival"][name][key]) for key in ("share_left", "over_noise", "latent_shift")]
    for row in model["denoising"]:
        told = [cells["Denoising loss", f"{row['timestep']}", column] for column in ("Original", "Protected", NOISE)]
        assert told == [shown(row[key]) for key in ("before", "after", "of_noise")]
    made = {f"img2img at strength {row['strength']:g}": row for row in model["img2img"]}
    for words, row in (made | {"the middle painted anew at strength 0.75": model["inpainting"]}).items():
        told = [cells["How far variations lie apart", words, column] for column in ("Protected", NOISE)]
        assert told == [shown(row["rms_levels"]), shown(row["rms_levels_of_noise"])]


LEFT = ("Share left", "Times as far as noise", "Latents' shift")
"""As they stand: what a phone shows before one scrolls comes first."""
NOISE = "Random noise"


def shown(value):
    if isinstance(value, dict):
        return f"{figure(value['value'])} ({figure(value['low'])} to {figure(value['high'])})"
    return "not measured" if value is None else figure(value)


def near(value):
    return pytest.approx(value, rel=1e-4, abs=1e-6)


def test_what_one_sees_is_recomputed(found):
    (pair,) = found[1]["pairs"]
    before, after = arrays()
    change = after.astype(float) - before
    differences = deltaE_ciede2000(rgb2lab(before), rgb2lab(after))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    _, ssim = structural_similarity(before, after, full=True, data_range=255, **options)
    grey = before @ np.array([0.299, 0.587, 0.114])
    inside = (slice(4, -4), slice(4, -4))  # whole windows of 9 pixels
    spread = np.sqrt(np.maximum(uniform_filter(grey**2, 9) - uniform_filter(grey, 9) ** 2, 0))
    flat = spread < 3
    power = (np.abs(np.fft.fft2(change, axes=(0, 1))) ** 2).sum(2)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH))
    seen = pair["visibility"]
    assert seen["linf_levels"] == np.abs(change).max() == 9
    assert seen["rms_levels"] == near(np.sqrt((change**2).mean()))
    assert seen["psnr_db"] == near(peak_signal_noise_ratio(before, after))
    assert seen["ssim"] == pytest.approx(ssim[5:-5, 5:-5].mean(), abs=2e-4) and seen["ms_ssim"] is None
    assert seen["ciede2000_mean"] == pytest.approx(differences.mean(), abs=1e-4)
    assert seen["ciede2000_p95"] == pytest.approx(np.percentile(differences, 95), abs=1e-4)
    assert flat[inside].any() and abs(seen["flat_share"] - flat.mean()) < 0.03  # windows at the edge are smaller there
    for name, low, high in (("below_16th", 0, 1 / 16), ("16th_to_8th", 1 / 16, 1 / 8), ("8th_to_4th", 1 / 8, 1 / 4)):
        band = (frequency >= low) & (frequency < high)
        assert seen[f"power_{name}"] == near(power[band].sum() / power.sum())
    assert seen["power_above_4th"] == near(power[frequency >= 1 / 4].sum() / power.sum())
    ends, shares = pair["spectrum"].values()
    below = [power[frequency < end].sum() / power.sum() for end in ends[:-1]] + [1]
    assert np.cumsum(shares) == pytest.approx(below, abs=1e-6)


@torch.no_grad()
def test_intervals_and_what_noise_does_to_variations_are_recomputed(found):
    pair, everything, _ = found
    model = ToySurrogate()
    figures = everything["pairs"][0]["models"][0]
    signs = torch.randint(2, pair.before.shape, generator=torch.Generator().manual_seed(SEED)) * 2 - 1
    noisy = (pair.before.int() + (pair.after.int() - pair.before.int()).abs() * signs).clamp(0, 255).to(torch.uint8)
    drawn = np.random.default_rng(0).integers(16, size=(4000, 16))

    def regions(a, b, name=None):
        x, y = (model.encode((p if name is None else transformed(name, p)).float() / 255) for p in (a, b))
        squares = (y - x).double().square().sum((0, 1)).numpy()
        rows = [part for strip in np.array_split(squares, 4, 0) for part in np.array_split(strip, 4, 1)]
        return np.array([part.sum() for part in rows])

    def ends(parts, wholes):
        shares = np.sqrt(parts[drawn].sum(1) / wholes[drawn].sum(1))
        return {
            "value": near(np.sqrt(parts.sum() / wholes.sum())),
            **dict(zip(("low", "high"), map(near, np.percentile(shares, (2.5, 97.5))), strict=True)),
        }

    whole, by_noise = regions(pair.before, pair.after), regions(pair.before, noisy)
    view = figures["views"]["whole"]
    assert view["effect"]["shift_over_noise"] == ends(whole, by_noise)
    for name in ("jpeg75", "half"):
        moved, drowned = regions(pair.before, pair.after, name), regions(pair.before, noisy, name)
        assert view["survival"][name]["share_left"] == ends(moved, whole)
        assert view["survival"][name]["over_noise"] == ends(moved, drowned)
    again = judge(model, pair.before, noisy, resolve("default", {"seed": 1})).figures
    seeded = judge(model, pair.before, noisy, resolve("default", {"seed": SEED})).figures
    for row, own in zip(
        [*figures["img2img"], figures["inpainting"]], [*seeded["img2img"], seeded["inpainting"]], strict=True
    ):
        assert row["rms_levels_of_noise"] == near(own["rms_levels"])
    assert again["img2img"] != seeded["img2img"]


# In Chromium


@pytest.fixture(scope="module")
def chromium(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text(found[2], "utf-8")
    with opened(folder / "chromium") as page:
        page.open((folder / "index.html").as_uri())
        page.wait_for("document.readyState == 'complete'")
        yield page
        assert page.console == []  # nor was anything refused by the page's own policy


@pytest.fixture
def page(chromium):
    chromium.look(1280, 1000)
    chromium.evaluate(f"{SLIDER}.value = 50; {SLIDER}.dispatchEvent(new Event('input')); scrollTo(0, 0)")
    return chromium


SLIDER = "document.querySelector('[data-compare] input')"
BOX = "document.querySelector('.compare')"
CUT = "getComputedStyle(document.querySelector('.compare .after')).clipPath"
GLASS = "getComputedStyle(document.querySelectorAll('.loupe div')[1]).backgroundPosition"


def at(page, x, y):
    """A place on the picture, in shares of it."""
    page.evaluate(f"{BOX}.scrollIntoView({{block: 'center'}})")
    left, top, width, height = page.evaluate(
        f"(r => [r.left, r.top, r.width, r.height])({BOX}.getBoundingClientRect())"
    )
    return left + x * width, top + y * height


def is_cut_at(page, share):
    assert abs(float(page.evaluate(f"{SLIDER}.value")) - 100 * share) <= 1
    assert page.evaluate(CUT).split()[-1].startswith(f"{page.evaluate(f'{SLIDER}.value')}%")


def test_the_slider_is_moved_by_keys(page):
    page.evaluate(f"{SLIDER}.focus()")
    for _ in range(3):
        page.type("ArrowRight", 39)
    is_cut_at(page, 0.53)
    page.type("Home", 36)
    is_cut_at(page, 0)
    assert page.evaluate(f"{SLIDER}.getAttribute('aria-valuetext')") == "0 % of the original"


def test_the_slider_is_dragged_on_the_picture_by_mouse(page):
    page.drag(at(page, 0.5, 0.5), at(page, 0.2, 0.4))
    is_cut_at(page, 0.2)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **dict(zip("xy", at(page, 0.8, 0.5), strict=True)))
    is_cut_at(page, 0.2)  # without a button the loupe alone follows


def test_the_slider_is_dragged_on_the_picture_by_finger(page):
    page.look(390, 844, touch=True)
    page.swipe(at(page, 0.5, 0.5), at(page, 0.9, 0.5))
    is_cut_at(page, 0.9)


def centre(page):
    """The pixel of the protected picture in the middle of its loupe."""
    x, y = (float(length.removesuffix("px")) for length in page.evaluate(GLASS).split())
    width, height = page.evaluate("(g => [g.clientWidth, g.clientHeight])(document.querySelectorAll('.loupe div')[1])")
    return (width / 2 - x) / 4, (height / 2 - y) / 4


def test_the_loupe_follows_the_pointer_and_the_keys(page):
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **dict(zip("xy", at(page, 0.25, 0.75), strict=True)))
    assert centre(page) == pytest.approx((0.25 * WIDTH, 0.75 * HEIGHT), abs=0.5)
    page.evaluate(f"{BOX}.focus()")
    for key, code in (("ArrowRight", 39), ("ArrowUp", 38)):
        for _ in range(5):
            page.type(key, code)
    assert centre(page) == pytest.approx((0.35 * WIDTH, 0.65 * HEIGHT), abs=0.5)


FAINT = """
(() => {
  const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const v = c.map((x) => linear(x / 255));
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return null; };
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType == 3 && n.textContent.trim());
    if (!own || ["SCRIPT", "STYLE"].includes(e.tagName) || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const ink = parts(e.ownerSVGElement ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(e.tagName + ": " + e.textContent.trim());
  }
  return faint;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width, touch", [(1280, False), (390, True), (320, True)])
def test_the_page_can_be_read_at_every_width_and_in_the_dark(page, width, touch, dark):
    """Nothing sticks out; all text has WCAG's contrast of 4.5."""
    page.look(width, 844, dark=dark, touch=touch)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(FAINT) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 300) == dark


def test_a_screen_reader_has_a_name_for_everything(page):
    nodes = [node for node in page.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    by_role = {}
    for node in nodes:
        by_role.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", "").strip())
    for role in ("image", "slider", "region", "group", "columnheader", "rowheader"):
        assert by_role[role] and all(by_role[role]), role
    assert by_role["slider"] == ["How much of the original is shown"]
    assert len(by_role["region"]) == len(by_role["table"]) == len(set(by_role["region"]))
    assert page.evaluate("document.documentElement.lang") == "en" and page.evaluate("!!document.title")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => +h.tagName[1])")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
