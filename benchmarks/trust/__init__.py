"""What a certificate is worth, as figures: ``make trust``, or ``python -m benchmarks.trust [SECTION...]``.

A section is a module here with ``measure(...) -> dict[str, object]``.
"""
