"""Published tables read back: old names, other columns, and what is no table."""

import csv
from pathlib import Path

import pytest

from helpers.cells import judged
from softmark.errors import InputError
from softmark.experiment.record import CSV
from softmark.report.export import Sheet, write_cells
from softmark.report.price import outcome
from softmark.report.published import published_records, published_tables
from softmark.report.rows import Row, filled


def cell(method: str, attack: str, seed: int = 0, **changes) -> dict:
    about = {"method": method, "attack": attack, "seed": seed, "data": "digits", "scale": "small"}
    return filled({**judged(seed), **about, "address": f"{seed:016d}", **changes})


def written(path: Path, *cells: dict, strength: str | None = None) -> Path:
    """The CSV that ``softmark report`` writes of ``cells``, each a row of its own."""
    more = [strength] if strength else []
    rows = [Row((one["method"], one["attack"], *more), (one,)) for one in cells]
    varied = ["method", "attack", *(["attack.sparsity"] if more else [])]
    write_cells(Sheet("", {}, rows, varied), path)
    return path


def test_a_table_that_was_written_is_read_back(tmp_path):
    records = [cell("csp", "prune"), cell("csp", "prune", 1, p_value=None, claimed=False)]
    path = written(tmp_path / "digits-some.csv", *records)
    for record, read in zip(records, published_records(path), strict=True):
        for name in CSV:
            assert read[name] == record[name]
        assert outcome(read) == outcome(record)
    (((data, scale), (rows, varied)),) = published_tables([path]).items()
    assert (data, scale, varied) == ("digits", "small", ["method", "attack"])
    assert [len(row.records) for row in rows] == [2]


def test_an_older_table_is_of_the_data_in_its_name_and_has_todays_attacks(tmp_path):
    path = written(tmp_path / "full-old.csv", cell("none", "nad"), strength="0.5")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    old = [name for name in lines[0] if name not in ("data", "scale", "classes", "commitment")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, old, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    (record,) = published_records(path)
    assert (record["data"], record["scale"], record["attack"]) == ("cifar10", "full", "repair_nad")
    assert record["overrides"] == [
        "method=none", "attack=repair_nad", "seed=0", "attack.sparsity=0.5",
    ]  # fmt: skip
    assert outcome(record) == ""  # a method without keys


def test_of_two_tables_with_the_same_cells_the_first_counts(tmp_path):
    first = written(tmp_path / "digits-a.csv", cell("csp", "prune", p_value=0.5))
    second = written(tmp_path / "digits-b.csv", cell("csp", "prune", 1), cell("csp", "distill"))
    ((rows, _),) = published_tables([first, second]).values()
    found = {row.name[1]: [r["p_value"] for r in row.records] for row in rows}
    assert found == {"prune": [0.5], "distill": [1e-7]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no column method"),
        ("method,attack\ncsp,prune\n", "no column seed, status"),
        (None, "line 2: "),
    ],
)
def test_what_is_no_table_is_named_in_one_line(tmp_path, text, expected):
    path = tmp_path / "digits-x.csv"
    if text is None:
        written(path, cell("csp", "prune", p_value="small"))
    else:
        path.write_text(text)
    with pytest.raises(InputError, match=expected) as caught:
        published_records(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        published_records(tmp_path / "none.csv")
