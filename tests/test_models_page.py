"""docs/models.md says what the host tests found, and that is what was promised."""

import json

from bench.model_families import PAGE, RESULTS, page, table

ASKED = {"sd3", "flux", "flux2", "z-image", "qwen-image", "chroma", "lumina2", "hidream", "anima", "krea2"}


def found():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_that_of_the_results():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text, found())


def test_ten_families_beyond_stable_diffusion_1_2_and_xl_ran_in_the_real_host():
    rows = found()
    assert all({"sds", "amortised"} <= set(rows[name]["gradients"]) for name in ASKED)
    assert all(any(host.startswith("ComfyUI 0.33") for host in rows[name]["tested"]) for name in ASKED)
    here = {name: row for name, row in rows.items() if any(host.startswith("ComfyUI") for host in row["tested"])}
    assert {name for name, row in here.items() if "exact" in row["gradients"]} == {"sd1", "sd2", "sdxl"}


def test_forge_runs_flux_and_sd_3_and_folders_of_diffusers_have_each_gradient():
    rows = found()
    assert all("Forge" in " ".join(rows[name]["tested"]) for name in ("flux", "flux-gguf", "sd3"))
    assert {"exact", "sds", "amortised"} == set(rows["a1111-sd3"]["gradients"])
    assert all(len(row["gradients"]) == 3 for name, row in rows.items() if name.startswith("folder-"))


def test_a_row_says_how_and_where_and_whose_widths_were_told():
    row = {"label": "New", "by_detection": False, "gradients": ["sds"], "tested": ["Host 1", "Host 2"]}
    assert table({"new": row}).splitlines()[-1] == "| New * | yes | `sds` | Host 1, Host 2 |"
    known = {"label": "Zold", "by_detection": True, "gradients": ["sds", "exact"], "tested": ["Host 1"]}
    assert table({"new": row, "old": known}).splitlines()[2] == "| Zold | yes | `exact`, `sds` | Host 1 |"
