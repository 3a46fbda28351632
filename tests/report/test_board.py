"""The leaderboard: what it ranks by, what its filters leave, and what opens. Nothing is trained."""

import json
import re

import pytest

from helpers.cells import judged
from softmark.errors import InputError
from softmark.report import page, sheets
from softmark.report.rows import Row, filled

# Method, attack, access: claims and p of two keys, and points that the suspects lost.
CELLS = {
    ("wide", "prune", "weights"): ((1e-9, 1e-9), 0.0),
    ("wide", "prune_layers", "weights"): ((1e-9, 0.3), 0.0),
    ("wide", "distill", "probabilities"): ((1e-4, 1e-4), 0.0),
    ("deep", "prune", "weights"): ((1e-9, 1e-9), 0.0),
    ("deep", "prune_layers", "weights"): ((1e-9, 1e-9), 0.0),
    ("deep", "distill", "probabilities"): ((0.5, 0.6), 0.0),
    ("deep", "input_mirror", "weights"): ((0.9, 0.9), 0.6),
    ("deep", "serve_temperature", "weights"): ((1e-9, 1e-9), 0.0),
}


def row(method: str, attack: str, access: str, p_values: tuple[float, ...], loss: float) -> Row:
    def record(seed: int, p: float) -> dict:
        about = {"method": method, "attack": attack, "seed": seed, "access": access, "p_value": p}
        place = sum(map(ord, method + attack)) + seed
        about |= {"claimed": p <= 1e-3, "suspect_accuracy": 0.96 - loss, "knows": "nothing"}
        return filled({**judged(seed), **about, "address": f"{place:016d}", "data": "digits"})

    return Row((method, attack), tuple(record(seed, p) for seed, p in enumerate(p_values)))


TABLES = {
    ("digits", "small"): ([row(*names, *of_keys) for names, of_keys in CELLS.items()], []),
    ("letters", "full"): ([row("deep", "prune", "weights", (1e-9,), 0.0)], []),
}


def test_the_data_of_the_board_say_what_is_left_and_where_the_verdict_is(tmp_path):
    text = page.leaderboard_page(TABLES, ["x.json: broken"], tmp_path)
    found = {
        name: json.loads(data)
        for name, data in re.findall(r'json" id="(board|details)">(.*?)</script>', text)
    }
    boards = found["board"]["boards"]
    assert list(boards) == ["digits", "letters, full scale"]
    names = [attack["name"] for attack in found["board"]["attacks"]]
    for method, number, claims, p_values, apart, place in boards["digits"]:
        key = next(key for key in CELLS if key[:2] == (method, names[number]))
        assert tuple(p_values) == CELLS[key][0]
        assert claims == [int(p <= 1e-3) for p in p_values]
        assert apart == {"input_mirror": "useless", "serve_temperature": "harmless"}.get(key[1], "")
        assert found["details"]["rows"][place]["name"] == f"{method} · {key[1]}"
    assert "x.json: broken" in text
    assert not re.search(r'(src|href)="(?!data:|#)|@import|url\(', text)


@pytest.fixture(params=[1280, 390], ids=["desk", "phone"])
def shown(request, browser, tmp_path):
    page.write_page(page.leaderboard_page(TABLES, [], tmp_path), tmp_path / "board.html")
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(f"file://{tmp_path}/board.html")
    opened.wait_for_selector(".board li")
    yield opened
    assert errors == []
    opened.close()


def test_filters_and_levels_rank_anew_and_a_square_opens_its_verdict(shown):
    def ranked() -> list[str]:
        lines = shown.locator(".board li")
        return [" ".join(lines.nth(i).inner_text().split()) for i in range(lines.count())]

    first, second = ranked()
    assert first.startswith("1 wide least: 1 of 2 keys, p 0.150, after prune_layers")
    assert "survives 2 of 3 attacks, 1 of 2 families whole" in first
    # What is useless or harmless is shown, and isn't counted.
    assert second.startswith("2 deep least: 0 of 2 keys, p 0.550, after distill")
    assert "survives 2 of 3 attacks, 1 of 2 families whole" in second
    assert shown.locator(".board .square.apart").count() == 2
    shown.uncheck("[name=access][value=probabilities]")
    assert [line.split()[1] for line in ranked()] == ["deep", "wide"]
    shown.check("[name=access][value=probabilities]")
    shown.select_option("[name=level]", "0.000001")
    assert "0 of 2 keys, p 1.0e-4, after distill" in " ".join(ranked())
    shown.select_option("[name=data]", "letters, full scale")
    assert len(ranked()) == 1
    shown.locator(".board .square").click()
    dialog = shown.locator("dialog")
    dialog.locator("dl").first.wait_for()
    assert "deep · prune" in dialog.inner_text()
    assert "claimed, p 1.0e-09" in dialog.inner_text()
    width = shown.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0


def test_what_cannot_be_ranked_is_named(archived, tmp_path):
    with pytest.raises(InputError, match=r"FILE.csv of published tables, or output_dir=DIR"):
        sheets.write_leaderboard_of(["seed=0"], None, tmp_path)
    with pytest.raises(InputError, match="no record of this code"):
        sheets.write_leaderboard_of([f"output_dir={tmp_path}"], None, tmp_path)
    nothing = {("digits", "small"): ([row("csp", "none", "weights", (1e-9,), 0.0)], [])}
    with pytest.raises(InputError, match="nothing to rank"):
        page.leaderboard_page(nothing, [], tmp_path)
    archived("method=csp", "attack=prune")
    (path,), broken = sheets.write_leaderboard_of([f"output_dir={tmp_path}"], None, tmp_path)
    assert (path.name, broken) == ("leaderboard.html", [])
    assert "digits, smoke scale" in path.read_text()
