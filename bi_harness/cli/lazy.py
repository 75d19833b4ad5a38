"""A command group that imports a command's module only when that command runs."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import typer
from typer.core import TyperGroup

from bi_harness.cli.commands import COMMANDS
from bi_harness.errors import UsageError


class LazyGroup(TyperGroup):
    """``bi-harness --help`` reads the table; ``bi-harness plan`` imports ``bi_harness.cli.plan`` alone."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands of the table that this checkout has."""
        return [name for name, entry in COMMANDS.items() if importlib.util.find_spec(entry.module)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported now; ``None`` for an unknown one.

        Raises:
            UsageError: the table has it and this checkout does not.
        """
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if importlib.util.find_spec(entry.module) is None:
            raise UsageError(f'the command "{cmd_name}" is not part of this version')
        module = importlib.import_module(entry.module)
        group = getattr(module, "app", None)
        if isinstance(group, typer.Typer):
            command: Any = typer.main.get_group(group)
        else:
            app = new_app()
            app.command(cmd_name)(getattr(module, cmd_name))
            command = typer.main.get_command(app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does; but an unknown name is compared with the table, so that nothing is imported.

        Raises:
            UsageError: there is no such command.
        """
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            # Imported here: difflib is not needed for --help.
            from bi_harness.spec.suggest import did_you_mean

            raise UsageError(
                f"there is no command {name[:60]!r}.{did_you_mean(name, COMMANDS)} "
                f"There are: {', '.join(self.list_commands(ctx))}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in self.list_commands(ctx)])


def new_app(help: str | None = None, **settings: Any) -> typer.Typer:
    """A ``typer.Typer`` with the project's settings: plain help, since rich alone takes longer to import
    than ``--help`` may take; no completion; no pretty tracebacks, which hide what a bug report needs."""
    if help is not None:
        # None would hide the docstring that typer takes it from otherwise.
        settings["help"] = help
    return typer.Typer(
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,
    )
