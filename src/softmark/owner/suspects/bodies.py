"""Bodies of requests: inputs as numbers, or as PNG files, in a JSON of any shape."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor
from urllib3.filepost import encode_multipart_formdata

from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.owner.probe_files import is_picture

ENCODINGS = ("numbers", "bytes", "base64", "multipart", "file")
ONE, ALL, DATA_URL = "{input}", "{inputs}", "{data_url}"


@dataclass(frozen=True)
class Encoded:
    """A body that isn't JSON, and the headers that it needs besides."""

    content: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bodies:
    """Make the body of a request of plain JSON.

    Args:
        request: the name of the list of inputs, or of the file in a form.
        encoding: ``numbers`` (uint8 pictures as floats in [0, 1]), ``bytes`` (as whole numbers),
            ``base64`` (PNG files in text), ``multipart`` (a PNG file in a form) or ``file`` (a PNG
            file alone).
        template: the whole body in JSON, where the text ``{inputs}`` stands for the list,
            ``{input}`` for a single input, and ``{data_url}`` within a text for a picture as a
            data: URL. None: ``{request: [...]}``.

    Raises:
        InputError: for an encoding that isn't known, and a template that isn't JSON or has no
            place for inputs.

    Example:
        >>> Bodies("instances").make(torch.zeros(1, 2))
        {'instances': [[0.0, 0.0]]}
        >>> Bodies(template='{"row": "{input}"}').make(torch.zeros(1, 2))
        {'row': [0.0, 0.0]}
    """

    request: str = "instances"
    encoding: str = "numbers"
    template: str | None = None

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise InputError(f"--encoding={self.encoding}: {', '.join(ENCODINGS)}")
        if self.template is None:
            return
        try:
            json.loads(self.template)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--body: it is no JSON ({error})") from error
        if not any(place in self.template for place in (f'"{ONE}"', f'"{ALL}"', DATA_URL)):
            raise InputError(f'--body: "{ALL}", "{ONE}" or {DATA_URL} is needed in it')

    @property
    def one_by_one(self) -> bool:
        """Whether a request has a single input."""
        in_template = self.template is not None and f'"{ALL}"' not in self.template
        return in_template or self.encoding in ("multipart", "file")

    def make(self, batch: Tensor) -> Any:
        """Return the body for ``batch`` (n, ...): containers for JSON, or ``Encoded``."""
        if self.encoding == "file":
            return Encoded(_png(batch[0]), "image/png")
        if self.encoding == "multipart":
            field = (self.request, ("probe.png", _png(batch[0]), "image/png"))
            return Encoded(*encode_multipart_formdata([field]))
        if self.template is None:
            return {self.request: self._values(batch)}
        return self._filled(json.loads(self.template), batch)

    def _values(self, batch: Tensor) -> list[Any]:
        if self.encoding == "base64":
            return [base64.b64encode(_png(picture)).decode() for picture in batch]
        return (batch if self.encoding == "bytes" else as_input(batch)).tolist()

    def _filled(self, part: Any, batch: Tensor) -> Any:
        if isinstance(part, dict):
            return {name: self._filled(value, batch) for name, value in part.items()}
        if isinstance(part, list):
            return [self._filled(value, batch) for value in part]
        if part in (ONE, ALL):
            values = self._values(batch)
            return values if part == ALL else values[0]
        if isinstance(part, str) and DATA_URL in part:
            url = f"data:image/png;base64,{base64.b64encode(_png(batch[0])).decode()}"
            return part.replace(DATA_URL, url)
        return part


def _png(picture: Tensor) -> bytes:
    """Return a uint8 picture (C, H, W) as a PNG file. Raise ``InputError`` for anything else."""
    if not is_picture(picture[None]):
        raise InputError(
            f"inputs of shape {tuple(picture.shape)} and type {picture.dtype} are no pictures: "
            "--encoding=numbers is right for them"
        )
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).squeeze(2 if len(picture) == 1 else ()).numpy()).save(
        file, "png"
    )
    return file.getvalue()
