"""Models that never met a marked one: of scikit-learn, and networks that softmark didn't train."""

from __future__ import annotations

import functools

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import Tensor

from helpers import owners
from softmark.training import predict

CLASSICAL = {
    "SVC": lambda: SVC(probability=True, random_state=0),
    "random forest": lambda: RandomForestClassifier(100, random_state=0),
    "gradient boosting": lambda: GradientBoostingClassifier(n_estimators=20, random_state=0),
    "nearest neighbours": lambda: KNeighborsClassifier(5),
    "linear": lambda: LogisticRegression(max_iter=200),
    "naive Bayes": GaussianNB,
}
NETWORKS = ("network 1", "network 2", "network 3", "convolutions 1", "convolutions 2")
NAMES = (*CLASSICAL, *NETWORKS)


def as_rows(inputs: Tensor) -> np.ndarray:
    """The pixels (N, 64) as floats from 0 to 1, of pictures or of rows."""
    rows = inputs.flatten(1).numpy().astype(float)
    return rows / 255 if inputs.dtype == torch.uint8 else rows


@functools.cache
def fitted(name: str):
    """The innocent ``name``, trained on the digits that are no probes."""
    if name in CLASSICAL:
        inputs, labels = owners.rows()
        kept = torch.cat([torch.arange(1000), torch.arange(1500, len(labels))])
        return CLASSICAL[name]().fit(inputs[kept].numpy(), labels[kept].numpy())
    kind, seed = name.split()
    if kind == "network":
        return owners.trained(100 + int(seed))
    return owners.fitted(owners.seer(100 + int(seed)), slice(1000), 5)


def answers(name: str, inputs: Tensor) -> Tensor:
    """What the innocent ``name`` answers to ``inputs``, pictures or rows: (N, 10)."""
    model = fitted(name)
    if name in CLASSICAL:
        return torch.from_numpy(model.predict_proba(as_rows(inputs))).float()
    rows = torch.from_numpy(as_rows(inputs)).float()
    return predict(model, rows if name.startswith("network") else rows.reshape(-1, 1, 8, 8))
