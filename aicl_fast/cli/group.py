"""What all commands share: how one is found by its name, options before the name, standard output."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer import Option
from typer.core import TyperCommand, TyperGroup

from aicl_fast import plugins
from aicl_fast.cli.ending import Interrupted
from aicl_fast.errors import ConfigError
from aicl_fast.files import is_stdout, only_results
from aicl_fast.limits import MAX_UNPACKED, parse_size

GROUP = "aicl_fast.commands"
"""Entry points of other packages that add a command: a function like ``run`` of one here."""
_STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
}
_HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    """Imports a command when it is called or listed."""

    table: Mapping[str, str]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(dict.fromkeys([*self.table, *plugins.load(GROUP)]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.table:
            return _command(cmd_name, importlib.import_module(self.table[cmd_name]).run)
        if cmd_name in plugins.load(GROUP):
            function = plugins.load(GROUP)[cmd_name]
            if not callable(function):
                raise ConfigError(
                    f"{GROUP}: expected {cmd_name!r} to be a function, got a {type(function).__name__}. Name "
                    "it as my_package.my_module:run in the package's entry points."
                )
            return _command(cmd_name, function)
        # typer takes the names that it suggests from here.
        self.commands.update(dict.fromkeys(self.list_commands(ctx), cast(Any, None)))
        return None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # for which typer would end without a word
            raise Interrupted(error) from None


class _Command(TyperCommand):
    """Where a file is ``-``, standard output is its alone; all else that is printed goes to stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse a file that would be read as an option, such as ``-x.npy`` or ``-own.npy``."""
        options = [option for option in self.params if option.param_type_name == "option"]
        flags = {name for option in options for name in (*option.opts, *option.secondary_opts)}
        valued = {name for option in options if not getattr(option, "is_flag", False) for name in option.opts}
        for before, argument in zip(["", *args], args, strict=False):
            if argument == "--":
                break
            unclear = argument.startswith("-") and argument not in {"-", *flags} and before not in valued
            if unclear and os.path.lexists(argument):
                raise ConfigError(
                    f"{argument}: begins with - as options do, but is a file, too. For the file write "
                    f"./{argument}, or -- before the files."
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        named = [option for option in self.params if _is_stdout(ctx.params.get(option.name or ""))]
        if not named:
            return super().invoke(ctx)
        options = [max(option.opts, key=len) for option in named if option.param_type_name == "option"]
        if len(options) > 1:
            raise ConfigError(f"{', '.join(options)}: standard output takes one file. Name the others.")
        with only_results():
            return super().invoke(ctx)


def _is_stdout(value: object) -> bool:
    return isinstance(value, Path) and is_stdout(value)


def _command(name: str, function: Callable[..., Any]) -> Any:
    app = typer.Typer(**_STYLE)
    context = {**_HELP, **getattr(function, "context_settings", {})}
    app.command(name, cls=_Command, context_settings=context)(function)
    return typer.main.get_command(app)


def _print_version(asked: bool) -> None:
    if asked:
        from aicl_fast import __version__

        typer.echo(f"aicl-fast {__version__}")
        raise typer.Exit


def _shared_options(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    max_unpacked: Annotated[
        str | None,
        Option(
            metavar="SIZE",
            help="Memory that a file may take though it is small itself, as 4GiB; for files that you trust.",
        ),
    ] = None,
) -> None:
    """Take the options that stand before a command's name."""
    if max_unpacked is not None:
        os.environ[MAX_UNPACKED] = str(parse_size(max_unpacked, "--max-unpacked"))


def build(table: Mapping[str, str]) -> Callable[..., Any]:
    """What runs ``aicl-fast``'s arguments, given the module of each command by its name."""
    app = typer.Typer(
        name="aicl-fast",
        cls=_Commands,
        no_args_is_help=True,
        context_settings=_HELP,
        help="Find when actions happen in long untrimmed recordings.\n\n"
        "A model is trained from video-level labels only (AICL, AAAI 2023), exported, and then localises "
        "actions in features of any length.",
        **_STYLE,
    )
    app.callback()(_shared_options)
    group = cast(_Commands, typer.main.get_command(app))
    group.table = table
    return group
