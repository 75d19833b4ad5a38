"""How much faster ``bi-harness run`` certifies than vLLM's own determinism tests run: see ``__main__``."""
