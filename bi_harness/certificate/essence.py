"""What of a certificate is the same whenever the same thing ran: everything but times and places. Pure."""

from __future__ import annotations

from typing import Any

from bi_harness.certificate.statement import Statement


def essence(statement: Statement) -> dict[str, Any]:
    """A certificate without what differs between two runs that found the same.

    Left out are the run's id and times, how long checks and starts took and which engines were forked from a
    process with vLLM imported, the names of logs, the command and the variables of its process, the journal's
    digest, a cluster's nodes, that it was resumed or lost some of those, and what was looked into afterwards
    for as long as there was time (``localized``). What stays: the verdict and what it rests on, every check
    with its status, reason, figures and digests of bits, the scope, the device, the effective configuration,
    versions and all other digests.
    """
    data: dict[str, Any] = statement.model_dump(mode="json", by_alias=True)
    predicate = data["predicate"]
    predicate["configuration"] = [c for c in predicate["configuration"] if c["name"] != "journal"]
    ours = predicate["bi_harness"]
    for name in ("run_id", "started", "finished", "resumed", "lost", "localized"):
        ours.pop(name, None)
    ours["device"].pop("nodes", None)
    for check in ours["checks"]:
        del check["duration_s"], check["log"]
    for arm in ours["effective"]:
        del arm["start_s"]
        arm.pop("preloaded", None)
    provenance = ours["provenance"]
    for name in ("command", "environment"):
        provenance.pop(name, None)
    provenance["digests"] = {k: v for k, v in provenance["digests"].items() if k != "journal"}
    return data
