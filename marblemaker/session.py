"""A session in Python: a recording or run, with its frames and what can be asked of it."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import polars as pl

from marblemaker.settings import Settings, load_settings, read_document
from streams.instant import iso
from streams.recording import (
    FILES,
    SIGNALS,
    Manifest,
    RecordingError,
    did_you_mean,
    read_manifest,
    scan_frames,
)

if TYPE_CHECKING:
    from marblemaker.diagram import Diagram
    from marblemaker.prove import Certificate
    from marblemaker.why import Explanation

__all__ = ["Frames", "Session"]

_OF_A_RUN = ("decisions", "orders", "fills")


class Frames(Mapping[str, pl.LazyFrame]):
    """The Parquet files of a folder by their names, each opened lazily when it is asked for."""

    def __init__(self, folder: Path, what: str) -> None:
        """Look into ``folder``; ``what`` it is, for errors."""
        self._folder = folder
        self._what = what
        self._names = sorted(
            (path.stem for path in folder.glob("*.parquet")),
            key=lambda name: (list(FILES).index(name) if name in FILES else len(FILES), name),
        )

    def __getitem__(self, name: str) -> pl.LazyFrame:
        """Open one.

        Errors: RecordingError (a KeyError too) if there is none of that name, or it is damaged.
        """
        if name not in self._names:
            raise _NoFrame(
                f"{self._what} has no {name}.parquet{did_you_mean(name, self._names)}; "
                f"it has {', '.join(self._names) or 'no frames at all'}" + _way_out(name)
            )
        return scan_frames(self._folder / f"{name}.parquet")

    def __contains__(self, name: object) -> bool:
        """Whether there is one of that name."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)

    def __repr__(self) -> str:
        return f"<{len(self)} frames of {self._what}: {', '.join(self) or 'none'}>"


class _NoFrame(RecordingError, KeyError):
    """A folder lacks a frame; a mapping's own way to say so, and ours."""

    __str__ = Exception.__str__


def _way_out(name: str) -> str:
    if name in _OF_A_RUN:
        return ". What is decided is in runs: make one with Session.replay()"
    return ""


