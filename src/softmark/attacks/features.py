"""What a stolen model's last layer is given, and another layer in its place."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from softmark.attacks.finetune import last_layer
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import predict


def few_of(data: Samples, count: int | None) -> Samples:
    """Return ``count`` of ``data``, as evenly over its classes as may be; all of it for None."""
    if count is None or count >= len(data):
        return data
    labels, met = data.labels, torch.zeros(int(data.labels.max()) + 1, dtype=torch.int64)
    place = torch.empty_like(labels)  # of each sample among those of its class
    for number, label in enumerate(labels.tolist()):
        place[number] = met[label]
        met[label] += 1
    chosen = place.argsort(stable=True)[:count].sort().values
    return Samples(data.inputs[chosen], labels[chosen])


def linear_head(network: nn.Module) -> nn.Linear:
    """Return the last layer; raise ``InputError`` where it is no linear one."""
    head = last_layer(network)
    if not isinstance(head, nn.Linear):
        raise InputError(f"attack: the last layer is a {type(head).__name__}, and no nn.Linear")
    return head


def check_pictures(samples: Samples, classes: int, least: int) -> np.ndarray:
    """Return the labels (n,). Raise ``InputError`` unless each class has ``least`` pictures."""
    counts = samples.labels.bincount(minlength=classes)
    rarest = int(counts.argmin())
    if len(counts) > classes or counts[rarest] < least:
        raise InputError(
            f"attack.samples: of class {rarest} the attacker has {int(counts[rarest])} among "
            f"{len(samples)} pictures; this attack takes {least} of each of {classes} classes"
        )
    return samples.labels.numpy()


def features_of(network: nn.Module, head: nn.Linear, samples: Samples) -> np.ndarray:
    """Return what ``head`` is given for ``samples``: float64 (N, D)."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].cpu()))
    try:
        predict(network, samples.inputs)
    finally:
        handle.remove()
    if not seen or sum(map(len, seen)) != len(samples) or seen[0].ndim != 2:
        raise InputError("attack: the last linear layer isn't what gives the model's logits")
    return torch.cat(seen).double().numpy()


@torch.no_grad()
def set_head(head: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    """Give ``head`` these weights (K, D) and this bias (K,); K may be another than it has."""
    like = head.weight
    head.weight, head.bias = (
        nn.Parameter(torch.from_numpy(value).to(like)) for value in (weight, bias)
    )
    head.out_features = len(weight)
