"""Write: the report's file, and its pictures, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from marblemaker.files import write_whole
from marblemaker.report.data import ReportData, gather
from marblemaker.report.page import page
from marblemaker.report.pictures import NAMES, pictures
from streams.recording import RecordingError

__all__ = ["write_report"]


def write_report(
    run: Path, out: Path, *, png: Path | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Report on a run folder in the HTML file ``out``, and in pictures in the folder ``png``.

    Shape: what was written: ``report``, ``bytes``, ``mode``, ``pictures``, and of quotes and fills
        how many are shown of how many.
    Errors: RecordingError if ``run`` is no run, or ``out`` or a picture is there already and may
        not be overwritten, or cannot be written; SettingsError for a run of several markets;
        PicturesError without matplotlib. Nothing half-written is left behind.
    """
    _may_write(out, overwrite)
    if png is not None:
        for name in NAMES:
            _may_write(png / name, overwrite)
    data = gather(run)
    written: list[str] = []
    if png is not None:
        written = _pictures(data, png)
    text = page(data).encode()
    _replace(out, text)
    decided, traded = data.decided, data.traded
    return {
        "report": str(out),
        "bytes": len(text),
        "mode": data.manifest.mode,
        "pictures": written,
        "changes": {
            "shown": 0 if decided is None else decided.shown.height,
            "of": 0 if decided is None else decided.changes,
        },
        "fills": {
            "shown": 0 if traded is None else traded.fills.height,
            "of": 0 if traded is None else traded.total,
        },
    }


def _may_write(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise RecordingError(f"{path} is a folder; name a file with --out")
    if path.exists() and not overwrite:
        raise RecordingError(
            f"{path} exists already; replace it with --overwrite, or choose another place for it"
        )


def _pictures(data: ReportData, folder: Path) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pictures.", dir=folder) as partial:
            drawn = pictures(data, Path(partial))
            for path in drawn:
                os.replace(path, folder / path.name)
    except OSError as error:
        raise RecordingError(
            f"{folder} cannot be written: {error.strerror or error}; choose another folder with "
            f"--png"
        ) from error
    return [str(folder / path.name) for path in drawn]


def _replace(out: Path, text: bytes) -> None:
    try:
        write_whole(out, text)
    except OSError as error:
        raise RecordingError(
            f"{out} cannot be written: {error.strerror or error}; make room, or choose another "
            f"file with --out"
        ) from error
