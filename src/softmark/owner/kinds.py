"""The watermarks that an owner can use, of softmark's own YAML and checked numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softmark.errors import InputError
from softmark.nodes import make
from softmark.owner.statement import METHODS, NUMBERS, Statement
from softmark.settings import CONF
from softmark.sweep.line import checked


def settings(
    method: str,
    overrides: Sequence[str] = (),
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``conf/owner.yaml`` for ``method``, and what differs in ``overrides``.

    Raises ``InputError`` for what can't be marked with.
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
    of_triggers = [word for word in overrides if word.startswith("method.triggers.")]
    has_triggers = method in METHODS and method.endswith("_margin")
    chosen = checked("config", [f"method={method}", *of_triggers])["method"] if has_triggers else {}
    rest = [word for word in overrides if word not in of_triggers] if chosen else overrides
    numbers = [f"recipe.{name}={value}" for name, value in (recipe or {}).items()]
    soft = chosen["soft"]["name"] if chosen else method
    config = checked("owner", [f"method={soft}", *numbers, *rest])
    if not config["tries"] >= 1:
        raise InputError(f"tries={config['tries']}: at least 1")
    if chosen:
        triggers = {**chosen["triggers"], "recipe": config["recipe"]}
        config["method"] = {**chosen, "soft": config["method"], "triggers": triggers}
    return config


def numbers_of(config: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the marking that a statement binds."""
    method = config["method"]
    marking = method.get("soft", method)["marking"]
    return {name: float(marking[name]) for name in NUMBERS}


def triggers_of(config: Mapping[str, Any]) -> int:
    """How many triggers there are."""
    return config["method"].get("triggers", {}).get("count", 0)


def watermark(config: Mapping[str, Any]) -> Any:
    """The watermark of ``settings``."""
    return make(config["method"], "method")


def watermark_of(statement: Statement) -> Any:
    """The watermark that reads the marks of a statement, whose numbers were checked."""
    config = settings(statement.method)
    method = config["method"]
    method.get("soft", method)["marking"] |= statement.numbers
    if statement.has_triggers:
        method["triggers"]["count"] = statement.triggers
    return watermark(config)
