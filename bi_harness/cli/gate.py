"""``bi-harness gate``: hold certificates against a release policy."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bi_harness.cli.job import Annotate, tell_gate
from bi_harness.cli.options import AsJson
from bi_harness.errors import UsageError

Policy = Annotated[
    Path, typer.Option("--policy", envvar="BI_HARNESS_POLICY", help="What must be certified (release.yaml).")
]
Now = Annotated[
    str | None,
    typer.Option(
        "--now", envvar="BI_HARNESS_NOW", help="Time that ages are counted from (2026-12-31T12:00:00Z)."
    ),
]
Markdown = Annotated[
    Path | None, typer.Option("--md", envvar="BI_HARNESS_GATE_MD", help="Write a Markdown page here.")
]
Junit = Annotated[
    Path | None, typer.Option("--junit", envvar="BI_HARNESS_GATE_JUNIT", help="Write a JUnit file here.")
]


def gate(
    policy: Policy,
    reports: Annotated[
        list[Path],
        typer.Argument(metavar="REPORTS...", help="Certificates, runs' folders, or folders of them."),
    ],
    now: Now = None,
    md: Markdown = None,
    junit: Junit = None,
    annotate: Annotate = True,
    as_json: AsJson = False,
) -> None:
    """Tell whether certificates meet a release policy, and what would meet each requirement that is not met.

    Each certificate is verified first, as `bi-harness verify` does it. What is missing is not met; of two
    certificates that disagree the failing one decides. Runs are found at and below each folder; a run without
    a certificate, a link to a folder that is not searched, and a folder that cannot be read close the gate.

    Ends with 0 when all is met, 1 when not, 6 when nothing but inconclusive evidence is in the way, 4 for a
    mistake in the policy or an argument.
    """
    from bi_harness.certificate.gate import gate as hold
    from bi_harness.certificate.sign import load_public_key
    from bi_harness.cli.examined import examined_among_others
    from bi_harness.cli.output import write_json
    from bi_harness.report.discovery import discover
    from bi_harness.report.gate_view import gate_junit, gate_lines, gate_markdown
    from bi_harness.report.write import replace_file
    from bi_harness.spec.policy import load_policy

    asked, digest = load_policy(policy)
    keys = [load_public_key(policy.parent / name) for name in asked.keys or ()]
    moment = _moment(now)
    found = discover(reports)
    examined = [examined_among_others(run.path, keys) for run in found.runs]
    result = hold(
        asked, examined, now=moment, policy_digest=digest, unread=[str(place) for place in found.unread]
    )
    if md is not None:
        replace_file(md, gate_markdown(result))
    if junit is not None:
        replace_file(junit, gate_junit(result))
    if as_json:
        write_json(result.model_dump(mode="json"))
    else:
        for line in gate_lines(result):
            typer.echo(line)
    tell_gate(result, annotate=annotate)
    raise typer.Exit(int(result.exit_code))


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"--now {text[:60]!r} is not a time; write one like 2026-12-31T12:00:00Z") from None
