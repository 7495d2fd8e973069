"""Row groups: a Parquet file written as its rows come, each kind of column packed its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import polars as pl

from streams.recording import ROW_GROUP_ROWS, FileEntry, file_entry

__all__ = ["RowGroupWriter", "load"]

_LEVEL: Final = 1
"""Of zstd: higher levels take twice the time for a tenth of the size."""
_FEW: Final = 0.5
"""Share of distinct values in a column above which a dictionary of them only costs."""


def load() -> None:
    """Load what writes Parquet now, not with the first rows: it takes a fifth of a second."""
    import pyarrow.parquet  # noqa: F401


class RowGroupWriter:
    """Makes a Parquet file of batches of one schema, a row group at a time.

    The same rows give the same bytes, however they are cut into batches.

    Memory holds one row group. Until ``close`` the file is no Parquet file, so this is for output
    that is worth nothing unless it is whole; what must outlive a killed process takes
    ``streams.recording.FrameWriter``.

    Integers that mostly rise (``seq``, ``ts`` and their like) are kept as differences, which takes
    a fifth of the time and less space than a general compressor; columns of few distinct values
    as a dictionary. Least and most are told of the rising ones alone, which are what rows are
    looked up by.
    """

    def __init__(self, folder: Path, name: str, schema: pl.Schema) -> None:
        """Write ``folder/name.parquet``."""
        self.path = folder / f"{name}.parquet"
        self.rows = 0
        self._schema = schema
        self._waiting: list[pl.DataFrame] = []
        self._height = 0
        self._writer: Any = None
        self._span: tuple[int | None, int | None] = (None, None)

    def append(self, batch: pl.DataFrame) -> None:
        """Add rows; the batch must have the schema's columns in its order.

        Errors: OSError if the file cannot be written.
        """
        if not batch.height:
            return
        self.rows += batch.height
        if "ts" in batch.columns:
            first = self._span[0] if self._span[0] is not None else batch["ts"][0]
            self._span = (first, batch["ts"][-1])
        self._waiting.append(batch)
        self._height += batch.height
        while self._height >= ROW_GROUP_ROWS:
            self._write(self._next_group())

    def finish(self) -> None:
        """Write what is left and finish the file.

        Errors: OSError if the file cannot be written.
        """
        if self._height or self._writer is None:
            self._write(self._next_group())
        self._writer.close()

    def close(self) -> FileEntry:
        """Finish the file; return what it is.

        Errors: OSError if the file cannot be written.
        """
        self.finish()
        return file_entry(self.path, self.rows, self._span)

    def _next_group(self) -> list[pl.DataFrame]:
        """Take the rows of a group from those that wait, or all there are."""
        group: list[pl.DataFrame] = []
        missing = ROW_GROUP_ROWS
        while missing and self._waiting:
            batch = self._waiting.pop(0)
            if batch.height > missing:
                self._waiting.insert(0, batch.slice(missing))
                batch = batch.slice(0, missing)
            missing -= batch.height
            group.append(batch)
        self._height -= ROW_GROUP_ROWS - missing
        return group or [pl.DataFrame(schema=self._schema)]

    def _write(self, group: list[pl.DataFrame]) -> None:
        import pyarrow

        oldest = pl.CompatLevel.oldest()
        if self._writer is None:
            kinds = group[0].clear().to_arrow(compat_level=oldest).schema
            self._writer = _open(self.path, pl.concat(group), kinds)
        height = sum(batch.height for batch in group)
        columns = []
        for kind in self._writer.schema:
            parts = [batch[kind.name] for batch in group]
            if sum(part.null_count() for part in parts) == height:
                columns.append(pyarrow.nulls(height, kind.type))
            else:
                # In one piece, so that the bytes do not depend on how the rows came.
                whole = pl.concat(parts, rechunk=True)
                columns.append(whole.to_arrow(compat_level=oldest).cast(kind.type))
        table = pyarrow.Table.from_arrays(columns, schema=self._writer.schema)
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def _open(path: Path, rows: pl.DataFrame, schema: Any) -> Any:
    """Open a file whose packing fits its first rows."""
    from pyarrow.parquet import ParquetWriter

    rising = [
        name
        for name, dtype in rows.schema.items()
        if dtype in (pl.Int64, pl.UInt64) and name.split("_")[0] in ("seq", "ts")
    ]
    few = [
        name
        for name, dtype in rows.schema.items()
        if name not in rising
        and dtype != pl.Boolean
        and rows[name].n_unique() <= _FEW * max(rows.height, 1)
    ]
    plain = [name for name in rows.columns if name not in rising and name not in few]
    return ParquetWriter(
        path,
        schema,
        # What is packed already hardly gets smaller.
        compression={name: "ZSTD" if name in plain else "NONE" for name in rows.columns},
        compression_level=dict.fromkeys(plain, _LEVEL),
        use_dictionary=few,
        column_encoding=dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
        write_statistics=rising,
        store_schema=False,
    )
