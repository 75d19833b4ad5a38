"""vLLM plugins of the harness: the CPU invariance mode, and the probes that the harness reads.

Worker side: loaded by vLLM inside the engine's processes. Active only when the harness asks, through
environment variables; otherwise loading them changes nothing.
"""
