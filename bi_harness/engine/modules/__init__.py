"""The modules of a loaded model, each by itself: do its rows depend on the batch?

``inventory`` tells which there are, ``capture`` takes their inputs while requests run, ``replay`` feeds them
rows in batches of every size, ``sequences`` compares those that look at more than their rows, and ``audit``
drives all four. Worker side: standard library, torch and vLLM alone; torch is imported where it is used.
"""
