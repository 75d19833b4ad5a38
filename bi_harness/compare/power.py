"""What a count of differences says about the rate behind it."""

from __future__ import annotations


def upper_bound_95(differing: int, compared: int) -> float:
    """One-sided 95% upper bound of a rate, after ``differing`` of ``compared`` (Clopper and Pearson 1934).

    Exact for independent trials. Steps of one request are not independent, so read it as a statement
    about the workload's size, not as a guarantee for other workloads.

    Returns:
        A rate in [0, 1]; 1.0 where nothing was compared.

    Raises:
        ValueError: when the counts are negative or ``differing > compared``.
    """
    if differing < 0 or compared < differing:
        raise ValueError(f"{differing} of {compared} is not a count")
    if differing == compared:
        return 1.0
    # Imported here: scipy.special takes a noticeable part of a second, and few commands need it.
    from scipy.special import betaincinv

    return float(betaincinv(differing + 1, compared - differing, 0.95))
