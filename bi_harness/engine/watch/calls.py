"""Getting between modules and their callers. Worker side: torch alone.

``forward`` of each instance is replaced, rather than a hook registered: vLLM's compilable classes call
``self.forward`` and so pass hooks by, also in eager mode. And ``lm_head`` has no forward at all: its weights
are used through ``quant_method.apply``, which counts as a call of the layer that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Around = Callable[[str, str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called in place of a module, with its name, its class, what it would have run, and the arguments."""

ROOT = "(model)"
SAMPLER = "(sampler)"


class Calls:
    """Puts ``around`` between modules and their callers, until ``close``.

    Args:
        roots: name → module; its submodules are ``name.path``, those of ``ROOT`` the path alone.
        around: see ``Around``.
        only: names of the modules to get to; ``None`` for all.
    """

    def __init__(self, roots: dict[str, Any], around: Around, only: Sequence[str] | None = None) -> None:
        self._around = around
        self._undo: list[Callable[[], None]] = []
        self._running: list[int] = []
        self.modules: dict[str, str] = {}
        """Class by name, in the order of the model."""
        named: dict[int, tuple[str, str]] = {}
        for root, top in roots.items():
            for path, module in top.named_modules():
                name = root if not path else path if root == ROOT else f"{root}.{path}"
                self.modules[name] = type(module).__name__
                named.setdefault(id(module), (name, type(module).__name__))
                if only is None or name in only:
                    self._wrap_forward(module, name)
        for top in roots.values():
            for module in top.modules():
                self._wrap_apply(module, named, only)

    def close(self) -> None:
        """Leave everything as it was."""
        while self._undo:
            self._undo.pop()()

    def _wrap_forward(self, module: Any, name: str) -> None:
        around, running, cls = self._around, self._running, type(module).__name__
        stock = module.forward
        had = "forward" in vars(module)

        def forward(*args: Any, **kwargs: Any) -> Any:
            running.append(id(module))
            try:
                return around(name, cls, stock, args, kwargs)
            finally:
                running.pop()

        # Past nn.Module.__setattr__, which has a place of its own for modules and parameters.
        object.__setattr__(module, "forward", forward)
        self._undo.append(
            (lambda: object.__setattr__(module, "forward", stock))
            if had
            else (lambda: object.__delattr__(module, "forward"))
        )

    def _wrap_apply(self, module: Any, named: dict[int, tuple[str, str]], only: Sequence[str] | None) -> None:
        method = getattr(module, "quant_method", None)
        stock = getattr(method, "apply", None)
        if stock is None or getattr(stock, "_bi_harness_watched", False):
            return
        around, running = self._around, self._running

        def apply(*args: Any, **kwargs: Any) -> Any:
            layer = kwargs.get("layer", args[0] if args else None)
            name, cls = named.get(id(layer), ("", ""))
            if not name or id(layer) in running or (only is not None and name not in only):
                return stock(*args, **kwargs)
            running.append(id(layer))
            try:
                return around(name, cls, stock, args, kwargs)
            finally:
                running.pop()

        apply._bi_harness_watched = True  # type: ignore[attr-defined]
        try:
            had = "apply" in vars(method)
            object.__setattr__(method, "apply", apply)
        except (AttributeError, TypeError):
            return  # without a place for it (slots) the layer is seen as part of its caller alone
        self._undo.append(
            (lambda: object.__setattr__(method, "apply", stock))
            if had
            else (lambda: object.__delattr__(method, "apply"))
        )
