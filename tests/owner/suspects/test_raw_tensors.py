"""Tensors as bytes: read as tritonclient's own messages have them, and hostile ones refused."""

import contextlib
import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softmark.errors import InputError
from softmark.owner.suspects.raw_tensors import (
    _field,
    infer_request,
    join_json,
    read_inferred,
    read_metadata,
    split_json,
    tensor_bytes,
    values_of,
)

ROWS = [0.5, 0.25, 0.25, 0.0, 1.0, 0.0]
# Recorded of tritonclient 2.73 (service_pb2), a message each.
METADATA = (
    "0a066469676974731201311a017022160a01781204465033321a0bffffffffffffffffff01022a160a017912"
    "04465033321a0bffffffffffffffffff0103"
)
RAW = (
    "0a066469676974731201311a013722070a0161120208012a0d0a01791204465033321a020203321800000"
    "03f0000803e0000803e000000000000803f00000000"
)
TYPED = (
    "0a066469676974732a290a01791204465033321a0202032a1a32180000003f0000803e0000803e00000000"
    "0000803f00000000"
)
LABELS = "0a066469676974732a1c0a01791205494e5436341a01022a0d1a0b02ffffffffffffffffff01"
TEXTS = "0a066469676974732a190a0179120542595445531a01022a0a42036361744203646f67"
REQUEST = "0a066469676974731201312a0e0a01781204465033321a03ac02023a0461626364"


def output(message: str) -> dict:
    (only,) = read_inferred(bytes.fromhex(message), "there")["outputs"]
    return only


def test_a_request_has_the_bytes_of_tritonclient():
    assert infer_request("digits", "1", "x", "FP32", [300, 2], b"abcd").hex() == REQUEST


def test_replies_of_tritonclient_are_read():
    about = {"name": "y", "datatype": "FP32", "shape": [2, 3]}
    assert output(RAW) == output(TYPED) == {**about, "data": ROWS}
    assert output(LABELS)["data"] == [2, -1]
    assert output(TEXTS)["data"] == ["cat", "dog"]
    metadata = read_metadata(bytes.fromhex(METADATA), "there")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert metadata["outputs"][0]["shape"] == [-1, 3]


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64", "INT64", "UINT8", "BOOL"])
def test_every_type_comes_back(datatype):
    values = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    content = tensor_bytes(values, datatype)
    assert values_of(content, datatype, [2, 2], "there") == [0, 1, 1, 0]
    for wrong in (content[:-1], content + b"\0"):
        with pytest.raises(InputError, match="bytes for the shape"):
            values_of(wrong, datatype, [2, 2], "there")


def test_bytes_behind_a_json_are_its_outputs_data():
    content = struct.pack("<6f", *ROWS)
    y = {"name": "y", "datatype": "FP32", "shape": [2, 3]}
    y["parameters"] = {"binary_data_size": len(content)}
    body, headers = join_json({"outputs": [{"name": "other", "data": [1]}, y]}, [content])
    (length,) = headers.values()
    assert split_json(body, length, "there")["outputs"][1]["data"] == ROWS
    with pytest.raises(InputError, match="24 bytes of a tensor in"):
        split_json(body[:-1], length, "there")
    for nonsense in ("x", "-1", str(len(body) + 1), "9" * 30):
        with pytest.raises(InputError, match="Inference-Header-Content-Length"):
            split_json(body, nonsense, "there")
    for shape in ([-2, -3], ["2"], None, [10**30, 10**30], [2**62] * 1000):
        hostile, headers = join_json({"outputs": [{**y, "shape": shape}]}, [content])
        with pytest.raises(InputError, match="there"):
            split_json(hostile, *headers.values(), "there")


def test_texts_have_their_lengths_before_them():
    content = b"\3\0\0\0cat\5\0\0\0horse"
    assert values_of(content, "BYTES", [2], "there") == ["cat", "horse"]
    for wrong in (content[:-1], b"\xff\xff\xff\xffcat", b"\3\0"):
        with pytest.raises(InputError, match="text"):
            values_of(wrong, "BYTES", [2], "there")


def test_a_shape_without_end_is_refused_at_once():
    endless = _field(3, b"".join([b"\xff" * 8 + b"\x7f"] * 10_000))
    for number, read in ((4, read_metadata), (5, read_inferred)):
        with pytest.raises(InputError, match="a tensor of 10000 dimensions"):
            read(_field(number, endless), "there")


@settings(max_examples=60)
@given(st.binary(max_size=60), st.integers(0, 50), st.sampled_from([RAW, TYPED, METADATA]))
def test_damaged_messages_are_refused_or_read(noise, place, message):
    whole = bytes.fromhex(message)
    damaged = whole[:place] + noise + whole[place + len(noise) :]
    for read in (read_inferred, read_metadata):
        with contextlib.suppress(InputError):
            json.dumps(read(damaged, "there"))
