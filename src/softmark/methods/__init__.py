"""The watermarks: the contract, and one file a paper.

    marked, key = CSP().embed(model, (inputs, labels), Fit())
    CSP().evidence(suspect, key, probes).tests["signs"].p_value()

Nothing is imported before it is used: the names below cost no torch.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "AKH": "softmark.methods.akh",
    "APP": "softmark.methods.app",
    "CFW": "softmark.methods.cfw",
    "CSP": "softmark.methods.csp",
    "EWE": "softmark.methods.ewe",
    "USP": "softmark.methods.usp",
    "MAT": "softmark.methods.mat",
    "SAC": "softmark.methods.sac",
    "SSW": "softmark.methods.ssw",
    "Adi": "softmark.methods.adi",
    "BlackMarks": "softmark.methods.blackmarks",
    "CosWM": "softmark.methods.coswm",
    "DatasetInference": "softmark.methods.dataset_inference",
    "Dawn": "softmark.methods.dawn",
    "DeepMarks": "softmark.methods.deepmarks",
    "DeepSigns": "softmark.methods.deepsigns",
    "EaaW": "softmark.methods.eaaw",
    "Fit": "softmark.training",
    "Frontier": "softmark.methods.frontier",
    "HoneyTrace": "softmark.methods.honeytrace",
    "Hybrid": "softmark.methods.hybrid",
    "IPGuard": "softmark.methods.ipguard",
    "Key": "softmark.methods.key",
    "Margin": "softmark.methods.margin",
    "MeaDefender": "softmark.methods.mea_defender",
    "Stamped": "softmark.methods.stamped",
    "TrainedWatermark": "softmark.methods.watermark",
    "Uchida": "softmark.methods.uchida",
    "Unmarked": "softmark.methods.watermark",
    "Watermark": "softmark.methods.watermark",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'softmark.methods' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
