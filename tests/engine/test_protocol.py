"""Messages and arrays arrive as they left, and what is neither is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bi_harness.engine.protocol import ProtocolError, decode_array, decode_line, encode_array, encode_line

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
arrays = st.one_of(
    hnp.arrays(np.int32, shapes),
    hnp.arrays(np.int64, shapes),
    hnp.arrays(np.uint32, shapes).map(lambda a: a.view(np.float32)),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(arrays)
def test_every_bit_of_an_array_arrives(array: np.ndarray) -> None:
    back = decode_array(decode_line(encode_line({"a": encode_array(array)}))["a"])
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


def test_layout_and_byte_order_do_not_matter() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    for same in (array.astype(">i4"), np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2]):
        assert encode_array(same) == encode_array(array)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint32, np.int8, np.bool_, object, "U3"])
def test_other_dtypes_do_not_travel(dtype: Any) -> None:
    with pytest.raises(ProtocolError, match="do not travel"):
        encode_array(np.zeros(2, dtype))


def encoded(**changes: Any) -> dict[str, Any]:
    return {**encode_array(np.zeros((2, 3), np.int32)), **changes}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        {},
        {"dtype": "<i4", "shape": [1]},
        encoded(dtype="<f8"),
        encoded(dtype="O"),
        encoded(dtype=["<i4"]),
        encoded(dtype=None),
        encoded(shape=[2, 4]),
        encoded(shape=[-2, -3]),
        encoded(shape=[2.0, 3.0]),
        encoded(shape=["2", "3"]),
        encoded(shape=[True, 6]),
        encoded(shape=6),
        encoded(shape=[[2], 3]),
        encoded(shape=[2**40, 2**40]),
        encoded(shape=[2**32, 2**32], data=""),
        encoded(shape=[0, 2**70], data=""),
        encoded(shape=[1] * 70 + [6]),
        encoded(data="!!!!"),
        encoded(data="AAA"),
        encoded(data="żółć"),
        encoded(data=None),
        encoded(data=base64.b64encode(b"12345").decode()),
    ],
)
def test_what_is_no_array_is_refused(data: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_array(data)


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_a_message_is_one_line_and_comes_back(message: dict[str, Any]) -> None:
    line = encode_line(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line) == json.loads(json.dumps(message))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_has_not_does_not_leave(value: float) -> None:
    with pytest.raises(ValueError):
        encode_line({"x": value})


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"{", b"[]", b"3", b'"x"', b"null", b"\xff\xfe", b"[" * 200_000]
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_line(line)


@given(st.binary(max_size=50))
def test_random_bytes_are_a_message_or_refused(line: bytes) -> None:
    try:
        message: object = decode_line(line)
    except ProtocolError:
        return
    assert isinstance(message, dict)


def test_a_refusal_does_not_repeat_all_of_a_long_line() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_line(b"x" * 10**6)
    assert len(str(caught.value)) < 1000
