"""Models as files of an owner: nothing is ever unpickled."""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from softmark.console import report
from softmark.errors import InputError
from softmark.models.files import load_network, read_tensors, save_network
from softmark.models.own import plain_names
from softmark.nodes import short


def load_model(name: str, weights: Path | None = None) -> nn.Module:
    """Return a model, in eval mode.

    Args:
        name: a .safetensors file of one of softmark's networks, or MODULE:FUNCTION: a function
            that is called without arguments and returns a module.
        weights: for MODULE:FUNCTION, a safetensors file, or what ``torch.save`` wrote of a state
            dict, read with ``weights_only=True``.

    Raises:
        InputError: for whatever can't be used.
    """
    if name.endswith(".safetensors"):
        if weights is not None:
            raise InputError(f"--weights={weights}: {name} has its own; MODULE:FUNCTION needs some")
        return load_network(Path(name))
    module, _, function = name.partition(":")
    if not function:
        raise InputError(f"{name}: a .safetensors file of softmark's, or MODULE:FUNCTION is needed")
    sys.path.insert(0, str(Path.cwd()))
    try:
        model = getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise InputError(f"{name}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} gives a {type(model).__name__}: a torch.nn.Module is needed")
    if weights is not None:
        _read_weights(model, weights)
    else:
        report(f"note: no --weights are given: {name} is taken as it comes")
    return model.eval()


def _read_weights(model: nn.Module, path: Path) -> None:
    if path.suffix == ".safetensors":
        state = read_tensors(path)[0]
    else:
        try:
            _check_stored(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise InputError(f"{path}: it can't be read ({error.strerror})") from error
        # What a damaged pickle raises is anybody's guess.
        except Exception as error:
            reason = short(error) or type(error).__name__
            raise InputError(
                f"{path}: not a state dict that can be read without running code ({reason})"
            ) from error
    try:
        model.load_state_dict(plain_names(state, set(model.state_dict())))
    except Exception as error:  # the file may hold anything else than a state dict
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: weights of another model ({reason} ...)") from error


def _check_stored(path: Path) -> None:
    """Raise ``ValueError`` for an archive whose members would unpack to more than the file has."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes, as torch.save writes none")


def save_model(model: nn.Module, path: Path) -> None:
    """Write ``model`` as safetensors, with its architecture if it is one of softmark's networks."""
    if hasattr(model, "node"):
        save_network(model, path)
    else:
        safetensors.torch.save_model(model, str(path))
