"""Rows out of a parquet file, a few in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studio.core.errors import ImportRefusedError

ROWS_AT_ONCE = 16  # rows may hold two pictures each
MAX_RATIO = 200  # unpacked to packed
MAX_GROUP_BYTES = 2 * 2**30  # of one row group, unpacked


def read_parquet_rows(
    path: Path, required: Sequence[str], wanted: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ('file, row 1', row) and so on, with those of the wanted columns that are there.

    Timestamps come as whole microseconds since 1970.
    Raises `ImportRefusedError` for a file that is no parquet, lacks a column, or unpacks to far
    more than its size.
    """
    import pyarrow  # a second to import, so only here
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            lacking = [name for name in required if name not in names]
            if lacking:
                raise ImportRefusedError(
                    f"{path.name} lacks the column '{lacking[0]}'; is it of another format?"
                )
            _check_sizes(file.metadata, path)
            columns = [name for name in wanted if name in names]
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                for row in _with_plain_times(batch).to_pylist():
                    number += 1
                    yield f"{path.name}, row {number}", row
    except (pyarrow.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
        raise ImportRefusedError(
            f"{path.name} cannot be read as a parquet file. Load it down again, or choose another "
            "format."
        ) from error


def _check_sizes(metadata: Any, path: Path) -> None:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(index) for index in range(group.num_columns)]
        packed = sum(column.total_compressed_size for column in columns)
        unpacked = sum(column.total_uncompressed_size for column in columns)
        if unpacked > MAX_GROUP_BYTES or unpacked > MAX_RATIO * max(packed, 2**16):
            raise ImportRefusedError(
                f"{path.name} unpacks to far more than its size; it was not read."
            )


def _with_plain_times(batch: Any) -> Any:
    """Turn timestamps into numbers: as Python objects they lose their zone or their nanoseconds."""
    import pyarrow

    for index, field in enumerate(batch.schema):
        if pyarrow.types.is_timestamp(field.type):
            whole = batch.column(index).cast(pyarrow.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(index, field.name, whole.cast(pyarrow.int64()))
    return batch
