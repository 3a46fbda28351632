"""The page: what its text says and hides, and how a browser shows it. Nothing is trained here."""

import base64
import gzip
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.cells import STAGES, judged, write_record
from softmark.errors import InputError
from softmark.report import page
from softmark.report import records as archive
from softmark.report.rows import Row

CURVE = "epoch,loss,step\n0,1.23456789,8\n1,nan,17\n2,0.5,26\n"


def store(output: Path, record: dict, curve: str = CURVE) -> None:
    for role in STAGES:
        folder = output / "store" / role / record["stages"][role] / "curves" / "00-trained"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.csv").write_text(curve)


def data_of(text: str) -> dict:
    """The details on the page."""
    return scripts_of(text)["details"]


def scripts_of(text: str) -> dict:
    """All data on the page, by the ids of their elements."""
    elements = re.findall(r'<script type="application/(\w+)" id="(\w+)">(.*?)</script>', text, re.S)
    return {
        name: json.loads(gzip.decompress(base64.b64decode(data)) if kind == "gzip" else data)
        for kind, name, data in elements
    }


def lines_of(text: str) -> list[list[str]]:
    """The cells of each line of the page's tables."""
    rows = re.findall(r"<tr data-place.*?</tr>", text, re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cells]


def test_a_page_of_all_has_a_row_for_each_cell_and_no_figure_twice(archived, tmp_path):
    for seed in range(3):
        archived("attack=prune", "method=csp", seed=seed)
        archived("attack=prune", "method=csp", "attack.sparsity=0.9", seed=seed)
    archived("attack=distill", "method=usp")
    text, broken = page.all_records_page(tmp_path)
    assert broken == []
    head = re.findall(r"<th scope=\"col\".*?<button[^>]*>(.*?)</button>", text)
    assert head[:4] == ["method", "attack", "sparsity", "seeds"]
    assert [line[:4] for line in lines_of(text)] == [
        ["csp", "prune", "0.5", "3"],
        ["csp", "prune", "0.9", "3"],
        ["usp", "distill", "—", "1"],
    ]
    assert "94.00 ± 2.89" in lines_of(text)[0]
    assert "stale" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    # Nothing is asked of a network.
    assert not re.search(r'(src|href)="(?!data:|#)|@import|url\(', text)


def test_markup_in_a_record_is_text(archived, tmp_path):
    evil = "</script><script>alert('x')</script>&\"<!--"
    record = archived("method=csp", "attack=prune", attack=evil, reason=evil, status="failed")
    record["overrides"].append(f"attack.name={evil}")
    record["config"]["attack"]["name"] = evil
    write_record(tmp_path, record)
    text, _ = page.all_records_page(tmp_path)
    assert text.count("</script>") == 2
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "<!--" not in text
    data = data_of(text)
    assert ["attack.name", evil] in data["pairs"]
    assert evil in data["rows"][0]["name"]


def test_a_stale_record_has_a_section_of_its_own(archived, tmp_path):
    archived("method=csp", "attack=prune", seed=0)
    archived("method=csp", "attack=prune", seed=1, address="0" * 16)
    archived("method=csp", "attack=prune", seed=2, address="1" * 16, config=None)
    archived("method=csp", "attack=prune", seed=2, address="2" * 16, config=None)
    text, _ = page.all_records_page(tmp_path)
    first, second = re.findall(r"<section.*?</section>", text, re.S)
    assert "stale" not in first
    assert [line[:2] for line in lines_of(first)] == [["csp", "prune"]]
    assert 'class="word">stale<' in second
    # Two verdicts on one seed are never averaged.
    assert len(lines_of(second)) == 3
    assert "±" not in second.split("<table>")[1]


def test_a_config_that_this_code_cannot_plan_is_stale_and_calls_nothing(archived, tmp_path):
    marker = tmp_path / "called"
    target = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path"}}
    for source in (
        {**target, "self": str(marker)},
        {"_target_": "softmark.lab.subprocess.run", "args": ["touch", str(marker)]},
        {"_target_": "softmark.lab.os.mkdir", "path": str(marker)},
        {"_target_": "softmark.nowhere.Gone"},
        {},
    ):
        record = archived("method=csp", "attack=prune")
        record["config"]["data"]["source"] = source
        assert not archive.RecordCheck(tmp_path).is_current(record)
        assert not marker.exists()


