"""Planted faults: copies of real defects, to prove that the suites can see them.

Worker side: standard library, torch and vLLM alone. Loaded only when ``BI_HARNESS_PLANT_FAULT`` names one;
an engine with a fault says so in its effective configuration, and a run with one is never certified.
"""
