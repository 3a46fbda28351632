"""Answers in the forms that interfaces and spreadsheets give them in."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from softmark.errors import InputError
from softmark.owner.suspects.files import read_predictions
from softmark.owner.suspects.forms import Classes, read_class_names, row_of
from softmark.owner.suspects.protocols import as_answers

NAMES = ("cat", "dog", "frog")
ANSWERS = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
TOP_2 = np.array([[0.7, 0.2, 0], [0, 0.6, 0.3], [0.25, 0, 0.5]])
NAMED = Classes(3, NAMES)
NUMBERED = Classes(3)


def pairs(row, names=NAMES, label="label", score="score"):
    """As transformers' pipeline: the likeliest first."""
    order = sorted(range(3), key=lambda place: -row[place])
    return [{label: names[place], score: row[place]} for place in order if row[place]]


@pytest.mark.parametrize(
    ("form", "classes"),
    [
        (lambda row: list(row), NUMBERED),
        (lambda row: pairs(row), NAMED),  # transformers' text-classification, top_k=None
        (lambda row: pairs(row, ["LABEL_0", "LABEL_1", "LABEL_2"]), NUMBERED),
        (lambda row: pairs(row, label="className", score="probability"), NAMED),
        (lambda row: [[name, score] for name, score in zip(NAMES, row, strict=True)], NAMED),
        (lambda row: dict(zip(NAMES, row, strict=True)), NAMED),  # TorchServe's image_classifier
        (lambda row: {"2": row[2], "0": row[0], "1": row[1]}, NUMBERED),
        (lambda row: {"predictions": list(row)}, NUMBERED),
        # vLLM's /classify
        (lambda row: {"index": 0, "label": "cat", "probs": list(row), "num_classes": 3}, NAMED),
        # Triton's classification extension: score:index:label
        (lambda row: [f"{row[k]:f}:{k}:{NAMES[k]}" for k in np.argsort(-row)], NUMBERED),
        (lambda row: [f"{row[k]:f}:{k}" for k in np.argsort(-row)], NUMBERED),
        # OpenAI's top_logprobs
        (
            lambda row: [
                {"token": NAMES[place], "logprob": math.log(row[place])} for place in range(3)
            ],
            NAMED,
        ),
        (lambda row: [f"{100 * value:g} %" for value in row], NUMBERED),
        (lambda row: [f"{value:g}".replace(".", ",") for value in row], NUMBERED),
    ],
)  # fmt: skip
def test_every_form_of_an_answer_says_the_same(form, classes):
    for row in ANSWERS:
        assert row_of(json.loads(json.dumps(form(row))), classes, "x") == pytest.approx(row)
    replies = json.loads(json.dumps([form(row) for row in ANSWERS]))
    if (
        not isinstance(replies[0], list)
        or not isinstance(replies[0][0], str)
        or ":" in replies[0][0]
    ):
        np.testing.assert_allclose(as_answers(replies, 3, "x", classes).numpy(), ANSWERS, rtol=1e-6)
    if isinstance(replies[0], dict):
        # One input a request, whose answer stands alone.
        np.testing.assert_allclose(as_answers(replies[1], 1, "x", classes), ANSWERS[1:2], rtol=1e-6)


@pytest.mark.parametrize(
    ("answer", "classes", "label"),
    [("dog", NAMED, 1), (2, NUMBERED, 2), ("2", NUMBERED, 2), ("class_1", NUMBERED, 1),
     ({"label": "frog"}, NAMED, 2)],
)  # fmt: skip
def test_a_label_is_its_class(answer, classes, label):
    assert row_of(answer, classes, "x") == [label]


def test_a_class_that_is_not_named_has_none_of_the_probability():
    for row in TOP_2:
        assert row_of(pairs(row.tolist()), NAMED, "x") == list(row)
    assert row_of({"label": "dog", "score": 0.9}, NAMED, "x") == [0, 0.9, 0]