def test_what_is_no_record_is_named_and_the_rest_is_shown(archived, tmp_path):
    archived("method=csp", "attack=prune")
    broken = {
        "half": '{"status": "do',
        "list": "[]",
        "poor": '{"status": "done", "address": "poor"}',
    }
    for name, content in broken.items():
        (tmp_path / "records" / f"{name}.json").write_text(content)
    text, named = page.all_records_page(tmp_path)
    assert sorted(line.partition(".")[0] for line in named) == sorted(broken)
    assert all(f"<li>{name}.json" in text for name in broken)
    assert len(lines_of(text)) == 1
    assert str(tmp_path) not in text


def test_a_record_without_newer_fields_is_shown(archived, tmp_path):
    record = archived("method=csp", "attack=prune")
    newer = ("control_accuracy", "judged_samples", "by_kind", "warnings", "forged_p_value")
    write_record(tmp_path, {name: value for name, value in record.items() if name not in newer})
    text, broken = page.all_records_page(tmp_path)
    assert broken == []
    (line,) = lines_of(text)
    assert line[:3] == ["csp", "prune", "yes"]
    assert "stale" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)


def test_what_opens_has_the_verdict_first_and_each_models_curves(archived, tmp_path):
    warning = f"too little trained, see {tmp_path}/a"
    record = archived(
        "method=csp", "attack=distill_finetune", warnings=[warning], unusable=3,
        forged_p_value=0.5, forged_claimed=False,
        by_kind={"vgg11": {"innocents": 1, "false_flags": 0.125, "false_claims": 0}},
    )  # fmt: skip
    (cell,) = data_of(page.all_records_page(tmp_path)[0])["rows"][0]["cells"]
    facts = dict(cell["facts"])
    assert list(facts)[:4] == ["verdict", "p-value", "null", "p before the attack"]
    assert facts["attacker's own key"] == "not claimed, p 0.500"
    assert facts["cost of the mark"] == (
        "0.50 points against the control, 1.00 points against the victim"
    )
    assert facts["most flagged innocents"] == "vgg11, 12.50 % of its probes"
    assert facts["unusable answers"] == "3"
    assert facts["warning"] == "too little trained, see DIR"
    roles = ["victim", "control", "watermarked", "attack, step 1", "suspect"]
    assert list(cell["stages"]) == roles
    assert [cell["stages"][role] for role in roles[3:]] == record["stages"]["links"]


def test_missing_and_failed_cells_are_words_with_a_reason(archived, tmp_path):
    def failed(seed: int) -> dict:
        nothing = dict.fromkeys(name for name in judged(0) if name.endswith("accuracy"))
        verdict = {"p_value": None, "null": None, "claimed": False, "status": "failed"}
        return archived(
            "method=csp", seed=seed, **nothing, **verdict, reason=f"disk {tmp_path}/x full"
        )

    done = archived("method=csp", seed=7)
    rows = [
        Row(("csp", "none"), (None, None)),
        Row(("csp", "distill"), (failed(0), failed(1))),
        Row(("csp", "prune"), (done, failed(2))),
    ]
    section = page.Section(
        "some", rows, ["method", "attack"], "python run.py", problems=["x: missing"]
    )
    text = page.render(section.title, [section], [], tmp_path)
    none, gone, part = lines_of(text)
    assert none[:4] == ["csp", "none", "0 of 2", "—"]
    assert gone[:4] == ["csp", "distill", "0 of 212", "failed"]  # with two notes' numbers
    assert part[2] == "1 of 23"
    assert text.count("failed: disk DIR full") == 3
    assert "x: missing" in text
    assert data_of(text)["rows"][0]["cells"] == [None, None]


