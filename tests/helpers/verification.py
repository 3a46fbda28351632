"""A judge of small numbers."""

from softmark.verification.judge import Verifier

LEVELS = {"exact": 1e-6, "sampled": 1e-3, "innocents": 0.05}


def verifier(**changed) -> Verifier:
    settings = {
        "probes": 100,
        "inputs": "samples",
        "messages": [],
        "levels": LEVELS,
        "usable": 0.5,
        "false_flags": 0.01,
        "keys_tried": 1,
    }
    return Verifier(**{**settings, **changed})
