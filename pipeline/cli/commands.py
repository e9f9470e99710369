"""Commands made from settings objects: every option of the command line is a field with its help beside it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Annotated, Any

import typer
from rich.markup import escape

from mma.pipeline.errors import UsageError
from mma.pipeline.options import Field, default_text, fields_of, groups

WIDEST = 20  # letters of choices that stand beside an option; its help tells more


def parameters_of(settings: type) -> list[inspect.Parameter]:
    """The options of a settings object as typer takes them: keyword-only parameters, grouped in the help."""
    return [_parameter(field) for field in fields_of(settings)]


def takes(*settings: type, extra: Sequence[inspect.Parameter] = ()) -> Callable[[Callable[..., None]], Any]:
    """Give a command the options of settings objects. It is called with `context` and with what was given, by name."""

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        options = [parameter for kind in settings for parameter in parameters_of(kind)]

        def command(context: typer.Context, **given: Any) -> None:
            run(context, **given)

        signature = inspect.Signature([context, *extra, *options])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        command.__doc__, command.__name__ = run.__doc__, run.__name__
        return command

    return decorate


def chosen(kind: type, given: Mapping[str, Any], **more: Any) -> Any:
    """The settings object of a command, from what was given. Raises UsageError."""
    names = [field.name for field in fields_of(kind)]
    return kind(**{name: given[name] for name in names if given[name] is not None and given[name] != []}, **more)


def as_flags(message: str) -> str:
    """A message in which options are written `shots=4` and `update=True`, as this command line has them: --shots 4 and
    --update.
    """
    return re.sub(r"`(\w+)=([^`]*)`", lambda m: f"--{m[1].replace('_', '-')} {m[2]}".removesuffix(" True"), message)


def as_factors(message: str, *settings: type) -> str:
    """The same for a command that takes factors beside its own options: shots=4, but --workers 4."""
    own = {field.name for kind in settings for field in fields_of(kind)}
    return re.sub(r"`(\w+)=[^`]*`", lambda m: as_flags(m[0]) if m[1] in own else m[0].strip("`"), message)


def extra_options(arguments: Sequence[str], settings: type) -> dict[str, str]:
    """`--lam 0.5 --mask=pair` as {"lam": "0.5", "mask": "pair"}: what the command's own `settings` do not have.

    Raises UsageError.
    """
    own = {field.name for field in fields_of(settings)}
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"unexpected argument {word!r}")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise UsageError(f"option --{name} needs a value")
            value = rest.pop(0)
        if name in own:
            raise UsageError(f"--{name} is written --{name.replace('_', '-')}")
        if name.replace("-", "_") in found:
            raise UsageError(f"option --{name} is given twice (mma ablate takes several values)")
        found[name.replace("-", "_")] = value
    return found


def options_table(settings: type) -> str:
    """The options of a settings class as a Markdown table, for the docs."""
    lines = ["| option | what it is | default |", "|---|---|---|"]
    for group, of in groups(fields_of(settings)).items():
        lines.append(f"| **{group}** | | |")
        for field in of:
            words = "\\|".join(field.option.choices)
            named = f"`--{field.name.replace('_', '-')}{' ' + words if words else ''}`"
            lines.append(f"| {named} | {field.option.help} | {default_text(field)} |")
    return "\n".join(lines) + "\n"


def _parameter(field: Field) -> inspect.Parameter:
    option, flag = field.option, f"--{field.name.replace('_', '-')}"
    if field.kind is bool:
        words = (flag,) if field.default is False else (f"{flag}/--no-{flag[2:]}",)
        kind: Any = bool | None
    else:
        words = (flag,)
        kind = list[str] if field.several and not option.read else str  # values are read in one place: options.py
        kind = kind if field.default is MISSING else kind | None
    told = default_text(field)
    info = typer.Option(
        *words,
        help=escape(f"{option.help} Default: {told}." if told else option.help),
        rich_help_panel=option.group,
        show_default=False,
        metavar=_metavar(field),
    )
    standing = inspect.Parameter.empty if field.default is MISSING else None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=standing, annotation=Annotated[kind, info]
    )


def _metavar(field: Field) -> str:
    words = "|".join(field.option.choices)
    if words and len(words) <= WIDEST:
        return words
    return {bool: "", int: "INT", float: "FLOAT", str: "TEXT"}.get(field.kind, "PATH")
