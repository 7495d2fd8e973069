"""The kill file: while it exists nothing is quoted."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from marblemaker.files import write_whole

__all__ = ["KillFile", "kill", "release"]


class KillFile:
    """Watches the file that ``marble kill`` writes; its text is the reason."""

    def __init__(self, path: Path) -> None:
        """Watch ``path``; it need not exist."""
        self._path = path
        self._text: str | None = None

    def changed(self) -> tuple[Literal["kill", "release"], str] | None:
        """What is to be done since the last call; ``None`` when nothing changed.

        A file that is there but cannot be read kills as well.
        """
        try:
            text: str | None = self._path.read_text(encoding="utf-8").strip() or "kill file"
        except FileNotFoundError:
            text = None
        except (OSError, UnicodeDecodeError):
            text = "kill file that cannot be read"
        if text == self._text:
            return None
        self._text = text
        return ("release", "") if text is None else ("kill", text)


def kill(path: Path, reason: str) -> None:
    """Write the kill file, whole or not at all.

    Errors: OSError if it cannot be written.
    """
    write_whole(path, f"{reason}\n".encode())


def release(path: Path) -> bool:
    """Remove the kill file; tell whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
