"""The command line, checked before anything runs and before torch is imported."""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from softmark.errors import InputError
from softmark.models.sizes import check_networks
from softmark.nodes import make
from softmark.settings import config_files, configs
from softmark.sweep.override_check import (
    check_choice,
    check_overrides,
    check_writable,
    parse_override,
)
from softmark.sweep.spelling import folders_of, quoted

MAX_VALUES = 10_000  # values of one sweep
ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")  # what Hydra puts a backslash before


def check_arguments(arguments: list[str], *, writes: bool = True) -> dict[str, Any]:
    """Return the config of the command line's first cell, resolved; empty if only help is asked.

    Each value of a sweep is tried by itself, with the first value of every other override: as many
    checks as there are values, not their product. What a table sweeps over is taken as it stands.

    Args:
        arguments: As in ``sys.argv[1:]``.
        writes: Whether output_dir is made where it isn't there.

    Raises:
        InputError: An override can't work; one to three lines say why.
    """
    options = get_args_parser().parse_known_args(arguments)[0]
    if options.help or options.hydra_help or options.shell_completion:
        return {}
    modes = [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(options, name)]
    if len(modes) > 1:
        raise InputError(f"{' '.join(modes)}: one of them; --cfg job shows one cell's config")
    with configs(folders_of(arguments)):
        table, lines = expand_table(options.overrides)
        parsed = [parse_override(line) for line in lines]
        sweeping = options.multirun or table or any(map(_asks_for_sweep, parsed))
        for override in parsed:
            if override.is_sweep_override() and not sweeping:
                raise InputError(f"{override.input_line} is a sweep of several values: add -m")
        values = [_sweep_values(override) for override in parsed]
        first = [texts[0] for texts in values]
        config = _check_cell(first)
        if writes:
            check_writable("output_dir", config["output_dir"])
        num_of_table = len(lines) - len(options.overrides)
        for place, texts in enumerate(values[num_of_table:], num_of_table):
            for text in texts[1:]:
                _check_cell([*first[:place], text, *first[place + 1 :]])
    return config


