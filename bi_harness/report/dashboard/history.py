"""The history: one Parquet file with a row a certificate, made anew from the certificates at any time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from bi_harness.errors import UsageError
from bi_harness.reading import read_bounded
from bi_harness.report.dashboard.history_check import MAX_ROWS, row_problem
from bi_harness.report.dashboard.rows import Row
from bi_harness.report.text import clean

NAME: Final = "history.parquet"

MAX_BYTES: Final = 2 * 1024**3

# 2: no letter of a cell is greener than the certificate's verdict.
_VERSION: Final = b"bi-harness/dashboard-history/2"
_KEY: Final = b"bi_harness.history"
_KEYS: Final = b"bi_harness.keys"

_TEXT = pa.string()
SCHEMA: Final = pa.schema(
    [
        *((name, _TEXT) for name in ("digest", "certificate", "path", "why", "run_id", "device", "hardware")),
        *((name, _TEXT) for name in ("variant", "profile", "scope", "verdict", "said", "started", "ended")),
        ("night", _TEXT),
        ("seconds", pa.float64()),
        *((name, _TEXT) for name in ("vllm", "torch", "harness")),
        ("partial", pa.bool_()),
        ("journal", pa.bool_()),
        ("again", _TEXT),
        ("signed_by", pa.list_(_TEXT)),
        ("signatures", pa.list_(_TEXT)),
        ("environment", _TEXT),
        ("told", _TEXT),
        (
            "starts",
            pa.list_(
                pa.struct(
                    [("mode", _TEXT), ("arm", _TEXT), ("starts", pa.int64()), ("seconds", pa.float64())]
                )
            ),
        ),
        (
            "cells",
            pa.list_(
                pa.struct(
                    [("cell", _TEXT), ("checks", _TEXT), ("statuses", _TEXT), ("seconds", pa.float64())]
                )
            ),
        ),
    ]
)


def table_of(rows: Sequence[Row]) -> pa.Table:
    """The rows as a table."""
    return pa.Table.from_pylist([row.as_dict() for row in rows], schema=SCHEMA)


def joined(*tables: pa.Table) -> pa.Table:
    """Rows of several tables as one: each certificate once, by night, begin, run and digest.

    A row that counts goes before one that does not; of the same ones the first stays.
    """
    table = pa.concat_tables([table.cast(SCHEMA) for table in tables]).combine_chunks()
    order = table.select(["night", "started", "run_id", "certificate", "digest", "path"]).to_pylist()
    whys = table["why"].to_pylist()
    indices = sorted(range(len(order)), key=lambda i: (bool(whys[i]), *order[i].values(), i))
    seen: set[str] = set()
    kept = []
    for i in indices:
        key = order[i]["certificate"] or f"{order[i]['path']} {order[i]['digest']}"
        if key not in seen:
            seen.add(key)
            kept.append(i)
    return table.take(pa.array(kept, pa.int64()))


def render(table: pa.Table, keys: Sequence[str]) -> bytes:
    """The file's bytes. The same rows give the same bytes.

    Args:
        keys: ids of the public keys with which the certificates were verified.
    """
    sink = io.BytesIO()
    metadata = {_KEY: _VERSION, _KEYS: " ".join(sorted(keys)).encode()}
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        version="2.6",
        write_page_checksum=True,
    )
    return sink.getvalue()


def load(path: Path) -> tuple[pa.Table, tuple[str, ...]] | None:
    """The rows and the keys' ids; ``None`` where there is no such file.

    Raises:
        UsageError: it is not a history that this version wrote: damaged, of another version, with other
            columns, or with a row that no certificate gives (``history_check``).
    """
    try:
        data = read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the history {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES // 2**30} GiB")
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        # Before any of it is unpacked: a few bytes can stand for very many rows.
        if file.metadata.num_rows > MAX_ROWS:
            raise ValueError(f"it has {file.metadata.num_rows:,} rows, more than {MAX_ROWS:,}")
        if not file.schema_arrow.remove_metadata().equals(SCHEMA):
            raise ValueError("its columns are different")
        table = file.read()
        metadata = table.schema.metadata or {}
        if metadata.get(_KEY) != _VERSION:
            raise ValueError("it is of no or of another version")
        keys = metadata.get(_KEYS, b"").decode()
        table = table.replace_schema_metadata(None)
        if not table.schema.equals(SCHEMA):
            raise ValueError("its columns are different")
        table.validate(full=True)
        for name in SCHEMA.names:
            if table[name].null_count:
                raise ValueError(f"its column {name} has nothing in a row")
        if problem := row_problem(table):
            raise ValueError(problem)
    except Exception as error:
        # Whatever a reader of Parquet makes of bytes that are none: nothing of them is believed.
        raise UsageError(
            f"{path}: is no history that this bi-harness wrote: {clean(str(error), 300)}\n"
            "hint: --rebuild makes it again from the certificates"
        ) from error
    return table, tuple(keys.split())