def test_no_folder_of_this_machine_is_on_the_page(archived, tmp_path):
    folder = "/home/someone/my patients/scans"
    record = archived("method=csp", "attack=prune", status="failed")
    record["overrides"] += [f"data.path={folder}", f"verifier.note={tmp_path}/a"]
    record["config"]["data"] |= {"path": folder, "cache": "~/pictures/all"}
    record["config"]["data"]["source"]["path"] = folder
    record["reason"] = f"{folder}/1.png: no such file; see {tmp_path}/records or /var/log/x"
    write_record(tmp_path, record)
    text, _ = page.all_records_page(tmp_path)
    for secret in ("someone", "patients", str(tmp_path), "~/pictures", "/var/log"):
        assert secret not in text
    data = data_of(text)
    assert "data.path=DIR" in data["rows"][0]["cells"][0]["command"]
    assert ["data.path", "DIR"] in data["pairs"]
    assert ["data.source.path", "DIR"] in data["pairs"]


def test_curves_are_read_once_a_stage_with_gaps_where_training_diverged(archived, tmp_path):
    first = archived("method=csp", "attack=prune")
    second = archived("method=csp", "attack=distill")
    store(tmp_path, first)
    data = data_of(page.all_records_page(tmp_path)[0])
    assert first["stages"]["victim"] == second["stages"]["victim"]
    curve = ["trained", "loss", [0, 1, 2], [1.235, None, 0.5]]
    assert data["curves"][first["stages"]["victim"]] == [curve]
    assert data["curves"][second["stages"]["suspect"]] is None
    assert len(data["curves"]) == 5


def many(archived, output: Path, rows: int) -> list[dict]:
    """As many rows of one record each, with p-values from 1e-7 on."""
    start = archived("method=csp", "attack=distill")
    (output / "records" / f"{start['address']}.json").unlink()
    records = []
    for number in range(rows):
        name = f"attack_{number:03d}"
        config = {**start["config"], "attack": {"name": name, "recipe": {}}}
        change = {"attack": name, "config": config, "address": f"{number:016d}"}
        records.append({**start, **judged(number), **change, "seed": 0})
        write_record(output, records[-1])
    return records


def test_a_long_table_shows_a_hundred_rows_and_holds_all(archived, tmp_path, monkeypatch):
    many(archived, tmp_path, 230)
    plain, _ = page.all_records_page(tmp_path)
    monkeypatch.setattr(page, "MAX_PLAIN", 1000)
    packed, _ = page.all_records_page(tmp_path)
    assert scripts_of(packed) == scripts_of(plain)
    assert packed.count("application/gzip") == 2
    assert len(packed) < len(plain) / 2
    shown, lines = lines_of(plain), scripts_of(plain)["tables"]["1"]
    assert (len(shown), len(lines)) == (100, 230)
    assert [[*name, *figures] for name, _, figures, _, _ in lines[:100]] == shown
    assert [place for *_, place in lines] == list(range(230))
    assert len(data_of(plain)["rows"]) == 230
    # The same records make the same page.
    assert packed == page.all_records_page(tmp_path)[0]


def test_five_hundred_records_are_a_small_page_soon(archived, tmp_path):
    start = archived("method=csp", "attack=distill")
    (tmp_path / "records" / f"{start['address']}.json").unlink()
    curve = "epoch,loss,step\n" + "".join(f"{i},{1 / (i + 1)},{i * 8}\n" for i in range(60))
    records = []
    for place in range(20):
        for seed in range(25):
            mark = f"{place:02d}{seed:02d}"
            stages = {**start["stages"], "suspect": mark.rjust(16, "a"), "victim": f"{seed:016d}"}
            own = {"method": "ab"[place % 2], "attack": f"attack_{place // 2}", "seed": seed}
            config = {
                **start["config"],
                "seed": seed,
                "attack": {"name": own["attack"], "recipe": {}},
            }
            change = {"stages": stages, "config": config, "address": mark.rjust(16, "0")}
            records.append({**start, **own, **judged(seed), **change})
            write_record(tmp_path, records[-1])
            store(tmp_path, records[-1], curve)
    begin = time.perf_counter()
    text, _ = page.all_records_page(tmp_path)
    assert time.perf_counter() - begin < 60
    assert len(lines_of(text)) == 20
    assert len(text) < 3_000_000


