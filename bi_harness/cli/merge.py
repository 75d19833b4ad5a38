"""``bi-harness merge``: one certificate of the shards of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from bi_harness.cli.job import Annotate, tell
from bi_harness.cli.options import AsJson, SignKey, key_given

Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", envvar="BI_HARNESS_OUT", help="The run's folder is made under DIR/<device>/."
    ),
]
PublicKey = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        envvar="BI_HARNESS_PUBLIC_KEY",
        callback=key_given,
        help="Public key, one of which must have signed every shard (repeatable).",
    ),
]


def merge(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of all shards: DIR/<device>/<run id>.")
    ],
    out: Out = Path("reports"),
    public_key: PublicKey = None,
    sign_key: SignKey = None,
    annotate: Annotate = True,
    as_json: AsJson = False,
) -> None:
    """Make of the shards of a run (`run --shard`) the certificate that the whole run would have.

    All shards of one run must be there, each once: same plan, device, kind of host, vLLM, bi-harness, YAML
    and options. Hosts may have other names, which the certificate lists then. Any that is missing, there
    twice, of another run or damaged is named, and nothing is written (4). Of a shard that was interrupted,
    what it has is taken, and the certificate is that of an interrupted run; resume it (`run --resume`) and
    merge again.

    With --public-key, each shard is verified first, as `bi-harness verify` does it, its reports included, and
    only logs that were signed are taken. Without, a warning says that nobody looked who signed the shards.

    Into a folder that exists, the same merge writes again; with any other content in it, it is refused (4).

    Ends as the run would have: see ``bi-harness run``; with 4 where the shards are not those of one run.
    """
    from rich.console import Console

    from bi_harness.certificate.verdict import exit_code
    from bi_harness.cli.output import warn
    from bi_harness.cli.run import sign, signer_of, write_json_result
    from bi_harness.report.console import print_result
    from bi_harness.report.sealed import refuse_stale
    from bi_harness.report.write import write_reports
    from bi_harness.runner.merge import merged
    from bi_harness.runner.merged_folder import read_shards, write_merged

    signer = signer_of(sign_key)
    shards = read_shards(runs)
    events = merged(shards)
    signed = None
    if public_key:
        signed = _verify(runs, public_key)
    else:
        warn(_unchecked(runs))
    for one in shards:
        if not one.complete:
            warn(f"{one.name} did not come to its end: `bi-harness run --resume` does the rest of it")
    run_dir, statement = write_merged(out, events, shards, signed)
    if signer is None:
        refuse_stale(statement, run_dir)
    reports = write_reports(statement, run_dir) | sign(statement, run_dir, signer)
    if as_json:
        write_json_result(statement, run_dir)
    print_result(statement, Console(stderr=as_json), reports)
    tell(statement, run_dir, annotate=annotate)
    result = statement.predicate.bi_harness
    raise typer.Exit(exit_code(result.verdict, interrupted=result.interrupted, shard=result.shard))


def _unchecked(runs: list[Path]) -> str:
    from bi_harness.certificate.files import ENVELOPE

    text = "the shards' signatures were NOT checked: name the key with --public-key"
    if unsigned := [str(run) for run in runs if not os.path.lexists(run / ENVELOPE)]:
        text += f". There is none to check, since nobody signed {', '.join(unsigned)[:1000]}"
    return text


def _verify(runs: list[Path], public_keys: list[Path]) -> dict[str, Mapping[str, str]]:
    """See that each shard is genuine, and signed.

    Returns:
        By shard, sha256 of the files that are as they were signed, by name.

    Raises:
        UsageError: one is not, or a key cannot be used.
    """
    from bi_harness.certificate.sign import load_public_key
    from bi_harness.cli.examined import examined
    from bi_harness.errors import UsageError

    keys = [load_public_key(path) for path in public_keys]
    found = {str(run): examined(run, keys) for run in runs}
    wrong = [
        f"{one.place}: {problem.where}: {problem.what}" for one in found.values() for problem in one.problems
    ]
    if wrong:
        raise UsageError("\n".join(["cannot merge: not every shard is genuine, and signed", *wrong]))
    return {run: one.signed_files for run, one in found.items()}
