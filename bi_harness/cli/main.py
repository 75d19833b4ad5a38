"""``bi-harness``: the entry point. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from bi_harness import __version__
from bi_harness.cli.errors import exit_code_of
from bi_harness.cli.lazy import LazyGroup, new_app
from bi_harness.exits import ExitCode

app = new_app(name="bi-harness", cls=LazyGroup, invoke_without_command=True)


@app.callback()
def bi_harness(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Test and certify vLLM's batch invariance, bit for bit, on the device in front of you.

    Exit codes: 0 certified, 1 not certified, 2 interrupted, 3 internal error, 4 usage or the wrong device,
    5 nothing to run, 6 inconclusive, 75 infrastructure (safe to retry).
    """
    if version:
        typer.echo(f"bi-harness {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(int(ExitCode.USAGE))


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line; the console script's entry point.

    Args:
        args: the arguments; the process's own by default.

    Returns:
        The exit code (see ``bi_harness.exits``).
    """
    return exit_code_of(_invoke, sys.argv[1:] if args is None else args)


def _invoke(args: Sequence[str]) -> object:
    # Not command(args): click's main() has exit codes of its own (2 for usage, 1 for a closed pipe).
    command = typer.main.get_command(app)
    with command.make_context("bi-harness", list(args)) as ctx:
        return command.invoke(ctx)


if __name__ == "__main__":
    sys.exit(main())
