"""Tensors as bytes, as the Open Inference Protocol sends them: beside JSON, and in gRPC.

Over REST they follow a JSON whose length a header tells (the binary tensor data extension). In
gRPC messages are Protocol Buffers, of which only the few fields of this protocol are read here.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softmark.errors import InputError

LENGTH_HEADER = "Inference-Header-Content-Length"
NUMPY_TYPES = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
NUMPY_TYPES |= {f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)}
NUMPY_TYPES |= {f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field of Protocol Buffers is written
MAX_DIMENSIONS = 16  # of a tensor
# The typed fields of InferTensorContents: varints, but for floats, doubles and bytes.
FP32_CONTENTS, FP64_CONTENTS, BYTES_CONTENTS = 6, 7, 8


def tensor_bytes(values: Tensor, datatype: str) -> bytes:
    """Return ``values`` as the protocol's ``datatype``, row by row, little-endian.

    Example:
        >>> tensor_bytes(torch.tensor([1.0, 2.0]), "FP32").hex()
        '0000803f00000040'
    """
    values = values.detach().cpu().contiguous()
    if datatype == "BF16":
        return values.bfloat16().view(torch.int16).numpy().astype("<i2").tobytes()
    return values.numpy().astype(NUMPY_TYPES[datatype]).tobytes()


def values_of(content: bytes, datatype: str, shape: Sequence[int], where: str) -> list[Any]:
    """Return what ``tensor_bytes`` was given, flat; of BYTES the texts.

    Raises:
        InputError: which begins with ``where``, for bytes that don't fit datatype and shape.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        texts = list(_texts(content, where))
        if len(texts) != count:
            raise InputError(f"{where}: {len(texts)} texts for the shape {list(shape)}")
        return texts
    size = 2 if datatype == "BF16" else np.dtype(NUMPY_TYPES.get(datatype, "V0")).itemsize
    if not size or len(content) != count * size:
        raise InputError(
            f"{where}: {len(content)} bytes for the shape {list(shape)} of {datatype!r:.20}"
        )
    if datatype == "BF16":
        halves = np.frombuffer(content, "<u2").astype("<u4") << 16
        return halves.view("<f4").tolist()
    return np.frombuffer(content, NUMPY_TYPES[datatype]).tolist()


def join_json(header: dict[str, Any], contents: Sequence[bytes]) -> tuple[bytes, dict[str, str]]:
    """Return the body of a request whose tensors follow its JSON, and the header it needs."""
    text = json.dumps(header).encode()
    return b"".join([text, *contents]), {LENGTH_HEADER: str(len(text))}


