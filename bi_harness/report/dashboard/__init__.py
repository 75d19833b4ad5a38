"""The nightly dashboard: certificates → rows → history → what the site shows → its files.

``rows`` makes a certificate a row, ``collect`` finds and verifies certificates, ``history`` is the Parquet
file, ``fleet`` computes what is shown for a day (pure), ``pages``, ``charts`` and ``feed`` render it,
``site`` puts it on disk, and ``serve`` shows it on loopback.
"""
