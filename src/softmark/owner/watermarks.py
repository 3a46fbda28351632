"""The watermarks that an owner can use, made of softmark's own YAML and checked numbers alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from softmark.errors import InputError
from softmark.methods.watermark import Watermark
from softmark.nodes import make
from softmark.owner.statement import METHODS, NUMBERS, Statement
from softmark.settings import CONF
from softmark.sweep.override_check import compose_checked

# What a hybrid's YAML sets of its soft labels.
OF_HYBRIDS = ("copy_weight", "trigger_feature_weight")


def owner_config(
    method: str,
    overrides: Sequence[str] = (),
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return ``conf/owner.yaml`` for ``method``, with ``overrides`` and numbers of the ``recipe``.

    Raises:
        InputError: for a method that can't mark outside of experiments, and for overrides that
            name or set what can't be.
    """
    if not isinstance(recipe or {}, Mapping):
        raise InputError(f"recipe={recipe!r}: a mapping is needed, such as {{'epochs': 5}}")
    if isinstance(overrides, str):
        raise InputError(f"overrides={overrides!r}: a list of texts is needed, [{overrides!r}]")
    overrides = list(overrides)
    if method not in METHODS and (CONF / "method" / f"{method}.yaml").is_file():
        raise InputError(
            f"method={method}: {', '.join(METHODS[:-1])} or {METHODS[-1]} mark a model outside of "
            "experiments"
        )
    soft = method.removesuffix("_margin") if method in METHODS else method
    of_triggers = [word for word in overrides if word.startswith("method.triggers.")]
    others = overrides if method == soft else [w for w in overrides if w not in of_triggers]
    numbers = [f"recipe.{name}={value}" for name, value in (recipe or {}).items()]
    hybrid, defaults = {}, []
    if method != soft:
        hybrid = compose_checked("config", [f"method={method}", *of_triggers])["method"]
        of_soft = hybrid["soft"]["marking"]
        defaults = [f"method.marking.{name}={of_soft[name]}" for name in OF_HYBRIDS]
    config = compose_checked("owner", [f"method={soft}", *defaults, *numbers, *others])
    if not config["tries"] >= 1:
        raise InputError(f"tries={config['tries']}: at least 1")
    if hybrid:
        triggers = {**hybrid["triggers"], "recipe": config["recipe"]}
        config["method"] = {**hybrid, "soft": config["method"], "triggers": triggers}
    return config


def watermark_of_config(config: Mapping[str, Any]) -> Watermark:
    """Return the watermark of an ``owner_config``."""
    return make(config["method"], "method")


def watermark_of_statement(statement: Statement) -> Watermark:
    """Return the watermark that reads the marks of a statement, whose numbers were checked."""
    watermark = _default_watermark(statement.method)
    return watermark.with_numbers(statement.numbers, statement.triggers)


@functools.lru_cache
def _default_watermark(method: str) -> Watermark:
    """Return the watermark of softmark's own YAML, which takes a tenth of a second to compose."""
    return watermark_of_config(owner_config(method))


def numbers_to_commit(watermark: Watermark) -> dict[str, float]:
    """Return the numbers of the marking that a statement holds."""
    return {name: float(watermark.marking_numbers[name]) for name in NUMBERS}
