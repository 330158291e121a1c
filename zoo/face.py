"""The verbs of `zoo`, the face, for the rooms below it.

The face hands them over as it is imported, which is before any of its rooms: so a model has the verbs that everybody
knows from elsewhere, `push_to_hub` and its kin, and imports nothing of what is above it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_handed: dict[str, Callable[[str], Any]] = {}


def hand_over(find: Callable[[str], Any]) -> None:
    """Be told how a verb is found, by its name."""
    _handed["find"] = find


def verb(name: str) -> Callable[..., Any]:
    """A function of the face."""
    return _handed["find"](name)
