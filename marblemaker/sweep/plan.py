"""Plans: which settings over which recordings, looked at before any work starts."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import polars as pl
from msgspec import Struct

from marblemaker.compiled.coverage import Asked, not_done, refuse_what_is_not_done
from marblemaker.settings import (
    DECIMAL_STRINGS,
    Settings,
    SettingsError,
    check_keys,
    load_settings,
)
from marblemaker.sweep.grid import Grid, RandomSearch, axes_of, typed
from marblemaker.sweep.work import Engine, Task, identity, used
from streams.recording import Manifest, Recording, RecordingError, did_you_mean, read_manifest

__all__ = ["Plan", "Source", "make_plan", "read_plan_file"]

_WHERE: Final = "settings"
_PLAN_KEYS: Final = ("recordings", "grid", "settings", "random", "seed")


class Source(Struct, frozen=True, kw_only=True):
    """One recording of a sweep."""

    name: str
    """As the table calls it."""
    path: Path
    sha: str
    rows: int
    manifest: Manifest


class Plan(Struct, kw_only=True):
    """All that a sweep is to do, in the order of the table's rows."""

    frame: pl.DataFrame
    """A row each: combination, recording, the swept settings, settings_digest, recording_sha,
    refused (why these settings cannot run, or null)."""
    swept: list[str]
    sources: list[Source]
    settings: dict[str, str]
    """Settings as JSON by their digest."""
    engine: Engine
    fallback: frozenset[str]
    """Digests of settings that are left to the Rx engine."""

    def tasks(self, done: set[tuple[str, str]]) -> Iterator[Task]:
        """What is still to be computed, each once."""
        seen = set(done)
        paths = {source.sha: str(source.path) for source in self.sources}
        columns = self.frame.select("settings_digest", "recording_sha").iter_rows()
        for digest, sha in columns:
            if digest is None or (digest, sha) in seen:
                continue
            seen.add((digest, sha))
            yield Task(
                recording=paths[sha], sha=sha, settings=self.settings[digest], digest=digest,
                engine="rx" if digest in self.fallback else self.engine,
            )  # fmt: skip

    @property
    def refused(self) -> int:
        """How many rows cannot run."""
        return self.frame.height - self.frame["refused"].null_count()


