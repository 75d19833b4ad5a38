"""Whether a run that is to be resumed is still the one that began. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bi_harness.certificate.events import RunStarted
from bi_harness.invariance.faults.registry import PLANT_VARIABLE

_HOST: Final = ("machine", "cpu_model", "cpu_flags", "physical_cores", "logical_cores", "driver")
"""What another host of the same kind has, too: a CI agent may go on in another container."""

_GPU: Final = ("name", "capability", "memory_gib", "mig")

_COMPARED_HERE: Final = ("type", "time", "run_id", "device", "scope", "provenance", "asked", "plan")
_OWN: Final = "BI_HARNESS_"


def differences(
    then: RunStarted, now: RunStarted, *, words: tuple[str, str] = ("then", "now")
) -> tuple[str, ...]:
    """What differs between a run's first event and what would be its first event now, a line for each.

    Not compared are times, paths, the command and the host's name. Variables of bi-harness itself are
    options, which are compared as such.

    Args:
        words: for the one and for the other, in what is said.
    """
    one, other = words
    found: list[str] = []

    def compare(name: str, before: object, after: object) -> None:
        if before != after:
            found.append(f"{name}: {_short(before)} {one}, {_short(after)} {other}")

    compare("device", then.device.get("id"), now.device.get("id"))
    for name in ("kind", "invariance"):
        compare(f"device's {name}", then.device.get(name), now.device.get(name))
    compare("vLLM", (then.asked or {}).get("vllm"), (now.asked or {}).get("vllm"))
    ours, theirs = (_part(event.provenance, "harness").get("version") for event in (then, now))
    compare("bi-harness", ours, theirs)
    for name in type(then.scope).model_fields:
        before, after = getattr(then.scope, name), getattr(now.scope, name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            _compare_all(compare, "" if name == "filters" else f"{name}: ", before, after)
        else:
            compare(name, before, after)
    _compare_all(compare, "digest of ", _part(then.provenance, "digests"), _part(now.provenance, "digests"))
    _compare_all(compare, "variable ", _environment(then), _environment(now))
    _compare_all(compare, "host's ", _host(then), _host(now))
    if then.plan != now.plan:
        found.append(f"plan: {_planned(then)} checks {one}, {_planned(now)} {other}, or others")
    # What later versions add to a run's start is compared whole.
    found += [
        f"{name}: another one {other}"
        for name in type(then).model_fields
        if name not in _COMPARED_HERE and getattr(then, name) != getattr(now, name)
    ]
    return tuple(found)


def _compare_all(
    compare: Any, prefix: str, before: Mapping[str, object], after: Mapping[str, object]
) -> None:
    for name in dict.fromkeys([*before, *after]):
        compare(f"{prefix}{name}", before.get(name), after.get(name))


def _part(provenance: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = provenance.get(name)
    return part if isinstance(part, Mapping) else {}


def _environment(start: RunStarted) -> dict[str, object]:
    told = _part(start.provenance, "environment")
    return {k: v for k, v in told.items() if not k.startswith(_OWN) or k == PLANT_VARIABLE}


def _host(start: RunStarted) -> dict[str, object]:
    host = start.device.get("host")
    if not isinstance(host, Mapping):
        return {}
    gpus = host.get("gpus") or []
    found = {name: host.get(name) for name in _HOST}
    return {**found, "gpus": [{name: gpu.get(name) for name in _GPU} for gpu in gpus]}


def _planned(start: RunStarted) -> int:
    return sum(len(planned.checks) for planned in start.plan if planned.rule is None)


def _short(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
