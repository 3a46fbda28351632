"""What an owner hands over, turned into the samples that softmark trains on and asks with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.nodes import short
from softmark.owner.named_inputs import Layout, joined
from softmark.owner.redrawn import RedrawnSamples, redrawing


def as_samples(data: Any) -> Samples:
    """Return inputs and labels of ``data``, in memory.

    ``data``: a pair of tensors, arrays or lists, (inputs (N, ...), labels (N,)), a ``Dataset`` of
    (input, label) pairs, or a ``DataLoader`` of batches of them, which is read once. Raises
    ``InputError`` for anything else.
    """
    return as_named_samples(data)[0]


def as_named_samples(data: Any) -> tuple[Samples, Layout | None]:
    """Return inputs and labels of ``data``, in memory, and the layout of named inputs.

    ``data``: as for ``as_samples``, where inputs may be a mapping of tensors by name, and a batch
    one that has labels among them. Named inputs come as one tensor (N, W).
    """
    whole = _pair_of(data)
    read = None if whole else redrawing(data)
    batches = [whole] if whole else list(_batches(data if read is None else _in_order(data)))
    if not batches:
        raise InputError("data: it is empty")
    inputs, labels = zip(*batches, strict=True)
    if any(part is None for part in labels):
        raise InputError("data: samples without labels; (input, label) is needed")
    packed, layout = _packed(list(inputs), "data")
    labels = torch.cat(list(labels))
    if len(packed) != len(labels):
        raise InputError(f"data: {len(packed)} inputs and {len(labels)} labels")
    samples = Samples(_checked(packed, "data"), _checked_labels(labels))
    if read is None or layout is not None:
        return samples, layout
    draw = lambda places: _checked(_tensor(read(places)[0], "data: inputs"), "data")  # noqa: E731
    return RedrawnSamples(samples.inputs, samples.labels, draw), None


def _in_order(data: Any) -> Any:
    """Return what reads each sample of a data set in turn, however ``data`` would mix them."""
    if not isinstance(data, DataLoader):
        return data
    workers = data.num_workers
    return DataLoader(data.dataset, 256, collate_fn=data.collate_fn, num_workers=workers)


def as_inputs(probes: Any, where: str = "probes") -> Tensor:
    """Return the inputs (N, ...) of a tensor or an array, or of whatever ``as_samples`` takes."""
    return as_named_inputs(probes, where)[0]


def as_named_inputs(probes: Any, where: str = "probes") -> tuple[Tensor, Layout | None]:
    """Return the inputs of ``as_inputs``, and the layout of named ones, which come as (N, W)."""
    if isinstance(probes, Tensor | np.ndarray):
        return _checked(_tensor(probes, where), where), None
    whole = _pair_of(probes)
    batches = [whole[0]] if whole else [inputs for inputs, _ in _batches(probes)]
    if not batches:
        raise InputError(f"{where}: there are none")
    packed, layout = _packed(batches, where)
    return _checked(packed, where), layout


def as_probes(probes: Any) -> tuple[Tensor, Tensor | None, Layout | None]:
    """Return the inputs (N, ...), their labels (N,) if there are any, and ``as_named_inputs``'s."""
    whole = _pair_of(probes)
    if whole is None or whole[1] is None:
        inputs, layout = as_named_inputs(probes)
        return inputs, None, layout
    samples, layout = as_named_samples(probes)
    return samples.inputs, samples.labels, layout


def unlabelled(inputs: Tensor) -> Samples:
    """Return ``inputs`` as samples whose labels nobody knows: -1."""
    return Samples(inputs, torch.full((len(inputs),), -1))


def check_alike(inputs: Tensor, probes: Tensor) -> None:
    """Raise ``InputError`` where ``inputs`` and ``probes`` are numbers of different kinds.

    A model gets uint8 as floats in [0, 1] and anything else as it is: of the two kinds one would
    reach it in another range.
    """
    kinds = [_kind_of_number(part.dtype) for part in (inputs, probes)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"probes: they are {kinds[1]} ({probes.dtype}), and data {kinds[0]} ({inputs.dtype}): "
            "the model would get one of both in another range; give both in the same form"
        )


def _kind_of_number(dtype: torch.dtype) -> str:
    if dtype == torch.uint8:
        return "bytes"
    return "floats" if dtype.is_floating_point else "whole numbers"


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise ``InputError`` for labels that aren't from 0 to ``classes`` - 1."""
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < classes:
        raise InputError(
            f"data: labels from {low} to {high}, and the model has {classes} classes: 0 to "
            f"{classes - 1} are right"
        )