@pytest.mark.parametrize(
    ("answer", "classes", "message"),
    [
        ({"cat": 0.9}, NUMBERED, r"the classes have names \(cat\): --class-names FILE"),
        ("bird", NAMED, "bird is none of the 3 class names"),
        ({"LABEL_3": 0.9}, NUMBERED, "the classes are 0 to 2: where names count from 1 on"),
        ([{"cat": 0.9}], NAMED, "an object of cat: label and score needed"),
        ({"boxes": [1], "time": 3}, NAMED, "x has no answers, only boxes, time"),
        ([{"label": "cat", "score": 1}] * 2, NAMED, "a class is named twice"),
        ([[0.1], [0.9]], NAMED, "a list of numbers is needed for each input"),
        (True, NAMED, "bool among the answers"),
        ([0.1, "many"], NAMED, "many is no number"),
    ],
)
def test_what_cannot_be_read_says_what_it_looks_like(answer, classes, message):
    with pytest.raises(InputError, match=message):
        row_of(answer, classes, "x")


@pytest.mark.parametrize(
    "text",
    ["cat\ndog\nfrog\n", "cat\r\ndog\r\nfrog", '["cat", "dog", "frog"]',
     '{"0": "cat", "1": "dog", "2": "frog"}',
     '{"id2label": {"0": "cat", "1": "dog", "2": "frog"}}'],
)  # fmt: skip
def test_class_names_are_read(text, tmp_path):
    (tmp_path / "names").write_text(text)
    assert read_class_names(tmp_path / "names") == NAMES


@pytest.mark.parametrize("text", ["", "[1]", '{"0": "a", "2": "b"}', "[", "a\n\nb"])
def test_what_is_no_list_of_names_is_named(text, tmp_path):
    (tmp_path / "names").write_text(text)
    with pytest.raises(InputError, match="names: "):
        read_class_names(tmp_path / "names")
    with pytest.raises(InputError, match="class names: one is there twice"):
        Classes(2, ("a", "a"))
    with pytest.raises(InputError, match="class names: 3, and the model has 10"):
        Classes(10, NAMES)


def comma(number: float) -> str:
    return f"{number:g}".replace(".", ",")


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def rows(delimiter=",", form="{:g}".format, answers=ANSWERS) -> list[str]:
    return [delimiter.join(form(value) for value in row) for row in answers]


