"""Show a docstring's ``Example:`` as code in the documentation: an extension of griffe.

Griffe, which reads docstrings for mkdocstrings, knows the section as ``Examples:`` alone.
"""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Rename the section of every docstring, before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", value)