LABELS = ("labels", "label", "y")  # what a mapping calls them
ONE_SHAPE = (
    "each input must be a tensor or an array, all of one shape: of pictures "
    "torchvision.transforms.PILToTensor() makes them, and Resize((N, N)) before it one size"
)


def _is_pair(data: Any) -> bool:
    """Whether ``data`` are inputs and labels, and not two samples (an input, a label)."""
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(
            isinstance(part, Tensor | np.ndarray) or (isinstance(part, list) and len(part) > 2)
            for part in data
        )
    )


def _pair_of(data: Any) -> tuple[Any, Tensor | None] | None:
    """Return the inputs and the labels of a pair, or of a mapping; None where it is neither."""
    if isinstance(data, Mapping):
        return _split(data)
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Mapping):
        if not isinstance(data[1], Mapping):  # two samples are no pair
            return _parts(data[0]), _tensor(data[1], "labels")
    elif _is_pair(data):
        return _tensor(data[0], "inputs"), _tensor(data[1], "labels")
    return None


def _split(batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the named inputs in ``batch`` and its labels, if it has any."""
    name = next((name for name in LABELS if name in batch), None)
    labels = None if name is None else _tensor(batch[name], f"data: {name}")
    return _parts({key: value for key, value in batch.items() if key != name}), labels


def _parts(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: _tensor(value, f"data: {name}") for name, value in inputs.items()}


def _packed(batches: list[Any], where: str) -> tuple[Tensor, Layout | None]:
    """Return all ``batches`` of inputs as one tensor, and the layout of named ones."""
    if not isinstance(batches[0], Mapping):
        return _joined(batches, where), None
    layout, packed = Layout.pack(joined(batches, where))
    return packed, layout


def _tensor(values: Any, where: str) -> Tensor:
    try:
        return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: they are no numbers ({error})") from error


def _batches(data: Any) -> Iterator[tuple[Any, Tensor | None]]:
    """Yield inputs, by name where they have some, and labels of each batch."""
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        data = DataLoader(data, batch_size=256)
    if not isinstance(data, Iterable):
        raise InputError(
            f"data is a {type(data).__name__}: a pair of tensors (inputs, labels), a Dataset or a "
            "DataLoader of such pairs is needed"
        )
    for batch in _each(data):
        if isinstance(batch, Mapping):
            yield _split(batch)
            continue
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            has = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
            raise InputError(
                f"data: a sample has {has}; (input, label) is needed. A training of your own can "
                "use softmark.marking_loss instead"
            )
        inputs, labels = batch
        named = isinstance(inputs, Mapping)
        inputs = _parts(inputs) if named else _tensor(inputs, "data: inputs")
        yield inputs, _tensor(labels, "data: labels")


def _each(data: Iterable) -> Iterator[Any]:
    """Yield each batch of ``data``. Raise ``InputError`` where its samples make none."""
    try:
        yield from data
    except Exception as error:  # of the owner's data set, or of the DataLoader's collation
        raise InputError(f"data: {type(error).__name__}: {short(error)}; {ONE_SHAPE}") from error


def _joined(batches: list[Tensor], where: str = "data") -> Tensor:
    """Return all ``batches`` as one. Raise ``InputError`` where their samples differ in shape."""
    if len(shapes := {tuple(batch.shape[1:]) for batch in batches}) > 1:
        one, other, *_ = sorted(shapes)
        raise InputError(f"{where}: samples of shape {one} and of {other}; {ONE_SHAPE}")
    return torch.cat(batches)


def _checked(inputs: Tensor, where: str) -> Tensor:
    if inputs.ndim < 2 or not len(inputs):
        raise InputError(f"{where}: shape {tuple(inputs.shape)}; inputs (N, ...) are needed")
    if inputs.is_floating_point() and not inputs.isfinite().all():
        bad = int((~inputs.flatten(1).isfinite().all(1)).nonzero()[0])
        raise InputError(f"{where}: input {bad} holds nan or infinity")
    return inputs.float() if inputs.dtype in (torch.float64, torch.bfloat16) else inputs


def _checked_labels(labels: Tensor) -> Tensor:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"data: labels of shape {tuple(labels.shape)} and type {labels.dtype}; one whole "
            "number for each input is needed"
        )
    return labels.long()
