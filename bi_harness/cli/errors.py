"""From what a command raises to what the shell learns."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

import typer

from bi_harness.cli.output import clean
from bi_harness.errors import HarnessError
from bi_harness.exits import OK, ExitCode

# typer carries click inside since 0.2x and uses the package of that name before: ask typer for the classes.
_UsageException: type[Exception] = typer.BadParameter.__mro__[1]  # type: ignore[assignment]
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]  # type: ignore[assignment]


def exit_code_of(command: Callable[[Sequence[str]], object], args: Sequence[str]) -> int:
    """Run a command line and turn whatever happens into an exit code, with the message on stderr.

    Args:
        command: runs the arguments; what it returns is the exit code (``None``: success).
        args: the arguments after ``bi-harness``.
    """
    try:
        result = command(args)
        # A full disk or a closed pipe shows when the rest is written, and must not show as success.
        sys.stdout.flush()
    except typer.Exit as e:
        return int(e.exit_code)
    except HarnessError as e:
        _say(f"error: {e}")
        return int(e.exit_code)
    except _UsageException as e:
        _say(_click_message(e))
        return int(ExitCode.USAGE)
    except _ClickException as e:
        _say(f"error: {_message(e)}")
        return int(ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has had enough (`| head`): not an error, and no verdict either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.INTERRUPTED)
    except Exception:
        _say(traceback.format_exc().rstrip())
        _say("error: internal error; please report it with the lines above")
        return int(ExitCode.INTERNAL)
    return int(result) if isinstance(result, int) else int(OK)


def _click_message(error: Exception) -> str:
    """The message, and where help is to be had."""
    ctx = getattr(error, "ctx", None)
    text = _message(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        return text
    hint = f"\nTry: {ctx.command_path} --help" if ctx is not None else ""
    return f"error: {text}{hint}"


def _message(error: Exception) -> str:
    text: str = error.format_message().replace("Value error, ", "")  # type: ignore[attr-defined]
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _say(text: str) -> None:
    print(clean(text), file=sys.stderr)  # noqa: T201 - the one place that writes errors
