"""Units on the nodes of a Ray cluster (the extra ``bi-harness[ray]``)."""
