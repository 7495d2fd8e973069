"""The recording that ships with the project."""

from pathlib import Path
from typing import Final

__all__ = ["BUNDLED", "BUNDLED_PARAMETERS"]

_RECORDINGS: Final = Path(__file__).resolve().parent.parent / "recordings"

BUNDLED: Final = _RECORDINGS / "nvda-cash-session"
BUNDLED_PARAMETERS: Final = BUNDLED.with_suffix(".toml")
"""What its generator made it from."""
