"""The matrix: spec → cells → units, and which of them run. Pure: no torch, no vLLM, no I/O."""
