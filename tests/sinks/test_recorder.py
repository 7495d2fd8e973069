"""The recorder: on disk before the graph sees it, and in the end what a replay would write."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest

from sinks.journal import Journal
from sinks.orders import Orders
from sinks.recorder import (
    Damage,
    Input,
    Recorder,
    lock_session,
    read_mark,
    read_raw,
    read_segments,
    read_session,
)
from streams.events import BUY, SELL, AccountEvent, Decision, Quote, Status, Trade
from streams.recording import (
    FileEntry,
    FrameWriter,
    Manifest,
    Recording,
    RecordingError,
    schema_of,
    sha256_of,
)

ROOT = Path(__file__).parents[2]
NAMES = ("signal", "signal_2", "target", "trades", "status", "account")
MS = 1_000_000
START = 1_750_000_000_000_000_000


def event(seq: int) -> tuple[Input, str]:
    """Input ``seq`` of a session with every kind of input, absent sides and text among them."""
    ts = START + seq * MS // 2
    px = 207_000_000_000 + seq % 97 * 10_000_000
    if seq % 50 == 7:
        return Status(
            seq, ts, "target", "heartbeat", "" if seq % 100 == 7 else f"№ {seq}"
        ), "status"
    if seq % 20 == 3:
        side = (BUY, SELL, 0)[seq % 3]
        return Trade(seq, ts, None if seq % 3 else ts - 5, px, seq * 10**6, side), "trades"
    if seq % 30 == 11:
        fill = AccountEvent(
            seq=seq, ts=ts, kind="fill", n=seq, venue_id=f"t{seq}", px=px, qty=10**7, fee=3,
            liquidity="MAKER", quota_left=seq,
        )  # fmt: skip
        return fill, "account"
    if seq % 30 == 12:
        return AccountEvent(seq=seq, ts=ts, kind="reject", n=seq, reason="post-only"), "account"
    bid = None if seq % 40 == 1 else px
    flags = 128 if seq % 2 else 0
    quote = Quote(seq, ts, ts - 9, bid, px + 10_000_000, None if bid is None else 10**9, 0, flags)
    return quote, NAMES[seq % 3]


def rows(name: str, seqs: range) -> pl.DataFrame:
    """What is to be in the file ``name``, spelled out row by row."""
    found = []
    for seq in seqs:
        one, where = event(seq)
        if where != name:
            continue
        row = {column: getattr(one, column, None) for column in schema_of(name)}
        if isinstance(one, Trade):
            row["side"] = {BUY: "BUY", SELL: "SELL", 0: None}[one.side]
        found.append(row)
    return pl.DataFrame(found, schema=schema_of(name), orient="row")


def written_at_once(folder: Path, seqs: range) -> dict[str, FileEntry]:
    folder.mkdir()
    entries = {}
    for name in NAMES:
        writer = FrameWriter(folder, name, schema_of(name))
        writer.append(rows(name, seqs))
        entries[name] = writer.close()
    return entries


class Told(list[str]):
    """What ``on_failure`` was told."""

    def __init__(self) -> None:
        super().__init__()
        self.first = threading.Event()

    def __call__(self, reason: str) -> None:
        self.append(reason)
        self.first.set()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def recorder(tmp_path: Path, told: Told) -> Iterator[Callable[..., Recorder]]:
    made: list[Recorder] = []

    def make(folder: str = "run", *, started: bool = True, **options: int) -> Recorder:
        one = Recorder(tmp_path / folder, NAMES, on_failure=told, **options)  # type: ignore[arg-type]
        made.append(one)
        if started:
            one.start(Manifest(mode="live"), started=START)
        return one

    yield make
    for one in made:
        if one._lock is not None:
            with suppress(RecordingError):
                one.abandon()


def feed(recorder: Recorder, seqs: range) -> None:
    for seq in seqs:
        recorder.record(*event(seq))


def on_disk(folder: Path) -> int:
    return sum(frame.height for name in NAMES for frame in read_segments(folder, name, []))


def until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1_000):
        if true():
            return
        pause.wait(0.005)
    raise AssertionError("it did not happen within 5 s")


# ---------------------------------------------------------------- what ends up in the files


@pytest.mark.parametrize("options", [{}, {"flush_rows": 7, "segment_rows": 50}, {"fsync": True}])
def test_the_files_are_those_that_the_same_rows_give_at_once(
    recorder: Callable[..., Recorder], tmp_path: Path, told: Told, options: dict[str, int]
) -> None:
    seqs = range(1, 3_001)
    one = recorder(flush_ms=1, **options)
    feed(one, seqs)
    entries = one.close()
    one.finish(Manifest(mode="live", files=entries))

    assert entries == written_at_once(tmp_path / "once", seqs)
    for name in NAMES:
        assert sha256_of(tmp_path / "run" / f"{name}.parquet") == entries[name].sha256
        assert pl.read_parquet(tmp_path / "run" / f"{name}.parquet").equals(rows(name, seqs))
    assert {path.name for path in one.folder.iterdir()} == {
        "manifest.json", *(f"{name}.parquet" for name in NAMES)
    }  # fmt: skip
    assert told == []
    assert Recording.open(one.folder).rows == 3_000


def test_a_feed_that_never_spoke_has_an_empty_file(recorder: Callable[..., Recorder]) -> None:
    entries = recorder().close()
    assert {entry.rows for entry in entries.values()} == {0}


def test_inputs_are_on_disk_soon_although_nothing_more_comes(
    recorder: Callable[..., Recorder], tmp_path: Path
) -> None:
    one = recorder(flush_ms=10)
    assert one.backlog == (0, 0.0)
    feed(one, range(1, 41))
    until(lambda: one.backlog[0] == 0)
    assert on_disk(one.folder) == 40
    assert read_mark(one.folder) == (40, event(40)[0].ts)
    # What is there opens with plain Polars although it has no end yet.
    found = pl.read_ipc_stream(one.folder / "segments/signal.00001.arrows")
    assert found.equals(rows("signal", range(1, 41)))


def test_a_full_segment_is_ended_and_the_next_begun(recorder: Callable[..., Recorder]) -> None:
    one = recorder(flush_ms=1, flush_rows=10, segment_rows=20)
    for seq in range(1, 301):
        one.record(*event(seq))
        if seq % 10 == 0:
            until(lambda: one.backlog[0] == 0)
    segments = sorted(path.name for path in (one.folder / "segments").glob("target.*"))
    assert segments[:2] == ["target.00001.arrows", "target.00002.arrows"]
    first = pl.read_ipc_stream(one.folder / "segments" / segments[0])
    assert 20 <= first.height < 40
    assert one.close()["target"].rows == rows("target", range(1, 301)).height


def test_an_event_is_kept_as_it_was_given(recorder: Callable[..., Recorder]) -> None:
    one = recorder()
    buffer = bytearray(b"as received")
    one.record_raw("lighter", START, buffer)  # type: ignore[arg-type]
    buffer[:] = b"overwritten"
    one.close()
    assert list(read_raw(one.folder / "raw/lighter.00001.bin")) == [(START, b"as received")]


# ---------------------------------------------------------------- raw frames


def test_raw_frames_come_back_as_they_went(recorder: Callable[..., Recorder]) -> None:
    one = recorder(flush_ms=1)
    frames = [(START + i, bytes([i % 256]) * (i * 7 % 300)) for i in range(1_000)]
    for i, (ts, data) in enumerate(frames):
        one.record_raw("dbn" if i % 2 else "lighter", ts, data)
    one.close()
    assert list(read_raw(one.folder / "raw/lighter.00001.bin")) == frames[::2]
    assert list(read_raw(one.folder / "raw/dbn.00001.bin")) == frames[1::2]


def test_raw_frames_cut_at_any_byte_come_back_up_to_the_last_whole_one(
    recorder: Callable[..., Recorder], tmp_path: Path
) -> None:
    one = recorder()
    frames = [(START + i, b"frame %d" % i) for i in range(5)]
    for ts, data in frames:
        one.record_raw("x", ts, data)
    one.close()
    whole = (one.folder / "raw/x.00001.bin").read_bytes()
    cut = tmp_path / "cut.bin"
    for size in range(len(whole) + 1):
        cut.write_bytes(whole[:size])
        assert list(read_raw(cut)) == frames[: max(size - 8, 0) // 19]
    cut.write_bytes(b"something else")
    with pytest.raises(RecordingError, match="does not hold raw frames"):
        list(read_raw(cut))


def test_raw_frames_beyond_the_bound_are_told(
    recorder: Callable[..., Recorder], told: Told
) -> None:
    one = recorder(flush_ms=10_000, max_backlog_bytes=1_000)
    for i in range(100):
        one.record_raw("x", START + i, b"0" * 88)
    assert len(told) == 1
    assert "fell behind: 1,000 bytes of raw frames are not written yet, at most 1,000" in told[0]
    one.close()
    assert len(list(read_raw(one.folder / "raw/x.00001.bin"))) == 10


# ---------------------------------------------------------------- truncated and damaged segments


def test_a_segment_cut_at_any_byte_is_read_up_to_the_last_whole_batch(
    recorder: Callable[..., Recorder], tmp_path: Path
) -> None:
    one = recorder(flush_ms=1)
    ends = []
    path = one.folder / "segments/account.00001.arrows"
    for batch in range(3):
        feed(one, range(batch * 30 + 1, batch * 30 + 31))
        until(lambda: one.backlog[0] == 0)
        ends.append(path.stat().st_size)
    one.abandon()
    whole = path.read_bytes()
    other = tmp_path / "other/segments"
    other.mkdir(parents=True)
    expected = rows("account", range(1, 91))
    for size in range(len(whole) + 1):
        (other / path.name).write_bytes(whole[:size])
        damage: list[Damage] = []
        found = list(read_segments(other.parent, "account", damage))
        batches = sum(end <= size for end in ends)
        assert sum(frame.height for frame in found) == 2 * batches
        if found:
            assert pl.concat(found).equals(expected[: 2 * batches])
        # An end is no must: a file that stops between two batches is not damaged.
        assert all(one.torn for one in damage)
        assert bool(damage) == (size not in (0, schema_end(whole), *ends, len(whole)))


def schema_end(whole: bytes) -> int:
    return 8 + int.from_bytes(whole[4:8], "little")


def test_a_segment_of_another_kind_is_told_and_what_follows_is_read(
    recorder: Callable[..., Recorder],
) -> None:
    one = recorder(flush_ms=1, segment_rows=10, flush_rows=10)
    for start in range(1, 200, 40):
        feed(one, range(start, start + 40))
        until(lambda: one.backlog[0] == 0)
    one.abandon()
    segments = sorted((one.folder / "segments").glob("target.*"))
    segments[0].write_bytes(b"not arrow at all" * 10)
    shutil.copy(one.folder / "segments/account.00001.arrows", segments[1])
    whole = segments[2].read_bytes()
    segments[2].write_bytes(whole[: schema_end(whole)] + b"\xff" * 700)
    damage: list[Damage] = []
    left = sum(frame.height for frame in read_segments(one.folder, "target", damage))
    assert left == sum(pl.read_ipc_stream(path).height for path in segments[3:])
    assert [(one.path.name, one.torn) for one in damage] == [
        (path.name, False) for path in segments[:3]
    ]
    assert "is no Arrow stream at byte 0" in damage[0].text
    assert "does not have the columns of target" in damage[1].text


# ---------------------------------------------------------------- when it does not work


def test_a_backlog_over_the_limit_is_told_once(
    recorder: Callable[..., Recorder], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    one = recorder(flush_ms=1, max_backlog_rows=100)
    monkeypatch.setattr(one, "_flush", stuck.wait)
    feed(one, range(1, 101))
    assert told == []
    assert one.backlog == (100, 49.5)
    feed(one, range(101, 121))
    assert len(told) == 1
    assert (
        "the recorder fell behind: 109 inputs are not written yet, at most 100 are held" in told[0]
    )
    assert one.failed == told[0]
    feed(one, range(121, 401))
    assert len(told) == 1
    # Memory is bounded: what comes after twice the limit is not held.
    assert 200 <= one.backlog[0] < 250
    assert read_mark(one.folder) == (400, event(400)[0].ts)
    monkeypatch.undo()
    stuck.set()
    with pytest.raises(RecordingError, match=r"inputs could not be recorded: .*fell behind"):
        one.close()
    assert on_disk(one.folder) == one._taken


def test_a_number_left_out_is_told(recorder: Callable[..., Recorder], told: Told) -> None:
    one = recorder()
    feed(one, range(1, 5))
    feed(one, range(6, 9))
    assert "input 6 was given to the recorder where 5 is next" in told[0]
    feed(one, range(3, 4))
    assert len(told) == 1
    assert sum(entry.rows for entry in one.close().values()) == 7


def test_a_value_that_does_not_fit_is_told_and_not_raised(
    recorder: Callable[..., Recorder], told: Told
) -> None:
    one = recorder(flush_ms=1)
    one.record(Quote(1, START, None, 2**70, 1, 1, 1, 0), "signal")
    assert told.first.wait(5)
    assert "the recorder cannot go on" in told[0]
    feed(one, range(2, 5))
    with pytest.raises(RecordingError, match="4 inputs could not be recorded"):
        one.close()


def test_a_folder_in_use_or_with_remains_is_refused(recorder: Callable[..., Recorder]) -> None:
    one = recorder()
    with pytest.raises(RecordingError, match="holds a run in progress already"):
        Recorder(one.folder, NAMES, on_failure=print).start(Manifest())
    one.abandon()
    with pytest.raises(RecordingError, match=r"holds session\.json already.*marble doctor"):
        Recorder(one.folder, NAMES, on_failure=print).start(Manifest())
    session = read_session(one.folder)
    assert session is not None
    assert (session.pid, session.started, session.first_seq) == (os.getpid(), START, 1)
    assert session.names == list(NAMES)


def test_the_lock_is_held_until_the_manifest_is_written(
    recorder: Callable[..., Recorder],
) -> None:
    one = recorder()
    assert lock_session(one.folder) is None
    entries = one.close()
    assert lock_session(one.folder) is None
    one.finish(Manifest(mode="live", files=entries))
    assert read_session(one.folder) is None


@pytest.mark.parametrize(
    ("names", "options", "text"),
    [
        (["signal", "sginal"], {}, "names must be different ones of"),
        (["signal", "signal"], {}, "names must be different ones of"),
        (["signal"], {"flush_ms": 0}, "flush_ms must be positive, was 0"),
        (["signal"], {"max_backlog_rows": -1}, "max_backlog_rows must be positive, was -1"),
    ],
)
def test_what_makes_no_sense_is_refused_on_call(
    names: list[str], options: dict[str, int], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Recorder(Path("nowhere"), names, on_failure=print, **options)  # type: ignore[arg-type]


def test_a_disk_without_room_is_told_and_recording_goes_on_when_there_is_room() -> None:
    _alone("""
        import resource, tempfile
        folder = Path(tempfile.mkdtemp())
        told = Told()
        one = Recorder(folder / "run", NAMES, on_failure=told, flush_ms=1)
        one.start(Manifest(mode="live"))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        feed(one, range(1, 2_001))
        assert told.first.wait(5)
        feed(one, range(2_001, 2_501))
        assert len(told) == 1 and one.failed == told[0], told
        assert "the recorder cannot write (File too large)" in told[0], told
        assert "quoting must stop. Make room" in told[0], told
        assert one.backlog[0] > 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        until(lambda: one.backlog[0] == 0)
        assert one.close() == written_at_once(folder / "once", range(1, 2_501))
    """)


def test_a_disk_without_room_at_the_end_leaves_the_segments() -> None:
    _alone("""
        import resource, tempfile
        folder = Path(tempfile.mkdtemp())
        one = Recorder(folder / "run", NAMES, on_failure=Told(), flush_ms=1)
        one.start(Manifest(mode="live"))
        feed(one, range(1, 2_001))
        until(lambda: one.backlog[0] == 0)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
        try:
            one.close()
        except RecordingError as error:
            assert "run cannot be written" in str(error), error
            assert "marble doctor" in str(error), error
        else:
            raise AssertionError
        assert on_disk(folder / "run") == 2_000
        assert not list((folder / "run").glob("*.parquet"))
    """)


def test_a_folder_that_may_not_be_written_is_told() -> None:
    # As nobody, because nothing is read-only to root.
    _alone("""
        import tempfile
        folder = Path(tempfile.mkdtemp())
        told = Told()
        one = Recorder(folder / "run", NAMES, on_failure=told, flush_ms=1)
        one.start(Manifest(mode="live"))
        (folder / "run/segments").chmod(0o555)
        other = Recorder(folder / "segments", NAMES, on_failure=told)
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)
        feed(one, range(1, 11))
        assert told.first.wait(5)
        assert "the recorder cannot write (Permission denied)" in told[0], told
        try:
            other.start(Manifest())
        except RecordingError as error:
            assert "cannot be written: Permission denied; a run that cannot" in str(error), error
        else:
            raise AssertionError
        try:
            one.close()
        except RecordingError as error:
            assert "10 inputs could not be recorded" in str(error), error
        else:
            raise AssertionError
        if os.getuid() == 0:
            os.seteuid(0)
    """)


def _alone(script: str) -> None:
    """Run a script in a process of its own, with the names of this file."""
    lines = script.splitlines()
    whole = "\n".join(line.removeprefix(" " * 8) for line in lines)
    code = f"import runpy; globals().update(runpy.run_path({__file__!r}))\n{whole}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the journal


def _journal(folder: Path, flush_every: int | None) -> tuple[dict[str, FileEntry], str]:
    folder.mkdir()
    journal, orders = Journal(folder), Orders()
    for seq in range(1, 2_001):
        ts = START + seq
        journal.decision(Decision(seq=seq, ts=ts, action="quote", bid=seq / 7, bid_px=seq))
        order, _ = orders.create(ts, BUY, 10**9, 100)
        journal.order(order)
        answer = AccountEvent(
            seq=seq, ts=ts, kind="fill", n=order.n, venue_id=f"t{seq}", px=10**9, qty=100
        )
        journal.account(answer)
        if orders.apply(answer) is not None:
            journal.fill(orders.find(order.n), answer)
        if flush_every is not None and seq % flush_every == 0:
            journal.flush()
            flushed = pl.scan_ipc(folder / ".segments/decisions-*.arrow").collect()
            assert flushed["seq"].to_list() == list(range(1, seq + 1))
    return journal.close(), journal.digest()


def test_neither_the_digest_nor_the_files_depend_on_when_the_journal_was_flushed(
    tmp_path: Path,
) -> None:
    once = _journal(tmp_path / "once", None)
    assert once[0]["fills"].rows == 2_000
    assert _journal(tmp_path / "often", 97) == once
    assert _journal(tmp_path / "seldom", 1_999) == once
