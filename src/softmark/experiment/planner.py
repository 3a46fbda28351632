"""The plans of many cells: what they share is planned once."""

from __future__ import annotations

import json
from typing import Any

from softmark.experiment.cell import Config, InnocentStage, Plan
from softmark.experiment.plan import SHARED, content_of, decode_data, plan, plan_innocents
from softmark.store.address import Stage


class Planner:
    """Plans cells as ``plan`` does, and keeps the stages and the data that cells share.

    It sees data that are decoded later, but none that change: use another for another moment.
    """

    def __init__(self) -> None:
        self._contents: dict[str, str] = {}
        self._innocents: dict[str, tuple[InnocentStage, ...]] = {}
        self._stages: dict[Any, Stage] = {}

    def decode(self, config: Config) -> None:
        """Decode the cell's data, unless that is done.

        Raises:
            InputError: the data can't be used.
        """
        if self.content(config) is None:
            decode_data(config)

    def content(self, config: Config) -> str | None:
        """Return the fingerprint of the decoded data; None where a run has yet to decode them."""
        source = json.dumps([config["data"]["source"], config["output_dir"]])
        if source not in self._contents:
            content = content_of(config)
            if content is None:
                return None
            self._contents[source] = content
        return self._contents[source]

    def plan(self, config: Config) -> Plan:
        """Return the stages of the cell ``config``, whose innocents other cells may share.

        Raises:
            InputError: no stage can be made of these settings.
        """
        content = self.content(config)
        shared = json.dumps([content, {name: config[name] for name in SHARED}])
        if shared not in self._innocents:
            self._innocents[shared] = plan_innocents(config, content)
        return plan(config, content, self._innocents[shared], self._stages)
