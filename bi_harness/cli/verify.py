"""``bi-harness verify``: is a certificate genuine, and does all of it follow from its journal?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bi_harness.cli.options import AsJson, key_given
from bi_harness.exits import OK, ExitCode

if TYPE_CHECKING:
    from bi_harness.certificate.statement import Statement
    from bi_harness.certificate.verify import Examined

_MARKS = {"problem": "✗", "note": "·", "good": "✓"}


def verify(
    certificates: Annotated[
        list[Path],
        typer.Argument(
            metavar="CERT...", help="A run's folder, its certificate.json or its certificate.dsse.json."
        ),
    ],
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key",
            envvar="BI_HARNESS_KEY",
            callback=key_given,
            help="Public key, one of which must have signed (repeatable).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether certificates are genuine and consistent; not whether their verdict is a good one.

    Looked at: the signature; the schema; that verdict and counts follow from the checks; and, with the run's
    folder at hand, that certificate and reports follow from the journal, byte for byte. Without --key,
    nobody's signature is asked for, and the output says so. With --key, a run's folder must have both
    envelopes, and each signed file that is there must be the one that was signed.

    Read which run it is: a key signs many. The output names run, device, vLLM and times.

    Ends with 0 when every certificate is genuine, 1 when one is not, 4 for a file or key that cannot be used.
    """
    from bi_harness.certificate.sign import load_public_key
    from bi_harness.cli.examined import examined
    from bi_harness.cli.output import write_json

    keys = [load_public_key(path) for path in key or ()]
    results = [examined(path, keys) for path in certificates]
    if as_json:
        write_json(
            {"genuine": all(r.genuine for r in results), "certificates": [as_data(r) for r in results]}
        )
    else:
        for result in results:
            _show(result)
    raise typer.Exit(OK if all(result.genuine for result in results) else ExitCode.NOT_CERTIFIED)


def as_data(result: Examined) -> dict[str, Any]:
    """What was found, for ``--json``."""
    from bi_harness.certificate.diff import device_of, vllm_of

    told = result.statement.predicate.bi_harness if result.statement else None
    return {
        "certificate": result.place,
        "genuine": result.genuine,
        "verdict": told.verdict if told else None,
        "run_id": told.run_id if told else None,
        "device": (device_of(result.statement) or None) if result.statement else None,
        "vllm": (vllm_of(result.statement) or None) if result.statement else None,
        "started": told.started if told else None,
        "finished": told.finished if told else None,
        "digest": f"sha256:{result.digest}" if result.digest else None,
        "signed_by": list(result.signed_by),
        "signatures": list(result.signatures),
        "from_journal": result.journal,
        "findings": [finding.model_dump() for finding in result.findings],
    }


def _show(result: Examined) -> None:
    from bi_harness.cli.output import clean

    told = result.statement.predicate.bi_harness if result.statement else None
    state = "genuine" if result.genuine else "NOT GENUINE"
    if result.genuine and not result.signed_by:
        state = "consistent; who made it was NOT checked"
    verdict = f" (its verdict: {told.verdict})" if told else ""
    typer.echo(f"{clean(result.place)}: {state}{verdict}")
    if result.statement is not None:
        typer.echo(f"  {_line(_which_run(result.statement))}")
    for finding in result.findings:
        typer.echo(f"  {_MARKS[finding.level]} {_line(finding.where)}: {_line(finding.what)}")


def _which_run(statement: Statement) -> str:
    """The run that a certificate is of. A key signs many: whoever wants one of them reads this line."""
    from bi_harness.certificate.diff import device_of, vllm_of
    from bi_harness.certificate.problems import shortened

    told = statement.predicate.bi_harness
    parts = (
        f"run {told.run_id}",
        f"device {device_of(statement) or 'not known'}",
        f"vLLM {vllm_of(statement) or 'not known'}",
        f"{told.started} to {told.finished or 'no end'}",
    )
    return ", ".join(shortened(part, 120) for part in parts)


def _line(text: str) -> str:
    from bi_harness.cli.output import clean

    return clean(text.replace("\n", " ").replace("\t", " "))
