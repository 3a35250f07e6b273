"""Options that select a part of the audit log."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def selection_options(function: F) -> F:
    """Give a command `--since`, `--until`, `--peer` and `--study`."""
    for option in (
        click.option("--study", metavar="STUDY", help="Only what is about this study."),
        click.option("--peer", metavar="NAME", help="Only what is with this facility."),
        click.option(
            "--until", metavar="TIME", help="Up to the end of this day (UTC), or before this time."
        ),
        click.option(
            "--since", metavar="TIME", help="From this day (UTC), or this time with its zone, on."
        ),
    ):
        function = option(function)
    return function


patient_option = click.option(
    "--patient", metavar="ID", help="Only what is about this patient (Patient ID)."
)