def report(*arguments: str) -> subprocess.CompletedProcess:
    code = (
        "import sys, runpy; sys.argv = ['report.py', *sys.argv[1:]]\n"
        "runpy.run_path('scripts/report.py', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "--page", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_command_writes_it_without_torch(archived, tmp_path):
    archived("method=csp", "attack=prune", "scale=smoke")
    (tmp_path / "records/half.json").write_text("{")
    into = tmp_path / "pages"
    folder = [f"output_dir={tmp_path}", "--to", str(into)]
    result = report(*folder)
    assert result.returncode == 0, result.stderr
    assert "half.json" in result.stderr
    assert len(lines_of((into / "all.html").read_text())) == 1
    sweep = ["method=csp", "attack=prune,none", "scale=smoke"]
    result = report("--name", "some", *sweep, "hydra/launcher=basic", *folder)
    assert result.returncode == 0, result.stderr
    assert "attack=none" in result.stderr
    text = (into / "some.html").read_text()
    # Where it ran is nothing to repeat.
    assert "python run.py -m method=csp attack=prune,none scale=smoke</" in text
    assert [line[1] for line in lines_of(text)] == ["prune", "none"]


def test_the_command_says_what_is_wrong(archived, tmp_path):
    nothing = report(f"output_dir={tmp_path}/empty", "--to", str(tmp_path))
    assert "error: no record" in nothing.stderr
    archived("method=csp", "attack=prune")
    unnamed = report("method=csp", f"output_dir={tmp_path}")
    assert "--name NAME" in unnamed.stderr
    file = tmp_path / "file"
    file.write_text("")
    unwritable = report(f"output_dir={tmp_path}", "--to", str(file))
    assert "--to DIR" in unwritable.stderr
    for result in (nothing, unnamed, unwritable):
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
    with pytest.raises(InputError, match="no record"):
        page.all_records_page(tmp_path / "empty")


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desk", "phone"])
def shown(request, browser, archived, tmp_path):
    """The page of a few records in a browser that tells of every error, and the first record."""
    records = [
        archived("method=csp", "attack=prune", seed=seed, p_value=p)
        for seed, p in ((0, 3e-4), (1, 2e-11))
    ]
    archived("method=csp", "attack=distill", p_value=5e-9, suspect_accuracy=0.5)
    archived("method=usp", "attack=prune", p_value=0.02, claimed=False)
    archived("method=usp", "attack=distill", status="failed", reason="<b>no</b> disk")
    store(tmp_path, records[0])
    page.write_page(page.all_records_page(tmp_path)[0], tmp_path / "all.html")
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text))
    opened.goto(f"file://{tmp_path}/all.html")
    yield opened, records[0]
    assert errors == []
    context.close()


def test_a_heading_sorts_and_what_is_missing_stays_last(shown):
    opened, _ = shown

    def column(place: int) -> list[str]:
        return opened.eval_on_selector_all(
            f"tr[data-place] > :nth-child({place})",
            "cells => cells.map(cell => cell.innerText.trim())",
        )

    heading = opened.locator("thead th", has_text="p max")
    place = heading.evaluate("cell => cell.cellIndex") + 1
    assert heading.get_attribute("aria-sort") is None
    heading.locator("button").click()
    assert column(place) == ["5.0e-09", "3.0e-04", "0.020", ""]
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").focus()
    opened.keyboard.press("Enter")
    assert column(place) == ["0.020", "3.0e-04", "5.0e-09", ""]
    assert heading.get_attribute("aria-sort") == "descending"
    attack = opened.locator("thead th", has_text="attack").first
    attack.locator("button").click()
    assert column(2) == ["distill", "distill", "prune", "prune"]
    assert heading.get_attribute("aria-sort") is None


