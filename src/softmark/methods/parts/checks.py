"""Checks of a method's numbers, which name the number in one line."""

from __future__ import annotations

from typing import Any

from softmark.errors import InputError


def check_at_least_one(method: Any, *names: str) -> None:
    """Raise ``InputError`` where a field of ``method`` among ``names`` is below 1."""
    for name in names:
        if not getattr(method, name) >= 1:
            raise InputError(f"method.{name}={getattr(method, name)}: at least 1")


def check_above_zero(method: Any, *names: str) -> None:
    """Raise ``InputError`` where a field of ``method`` among ``names`` is 0 or negative."""
    for name in names:
        if not 0 < getattr(method, name) < float("inf"):
            raise InputError(f"method.{name}={getattr(method, name)}: it must be above 0")


def check_not_negative(method: Any, *names: str) -> None:
    """Raise ``InputError`` where a field of ``method`` among ``names`` is negative."""
    for name in names:
        if not getattr(method, name) >= 0:
            raise InputError(f"method.{name}={getattr(method, name)}: it can't be negative")


def check_fraction(method: Any, *names: str) -> None:
    """Raise ``InputError`` where a field of ``method`` among ``names`` isn't between 0 and 1."""
    for name in names:
        if not 0 < getattr(method, name) < 1:
            raise InputError(f"method.{name}={getattr(method, name)}: a fraction between 0 and 1")
