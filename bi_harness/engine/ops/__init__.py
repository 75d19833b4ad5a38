"""Single operators of the installed vLLM, each called as engines call it, and what is measured of them.

``sizes`` (pure) says which batches; ``measure`` runs them; a module a family has the operators. Worker side:
standard library, numpy, torch and vLLM alone, and torch is imported only where something is computed.
"""