def test_a_row_opens_with_verdict_and_curves_and_escape_closes_it(shown):
    opened, record = shown
    dialog = opened.locator("dialog")
    assert not dialog.is_visible()
    opened.locator("tbody tr", has_text="csp").filter(has_text="prune").locator(".open").click()
    dialog.locator("svg").first.wait_for()
    written = dialog.inner_text()
    for text in ("csp · prune", "seed 0: claimed, p 3.0e-04", "seed 1:", "signs", "599 queries"):
        assert text in written
    assert "nothing was trained" not in written  # each folder has a curve
    assert dialog.locator("svg").count() == 4
    assert dialog.locator("svg circle").count() == 8  # either side of the gap
    opened.wait_for_function(f"location.hash === '#{record['address']}'")
    dialog.locator("summary", has_text="Config").first.click()
    dialog.get_by_text("attack.sparsity = 0.5").first.wait_for()
    dialog.locator("summary", has_text="seed 1").click()
    dialog.get_by_text("the store doesn't hold this model").first.wait_for()
    assert dialog.evaluate("dialog => dialog.scrollWidth - dialog.clientWidth") == 0
    opened.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert opened.evaluate("document.activeElement.className") == "open"
    opened.wait_for_function("!location.hash")
    opened.locator("tbody tr", has_text="failed").locator("td").last.click()
    dialog.get_by_text("<b>no</b> disk").first.wait_for()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


@pytest.mark.parametrize("longest", [1000, 10**9], ids=["compressed", "plain"])
def test_a_long_table_is_paged_sorted_filtered_and_opens(
    browser, archived, tmp_path, monkeypatch, longest
):
    many(archived, tmp_path, 230)
    monkeypatch.setattr(page, "MAX_PLAIN", longest)
    page.write_page(page.all_records_page(tmp_path)[0], tmp_path / "all.html")
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(f"file://{tmp_path}/all.html")
    attacks = "rows => rows.map(row => row.cells[1].innerText)"

    def rows(first: int, last: int, count: int) -> list[str]:
        expected = f"rows {first} to {last} of {count}"
        opened.wait_for_function(f"document.querySelector('.range').textContent === '{expected}'")
        return opened.eval_on_selector_all("tr[data-place]", attacks)

    names = [f"attack_{number:03d}" for number in range(230)]
    assert rows(1, 100, 230) == names[:100]
    before = opened.locator("tr[data-place]").first.evaluate("row => row.outerHTML")
    assert opened.locator(".back").is_disabled()
    for first in (101, 201):
        opened.locator(".next").click()
        last = min(first + 99, 230)
        assert rows(first, last, 230) == names[first - 1 : last]
    assert opened.locator(".next").is_disabled()
    heading = opened.locator("thead button", has_text="attack").first
    heading.click()
    assert rows(1, 100, 230) == names[:100]
    # The script writes a row as the template does.
    text = "row => row.outerHTML"
    after = opened.locator("tr[data-place]").first.evaluate(text)
    assert re.sub(r"\s+", "", after) == re.sub(r"\s+", "", before)
    heading.click()
    opened.locator("tr", has_text="attack_229").first.wait_for()
    assert rows(1, 100, 230) == names[:129:-1]
    opened.locator(".pages input").fill("22 CSP")
    expected = [name for name in reversed(names) if "22" in name]
    assert rows(1, len(expected), len(expected)) == expected
    opened.locator(".open").first.click()
    opened.wait_for_selector("dialog[open] dl")
    assert "csp · attack_229" in opened.locator("dialog").inner_text()
    opened.keyboard.press("Escape")
    opened.locator(".pages input").fill("nothing like it")
    opened.wait_for_function("document.querySelector('.range').textContent === 'no row'")
    assert errors == []
    opened.close()


def test_an_address_opens_its_cell(shown):
    opened, record = shown
    opened.goto("about:blank")
    opened.go_back()
    opened.evaluate(f"location.hash = '{record['address']}'")
    opened.wait_for_selector("dialog[open] dl")
    assert (
        "seed 0: claimed, p 3.0e-04" in opened.locator("details[open] > summary").first.inner_text()
    )


def test_the_body_never_scrolls_sideways_and_the_first_columns_stay(shown):
    opened, _ = shown
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.evaluate(wide) == 0
    opened.evaluate("document.querySelector('.scroll').scrollLeft = 300")
    first, second = opened.locator("tbody tr").first.locator("th").all()[:2]
    edge = opened.locator(".scroll").first.bounding_box()["x"]
    assert abs(first.bounding_box()["x"] - edge) < 2
    assert abs(second.bounding_box()["x"] - edge - first.bounding_box()["width"]) < 2
