"""The spec: what a user writes in ``models.yaml``, ``hardware.yaml`` and ``suites/*/suite.yaml``."""
