"""``bi-harness key new``: a key pair to sign certificates with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bi_harness.cli.lazy import new_app
from bi_harness.cli.options import AsJson, key_given

app = new_app("Make keys that certificates are signed with.")


@app.callback()
def key() -> None:
    """Make keys that certificates are signed with."""


@app.command("new")
def new(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            envvar="BI_HARNESS_KEY_OUT",
            callback=key_given,
            help="Private key to make; PATH.pub is the public one.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Make an ed25519 key pair: PATH (private, mode 600) and PATH.pub. Nothing is ever overwritten.

    Prints the key's id, by which certificates and `verify` name it.
    """
    from bi_harness.certificate.sign import new_key
    from bi_harness.cli.output import clean, write_json

    keyid = new_key(out)
    public = out.with_name(out.name + ".pub")
    if as_json:
        write_json({"key": keyid, "private": str(out), "public": str(public)})
    else:
        typer.echo(
            f"key {keyid}\nprivate: {clean(str(out))} (keep it to yourself)\npublic:  {clean(str(public))}"
        )
