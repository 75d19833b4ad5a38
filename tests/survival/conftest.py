"""A stand-in suite for each test, and no process of it left over."""

from tests.runner.conftest import standin

__all__ = ["standin"]
