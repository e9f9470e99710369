"""Commands and groups of commands as their help shows them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

DAY = ("demo", "reproduce", "datasets", "embed", "fit", "ablate", "adapters", "cache")  # a user's day


class Command(TyperCommand):
    """A command whose flags do not look as if they took a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options; a flag has nothing behind its name."""
        return _plain_flags(super().get_params(ctx))


class CommandGroup(TyperGroup):
    """The same for a group; its commands are in the order in which a user meets them."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options; a flag has nothing behind its name."""
        return _plain_flags(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """Those of a user's day first, in order."""
        names = super().list_commands(ctx)
        return [*(name for name in DAY if name in names), *(name for name in names if name not in DAY)]


def _plain_flags(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params
