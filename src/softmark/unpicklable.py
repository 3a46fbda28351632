"""What holds a secret is never pickled: a checkpoint that is given away would hold it."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NoReturn, Self

from softmark.errors import InputError


class SecretError(InputError, pickle.PicklingError):
    """A secret would have gone into a checkpoint, a log or another process.

    Lightning's loggers leave out what raises it, as they do with whatever can't be pickled.
    """


class SecretBytes(bytes):
    """Bytes that no pickle, no copy of a dataclass and no representation shows.

    Weights & Biases writes whatever dataclass stands in its config.

    Example:
        >>> SecretBytes(b"hunter2")
        <secret>
    """

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretError("a secret would be pickled or copied: leave the key out")


class Unpicklable:
    """Refuse to be pickled, as ``torch.save`` and Lightning's checkpoints do.

    ``copy.deepcopy`` works: weight averaging copies whole modules.
    """

    advice = "leave it out: self.save_hyperparameters(ignore=[NAME])"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretError(
            f"{type(self).__name__}: it holds a secret, which a pickle or a checkpoint would give "
            f"away; {self.advice}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied
