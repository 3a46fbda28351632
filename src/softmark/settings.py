"""Where the YAML files lie, and what they say outside of an experiment."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmark.errors import InputError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.config_search_path import ConfigSearchPath

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
def configs(folders: Sequence[str] = ()) -> Iterator[None]:
    """Let Hydra read conf/ while this lasts; a Hydra application around it goes on afterwards.

    Args:
        folders: Others that are searched after conf/, as in hydra.searchpath.
    """
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    application = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        version.setbase("1.3")
        loader = ConfigLoaderImpl(_search_path(folders))
        GlobalHydra.instance().initialize(Hydra("softmark", loader))
        yield
    finally:
        GlobalHydra.instance().hydra = application


def config_files() -> ConfigLoader:
    """Return what finds configs: that of the Hydra around this, else one for conf/ alone."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        return GlobalHydra.instance().config_loader()
    return ConfigLoaderImpl(_search_path(()))


def _search_path(folders: Sequence[str]) -> ConfigSearchPath:
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery

    path = create_config_search_path(str(CONF))
    for folder in folders:
        path.prepend("command-line", folder, SearchPathQuery(provider="schema"))
    return path


def with_absolute_paths(config: dict[str, Any], start: str | None = None) -> dict[str, Any]:
    """Return the resolved ``config`` with the paths that it names from the root on.

    Args:
        config: Plain containers. They are left as they are.
        start: What a relative path begins at; None for the current folder.
    """
    config = _with_absolute(config, "output_dir", start)
    if isinstance(data := config.get("data"), dict):
        data = _with_absolute(data, "path", start)
        if isinstance(data.get("source"), dict):
            data = {**data, "source": _with_absolute(data["source"], "path", start)}
        config = {**config, "data": data}
    return config


def _with_absolute(node: dict[str, Any], name: str, start: str | None) -> dict[str, Any]:
    path = node.get(name)
    return {**node, name: absolute(path, start)} if isinstance(path, str) else node


def absolute(path: str, start: str | Path | None = None) -> str:
    """Return ``path`` from the root on, with ``~`` as the home folder.

    Args:
        path: As it was given.
        start: What a relative path begins at; None for the current folder.

    Raises:
        InputError: ``~USER`` names nobody.

    Example:
        >>> absolute("o", "/home/ann")
        '/home/ann/o'
    """
    try:
        return str(Path(start or Path.cwd(), Path(path).expanduser()))
    except RuntimeError:
        raise InputError(f"{path}: there is no such user; ./~ begins a name with ~") from None


@functools.lru_cache
def _composed(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``composed`` copies."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with configs():
            config = compose(name, list(overrides))
            return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"{' '.join(overrides)}: {reason}") from error
