"""Where the YAML files lie, and what they say outside of an experiment."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_PACKED = Path(__file__).parent / "conf"
# In a wheel the files lie beside the code, in a checkout at its top.
CONF = _PACKED if _PACKED.is_dir() else Path(__file__).parents[2] / "conf"
# One file that knows nothing of softmark: whoever doubts a claim reads it and runs it.
RECHECK = CONF.with_name("recheck.py") if CONF == _PACKED else CONF.parent / "scripts/recheck.py"


def composed(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``conf/NAME.yaml`` with ``overrides``: plain containers, interpolations resolved.

    It may be called inside a Hydra application.

    Args:
        name: of a file in conf/, without its suffix.
        overrides: as on a command line, ``KEY=VALUE`` each.

    Raises:
        InputError: Hydra can't make a config of them.

    Example:
        >>> composed("config", ["method=csp", "recipe.epochs=3"])["recipe"]["epochs"]
        3
    """
    return copy.deepcopy(_composed(name, tuple(overrides)))


@contextlib.contextmanager
def configs() -> Iterator[None]:
    """Let Hydra read conf/ while this lasts; a Hydra application around it goes on afterwards."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    application = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = application


@functools.lru_cache
def _composed(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``composed`` copies."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from softmark.errors import InputError

    try:
        with configs():
            config = compose(name, list(overrides))
            return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"{' '.join(overrides)}: {reason}") from error
