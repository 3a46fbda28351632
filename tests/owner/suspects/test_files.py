"""A suspect's answers from files that others have written."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pyarrow import parquet

from softmark.errors import InputError
from softmark.owner.suspects.files import read_predictions

ANSWERS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5], [0.9, 0.05, 0.05]])
LINES = [",".join(str(value) for value in row) for row in ANSWERS]


def csv(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def named(names, order=range(4), head=None):
    """CSV lines with a column ``probe`` that names each row by ``names[i]``."""
    return [head or "probe,0,1,2", *(f"{names[i]},{LINES[i]}" for i in order)]


@pytest.mark.parametrize(
    "lines",
    [
        LINES,
        ["0,1,2", *LINES],
        ["cat,dog,frog", *LINES],
        ["class_0,class_1,class_2", *LINES],
        named(range(4)),
        named(range(4), (2, 0, 3, 1)),
        named([f"{i:05d}.png" for i in range(4)], (3, 2, 1, 0)),
        named([f"pics/{i:05d}.png" for i in range(4)], (3, 2, 1, 0), "probe,p0,p1,p2"),
        named(range(4), head=",0,1,2"),  # as pandas writes its row numbers
        named(range(4), head="Unnamed: 0,cat,dog,frog"),
    ],
)
def test_csv_is_read_in_the_order_of_the_probes(lines, tmp_path):
    np.testing.assert_allclose(read_predictions(csv(tmp_path / "a.csv", lines)), ANSWERS)


def test_columns_that_count_the_classes_are_brought_into_order(tmp_path):
    lines = ["p2,p0,p1", *(",".join(map(str, row[[2, 0, 1]])) for row in ANSWERS)]
    np.testing.assert_allclose(read_predictions(csv(tmp_path / "a.csv", lines)), ANSWERS)


def test_one_column_is_labels(tmp_path):
    found = read_predictions(csv(tmp_path / "a.csv", ["label", "0", "1", "2", "0"]))
    assert found.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("count", [3, 4])
def test_the_number_of_probes_tells_whether_a_first_line_is_an_answer(count, tmp_path, capsys):
    lines = ["0", "2", "1", "0"]  # labels: with a head 0 of three probes, or of four without one
    found = read_predictions(csv(tmp_path / "a.csv", lines), num_probes=count)
    assert found.tolist() == [0, 2, 1, 0][4 - count :]
    ranks = ["0,1,2", "2,1,0", "1,0,2", "0,2,1"]
    found = read_predictions(csv(tmp_path / "b.csv", ranks), num_probes=count)
    assert found.tolist() == [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]][4 - count :]
    assert capsys.readouterr().err == ""
    # Where nobody knows how many there are, what was assumed is said.
    assert read_predictions(tmp_path / "b.csv").tolist() == [[2, 1, 0], [1, 0, 2], [0, 2, 1]]
    assert (
        "b.csv: the first line, 0,1,2, counts as names, not as answers" in capsys.readouterr().err
    )


def test_columns_whose_names_tell_no_order_are_named(tmp_path, capsys):
    read_predictions(csv(tmp_path / "a.csv", ["dog,cat,frog", *LINES]))
    told = capsys.readouterr().err
    assert "columns count in the order they stand in: dog is class 0" in told
    for head in (["p0,p1,p2"], ["1,2,3"], []):
        read_predictions(csv(tmp_path / "a.csv", [*head, *LINES]), num_probes=4)
        assert capsys.readouterr().err == ""


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 6)),
                  elements=st.floats(0, 1, width=32)),
    st.randoms(),
)  # fmt: skip
def test_every_format_says_the_same(tmp_path_factory, answers, random):
    folder = tmp_path_factory.mktemp("answers")
    order = list(range(len(answers)))
    random.shuffle(order)
    columns = {f"c{place}": answers[order, place] for place in range(answers.shape[1])}
    parquet.write_table(pa.table({"probe": order, **columns}), folder / "a.parquet")
    names = [f"pictures/{place:05d}.png" for place in order]
    for kind in ("string", "large_string", "dictionary<values=string, indices=int32, ordered=0>"):
        column = pa.array(names).dictionary_encode() if "dict" in kind else pa.array(names, kind)
        for shared in (True, False):
            table = pa.table({"probe": column, **columns})
            path = folder / f"{kind[:3]}{shared}.parquet"
            parquet.write_table(table, path, use_dictionary=shared)
    np.save(folder / "a.npy", answers)
    np.savez(folder / "a.npz", answers=answers)
    rows = [json.dumps({"probe": i, "answers": answers[i].tolist()}) for i in order]
    (folder / "a.jsonl").write_text("\n".join(rows))
    (folder / "b.jsonl").write_text("\n".join(json.dumps(row) for row in answers.tolist()))
    for path in folder.iterdir():
        np.testing.assert_array_equal(read_predictions(path).astype(np.float32), answers)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (named([0, 1, 1, 3]), "probe 1 is answered more than once"),
        (named([0, 1, 2, 4]), "probe 3 isn't answered, and probe 4 is"),
        (named(["a", "b", "c", "d"]), "probe=a: a number, or a name such as 00012.png"),
        (["name,a,b", "x,0.5,0.5"], "column 'name' holds string, not numbers"),
        (["probe", "0", "1"], "no column of a class"),
        (["a,b", "0.5,0.5", "0.5"], "can't be read as csv"),
        ([""], "can't be read as csv"),
    ],
)
def test_tables_that_cannot_be_used_are_named(lines, message, tmp_path):
    path = csv(tmp_path / "a.csv", lines)
    with pytest.raises(InputError, match=rf"a\.csv: .*{message}"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[0.5, 0.5]", "{"], "line 2 is no JSON"),
        (["[0.5, 0.5]", "[0.5]"], "aren't equally many numbers"),
        (['{"p": [1]}'], "line 1 has no answers, only p"),
        (['{"answers": [1], "probe": 0}', '{"answers": [1]}'], "1 of 2 rows name no probe"),
    ],
)
def test_json_lines_that_cannot_be_used_are_named(lines, message, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "a.jsonl")


def test_many_rows_are_checked_quickly(tmp_path):
    rows = [f"{place},0" for place in range(300_000)]
    for last, message in (("7,0", "probe 7 is answered more"), ("300001,0", "probe 300000 isn't")):
        with pytest.raises(InputError, match=message):
            read_predictions(csv(tmp_path / "a.csv", ["probe,0", *rows, last]))
    # Neither does a long name keep the search busy.
    for lines in (["probe,0", "0" * 200_000 + "!,0"], ["0" * 200_000 + "!,1", "0,0"]):
        with pytest.raises(InputError, match=r"a\.csv: "):
            read_predictions(csv(tmp_path / "a.csv", lines))


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"answers":' * 100_000, "[1" + "0" * 400 + "]", "[" * 70 + "1" + "]" * 70],
    ids=["list", "object", "number", "array"],
)
def test_json_lines_that_say_too_much_are_named(line, tmp_path):
    (tmp_path / "a.jsonl").write_text(f"[0.5]\n{line}\n")
    with pytest.raises(InputError, match=r"a\.jsonl: .*"):
        read_predictions(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "values",
    [
        pa.array([["a"], ["b"]]),
        pa.array([b"0", b"1"], pa.binary(1)),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([True, False]),
    ],
    ids=str,
)
def test_a_parquet_file_of_other_columns_is_named(values, tmp_path):
    for names in (("probe", "0"), ("0", "1")):
        columns = dict(zip(names, (values, [0.5, 0.5]), strict=True))
        parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=rf"a\.parquet: column '{names[0]}' holds"):
            read_predictions(tmp_path / "a.parquet")


class Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(InputError, match="can't be read as npy"):
            read_predictions(tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out


def test_what_is_no_predictions_is_named(tmp_path):
    for name, message in (("a.txt", r"predictions are \.csv"), ("a.csv", "no such file")):
        with pytest.raises(InputError, match=message):
            read_predictions(tmp_path / name)
    np.savez(tmp_path / "a.npz", x=ANSWERS, y=ANSWERS)
    with pytest.raises(InputError, match="it holds x, y; answers is needed"):
        read_predictions(tmp_path / "a.npz")


@pytest.mark.parametrize("form", ["npz", "parquet", "csv"])
def test_answers_of_many_more_probes_than_there_are_take_no_memory(form, tmp_path):
    path = tmp_path / f"answers.{form}"
    if form == "npz":
        np.savez_compressed(path, answers=np.zeros((10**6, 3)))
    elif form == "parquet":
        parquet.write_table(pa.table({"0": np.zeros(3 * 10**6)}), path)
    else:
        path.write_bytes(b"0,1,2\n" * 10**6)
    with pytest.raises(InputError, match=rf"answers\.{form}: .*(expect|unpack|have)"):
        read_predictions(path, 2**22)
