"""What is ready to be made: everything whose parents are there."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping


class Queue:
    """The stages whose parents are there; those come first on which the longest chains wait.

    Args:
        parents: the parents of all that is missing, by address; a parent that isn't missing itself
            doesn't count.

    Example:
        >>> queue = Queue({"victim": [], "suspect": ["victim"], "innocent": []})
        >>> queue.pop(), queue.pop(), queue.ready
        ('victim', 'innocent', [])
        >>> queue.finish("victim")
        >>> queue.pop()
        'suspect'
    """

    def __init__(self, parents: Mapping[str, Iterable[str]]):
        self.children: dict[str, list[str]] = {address: [] for address in parents}
        self.num_missing: dict[str, int] = {}
        for address, all_parents in parents.items():
            missing = set(all_parents) & parents.keys()
            self.num_missing[address] = len(missing)
            for parent in missing:
                self.children[parent].append(address)
        self.heights: dict[str, int] = {}
        self.ready: list[tuple[int, int, str]] = []
        self.order = {address: number for number, address in enumerate(parents)}
        self._add(address for address, number in self.num_missing.items() if not number)

    def _add(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            heapq.heappush(self.ready, (-self._height(address), self.order[address], address))

    def _height(self, address: str) -> int:
        """Return how many stages wait for this one, one after the other."""
        if address not in self.heights:
            heights = map(self._height, self.children[address])
            self.heights[address] = 1 + max(heights, default=0)
        return self.heights[address]

    def pop(self) -> str:
        """Return the address of what is to be made next."""
        return heapq.heappop(self.ready)[2]

    def finish(self, address: str) -> None:
        """Note that ``address`` is there: those that waited for it alone are ready."""
        for child in self.children[address]:
            self.num_missing[child] -= 1
        self._add(child for child in self.children[address] if not self.num_missing[child])