def split_json(body: bytes, length: str, where: str) -> Any:
    """Return the JSON at the beginning of ``body``, with the bytes behind it as its outputs' data.

    Args:
        body: of a reply.
        length: of the JSON, as a header tells it.
        where: names the server in errors.

    Raises:
        ValueError: for what is no JSON.
        InputError: for bytes that aren't those of the outputs.
    """
    end = int(length) if length.isdecimal() and len(length) < 10 else len(body) + 1
    if end > len(body):
        raise InputError(f"{where}: {LENGTH_HEADER} {length:.20} for {len(body)} bytes")
    reply = json.loads(body[:end])
    outputs = reply.get("outputs") if isinstance(reply, dict) else None
    for output in outputs if isinstance(outputs, list) else []:
        parameters = output.get("parameters") if isinstance(output, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(body) - end:
            raise InputError(f"{where}: {size!r:.20} bytes of a tensor in {len(body)}")
        shape, datatype = _sizes(output.get("shape"), where), output.get("datatype")
        output["data"] = values_of(body[end : end + size], str(datatype), shape, where)
        end += size
    return reply


def metadata_request(model: str, version: str) -> bytes:
    """Return a ``ModelMetadataRequest``."""
    return _field(1, model.encode()) + _field(2, version.encode())


def infer_request(
    model: str, version: str, name: str, datatype: str, shape: Sequence[int], content: bytes
) -> bytes:
    """Return a ``ModelInferRequest`` of one tensor.

    Example:
        >>> infer_request("m", "", "x", "FP32", [1, 1], bytes(4)).hex()[-12:]
        '3a0400000000'
    """
    sizes = b"".join(map(_varint, shape))
    tensor = _field(1, name.encode()) + _field(2, datatype.encode()) + _field(3, sizes)
    return metadata_request(model, version) + _field(5, tensor) + _field(7, content)


def read_metadata(message: bytes, where: str) -> dict[str, Any]:
    """Return a ``ModelMetadataResponse`` as REST says it. Raise ``InputError`` for none."""
    tensors: dict[int, list[Any]] = {4: [], 5: []}
    for number, value in _fields(message, where):
        if number in tensors and isinstance(value, bytes):
            tensors[number].append(_tensor(value, where)[0])
    return {"inputs": tensors[4], "outputs": tensors[5]}


def read_inferred(message: bytes, where: str) -> dict[str, Any]:
    """Return a ``ModelInferResponse`` as REST says it. Raise ``InputError`` for none."""
    outputs, contents = [], []
    for number, value in _fields(message, where):
        if number == 5 and isinstance(value, bytes):
            outputs.append(_tensor(value, where))
        if number == 6 and isinstance(value, bytes):
            contents.append(value)
    if contents and len(contents) != len(outputs):
        raise InputError(f"{where}: {len(contents)} tensors' bytes for {len(outputs)} outputs")
    for place, (output, typed) in enumerate(outputs):
        if contents:
            shape, datatype = output["shape"], output["datatype"]
            typed = values_of(contents[place], datatype, _sizes(shape, where), where)
        output["data"] = typed
    return {"outputs": [output for output, _ in outputs]}


def _tensor(message: bytes, where: str) -> tuple[dict[str, Any], list[Any]]:
    """Return name, datatype and shape of a tensor, and its typed contents."""
    about: dict[str, Any] = {"name": "", "datatype": "", "shape": []}
    typed: list[Any] = []
    for number, value in _fields(message, where):
        if number in (1, 2) and isinstance(value, bytes):
            about[("name", "datatype")[number - 1]] = value.decode(errors="replace")
        if number == 3:
            about["shape"] += [_signed(size) for size in _integers(value, where)]
            _check_dimensions(about["shape"], where)
        if number == 5 and isinstance(value, bytes):
            typed = [each for part in _fields(value, where) for each in _contents(*part, where)]
    return about, typed


def _contents(number: int, value: int | bytes, where: str) -> list[Any]:
    """Return the values of one field of ``InferTensorContents``."""
    if number == BYTES_CONTENTS and isinstance(value, bytes):
        return [value.decode(errors="replace")]
    if number in (FP32_CONTENTS, FP64_CONTENTS):
        kind, size = ("<f4", 4) if number == FP32_CONTENTS else ("<f8", 8)
        content = value.to_bytes(size, "little") if isinstance(value, int) else value
        if len(content) % size:
            raise InputError(f"{where}: {len(content)} bytes of numbers of {size} bytes")
        return np.frombuffer(content, kind).tolist()
    return [_signed(each) for each in _integers(value, where)]


def _integers(value: int | bytes, where: str) -> list[int]:
    """Return a field of integers, packed or one alone."""
    if isinstance(value, int):
        return [value]
    numbers, start = [], 0
    while start < len(value):
        number, start = _read_varint(value, start, where)
        numbers.append(number)
    return numbers


def _fields(message: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message of Protocol Buffers."""
    start = 0
    while start < len(message):
        tag, start = _read_varint(message, start, where)
        kind = tag & 7
        if kind == VARINT:
            value, start = _read_varint(message, start, where)
        elif kind in (FIXED32, FIXED64, BYTES):
            size = {FIXED32: 4, FIXED64: 8}.get(kind)
            if size is None:
                size, start = _read_varint(message, start, where)
            if size > len(message) - start:
                raise InputError(f"{where}: a message that is cut short")
            content, start = message[start : start + size], start + size
            value = content if kind == BYTES else int.from_bytes(content, "little")
        else:
            raise InputError(f"{where}: no message of the Open Inference Protocol")
        yield tag >> 3, value


def _read_varint(message: bytes, start: int, where: str) -> tuple[int, int]:
    """Return the integer at ``start``, and where it ends."""
    number = 0
    for place in range(10):
        if start + place >= len(message):
            break
        byte = message[start + place]
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, start + place + 1
    raise InputError(f"{where}: a message that is cut short")


def _signed(number: int) -> int:
    """Return the int64 that a varint of 64 bits stands for."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number


def _field(number: int, content: bytes) -> bytes:
    """Return a field of bytes; nothing where they are empty, as the default is."""
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content if content else b""


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _texts(content: bytes, where: str) -> Iterator[str]:
    """Yield texts, before each of which its length stands in four bytes."""
    start = 0
    while start < len(content):
        size = struct.unpack_from("<I", content.ljust(start + 4, b"\0"), start)[0]
        start += 4
        if size > len(content) - start:
            raise InputError(f"{where}: a text that is cut short")
        yield content[start : start + size].decode(errors="replace")
        start += size


def _sizes(shape: Any, where: str) -> list[int]:
    """Return a shape. Raise ``InputError`` for what is none."""
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise InputError(f"{where}: {str(shape)[:40]} is no shape")
    _check_dimensions(shape, where)
    return shape


def _check_dimensions(shape: list[int], where: str) -> None:
    """Raise ``InputError`` for more dimensions than a tensor has: their product has no end."""
    if len(shape) > MAX_DIMENSIONS:
        raise InputError(f"{where}: a tensor of {len(shape)} dimensions")
