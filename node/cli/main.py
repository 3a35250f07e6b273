"""The `radmesh` command: its subcommands, and what becomes of every error.

Only click is imported here and at the top of the other files of this package:
`radmesh --help` and the small commands must start at once.
"""

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from node.cli import (
    archive,
    arrive,
    audit,
    audit_reports,
    backup,
    card,
    check,
    demo,
    disc,
    discard,
    doctor,
    drill,
    emergencies,
    find,
    keeping,
    keys,
    manifest,
    match,
    offers,
    output,
    pair,
    pending,
    people,
    proposals,
    receipts,
    reconcile,
    requests,
    retention,
    serve,
    sharing,
    studies,
    transfers,
    trust,
    wishes,
    witness,
)
from node.cli.session import Session
from node.errors import ExitCode, NodeError
from node.failures import describe_unexpected, single_node_error

_DEFAULT_HOME = "~/.radmesh"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `radmesh demo`, or `radmesh init --name NAME` and `radmesh serve`.",
)
@click.option(
    "--home",
    envvar="RADMESH_HOME",
    default=_DEFAULT_HOME,
    show_default=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the node: its keys, studies and log.",
)
@click.option(
    "--socket",
    envvar="RADMESH_SOCKET",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="Speak to a running node over this socket, as a person of its group; no home is used.",
)
@click.option(
    "--passphrase-fd",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Read the passphrase of sealed keys, a line, from this file descriptor and not from "
    "the terminal.",
)
@click.version_option(None, package_name="radmesh", message="radmesh %(version)s")
@click.pass_obj
def radmesh(session: Session, home: Path, socket: Path | None, passphrase_fd: int | None) -> None:
    """Exchange medical images with facilities that you trust, peer to peer.

    Each facility runs one node (`radmesh serve`). All other commands speak to the
    running node of the same home, or work on the home itself when none runs.
    """
    session.home_path = home.expanduser()
    session.socket_path = socket
    session.passphrase_fd = passphrase_fd


for command in (
    card.init,
    card.card,
    trust.trust,
    wishes.objection,
    wishes.consent,
    match.match,
    requests.requests,
    requests.approve,
    requests.deny,
    emergencies.review,
    pair.pair,
    studies.ingest,
    arrive.arrive,
    studies.studies,
    sharing.share,
    sharing.withdraw,
    sharing.sharing,
    studies.export,
    disc.disc,
    manifest.manifest,
    find.find,
    discard.discard,
    discard.quarantine,
    discard.recalls,
    keeping.hold,
    keeping.keeping,
    transfers.fetch,
    offers.send,
    offers.offers,
    archive.archive,
    transfers.transfers,
    transfers.cancel,
    serve.serve,
    serve.status,
    audit.audit,
    keys.keys,
    people.people,
    proposals.proposals,
    proposals.confirm,
    proposals.decline,
    backup.backup,
    backup.restore,
    check.check,
    drill.drill,
    retention.retention,
    doctor.doctor,
    demo.demo,
):
    radmesh.add_command(command)
for command in (
    audit_reports.report,
    audit_reports.send,
    audit_reports.erase,
    pending.pending,
    receipts.receipts,
    reconcile.reconcile,
    witness.witness,
    witness.policy,
    witness.forks,
):
    audit.audit.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `radmesh`; the console script.

    Args:
        arguments: the words after `radmesh`; those of the process by default.

    Returns:
        The exit code, see `ExitCode`.
    """
    session = Session()
    # An image of a crashed process would hold keys, passphrases and patients, and go to a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        # A name with characters that the terminal lacks must not end a command.
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        result = radmesh.main(
            args=None if arguments is None else list(arguments),
            prog_name="radmesh",
            standalone_mode=False,
            obj=session,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.OK
    except BrokenPipeError:
        # The reader of our output (`| head`) has closed it; the flush at exit must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except (KeyboardInterrupt, click.exceptions.Abort):
        output.note("stopped")
        return ExitCode.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        # A group was called without a command: the message is its help, of many lines.
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "radmesh"
        hint = f"see `{command} --help`"
        failure = NodeError(error.format_message(), hint=hint, code=ExitCode.USAGE)
    except Exception as error:
        failure = _explain(error)
    output.failure(failure, as_json=session.as_json)
    return failure.code


def _explain(error: Exception) -> NodeError:
    """An error for people from any exception; RADMESH_DEBUG=1 shows the traceback too."""
    if os.environ.get("RADMESH_DEBUG"):
        import traceback

        traceback.print_exception(error)
    known = single_node_error(error)
    if known is not None:
        return known
    return NodeError(
        f"radmesh met an error that it did not expect ({describe_unexpected(error)})",
        hint="set RADMESH_DEBUG=1 to see all of it, and report it without patient data",
    )
