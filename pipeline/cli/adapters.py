"""`mma adapters`: list them, show one, and check one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mma.pipeline.cli.console import AsJson, stdout
from mma.pipeline.cli.groups import Command, CommandGroup

NAMED = "A name that `mma adapters` lists, or FILE.py:CLASS."


class ShowByDefault(CommandGroup):
    """A group in which what is no command is the name of an adapter to show."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`mma adapters NAME` is `mma adapters show NAME`."""
        of_group = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if of_group else ["show", *args])


adapters_app = typer.Typer(
    name="adapters", cls=ShowByDefault, help="List the adapters; or `mma adapters NAME`, one; or check one."
)


@adapters_app.command(cls=Command)
def show(
    name: Annotated[str | None, typer.Argument(help=NAMED, show_default="all")] = None,
    json: AsJson = False,
) -> None:
    """One adapter with its source, what it does, and its options; or the list of all."""
    from mma.pipeline.reports.adapters import adapters_json, show_adapter, show_adapters

    if json:
        print(adapters_json(name))
    elif name is None:
        show_adapters(stdout())
    else:
        show_adapter(stdout(), name)


@adapters_app.command(cls=Command)
def check(name: Annotated[str, typer.Argument(help=NAMED)], json: AsJson = False) -> None:
    """Whether an adapter keeps every promise that fit, ablate and the saved file rely on. Exit code 1 if not."""
    from mma.pipeline.reports.adapter_checks import adapter_checks, checks_json, show_checks

    found = adapter_checks(name)
    if json:
        print(checks_json(name, found))
    else:
        show_checks(stdout(), name, found)
    if not all(check.ok for check in found):
        raise typer.Exit(1)
