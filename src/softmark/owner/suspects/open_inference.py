"""Requests and replies of the Open Inference Protocol (v2): JSON, bytes behind it, and gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.owner.suspects.bodies import Encoded
from softmark.owner.suspects.forms import Classes
from softmark.owner.suspects.protocols import (
    as_answers,
    describe,
    of_rank,
    only_name,
    rows_of,
    shape_fits,
    shape_of,
    tensors_by_name,
)
from softmark.owner.suspects.raw_tensors import (
    infer_request,
    join_json,
    metadata_request,
    tensor_bytes,
)

FLOATS = ("FP16", "FP32", "FP64", "BF16")
INTEGERS = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")


@dataclass(frozen=True)
class OpenInference:
    """What is asked of a model at a server that speaks the protocol.

    Args:
        url: of the model, for messages.
        model: its name.
        version: its version; "" for the server's choice.
        input: name of the input tensor; None for the only one.
        output: name of the output tensor; None for the only one of the right shape.
        form: of the tensors: ``json``, ``binary`` (bytes behind a JSON) or ``grpc``.
    """

    url: str
    model: str
    version: str
    input: str | None
    output: str | None
    form: str

    def metadata_body(self) -> Encoded | None:
        """Return the body of the question for the model's metadata; None where there is none."""
        if self.form != "grpc":
            return None
        return Encoded(metadata_request(self.model, self.version), "application/grpc")

    def input_tensor(self, metadata: Any, inputs: Tensor, batch_size: int) -> dict[str, str]:
        """Return name and datatype of the tensor to send, from the server's ``metadata``.

        Raises:
            InputError: where it can't be known, or can't hold ``inputs`` (N, ...).
        """
        listed = tensors_by_name(metadata, "inputs")
        outputs = tensors_by_name(metadata, "outputs")
        if outputs and self.output and self.output not in outputs:
            raise InputError(f"--output={self.output}: {self.url} has {describe(outputs)}")
        if metadata is None and not self.input:
            raise InputError(
                f"{self.url} has no metadata of the model: is that its name? If so, --input NAME "
                "is needed"
            )
        name = self.input or (only_name(listed) if listed else "input-0")
        if listed and name not in listed:
            wrong = f"--input={name}" if name else "--input NAME is needed"
            raise InputError(f"{wrong}: {self.url} has {describe(listed)}")
        floats = inputs.is_floating_point()
        default = "FP32" if floats or inputs.dtype == torch.uint8 else "INT64"
        datatype = listed.get(name, {}).get("datatype", default)
        if datatype not in (FLOATS if floats else FLOATS + INTEGERS):
            raise InputError(f"{self.url} takes {datatype}, the inputs are {inputs.dtype}")
        expected = shape_of(listed.get(name, {}))
        shape = [min(batch_size, len(inputs)), *inputs.shape[1:]]
        if expected and not shape_fits(shape, expected):
            smaller = 0 < expected[0] < shape[0] and shape_fits(shape[1:], expected[1:])
            hint = f": --batch-size={expected[0]} is needed" if smaller else ""
            raise InputError(
                f"{self.url} takes the shape {expected}, the inputs have {shape}{hint}"
            )
        return {"name": name, "datatype": datatype}

    def infer_body(self, batch: Tensor, tensor: dict[str, str]) -> Any:
        """Return the body that asks about a ``batch`` (n, ...), sent as ``tensor``."""
        shape = list(batch.shape)
        data = batch if tensor["datatype"] in INTEGERS else as_input(batch)
        if self.form == "json":
            return {"inputs": [{**tensor, "shape": shape, "data": data.flatten().tolist()}]}
        content = tensor_bytes(data, tensor["datatype"])
        if self.form == "grpc":
            about = (self.model, self.version, tensor["name"], tensor["datatype"], shape)
            return Encoded(infer_request(*about, content), "application/grpc")
        parameters = {"binary_data_size": len(content)}
        asked = {"inputs": [{**tensor, "shape": shape, "parameters": parameters}]}
        asked["parameters"] = {"binary_data_output": True}
        body, headers = join_json(asked, [content])
        return Encoded(body, "application/octet-stream", headers)

    def answers(self, reply: Any, count: int, classes: Classes) -> Tensor:
        """Return the answers (n, K) in a ``reply`` to ``count`` inputs."""
        outputs = tensors_by_name(reply, "outputs")
        candidates = of_rank(outputs, 2) or of_rank(outputs, 1)
        name = self.output or only_name(candidates)
        if name not in candidates:
            wrong = f"--output={name}" if name else "--output NAME is needed"
            raise InputError(
                f"{wrong}: {self.url} answers {describe(outputs)}; one of two dimensions, inputs "
                "and classes, is needed"
            )
        where = f"{self.url}, output {name!r}"
        return as_answers(rows_of(candidates[name], where), count, where, classes)
