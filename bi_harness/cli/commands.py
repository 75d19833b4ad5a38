"""The commands: name → where it is and what ``bi-harness --help`` says of it. Nothing is imported here."""

from __future__ import annotations

from typing import NamedTuple


class CommandEntry(NamedTuple):
    """One command.

    Attributes:
        module: has a function of the command's name, or, for a command with commands of its own, a
            ``typer.Typer`` named ``app`` (made by ``bi_harness.cli.lazy.new_app``). A module that this
            checkout does not have leaves the others alone.
        help: one line.
    """

    module: str
    help: str


COMMANDS: dict[str, CommandEntry] = {
    "plan": CommandEntry("bi_harness.cli.plan", "Show what a run would do, and what the rules exclude."),
    "run": CommandEntry("bi_harness.cli.run", "Run the checks on this host and write a certificate."),
    "report": CommandEntry("bi_harness.cli.report", "Write a run's reports anew from its journal."),
    "merge": CommandEntry("bi_harness.cli.merge", "Make one certificate of the shards of a run."),
    "localize": CommandEntry(
        "bi_harness.cli.localize", "Tell which module of the model a failure begins in."
    ),
    "verify": CommandEntry("bi_harness.cli.verify", "Tell whether a certificate is genuine and consistent."),
    "gate": CommandEntry("bi_harness.cli.gate", "Hold certificates against a release policy."),
    "key": CommandEntry("bi_harness.cli.key", "Make keys that certificates are signed with."),
    "diff": CommandEntry("bi_harness.cli.diff", "Show what changed between certificates."),
    "dashboard": CommandEntry("bi_harness.cli.dashboard", "Show many nights' certificates as a static site."),
    "doctor": CommandEntry(
        "bi_harness.cli.doctor", "Tell whether this host can certify, and what is missing."
    ),
    "releases": CommandEntry(
        "bi_harness.cli.releases", "List the vLLM releases that bi-harness was tried with, and the results."
    ),
    "selftest": CommandEntry(
        "bi_harness.cli.selftest", "Tell what the suite catches: planted faults, and no false alarm."
    ),
    "pipeline": CommandEntry(
        "bi_harness.cli.pipeline", "Write the Buildkite pipeline that certifies a fleet of devices."
    ),
    "model": CommandEntry("bi_harness.cli.model", "Make synthetic checkpoints."),
}
"""In the order of the help."""
