"""Coverage: what the compiled engine does not do, in one table.

``docs/compiled.md`` repeats it. Whatever is not in the table is done, and done equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from marblemaker.settings import Settings, SettingsError
from streams.recording import Recording

__all__ = ["NOT_DONE", "Asked", "NotDone", "not_done", "refuse_what_is_not_done"]


class Asked(NamedTuple):
    """What a replay was asked for."""

    recordings: list[Recording]
    settings: Settings
    strict: bool


class NotDone(NamedTuple):
    """One thing that the compiled engine refuses."""

    what: str
    """By name, as the error and the documentation have it."""
    asked: Callable[[Asked], bool]


NOT_DONE: Final = (
    NotDone("several recordings as one session", lambda a: len(a.recordings) > 1),
    NotDone("--strict", lambda a: a.strict),
)
"""In the order in which they are looked for."""


def not_done(asked: Asked) -> list[str]:
    """Names of what is asked for and not done."""
    return [one.what for one in NOT_DONE if one.asked(asked)]


def refuse_what_is_not_done(asked: Asked) -> None:
    """Let pass what the compiled engine does.

    Errors: SettingsError that names all that it does not do.
    """
    found = not_done(asked)
    if found:
        raise SettingsError(
            f"--engine compiled does not do {'; nor '.join(found)}; use --engine rx, or let "
            f"--fallback choose it where that is needed"
        )
