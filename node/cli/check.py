"""`radmesh check`: whether catalog, store, feeds and log of the home agree."""

import itertools
import time
from typing import TYPE_CHECKING, Any

import click

from node import phrases
from node.cli import output
from node.cli.progress import ProgressBar
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError

if TYPE_CHECKING:
    from node.fsck.check import Report

_SHOWN = 20
"""Findings of a kind that a person is shown; `--json` has all."""


@click.command()
@click.option("--fast", is_flag=True, help="Look at the sizes of batches; do not read them.")
@json_option
@pass_session
def check(session: Session, fast: bool) -> int:
    """Check that catalog, store, feeds and log of the home agree; changes nothing.

    The node may run meanwhile. Exit code 0 says that all is well, 1 that something was
    found, 2 that it could not be told.
    """
    from node.fsck.check import check_home
    from node.fsck.findings import CannotCheck

    home = session.home()
    try:
        home.require()
        with ProgressBar("reading") as bar:
            report = check_home(
                home.path,
                now=time.time(),
                fast=fast,
                progress=lambda done, total: bar.update("reading", done, total),
            )
    except CannotCheck as error:
        raise NodeError(
            f"the home {home.path} cannot be checked: {error}",
            hint="nothing is said about it; check that it is yours to read, and of this release",
            code=ExitCode.USAGE,
        ) from error
    except NodeError as error:
        raise NodeError(error.message, hint=error.hint, code=ExitCode.USAGE) from error
    if session.as_json:
        output.emit_json(describe_check(report))
    else:
        for line in check_lines(report):
            output.say(line)
    return ExitCode.FAILED if report.findings else ExitCode.OK


def describe_check(report: "Report") -> dict[str, Any]:
    """A report as JSON."""
    return {
        "findings": [
            {"kind": one.kind, "where": one.where, "what": one.what, "mend": one.mend}
            for one in report.findings
        ],
        "studies": report.studies,
        "batches": report.batches,
        "bytes": report.batch_bytes,
        "size": report.entries,
        "root": report.root.hex(),
        "in_use": report.in_use,
    }


def check_lines(report: "Report") -> list[str]:
    """A report for people: each kind of finding, what was found, and how it is mended."""
    lines = []
    for kind, group in itertools.groupby(report.findings, key=lambda one: one.kind):
        found = list(group)
        lines.append(f"{kind}: {phrases.count(len(found), 'finding')}")
        lines += [f"  {phrases.clean(one.what)}" for one in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN} more: see --json")
        lines.append(f"  to mend it: {found[0].mend}")
    lines.append(
        f"checked {phrases.count(report.studies, 'study', 'studies')}, "
        f"{phrases.count(report.batches, 'batch', 'batches')} "
        f"({phrases.size(report.batch_bytes)}) and a log of "
        f"{phrases.count(report.entries, 'entry', 'entries')}: "
        + (phrases.count(len(report.findings), "finding") if report.findings else "all is well")
    )
    return lines
