"""bi-harness: tests and certifies vLLM's batch invariance, bit for bit, on the device in front of it."""

__version__ = "0.1.0"
