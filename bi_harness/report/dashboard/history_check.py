"""Whether a history's rows are ones that ``rows.row_of`` could have made. Pure.

The history is believed: what it says of a certificate is not computed again. So a file that was damaged, or
that something else wrote, must not be taken for one: its letters would be shown as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bi_harness.report.dashboard.rows import LETTERS, MAX_CELLS, MAX_ENVIRONMENT, UNSETTLED, Told, moment

MAX_ROWS: Final = 1_000_000
MAX_TEXT: Final = 2_000
"""Characters of a text of a row; the longest that is kept has half of that."""

MAX_SECONDS: Final = 1e8

_LETTERS: Final = frozenset((*LETTERS.values(), UNSETTLED))
_MAY_HAVE: Final[dict[str, frozenset[str]]] = {
    "CERTIFIED": frozenset("ps"),
    "WAIVED": frozenset("psw"),
    "INCONCLUSIVE": _LETTERS - {"f"},
    "NOT_CERTIFIED": _LETTERS,
}
_MUST_HAVE: Final = {"CERTIFIED": "p", "WAIVED": "w", "NOT_CERTIFIED": "f"}
_STATUSES: Final = frozenset(LETTERS)


def row_problem(table: pa.Table) -> str:
    """What no history has, in one sentence with the row's number from 0; empty where there is nothing.

    Args:
        table: of the history's schema, without nulls in its columns.
    """
    return next(_problems(table), "")


def _problems(table: pa.Table) -> Iterator[str]:
    if table.num_rows > MAX_ROWS:
        yield f"it has {table.num_rows:,} rows, and {MAX_ROWS:,} at most are a history's"
        return
    for name in ("environment", "told"):
        check: Callable[[Any], bool] = _is_environment if name == "environment" else _is_told
        codes, texts = _coded(table[name].combine_chunks())
        wrong = [code for code, text in enumerate(texts) if not _holds(check, text)]
        for row in np.flatnonzero(np.isin(codes, wrong)).tolist():
            yield f"row {row}: its {name} is not one"
    heads = table.drop_columns(["cells", "environment", "told"]).to_pylist()
    for number, row in enumerate(heads):
        if why := _head_problem(row):
            yield f"row {number}: {why}"
    yield from _cell_problems(table, heads)


def _head_problem(row: dict[str, Any]) -> str:
    for name, value in row.items():
        texts = value if isinstance(value, list) and name != "starts" else [value]
        for text in texts:
            if text is None or (isinstance(text, str) and len(text) > MAX_TEXT):
                return f"its {name} is empty or too long"
    if not row["digest"]:
        return "it has no digest"
    if not _seconds(row["seconds"]):
        return f"its seconds are no time that a run takes: {row['seconds']!r}"
    for start in row["starts"]:
        if start is None or any(value is None for value in start.values()):
            return "one of its starts is empty"
        if not _seconds(start["seconds"]) or start["starts"] < 1 or len(start["mode"] + start["arm"]) > 200:
            return "one of its starts is none"
    if row["night"] and not _is_day(row["night"]):
        return f"its night is not a day: {row['night'][:60]!r}"
    if row["why"]:
        return ""
    if row["verdict"] not in _MAY_HAVE:
        return f"its verdict is none: {row['verdict'][:60]!r}"
    if not row["device"] or not row["night"]:
        return "it counts, and names no device or no night"
    if moment(row["started"]) is None or moment(row["ended"]) is None:
        return "it counts, and does not tell when its run began and ended"
    return ""


def _cell_problems(table: pa.Table, heads: Sequence[dict[str, Any]]) -> Iterator[str]:
    column = table["cells"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if not len(column):
        return
    flat = column.flatten()
    counts = np.asarray(column.value_lengths(), dtype=np.int64)
    owner = np.repeat(np.arange(len(heads)), counts)
    fields = {name: flat.field(name) for name in ("cell", "checks", "statuses", "seconds")}
    if flat.null_count or any(field.null_count for field in fields.values()):
        yield "a cell has nothing in one of its fields"
        return
    seconds = fields["seconds"].to_numpy(zero_copy_only=False)
    if len(seconds) and not bool(np.all((seconds >= 0) & np.isfinite(seconds))):
        yield "a cell has seconds that are no time"
        return
    check_codes, check_names = _coded(fields["checks"])
    status_codes, status_names = _coded(fields["statuses"])
    _, cell_names = _coded(fields["cell"])
    if any(len(name) > MAX_TEXT or not name for name in cell_names):
        yield "a cell's id is empty or too long"
        return
    if any(not text or not set(text) <= _LETTERS for text in status_names):
        yield "a cell has a status that is none"
        return
    names = np.array([text.count("\n") + 1 for text in check_names], np.int64)
    letters = np.array([len(text) for text in status_names], np.int64)
    for row in owner[names[check_codes] != letters[status_codes]].tolist():
        yield f"row {row}: a cell has not a status for each check"
    kinds = sorted(_LETTERS)
    has = np.array([[letter in text for letter in kinds] for text in status_names], bool).reshape(
        -1, len(kinds)
    )
    found = np.zeros((len(heads), len(kinds)), bool)
    np.logical_or.at(found, owner, has[status_codes])
    for number, row in enumerate(heads):
        if row["why"]:
            if counts[number]:
                yield f"row {number}: it does not count, and has cells"
            continue
        told = {letter for letter, there in zip(kinds, found[number].tolist(), strict=True) if there}
        if not 1 <= counts[number] <= MAX_CELLS:
            yield f"row {number}: it counts, and has {int(counts[number]):,} cells"
        elif not told <= _MAY_HAVE[row["verdict"]] or _MUST_HAVE.get(row["verdict"], "") not in {"", *told}:
            yield f"row {number}: its verdict {row['verdict']} does not follow from its cells"


def _coded(array: pa.Array) -> tuple[npt.NDArray[np.int64], list[str]]:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    found = array.dictionary_encode()
    return np.asarray(found.indices, dtype=np.int64), found.dictionary.to_pylist()


def _holds(check: Callable[[Any], bool], text: str) -> bool:
    try:
        return check(json.loads(text))
    except (ValueError, RecursionError):
        return False


def _is_environment(data: Any) -> bool:
    # A year has a million pairs: looked at by the interpreter's own loops.
    if not isinstance(data, list) or len(data) > MAX_ENVIRONMENT:
        return False
    if set(map(type, data)) - {list} or set(map(len, data)) - {2}:
        return False
    texts = list(chain.from_iterable(data))
    return not set(map(type, texts)) - {str} and max(map(len, texts), default=0) <= MAX_TEXT


def _is_told(data: Any) -> bool:
    return isinstance(data, list) and all(_is_story(one) for one in data)


def _is_story(one: Any) -> bool:
    if not isinstance(one, dict) or one.keys() != set(Told.__dataclass_fields__):
        return False
    bits = one["bits"]
    texts = [value for name, value in one.items() if name != "bits"]
    return (
        isinstance(bits, list)
        and len(bits) <= 2
        and all(isinstance(text, str) and len(text) <= 4 * MAX_TEXT for text in (*texts, *bits))
        and one["status"] in _STATUSES
    )


def _seconds(value: float) -> bool:
    return 0 <= value < MAX_SECONDS


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