def read_plan_file(
    path: Path,
) -> tuple[list[Path], Grid | RandomSearch | list[Mapping[str, Any]]]:
    """Read a plan in TOML: recordings (relative to the file), and a grid, a search or a list.

    Errors: SettingsError naming what is wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"plan {path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"plan {path} is not TOML: {error}") from None
    for key in document:
        if key not in _PLAN_KEYS:
            raise SettingsError(
                f"plan {path}: unknown key {key!r}{did_you_mean(key, _PLAN_KEYS)}; "
                f"it has {', '.join(_PLAN_KEYS)}"
            )
    recordings = document.get("recordings", [])
    if not isinstance(recordings, list) or not all(isinstance(one, str) for one in recordings):
        raise SettingsError(f"plan {path}: recordings must be a list of folders")
    folders = [path.parent / one for one in recordings]
    if ("grid" in document) == ("settings" in document):
        raise SettingsError(f"plan {path}: give either [grid] or [[settings]]")
    number, seed = document.get("random"), document.get("seed", 0)
    if number is not None and (type(number) is not int or number < 1 or "settings" in document):
        raise SettingsError(
            f"plan {path}: random must be the number of combinations to draw from [grid], "
            f"was {number!r}"
        )
    if type(seed) is not int:
        raise SettingsError(f"plan {path}: seed must be a whole number, was {seed!r}")
    if "settings" in document:
        listed = document["settings"]
        if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
            raise SettingsError(f"plan {path}: settings must be tables, [[settings]]")
        return folders, [dict(_flat(one)) for one in listed]
    if not isinstance(document["grid"], Mapping):
        raise SettingsError(f"plan {path}: grid must be a table, [grid]")
    axes = axes_of(_flat(document["grid"]), drawn=number is not None, where=str(path))
    return folders, Grid(axes) if number is None else RandomSearch(axes, number, seed)


def make_plan(
    recordings: Sequence[Path],
    combinations: Iterable[Mapping[str, Any]],
    *,
    config: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    engine: Engine = "compiled",
    fallback: bool = False,
) -> Plan:
    """Look at every combination on every recording.

    ``combinations``: overrides by key, ``{"strategy.half_spread_bps": 10}`` or as sections.
    What cannot run is a refused row, unless nothing at all can; so is what the compiled ``engine``
    does not do, if it is not left to the other one as a ``fallback``.

    Errors: SettingsError for unknown keys, values of the wrong kind, or if no combination can run;
        RecordingError for a recording that is missing or is none.
    """
    sources = _sources(recordings)
    base = [*overrides, "risk.kill_file=off"]  # of live runs; it would be an input
    columns: dict[str, list[Any]] = {}
    kinds: dict[tuple[str, str], Any] = {}
    rows: list[tuple[int, str, str | None, str, str | None]] = []
    settings: dict[str, str] = {}
    left: set[str] = set()
    alike = {source.sha: _market(source.manifest) for source in sources}
    number = 0
    for number, given in enumerate(combinations, start=1):
        combination = dict(_flat(given))
        for name, value in combination.items():
            kind = name, repr(value)
            if kind not in kinds:
                section, _, key = name.partition(".")
                check_keys({section: {key: None}}, _WHERE)
                kinds[kind] = typed(name, value, _WHERE)
            columns.setdefault(name, [None] * (number - 1)).append(kinds[kind])
        for name, values in columns.items():
            if name not in combination:
                values.append(None)
        texts = [*base, *(f"{name}={_literal(value)}" for name, value in combination.items())]
        known: dict[str, tuple[str | None, str | None]] = {}
        for source in sources:
            market = alike[source.sha]
            if market not in known:
                judge = _Judge(config, texts, source.manifest, engine, fallback)
                known[market] = judge.judged(settings, left)
            digest, refused = known[market]
            rows.append((number, source.name, digest, source.sha, refused))
    if not number:
        raise SettingsError("nothing to sweep: there is not one combination of settings")
    whole = pl.DataFrame(
        rows,
        schema={
            "combination": pl.Int64(), "recording": pl.String(), "settings_digest": pl.String(),
            "recording_sha": pl.String(), "refused": pl.String(),
        },
        orient="row",
    )  # fmt: skip
    swept = pl.DataFrame(
        {"combination": pl.Series(range(1, number + 1), dtype=pl.Int64())}
        | {name: column_of(name, values) for name, values in columns.items()}
    )
    frame = whole.join(swept, on="combination", how="left", maintain_order="left")
    order = ["combination", "recording", *columns, "settings_digest", "recording_sha", "refused"]
    plan = Plan(
        frame=frame.select(order), swept=list(columns), sources=sources, settings=settings,
        engine=engine, fallback=frozenset(left),
    )  # fmt: skip
    _require_some(plan)
    return plan


def column_of(name: str, values: Sequence[Any]) -> pl.Series:
    """Values of one setting as a column of the kind that fits all; amounts as numbers."""
    present = [value for value in values if value is not None]
    if name in DECIMAL_STRINGS or any(isinstance(value, str) for value in present):
        numbers = [_as_number(value) for value in values]
        if all((n is None) == (value is None) for n, value in zip(numbers, values, strict=True)):
            return pl.Series(name, numbers, dtype=pl.Float64())
        return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String())
    if present and all(isinstance(value, bool) for value in present):
        return pl.Series(name, values, dtype=pl.Boolean())
    if present and all(type(value) is int for value in present):
        return pl.Series(name, values, dtype=pl.Int64())
    if all(isinstance(value, int | float) for value in present):
        return pl.Series(name, values, dtype=pl.Float64())
    texts = [None if value is None else json.dumps(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String())


# ---------------------------------------------------------------- parts


def _sources(recordings: Sequence[Path]) -> list[Source]:
    if not recordings:
        raise SettingsError("name at least one recording to sweep over")
    sources: list[Source] = []
    names = Counter(path.resolve().name for path in recordings)
    for path in recordings:
        manifest = read_manifest(path)
        if manifest.markets:
            raise RecordingError(
                f"{path} is a run of several markets; name the folders of its parts: "
                f"{', '.join(str(path / market) for market in manifest.markets)}"
            )
        recording = Recording.open(path)
        full = path.resolve()
        name = full.name if names[full.name] == 1 else str(path)
        source = Source(
            name=name, path=full, sha=identity(manifest), rows=recording.rows, manifest=manifest
        )
        twin = next((other for other in sources if other.sha == source.sha), None)
        if twin is not None:
            raise RecordingError(
                f"{path} and {twin.path} are the same recording; name it once, or every row of it "
                f"would be counted twice"
            )
        sources.append(source)
    return sources


def _market(manifest: Manifest) -> str:
    """What settings take from a recording: where it is equal, so are they."""
    return json.dumps([msgspec.to_builtins(manifest.instruments), manifest.settings], default=str)


class _Judge(NamedTuple):
    """What tells whether a combination can run on a recording."""

    config: Mapping[str, Any] | None
    texts: Sequence[str]
    manifest: Manifest
    engine: Engine
    fallback: bool

    def judged(self, known: dict[str, str], left: set[str]) -> tuple[str | None, str | None]:
        """The digest of the settings, or why they cannot run.

        They are added to ``known``, and their digest to ``left`` if the Rx engine is to take them.
        """
        try:
            settings: Settings = load_settings(
                config=self.config, overrides=self.texts, manifest=self.manifest
            )
            if settings.venue.kind == "lighter":
                raise SettingsError(
                    'venue.kind "lighter" sends orders and is for live runs; a sweep takes '
                    '"simulated"'
                )
            is_left = self._is_left(settings)
        except SettingsError as error:
            return None, str(error)
        digest = used(settings)
        if digest not in known:
            known[digest] = msgspec.json.encode(settings).decode()
        if is_left:
            left.add(digest)
        return digest, None

    def _is_left(self, settings: Settings) -> bool:
        if self.engine == "rx":
            return False
        asked = Asked([], settings, strict=False)
        if self.fallback:
            return bool(not_done(asked))
        refuse_what_is_not_done(asked)
        return False


def _require_some(plan: Plan) -> None:
    """Refuse a plan of which nothing can run, with the reasons."""
    if plan.refused < plan.frame.height:
        return
    reasons = Counter(plan.frame["refused"].to_list()).most_common(3)
    told = "; ".join(f"{reason} ({n:,})" for reason, n in reasons)
    raise SettingsError(f"not one of {plan.frame.height:,} combinations can run: {told}")


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys with their sections, whether they were written so or as tables."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", one) for key, one in value.items())
        else:
            yield name, value


def _literal(value: Any) -> str:
    """A value as ``--set`` reads it."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value)


def _as_number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
