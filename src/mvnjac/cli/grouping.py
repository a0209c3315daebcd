"""Commands whose options come in groups: a parameter of a command that is a dataclass stands for the options in its fields."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo


class OptionGroup:
    """A group of options: a subclass is a dataclass with one field per option, and the panel of the help that shows them."""

    PANEL: ClassVar[str]


def command(app: typer.Typer, examples: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that adds a function to the commands.

    A parameter of a type derived from `OptionGroup` is replaced by the fields of this type, and the function gets an instance.
    The docstring is the help.

    Args:
        examples: command lines, which the help shows.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        groups: dict[str, Any] = {
            name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, OptionGroup)
        }

        def call(**given: Any) -> None:
            made = {
                name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
                for name, group in groups.items()
            }
            function(**made, **given)

        parameters = list(_parameters(function, hints, groups))
        paragraphs = (inspect.getdoc(function) or "").split("\n\n")
        call.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        setattr(call, "__signature__", inspect.Signature(parameters))  # noqa: B010 (mypy knows no such attribute)
        app.command(function.__name__, cls=PlainCommand, epilog=examples_text(examples))(call)
        return function

    return register


def examples_text(examples: Sequence[str]) -> str:
    """The examples as the end of a help text."""
    return "\n\n".join(["[bold]Examples[/bold]", *(example.replace("[", r"\[") for example in examples)])


def _parameters(function: Callable[..., None], hints: dict[str, Any], groups: dict[str, Any]) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
            continue
        group = groups[parameter.name]
        types = get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            annotation = _in_panel(types[field.name], group.PANEL)
            yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _in_panel(annotation: Any, panel: str) -> Any:
    """The annotation of an option, shown in this panel unless it names another one."""
    kind, info = get_args(annotation)
    if isinstance(info, OptionInfo) and info.rich_help_panel is None:
        info = copy.copy(info)
        info.rich_help_panel = panel
    return Annotated[kind, info]


def _plain(parameters: list[Any]) -> list[Any]:
    """The same parameters: flags without a type in the help, and --help in the last panel."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    panels = [panel for each in parameters if (panel := getattr(each, "rich_help_panel", None)) is not None]
    if panels and "--help" in parameters[-1].opts:
        parameters[-1].rich_help_panel = panels[-1]
    return parameters


class PlainCommand(TyperCommand):
    """A command whose help shows no type for flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class PlainGroup(TyperGroup):
    """The group of the commands, whose help shows no type for flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))
