"""Buildkite: the pipeline that certifies a fleet, and what a job tells of its run.

Pure but for ``agent``, which calls ``buildkite-agent``.
"""
