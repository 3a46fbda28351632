"""The work folder of a sweep that trains nothing."""

from pathlib import Path

from softmark.sweep.work_folder import Item, WorkFolder


def work_folder(path: Path, parents: dict[str, list[str]], cells: dict[str, list[str]]):
    """Stages by their parents, and cells by the stages that they need; nothing is made yet."""
    places = {cell: place for place, cell in enumerate(cells)}
    items = {}
    for stage, needed in parents.items():
        folder = str(path / "store" / stage)
        items[stage] = Item("victim", folder, tuple(needed), tuple(places.values()))
    for cell, needed in cells.items():
        items[cell] = Item("cell", "", tuple(needed), (places[cell],))
    return WorkFolder.create(path / "work", [[cell] for cell in cells], items, str(path))
