"""Marble diagrams as input: through operators on the graph's clock, or through the whole graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import polars as pl
from reactivex import Observable

from marblemaker.diagram import Diagram, DiagramError, parse_diagram
from marblemaker.session import Session
from marblemaker.settings import Settings, as_used, instruments_of, load_settings, read_document
from marblemaker.window import decisions_of
from streams.clock import Clock, no_thread_timers
from streams.events import SIDE_NAMES, Decision, Status
from streams.pump import Hot
from streams.recording import FILES, SIGNALS, FrameWriter, Manifest, schema_of, write_manifest

__all__ = ["play_decisions", "play_diagram", "play_session", "write_diagram"]

COMPLETED: Final = "|"


def play_diagram(
    diagram: str | Diagram, graph: Callable[..., Observable[Any]]
) -> list[tuple[int, Any]]:
    """Run a diagram through operators on the graph's clock; return what came out, and when.

    ``graph`` gets a hot source for each lane, by its name, and is subscribed with the clock as
    scheduler. Before each event the timers due at or before its instant fire, as in a run; the
    clock stops at the end of the last column. A lane ends at its ``|``.

    Shape: pairs of ns and value; the end is the string "|", an error the exception itself.
    Errors: as of ``parse_diagram``.
    """
    drawn = parse_diagram(diagram) if isinstance(diagram, str) else diagram
    inputs = drawn.inputs()
    outputs = [
        (lane, event) for lane in drawn.lanes if lane not in FILES for event in drawn.events(lane)
    ]
    # An output handed to an operator comes after the input of its instant that it was made from.
    steps = sorted([*inputs, *outputs], key=lambda item: item[1].ts)
    clock = Clock(drawn.start_ns)
    out: list[tuple[int, Any]] = []
    sources: dict[str, Hot[Any]] = {lane: Hot() for lane in drawn.lanes}
    ends = sorted(
        (drawn.start_ns + column * drawn.step_ns, lane) for lane, column in drawn.ends.items()
    )
    with no_thread_timers():
        subscription = graph(**sources).subscribe(
            lambda value: out.append((clock.now_ns, value)),
            lambda error: out.append((clock.now_ns, error)),
            lambda: out.append((clock.now_ns, COMPLETED)),
            scheduler=clock,
        )

        def complete(until_ns: int) -> None:
            while ends and ends[0][0] <= until_ns:
                ts, lane = ends.pop(0)
                clock.advance(max(ts, clock.now_ns))
                sources[lane].on_completed()

        for lane, event in steps:
            complete(event.ts - 1)
            clock.advance(event.ts)
            sources[lane].push(event)
        complete(drawn.end_ns)
        clock.advance(max(drawn.end_ns, clock.now_ns))
        subscription.dispose()
    return out


def play_decisions(
    diagram: str | Diagram,
    settings: Settings | Iterable[str] = (),
    *,
    config: Path | None = None,
    venue: Literal["recorded", "simulated"] = "simulated",
) -> list[Decision]:
    """Run a diagram through the whole graph; return its decisions.

    See ``play_session``.
    """
    with play_session(diagram, settings, config=config, venue=venue) as session:
        return decisions_of(session.path)


def play_session(
    diagram: str | Diagram,
    settings: Settings | Iterable[str] = (),
    *,
    config: Path | None = None,
    venue: Literal["recorded", "simulated"] = "simulated",
) -> Session:
    """Run a diagram as a recording, through the whole graph and order sink, to a run of its own.

    ``settings`` are texts ``section.key=value`` over the diagram's own (its ``set`` lines), over
    the file ``config``, over the defaults; or Settings, which then are all there is. Orders go to
    the simulated venue and the lane ``account`` is left out; with ``venue="recorded"`` that lane
    has the answers. Time passes to the end of the last column, so timers within it act.

    Nothing is known at the start: no position, no order, and a baseline that is the first signal
    unless ``strategy.signal_baseline`` says otherwise.

    Errors: as of ``parse_diagram`` and ``replay``; DiagramError without a signal or target lane.
    """
    drawn = parse_diagram(diagram) if isinstance(diagram, str) else diagram
    if not isinstance(settings, Settings):
        if isinstance(settings, str):
            raise TypeError(
                f'settings must be a list of texts "section.key=value", was {settings!r}'
            )
        settings = load_settings(
            config=read_document(config) if config is not None else None,
            overrides=[*drawn.overrides, *settings],
        )
    folder = Path(tempfile.mkdtemp(prefix="marble-diagram-"))
    recording = Session(folder / "diagram", temporary=folder)
    try:
        write_diagram(drawn, settings, recording.path, answers=venue == "recorded")
        session = recording.replay(folder / "run", venue=venue)
    except BaseException:
        recording.close()
        raise
    return session.keeping(recording)


def write_diagram(
    diagram: Diagram, settings: Settings, folder: Path, *, answers: bool = False
) -> Path:
    """Write the inputs of a diagram as a recording with these settings; return its folder.

    After the last column a notice of the operator is put, on which nothing in the graph acts: it
    lets time pass to there. With ``answers`` the lane ``account`` is among the inputs.

    Errors: DiagramError without a signal or target lane; RecordingError if the folder exists.
    """
    needed = [*SIGNALS[: len(settings.signal_instruments)], "target"]
    for lane in needed:
        if lane not in diagram.lanes:
            raise DiagramError(
                f"the diagram has no lane {lane}, and the graph needs {' and '.join(needed)}; "
                f"add a line '{lane}  -', or play it through operators with play_diagram"
            )
    inputs = diagram.inputs()
    numbered = diagram.numbered
    notice = Status(
        max((event.seq for _, event in inputs), default=0) + 1, diagram.end_ns, "operator",
        "notice", "end of the diagram",
    )  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {lane: [] for lane in needed}
    for lane, event in [*inputs, ("status", notice)]:
        if lane != "account" or answers:
            rows.setdefault(lane, []).append(_row(lane, event))
    folder.mkdir(parents=True)
    manifest = Manifest(
        mode="synthetic", instruments=instruments_of(settings), settings=as_used(settings)
    )
    for lane, events in rows.items():
        schema = schema_of(lane)
        if not numbered and lane != "account":
            schema = pl.Schema({name: kind for name, kind in schema.items() if name != "seq"})
        writer = FrameWriter(folder, lane, schema)
        if events:
            writer.append(
                pl.DataFrame(
                    [[event.get(c) for c in schema] for event in events], schema, orient="row"
                )
            )
        manifest.files[lane] = writer.close()
    write_manifest(folder, manifest)
    return folder


def _row(lane: str, event: Any) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.structs.asdict(event)
    if lane == "trades":
        row["side"] = SIDE_NAMES.get(row["side"])
    return row
