"""A suspect behind an HTTP interface, which is asked in batches."""

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
from softmark.owner.suspects.bodies import Bodies
from softmark.owner.suspects.forms import Classes
from softmark.owner.suspects.grpc_client import GrpcClient
from softmark.owner.suspects.http import HttpClient, checked_url
from softmark.owner.suspects.open_inference import OpenInference
from softmark.owner.suspects.protocols import as_answers, join_batches, value_at_path

TOLERANCE = 1e-4  # answers to one input that differ by no more than this are the same


class Endpoint:
    """A suspect behind an HTTP interface: called with inputs, it returns the server's answers.

    Inputs go in batches, and each that is sent is counted. uint8 inputs are sent as floats in
    [0, 1], which is what networks take, unless the server wants whole numbers.

    Args:
        url: for ``v2`` what stands before ``/v2/models``, for ``json`` where inputs are posted to.
            It is shown and logged, but for what follows ``?``: secrets belong there or into
            ``headers``, which are neither.
        protocol: ``v2`` (Open Inference Protocol, REST), ``grpc`` (the same over gRPC, at
            ``grpc://HOST:PORT``; needs ``softmark[grpc]``) or ``json`` (any JSON POST).
        model: name of the model at the server (``v2``; needed there).
        version: its version at the server (``v2``); the server's choice where None.
        input: name of the input tensor (``v2``); where None the only one that the server lists,
            and input-0 for a server that lists none.
        output: name of the output tensor (``v2``); where None the only one of the right shape.
        request: name of the list of inputs in the body (``json``).
        encoding: of the inputs there: ``numbers``, ``bytes``, or PNG files: ``base64`` in text,
            ``multipart`` in a form and ``file`` alone, one a request (``json``); ``binary``:
            tensors as bytes behind the JSON (``v2``).
        body: the whole body in JSON, with ``"{inputs}"``, ``"{input}"`` (one a request) or
            ``{data_url}`` where inputs belong (``json``); None for the list alone.
        answer: dotted path to the answers in the reply (``json``); ``""`` for the reply itself,
            ``*`` for each entry of a list, as in ``predictions.*.scores``.
        headers: sent with each request.
        batch_size: inputs per request.
        rate: requests per second at most; None for no limit.
        budget: inputs that may be sent in all, retries included; None for no limit.
        timeout: seconds per request.
        retries: how often a failed request is sent again.
        answer_log: a file that each batch of answers is added to. A later call with the same
            inputs asks only for what is missing there.

    Attributes:
        changed: the fraction of the first batch that was answered otherwise when it was sent once
            more after all others; None where that wasn't checked.

    Raises:
        InputError: for an argument that can't be used; on a call for whatever is wrong with the
            server or a reply.

    Example:
        >>> import softmark
        >>> suspect = softmark.Endpoint("http://127.0.0.1:8080", model="digits", budget=2000)
        >>> suspect.url, suspect.inputs_sent
        ('http://127.0.0.1:8080/v2/models/digits', 0)

        ``softmark.verify(suspect, key, probes)`` sends the probes and judges the answers.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: Literal["v2", "grpc", "json"] = "v2",
        model: str | None = None,
        version: str | None = None,
        input: str | None = None,
        output: str | None = None,
        request: str = "instances",
        encoding: str = "numbers",
        body: str | None = None,
        answer: str = "predictions",
        headers: Mapping[str, str] | None = None,
        batch_size: int = 32,
        rate: float | None = None,
        budget: int | None = None,
        timeout: float = 30,
        retries: int = 4,
        answer_log: Path | None = None,
    ):
        if protocol not in ("v2", "grpc", "json"):
            raise InputError(f"--protocol={protocol}: v2, grpc or json")
        if protocol != "json" and not model:
            raise InputError(f"--model NAME is needed: protocol {protocol} asks models by name")
        if encoding == "binary" and protocol != "v2":
            raise InputError(f"--encoding=binary: of v2 alone, and --protocol is {protocol}")
        _check_limits(batch_size, budget, retries, timeout, rate)
        self._v2 = None
        # What follows ? may be a password, and is shown nowhere.
        address, _, query = (url if protocol == "grpc" else checked_url(url)).partition("?")
        self.url = address
        if protocol != "json":
            self.url = f"{address.rstrip('/')}/v2/models/{quote(model, safe='')}"
            self.url += f"/versions/{quote(version, safe='')}" if version else ""
            form = "grpc" if protocol == "grpc" else "binary" if encoding == "binary" else "json"
            self._v2 = OpenInference(self.url, model, version or "", input, output, form)
        self.protocol, self.batch_size, self.answer_log = protocol, batch_size, answer_log
        self.output, self.answer = output, answer
        self._bodies = Bodies(request, "numbers" if self._v2 else encoding, body)
        if protocol == "json" and self._bodies.one_by_one:
            self.batch_size = 1
        self.changed: float | None = None
        self._classes = Classes()
        limits = (headers or {}, rate, budget, timeout, retries, query)
        self._client = GrpcClient(url, *limits) if protocol == "grpc" else HttpClient(*limits)

    @property
    def inputs_sent(self) -> int:
        """Inputs sent so far, by every call; those of a request that was retried count again."""
        return self._client.inputs_sent

    @property
    def requests_sent(self) -> int:
        """Requests sent so far, retries included."""
        return self._client.requests_sent

    def __call__(self, inputs: Tensor) -> Tensor:
        """Send ``inputs`` (N, ...) and return the answers, in order, as they came; null is NaN.

        Returns:
            float32 (N, K), or labels (N,) where the server answers one number for each input.
        """
        return self.ask(inputs, Classes())

    def ask(self, inputs: Tensor, classes: Classes) -> Tensor:
        """Return the answers to ``inputs``, where it helps with what is known of the classes."""
        self._classes = classes
        inputs = inputs.detach().cpu()
        if not len(inputs):
            raise InputError("there are no inputs to ask about")
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise InputError("the inputs hold NaN or infinity: JSON has no such numbers")
        self.changed = None
        log = AnswerLog(self.answer_log, self._identity(inputs)) if self.answer_log else None
        batches = log.read(len(inputs)) if log else []
        start = sum(map(len, batches))
        if start == len(inputs):
            return join_batches(batches)
        self._client.check_budget(len(inputs) - start)
        tensor = self._input_tensor(inputs) if self._v2 else {}
        for batch in track(
            inputs[start:].split(self.batch_size),
            "Asking the endpoint",
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        ):
            answers = self._send(batch, tensor)
            if batches and answers.shape[1] != batches[0].shape[1]:
                raise InputError(
                    f"{self.url} answered {batches[0].shape[1]} classes first, now "
                    f"{answers.shape[1]}"
                )
            if log:
                log.append(start, answers)
            batches.append(answers)
            start += len(batch)
        first = inputs[: self.batch_size]
        self.changed = self._fraction_changed(first, torch.cat(batches)[: len(first)], tensor)
        return join_batches(batches)

    def _identity(self, inputs: Tensor) -> dict[str, Any]:
        """Return what the answers depend on, without secrets."""
        fingerprint = hashlib.sha256(json.dumps([list(inputs.shape), str(inputs.dtype)]).encode())
        fingerprint.update(inputs.contiguous().view(torch.uint8).numpy())
        usual = self._bodies == Bodies(self._bodies.request)
        return {
            "url": self.url,
            "protocol": self.protocol,
            "answer": self.output if self._v2 else self.answer,
            "inputs": fingerprint.hexdigest(),
            **({} if usual else {"body": repr(self._bodies)}),
        }

    def _input_tensor(self, inputs: Tensor) -> dict[str, str]:
        """Return name and datatype of the tensor to send, from the server's metadata."""
        about = self._client.send(
            "GET", self.url, self._v2.metadata_body(), absent_statuses=(404, 501)
        )
        return self._v2.input_tensor(about, inputs, self.batch_size)

    def _send(self, batch: Tensor, tensor: dict[str, str]) -> Tensor:
        """Send one ``batch`` (n, ...) and return its answers (n, K)."""
        if self._v2 is None:
            reply = self._client.send("POST", self.url, self._bodies.make(batch), len(batch))
            rows = value_at_path(reply, self.answer, self.url)
            return as_answers(rows, len(batch), self.url, self._classes)
        body = self._v2.infer_body(batch, tensor)
        reply = self._client.send("POST", f"{self.url}/infer", body, len(batch))
        return self._v2.answers(reply, len(batch), self._classes)

    def _fraction_changed(
        self, inputs: Tensor, answers: Tensor, tensor: dict[str, str]
    ) -> float | None:
        """Send ``inputs`` once more; return the fraction that isn't answered as in ``answers``."""
        try:
            repeated = self._send(inputs, tensor)
        except InputError:
            # All answers are there: a server or a budget that gives no more takes none away.
            return None
        return fraction_changed(answers, repeated)


def _check_limits(
    batch_size: int, budget: int | None, retries: int, timeout: float, rate: float | None
) -> None:
    """Raise ``InputError`` for a number that can't be kept to."""
    for name, value, least in (
        ("batch-size", batch_size, 1),
        ("budget", budget, 1),
        ("retries", retries, 0),
    ):
        if value is not None and not value >= least:
            raise InputError(f"--{name}={value}: a whole number from {least} on is needed")
    for name, value in (("timeout", timeout), ("rate", rate)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name}={value}: a number above 0 is needed")


def fraction_changed(first: Tensor, second: Tensor) -> float:
    """Return the fraction of rows that differ between ``first`` (N, K) and ``second`` (N, K)."""
    if first.shape != second.shape:
        return 1.0
    same = first.double().isclose(second.double(), rtol=0, atol=TOLERANCE, equal_nan=True)
    return float((~same).reshape(len(first), -1).any(1).float().mean())