@pytest.mark.parametrize(
    ("lines", "classes"),
    [
        (["cat;dog;frog", *rows(";", comma)], None),  # a German Excel
        (["cat;dog;frog", *rows(";")], None),
        (rows(";", comma), None),
        (["cat\tdog\tfrog", *rows("\t")], None),
        (["cat|dog|frog", *rows("|")], None),
        (["cat,dog,frog", *rows(",", lambda value: f"{100 * value:g}%")], None),
        (["cat;dog;frog", *rows(";", lambda value: f"{comma(100 * value)} %")], None),
        (["2,0,1", *rows(answers=ANSWERS[:, [2, 0, 1]])], None),
        (["1,2,3", *rows()], None),
        (rows(" ", "{:.18e}".format), None),  # numpy.savetxt
        (["class_3,class_1,class_2", *rows(answers=ANSWERS[:, [2, 0, 1]])], None),
        (["frog,cat,dog", *rows(answers=ANSWERS[:, [2, 0, 1]])], NAMED),
        (
            ["file,frog,cat,dog", *(f"a.png,{row}" for row in rows(answers=ANSWERS[:, [2, 0, 1]]))],
            NAMED,
        ),
        (["probs", *(json.dumps(f"[{row}]") for row in rows())], None),
        (["answers", *(quoted(json.dumps(pairs(row))) for row in ANSWERS)], NAMED),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_tables_of_any_kind_are_read(lines, classes, encoding, tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    found = read_predictions(tmp_path / "a.csv", classes=classes)
    np.testing.assert_allclose(found, ANSWERS)


def test_names_from_before_unicode_are_read(tmp_path):
    names = ("Bär", "Löwe", "Wal")
    lines = [";".join(reversed(names)), *rows(";", comma, ANSWERS[:, ::-1])]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="cp1252")
    found = read_predictions(tmp_path / "a.csv", classes=Classes(3, names))
    np.testing.assert_allclose(found, ANSWERS)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_that_windows_wrote_is_read(suffix, tmp_path):
    text = json.dumps(ANSWERS.tolist())
    text = text if suffix == ".json" else text[1:-1].replace("], ", "]\n")
    (tmp_path / f"a{suffix}").write_text(text, encoding="utf-16")
    np.testing.assert_allclose(read_predictions(tmp_path / f"a{suffix}"), ANSWERS)


def test_blank_cells_are_classes_that_are_not_told(tmp_path):
    lines = rows(form=lambda value: f"{value:g}" if value else "", answers=TOP_2)
    (tmp_path / "a.csv").write_text("\n".join(["cat,dog,frog", *lines]))
    np.testing.assert_allclose(read_predictions(tmp_path / "a.csv"), TOP_2)
    (tmp_path / "b.csv").write_text("cat,dog\n-1.5,\n0.5,0.5\n")
    assert np.isnan(read_predictions(tmp_path / "b.csv")[0, 1])


def test_labels_and_their_scores_are_read(tmp_path):
    (tmp_path / "a.csv").write_text("probe,label\n1,dog\n0,frog\n2,cat\n")
    assert read_predictions(tmp_path / "a.csv", classes=NAMED).tolist() == [2, 1, 0]
    (tmp_path / "b.csv").write_text("label,score\ndog,0.9\nfrog,0.8\n")
    expected = [[0, 0.9, 0], [0, 0, 0.8]]
    np.testing.assert_allclose(read_predictions(tmp_path / "b.csv", classes=NAMED), expected)
    (tmp_path / "c.csv").write_text("label,score\n1,0.9\n2,0.8\n")
    np.testing.assert_allclose(read_predictions(tmp_path / "c.csv", classes=Classes(3)), expected)
    with pytest.raises(InputError, match=r"a\.csv: the classes have names.*--class-names"):
        read_predictions(tmp_path / "a.csv")


def test_an_order_that_names_tell_is_said(tmp_path, capsys):
    names = sorted((f"class_{place}" for place in range(1, 12)), key=str)
    answers = np.random.default_rng(0).random((2, 11)).round(3)
    by_name = [answers[:, int(name[6:]) - 1] for name in names]
    lines = [",".join(names), *(",".join(map(str, row)) for row in np.array(by_name).T)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    np.testing.assert_allclose(read_predictions(tmp_path / "a.csv"), answers)
    assert (
        "in the order of the numbers in their names, not as they stand" in capsys.readouterr().err
    )


def test_json_of_any_form_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"predictions": [pairs(row) for row in ANSWERS]}))
    np.testing.assert_allclose(read_predictions(tmp_path / "a.json", classes=NAMED), ANSWERS)
    lines = [json.dumps({"probe": place, **dict(zip(NAMES, ANSWERS[place], strict=True))})
             for place in (2, 0, 1)]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    np.testing.assert_allclose(read_predictions(tmp_path / "a.jsonl", classes=NAMED), ANSWERS)


def test_a_parquet_column_of_lists_is_read(tmp_path):
    table = pa.table({"probe": [1, 2, 0], "probs": ANSWERS[[1, 2, 0]].tolist()})
    parquet.write_table(table, tmp_path / "a.parquet")
    np.testing.assert_allclose(read_predictions(tmp_path / "a.parquet"), ANSWERS)


@pytest.mark.skipif(importlib.util.find_spec("openpyxl") is not None, reason="it is installed")
def test_excel_needs_openpyxl(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"a\.xlsx: pip install openpyxl"):
        read_predictions(tmp_path / "a.xlsx")


def test_excel_is_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [["frog", "cat", "dog"], *ANSWERS[:, [2, 0, 1]].tolist()]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    np.testing.assert_allclose(read_predictions(tmp_path / "a.xlsx", classes=NAMED), ANSWERS)
