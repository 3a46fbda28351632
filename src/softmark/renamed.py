"""Overrides that were written for an earlier version: their names become those of today.

Nothing that takes time is imported: this runs before Hydra composes anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from softmark.settings import config_files

ATTACKS = {
    "anp": "repair_anp",
    "average_path": "weights_average_path",
    "average_student": "weights_average_student",
    "ensemble": "collude_ensemble",
    "evade": "adaptive_evade",
    "fine_prune": "repair_fine_prune",
    "finetune_50": "finetune_60",
    "forge": "adaptive_forge",
    "independent": "innocent_independent",
    "l2": "weights_l2",
    "l2_finetune": "weights_l2_finetune",
    "nad": "repair_nad",
    "noise_weights": "weights_noise",
    "overwrite": "adaptive_overwrite",
    "quantise": "weights_quantise",
    "search": "adaptive_search",
    "self_distill": "finetune_self_distill",
    "self_distill_flat": "finetune_self_distill_flat",
    "shift_weights": "weights_shift",
    "similarity": "innocent_similarity",
    "temperature": "serve_temperature",
    "unlearn": "repair_unlearn",
}
# A method, its control, and the two that a hybrid is made of.
METHOD = r"(method|attack\.(.+\.)?method|innocents\.methods\.\w+)\.((control|soft|triggers)\.)*"
# Where a key stands, what its last part was called, and what it is called now.
KEYS = (
    (METHOD, "length", "epochs_factor"),
    (METHOD, "batch", "batch_size_factor"),
    (METHOD, "count", "num_triggers"),
    (METHOD, "share", "trigger_fraction"),
    (r"attack\.(.+\.)?", "share", "fraction"),
    (r"attack\.(.+\.)?", "labels", "label_weight"),
    (r"attacker\.", "share", "fraction"),
    (r"data\.source\.", "name", "dataset"),
    (r"scale\.", "forged", "forged_keys"),
    (r"scale\.", "redrawn", "redrawn_keys"),
    (r"scale\.", "searched", "search_trials"),
)
# An override: a sign, a key or a group with a package, a value.
OVERRIDE = re.compile(
    r"(?P<sign>[+~]*)(?P<key>[^=@]+)(?P<package>@[^=]*)?(?P<value>=.*)?", re.DOTALL
)
NAME = re.compile(r"(?<![\w.*?])\w+(?![\w.*?])")


def current(overrides: Sequence[str]) -> list[str]:
    """Return ``overrides`` with today's names, and print one line on stderr for each old one.

    Other words of a command line, such as ``-m``, stay as they are.

    Example:
        >>> current(["-m", "attack=finetune,weights_l2"])
        ['-m', 'attack=finetune,weights_l2']
    """
    renamed: dict[str, str] = {}
    lines = [_current(line, renamed) for line in overrides]
    if "method=dawn" in overrides and "method.share" in renamed:
        # A fraction of what its interface is asked, and of no triggers.
        renamed["method.share"] = "method.input_fraction"
        lines = [line.replace("method.trigger_fraction", "method.input_fraction") for line in lines]
    for old, new in renamed.items():
        print(f"note: {old} is called {new} now", file=sys.stderr, flush=True)
    return lines


def _current(line: str, renamed: dict[str, str]) -> str:
    """Return one override with today's names; ``renamed`` gets each old name with its new one."""
    parts = OVERRIDE.fullmatch(line)
    if parts is None or line.startswith("-"):
        return line
    sign, key, package, value = parts.group("sign", "key", "package", "value")
    new_key = _current_key(key)
    if new_key != key:
        renamed[key] = new_key
    if key.lstrip("/") == "attack" and value:

        def of_today(name: re.Match[str]) -> str:
            """Return what the attack ``name`` is called now."""
            new = ATTACKS.get(name[0])
            # Somebody's own attack may have this name.
            if new is None or config_files().repository.config_exists(f"attack/{name[0]}"):
                return name[0]
            renamed[f"attack={name[0]}"] = f"attack={new}"
            return new

        value = NAME.sub(of_today, value)
    return f"{sign}{new_key}{package or ''}{value or ''}"


def _current_key(key: str) -> str:
    """Return the dotted ``key`` with today's last part."""
    for place, old, new in KEYS:
        if re.fullmatch(place + old, key):
            return key.removesuffix(old) + new
    return key