class Session:
    """A recording or run folder, opened: its frames, and what can be asked of it.

    >>> from marblemaker.bundled import BUNDLED
    >>> session = Session.open(BUNDLED)
    >>> session.target.select("ts", "bid_px").head(1).collect().rows()
    [(1781702401507297928, 206954000000)]
    """

    def __init__(self, path: Path, *, temporary: Path | None = None) -> None:
        """Use ``Session.open``; the folder ``temporary`` is removed with the object."""
        self.path = path
        """The folder."""
        self._kept: list[Session] = []
        self._finalizer = (
            None if temporary is None else weakref.finalize(self, shutil.rmtree, temporary, True)
        )

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a recording or run folder; nothing but its manifest is read before it is asked for.

        Errors: RecordingError if it is none, or a newer version wrote it.
        """
        session = cls(Path(path))
        _ = session.manifest
        return session

    def close(self) -> None:
        """Remove what is temporary of it; its frames cannot be read after that."""
        if self._finalizer is not None:
            self._finalizer()
        for session in self._kept:
            session.close()

    def keeping(self, other: Session) -> Self:
        """Let what is temporary of ``other`` live as long as this; return this."""
        self._kept.append(other)
        return self

    def __enter__(self) -> Self:
        """Use it in a ``with``: what is temporary goes at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is temporary."""
        self.close()

    def __repr__(self) -> str:
        manifest = self.manifest
        if manifest.markets:
            return f"<Session {self.path}: {manifest.mode} of {', '.join(manifest.markets)}>"
        rows = [
            f"{entry.rows:,} {name}"
            for name, entry in manifest.files.items()
            if name in (*SIGNALS, "target", *_OF_A_RUN)
        ]
        span = ""
        if manifest.first_ts is not None and manifest.last_ts is not None:
            span = f", {iso(manifest.first_ts)} to {iso(manifest.last_ts)}"
        ended = "" if manifest.ended == "complete" else f", {manifest.ended}"
        what = "run" if self.is_run else "recording"
        return f"<Session {self.path}: {manifest.mode} {what}{span}; {', '.join(rows)}{ended}>"

    # ------------------------------------------------------------ what is there

    @cached_property
    def manifest(self) -> Manifest:
        """What the folder holds, where it comes from and how it ended."""
        return read_manifest(self.path)

    @cached_property
    def settings(self) -> Settings:
        """The settings that it was made with; of a recording what a replay would take.

        Errors: RecordingError if it holds several markets; SettingsError if this version cannot
            take them.
        """
        self._require_one_market("settings")
        return load_settings(manifest=self.manifest)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What the run did, in counts and money: ``summary.json``.

        Errors: RecordingError if it is no run.
        """
        path = self.path / "summary.json"
        if not path.is_file():
            raise RecordingError(
                f"{self.path} has no summary.json: it is a recording, or a run that was cut off; "
                f"make a run with Session.replay()"
            )
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def is_run(self) -> bool:
        """Whether it has decisions."""
        return (self.path / "decisions.parquet").is_file()

    @cached_property
    def markets(self) -> dict[str, Session]:
        """The sessions of a run of several markets, by their targets; empty for one market."""
        return {market: Session.open(self.path / market) for market in self.manifest.markets}

    @cached_property
    def frames(self) -> Frames:
        """All frames by name: ``signal``, ``target``, ``decisions`` …"""
        self._require_one_market("frames")
        return Frames(self.path, str(self.path))

    @cached_property
    def trace(self) -> Frames:
        """What the operators put out, by name: ``signal``, ``target``, ``state``, ``wanted`` …

        Empty for a run that has no trace.
        """
        return Frames(self.path / "trace", f"the trace of {self.path}")

    @property
    def signal(self) -> pl.LazyFrame:
        """Quotes of the (first) signal."""
        return self.frames["signal"]

    @property
    def signals(self) -> list[pl.LazyFrame]:
        """Quotes of each signal, the first one first."""
        return [self.frames[name] for name in SIGNALS if name in self.frames]

    @property
    def target(self) -> pl.LazyFrame:
        """Quotes of the target."""
        return self.frames["target"]

    @property
    def trades(self) -> pl.LazyFrame:
        """Public trades of the target."""
        return self.frames["trades"]

    @property
    def status(self) -> pl.LazyFrame:
        """States of the feeds, and the operator's commands."""
        return self.frames["status"]

    @property
    def account(self) -> pl.LazyFrame:
        """What the venue said about our account."""
        return self.frames["account"]

    @property
    def decisions(self) -> pl.LazyFrame:
        """Every decision and refusal, with what led to it."""
        return self.frames["decisions"]

    @property
    def orders(self) -> pl.LazyFrame:
        """Our orders."""
        return self.frames["orders"]

    @property
    def fills(self) -> pl.LazyFrame:
        """Our fills."""
        return self.frames["fills"]

    # ------------------------------------------------------------ what can be asked

    def replay(
        self,
        out: Path | str | None = None,
        *,
        venue: Literal["recorded", "simulated"] | None = None,
        overrides: Iterable[str] = (),
        config: Path | Mapping[str, Any] | None = None,
        bounds: bool = False,
        overwrite: bool = False,
        trace: bool = True,
    ) -> Session:
        """Run its inputs through the graph; return the session of that run.

        ``overrides`` are texts ``section.key=value`` over ``config`` (a TOML file or its document),
        over the recording's own settings. ``out=None`` writes to a temporary folder, which goes
        with the object that is returned. The rest is as of ``marblemaker.replay.replay``.

        Errors: SettingsError, RecordingError, ReplayError.
        """
        from marblemaker.replay import replay

        self._require_one_market("replay")
        if isinstance(overrides, str):
            raise TypeError(
                f'overrides must be a list of texts "section.key=value", was {overrides!r}'
            )
        if isinstance(config, str | Path):
            config = read_document(Path(config))
        settings = load_settings(config=config, overrides=overrides, manifest=self.manifest)
        temporary = None if out is not None else Path(tempfile.mkdtemp(prefix="marble-"))
        folder = Path(out) if out is not None else Path(str(temporary)) / self.path.resolve().name
        session = Session(folder, temporary=temporary)
        try:
            replay(
                self.path, settings, folder, venue=venue, bounds=bounds, overwrite=overwrite,
                trace=trace,
            )  # fmt: skip
        except BaseException:
            session.close()
            raise
        return session

    def why(
        self,
        when_or_order: str | int | None = None,
        *,
        last: bool = False,
        where: str | None = None,
        nth: int = 1,
        absent: bool = False,
    ) -> Explanation:
        """Explain a quote or refusal, or with ``absent`` silence; see ``marblemaker.why.explain``.

        ``when_or_order`` is a time (an int is ns since the Unix epoch), ``"seq 81234"`` or
        ``"order 17"``; else ``last``, or the ``nth`` decision for which ``where`` holds, an
        expression over the columns of ``decisions``.

        Errors: WhyError, WhenError, RecordingError.
        """
        from marblemaker.why import explain

        return explain(self.path, when_or_order, last=last, where=where, nth=nth, absent=absent)

    def prove(self) -> Certificate:
        """Prove that the decisions follow from the inputs; see ``marblemaker.prove.prove``."""
        from marblemaker.prove import prove

        return prove(self.path)

    def marble(
        self,
        t0: str | int,
        t1: str | int,
        *,
        step: str | int | None = None,
        lanes: Sequence[str] | None = None,
    ) -> Diagram:
        """Draw a window as a marble diagram: ``print`` it, ``.svg()`` it, or play its ``.text()``.

        ``t0`` and ``t1`` are times as ``marble marble`` takes them (an int is ns since the Unix
        epoch), ``t1`` also a span such as ``"+50ms"``; see ``marblemaker.window``.

        Errors: RecordingError, DiagramError, WhenError.
        """
        from marblemaker.window import window

        return window(self.path, t0, t1, step=step, lanes=lanes)

    def _require_one_market(self, what: str) -> None:
        if self.manifest.markets:
            raise RecordingError(
                f"{self.path} holds several markets and each has {what} of its own: open one, "
                f"Session.open({str(self.path / self.manifest.markets[0])!r}), or take it from "
                f".markets"
            )
