"""How many rows a layer's matrix product gets, by what it was called with."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bi_harness.invariance.rows import Rows, padded  # noqa: E402 - after the skip


class Layer:
    """A layer that notes the rows of each product."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def apply(self, layer: Any, x: Any, bias: Any) -> Any:
        self.calls.append(x.shape[0])
        return x * 2 if bias is None else x * 2 + bias


@pytest.mark.parametrize(
    ("rows", "given", "calls"),
    [
        (Rows(16), 1, [16]),
        (Rows(16), 16, [16]),
        (Rows(16), 17, [32]),
        (Rows(512, 32), 1, [32]),
        (Rows(512, 32), 32, [32]),
        (Rows(512, 32), 70, [32, 32, 32]),
    ],
)
@pytest.mark.parametrize("bias", [None, 1.0])
def test_every_product_has_one_of_few_sizes(
    rows: Rows, given: int, calls: list[int], bias: float | None
) -> None:
    layer = Layer()
    x = torch.randn(given, 3)
    found = padded(Layer.apply, rows)(layer, None, x, bias)
    assert layer.calls == calls
    assert torch.equal(found, Layer().apply(None, x, bias))


def test_a_compiled_graph_has_one_product_for_all_rows() -> None:
    apply = padded(Layer.apply, Rows(512, 32))
    sizes: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*values: Any) -> Any:
            sizes.append(sum(node.target is torch.split for node in graph.graph.nodes))
            return graph(*values)

        return run

    def step(x: Any) -> Any:
        return apply(layer, None, x, None)

    layer = Layer()
    compiled = torch.compile(step, backend=backend, dynamic=True, fullgraph=True)
    x = torch.randn(70, 3)
    assert torch.equal(compiled(x), x * 2)
    assert set(layer.calls) == {512}
    assert sizes == [0]
