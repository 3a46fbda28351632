"""A suspect behind an HTTP interface: asked in batches, its answers kept as they come."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from softmark.errors import InputError
from softmark.owner.suspects.answer_log import AnswerLog
from softmark.owner.suspects.http import HttpClient, address
from softmark.owner.suspects.protocols import (
    as_rows,
    at_path,
    fits,
    joined,
    listed,
    of_sizes,
    only_name,
    shape_of,
    table_of,
    tensors_of,
)
from softmark.training import as_input

SAME = 1e-4  # answers to one input that differ by no more count as the same
FLOATS = ("FP16", "FP32", "FP64", "BF16")
WHOLE = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")


class Endpoint:
    """A suspect behind an HTTP interface: inputs in, answers out, every input counted.

    ``url``: what stands before ``/v2/models`` (``v2``: Open Inference Protocol, REST), or where
    inputs are posted to (``json``). It is shown and kept; ``headers`` are neither, so that secrets
    belong there. ``input``, ``output``: names of tensors (``v2``); where None the only one there
    is that fits; a server that tells of no inputs is sent one called input-0. ``request``,
    ``answer``: the key of the inputs in a body, and the dotted path to the answers in a reply, ""
    for the reply itself, ``*`` for each entry of a list: predictions.*.scores (``json``).
    ``rate``: requests a second. ``budget``: inputs that may be sent in all, those sent again
    included. ``timeout``: seconds a request. ``kept``: a file that each batch of answers is added
    to; a later call with the same inputs asks only what is missing there.

    ``changed``: the part of the first batch that was answered otherwise when it was asked once more
    after all others; None where that wasn't checked. Raises ``InputError`` for whatever is wrong
    with an argument, the server or a reply.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: Literal["v2", "json"] = "v2",
        model: str | None = None,
        version: str | None = None,
        input: str | None = None,
        output: str | None = None,
        request: str = "instances",
        answer: str = "predictions",
        headers: Mapping[str, str] | None = None,
        batch_size: int = 32,
        rate: float | None = None,
        budget: int | None = None,
        timeout: float = 30,
        retries: int = 4,
        kept: Path | None = None,
    ):
        if protocol not in ("v2", "json"):
            raise InputError(f"--protocol={protocol}: v2 or json")
        if protocol == "v2" and not model:
            raise InputError("--model NAME is needed: protocol v2 asks each model by its name")
        for key, value, least in (
            ("batch-size", batch_size, 1),
            ("budget", budget, 1),
            ("retries", retries, 0),
        ):
            if value is not None and not value >= least:
                raise InputError(f"--{key}={value}: a whole number from {least} on is needed")
        for key, value in (("timeout", timeout), ("rate", rate)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{key}={value}: a number above 0 is needed")
        self.url = address(url)
        if protocol == "v2":
            self.url = f"{self.url.rstrip('/')}/v2/models/{quote(model, safe='')}"
            self.url += f"/versions/{quote(version, safe='')}" if version else ""
        self.protocol, self.batch_size, self.kept = protocol, batch_size, kept
        self.input, self.output, self.request, self.answer = input, output, request, answer
        self.changed: float | None = None
        self._calls = HttpClient(headers or {}, rate, budget, timeout, retries)

    @property
    def asked(self) -> int:
        """The inputs sent so far, by every call; those of a request tried again count again."""
        return self._calls.asked

    @property
    def tried(self) -> int:
        """The requests sent so far."""
        return self._calls.tried

    def __call__(self, inputs: Tensor) -> Tensor:
        """Its answers to ``inputs`` (N, ...): float32 (N, K), as they came, in order; null is NaN.

        One number for each input is a label: (N,).

        uint8 inputs are sent as floats in [0, 1], which is what networks take, unless the server
        says that it wants whole numbers; all others are sent as they are.
        """
        inputs = inputs.detach().cpu()
        if not len(inputs):
            raise InputError("there are no inputs to ask about")
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise InputError("the inputs hold NaN or infinity: JSON has no such numbers")
        self.changed = None
        file = AnswerLog(self.kept, self._identity(inputs)) if self.kept else None
        answers = file.read(len(inputs)) if file else []
        start = sum(map(len, answers))
        if start == len(inputs):
            return joined(answers)
        self._calls.afford(len(inputs) - start)
        tensor = self._tensor(inputs) if self.protocol == "v2" else {}
        for part in track(
            inputs[start:].split(self.batch_size),
            "Asking the endpoint",
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        ):
            rows = self._ask(part, tensor)
            if answers and rows.shape[1] != answers[0].shape[1]:
                first, now = answers[0].shape[1], rows.shape[1]
                raise InputError(f"{self.url} answered {first} classes first, now {now}")
            if file:
                file.append(start, rows)
            answers.append(rows)
            start += len(part)
        together = torch.cat(answers)
        self.changed = self._compare(inputs[: self.batch_size], together, tensor)
        return joined(answers)

    def _identity(self, inputs: Tensor) -> dict[str, Any]:
        """What the answers depend on, without secrets."""
        state = hashlib.sha256(json.dumps([list(inputs.shape), str(inputs.dtype)]).encode())
        state.update(inputs.contiguous().view(torch.uint8).numpy())
        answer = self.output if self.protocol == "v2" else self.answer
        return {
            "url": self.url,
            "protocol": self.protocol,
            "answer": answer,
            "inputs": state.hexdigest(),
        }

    def _tensor(self, inputs: Tensor) -> dict[str, str]:
        """Name and datatype of the tensor to send, as the server tells them."""
        about = self._calls.send("GET", self.url, absent=(404, 501))
        outputs, there = tensors_of(about, "outputs"), tensors_of(about, "inputs")
        if outputs and self.output and self.output not in outputs:
            raise InputError(f"--output={self.output}: {self.url} has {listed(outputs)}")
        if about is None and not self.input:
            raise InputError(
                f"{self.url} tells nothing of the model: is that its name? If so, --input NAME is "
                "needed"
            )
        name = self.input or (only_name(there) if there else "input-0")
        if there and name not in there:
            wrong = f"--input={name}" if name else "--input NAME is needed"
            raise InputError(f"{wrong}: {self.url} has {listed(there)}")
        floats = inputs.is_floating_point()
        usual = "FP32" if floats or inputs.dtype == torch.uint8 else "INT64"
        datatype = there.get(name, {}).get("datatype", usual)
        if datatype not in (FLOATS if floats else FLOATS + WHOLE):
            raise InputError(f"{self.url} takes {datatype}, the inputs are {inputs.dtype}")
        shape = shape_of(there.get(name, {}))
        ours = [min(self.batch_size, len(inputs)), *inputs.shape[1:]]
        if shape and not fits(ours, shape):
            smaller = 0 < shape[0] < ours[0] and fits(ours[1:], shape[1:])
            hint = f": --batch-size={shape[0]} is needed" if smaller else ""
            raise InputError(f"{self.url} takes the shape {shape}, the inputs have {ours}{hint}")
        return {"name": name, "datatype": datatype}

    def _ask(self, part: Tensor, tensor: dict[str, str]) -> Tensor:
        if self.protocol == "json":
            body = {self.request: as_input(part).tolist()}
            reply = self._calls.send("POST", self.url, body, len(part))
            return as_rows(at_path(reply, self.answer, self.url), len(part), self.url)
        data = part if tensor["datatype"] in WHOLE else as_input(part)
        sent = {**tensor, "shape": list(part.shape), "data": data.flatten().tolist()}
        reply = self._calls.send("POST", f"{self.url}/infer", {"inputs": [sent]}, len(part))
        outputs = tensors_of(reply, "outputs")
        tables = of_sizes(outputs, 2) or of_sizes(outputs, 1)
        name = self.output or only_name(tables)
        if name not in tables:
            wrong = f"--output={name}" if name else "--output NAME is needed"
            raise InputError(
                f"{wrong}: {self.url} answers {listed(outputs)}; one of two sizes, inputs and "
                "classes, is needed"
            )
        where = f"{self.url}, output {name!r}"
        return as_rows(table_of(tables[name], where), len(part), where)

    def _compare(self, first: Tensor, answers: Tensor, tensor: dict[str, str]) -> float | None:
        """The part of ``first`` that is answered otherwise by now."""
        try:
            again = self._ask(first, tensor)
        except InputError:
            # All answers are there: a server or a budget that gives no more takes none away.
            return None
        return differing(answers[: len(first)], again)


def differing(first: Tensor, second: Tensor) -> float:
    """The part of the rows that aren't the same."""
    if first.shape != second.shape:
        return 1.0
    same = first.double().isclose(second.double(), rtol=0, atol=SAME, equal_nan=True)
    return float((~same).reshape(len(first), -1).any(1).float().mean())