def expand_table(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the chosen table, and ``overrides`` after the table's own, which they narrow.

    Without a table, return an empty one and ``overrides``.

    Raises:
        InputError: There is no such table.
    """
    chosen = [parse_override(line) for line in overrides if line.startswith("table=")]
    if not chosen:
        return {}, overrides
    check_choice(chosen[-1])
    table = config_files().repository.load_config(f"table/{chosen[-1].value()}").config
    narrowed = {line.split("=", 1)[0].lstrip("+~") for line in overrides}
    params = OmegaConf.to_container(table.hydra.sweeper.params)
    swept = [f"{key}={value}" for key, value in params.items() if key not in narrowed]
    return OmegaConf.to_container(table.table), [*swept, *overrides]


def expand_sweep(overrides: list[str]) -> list[list[str]]:
    """Return the overrides of each cell of a sweep, in the order of Hydra's basic sweeper.

    What isn't swept over stands in each cell as it was given. A cell that is named twice, as by
    ``seed=0,0``, is returned once.

    Raises:
        InputError: An override can't be read, or there is no such table.

    Example:
        >>> expand_sweep(["seed=0,1", "recipe.epochs=${seed}"])
        [['seed=0', 'recipe.epochs=${seed}'], ['seed=1', 'recipe.epochs=${seed}']]
    """
    _, lines = expand_table(overrides)
    parsed = [parse_override(line) for line in lines]
    # The last of those that set the same counts.
    values = {o.get_key_element(): dict.fromkeys(_sweep_values(o)) for o in parsed}
    return [list(cell) for cell in dict.fromkeys(itertools.product(*values.values()))]


def cells_of(sweep: DictConfig) -> list[list[str]]:
    """Return the overrides of each cell of a sweep that Hydra runs; ``sweep``: its config."""
    with configs(added_folders(sweep)):
        return expand_sweep(OmegaConf.to_container(sweep.hydra.overrides.task, resolve=False))


def added_folders(sweep: DictConfig) -> list[str]:
    """Return where Hydra looked for configs beside conf/ when it composed ``sweep``."""
    own = ("hydra", "main", "schema")
    sources = [
        source for source in sweep.hydra.runtime.config_sources if source.provider not in own
    ]
    return [f"{source.schema}://{source.path}" for source in sources]


def to_hydra_arguments(arguments: list[str]) -> list[str]:
    """Return ``arguments`` so that Hydra takes what ``check_arguments`` takes.

    Before a sweep Hydra composes what isn't swept over: of attack=finetune,retrain
    attack.samples=30 the number alone, for the default attack, which has no samples. So a value
    or a group inside of a group that is swept over becomes a sweep of one: the same twice, as
    choice(...) would take its quotes off.
    """
    overrides = get_args_parser().parse_known_args(arguments)[0].overrides
    _, lines = expand_table(overrides)
    of_table = lines[: len(lines) - len(overrides)]
    parsed = [parse_override(line) for line in overrides]
    swept = [override for override in parsed if override.is_sweep_override()]
    groups = [line.partition("=")[0] for line in of_table] + [o.key_or_group for o in swept]
    prefixes = tuple(f"{group.replace('/', '.')}." for group in groups)
    single = {
        override.input_line: f"{key}={value},{value}"
        for override in parsed
        for key, _, value in [override.input_line.partition("=")]
        if value and override not in swept
        if override.key_or_group.replace("/", ".").startswith(prefixes)
    }
    return [single.get(word, word) for word in arguments]


def _sweep_values(override: Override) -> list[str]:
    """Return the overrides of one value that a sweep makes of ``override``."""
    line = override.input_line
    if not override.is_sweep_override():
        return [line]
    try:
        values = list(itertools.islice(override.sweep_iterator(), MAX_VALUES + 1))
    except Exception:  # interval, which has no values of its own, or a step of 0
        raise InputError(
            f"{line}: a sweep is VALUE,VALUE, range(FROM,TO) or glob(PATTERN)"
        ) from None
    if not 0 < len(values) <= MAX_VALUES:
        raise InputError(f"{line}: a sweep has from 1 to {MAX_VALUES} values")
    return [_line_of(override.get_key_element(), value) for value in values]


def _line_of(key: str, element: Any) -> str:
    """Return the override that sets ``key`` to one element of a sweep.

    Hydra's own texts put backslashes into interpolations, and leave the quotes out that choice(...)
    takes off: 17 would be a number for '17', and it's no value at all for 'it\\'s'.
    """
    value = Override._convert_value(element)
    text = Override._get_value_element_as_str(element)
    plain = ESCAPED.sub(r"\1", text) if r"$\{" in text else text
    for line in (f"{key}={plain}", f"{key}={text}"):
        with contextlib.suppress(InputError):
            read = parse_override(line).value()
            if read == value and type(read) is type(value):
                return line
    return f"{key}={quoted(value)}" if isinstance(value, str) else f"{key}={text}"


def _asks_for_sweep(override: Override) -> bool:
    return override.key_or_group == "hydra.mode" and override.value() == "MULTIRUN"


def _check_cell(overrides: list[str]) -> dict[str, Any]:
    """Check one value of each override, and return the config that they make, resolved."""
    config = check_overrides("config", overrides)
    _check_numbers(config)
    return config


def _check_numbers(config: dict[str, Any]) -> None:
    """Build what can be built without torch, so that a wrong number answers at once."""
    from softmark.data.roles import Shares

    for group in ("method", "attack", "model"):
        if "name" not in config[group]:
            raise InputError(f"{group}.name is missing: its YAML begins with name: NAME")
    check_networks(config)
    recipe = config["recipe"]
    make(recipe, "recipe")
    kinds = config["innocents"]["kinds"]
    for name in (name for name in kinds if "recipe" in kinds[name]):
        try:
            make({**recipe, **kinds[name]["recipe"]}, "recipe")
        except InputError as error:
            raise InputError(f"innocents.kinds.{name}: {error}") from None
    make(config["data"]["source"], "data.source")
    Shares(**config["data"]["roles"])
