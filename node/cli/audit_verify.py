"""`radmesh audit verify`: the check of anybody's log, with the words of `radmesh-verify`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from node import phrases
from node.cli import output
from node.cli.card import read_card, read_facility
from node.cli.session import Session, json_option, pass_session
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError

if TYPE_CHECKING:
    from keys.card import Card
    from protocol.verify import Evidence, Policy, Verdict

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_CANNOT_TELL = 2
_FILE = click.Path(dir_okay=False, path_type=Path)
_EVIDENCE_BYTES = 1 << 20
"""Most bytes of a policy; all are a few kilobytes."""


def _files(name: str, text: str) -> Callable[[F], F]:
    return click.option(name, multiple=True, type=_FILE, metavar="FILE", help=text)


def evidence_options(function: F) -> F:
    """Give a command `--facility` and what an auditor holds besides the file."""
    for option in reversed(
        (
            click.option(
                "--facility",
                required=True,
                metavar="FINGERPRINT-OR-CARD",
                help="Whose log it must be: the fingerprint, or a card file, from somebody "
                "else than the file's maker.",
            ),
            click.option(
                "--pin",
                multiple=True,
                metavar="SIZE:ROOT",
                help="Size and root (hex) of the log that you noted down earlier. "
                "Can be repeated, as the options for files.",
            ),
            _files(
                "--checkpoint",
                "Signed checkpoints of this log that you got elsewhere: one, what `radmesh "
                "audit witness --export` wrote, another bundle, or a proof.",
            ),
            _files(
                "--receipt",
                "Receipts that another facility holds: one, what `radmesh audit receipts "
                "--export` wrote, its bundle, or a proof.",
            ),
            _files("--peer-card", "The card of another facility, whose fingerprint you compared."),
            _files("--witness-card", "The same, of a facility whose cosignature --quorum counts."),
            click.option(
                "--quorum",
                type=click.IntRange(1),
                metavar="K",
                help="How many of the facilities of --witness-card must have cosigned.",
            ),
            click.option(
                "--policy",
                type=_FILE,
                metavar="FILE",
                help="Who must have cosigned, as `radmesh audit policy` prints it.",
            ),
            click.option(
                "--not-older-than",
                metavar="AGE",
                help="How lately your witnesses must have seen the log: 90min, 36h or 7d.",
            ),
        )
    ):
        function = option(function)
    return function


@click.command()
@click.argument("bundle", type=_FILE)
@evidence_options
@click.option(
    "--since",
    metavar="SIZE|TIME",
    help="Judge a log that says that it lost entries by what came after: from this entry on, "
    "or from the first that is not older.",
)
@json_option
@pass_session
def verify(session: Session, /, bundle: Path, facility: str, **given: Any) -> int:
    """Check a BUNDLE; needs no node and no home.

    Exit code 0: sound. 1: not sound, with the first bad entry and why. 2: cannot tell.
    3: sound since the entry of --since, and lost before it.
    """

    def check(fingerprint: bytes, evidence: "Evidence") -> "Verdict":
        from protocol.verify import verify_bundle

        with bundle.open("rb") as file:
            return verify_bundle(file, facility_fingerprint=fingerprint, evidence=evidence)

    return run_check(session, bundle, facility, given, check)


def run_check(
    session: Session,
    path: Path,
    facility: str,
    given: dict[str, Any],
    check: Callable[[bytes, "Evidence"], "Verdict"],
) -> int:
    """Read the evidence, have `check` give its verdict, show it; returns the exit code.

    Raises:
        NodeError: no check could be made; with the code of "cannot tell".
    """
    from protocol.verify import PolicyProblem, report_lines, to_json

    try:
        fingerprint, card = read_facility(facility)
        evidence = _evidence(given, fingerprint, card)
        try:
            verdict = check(fingerprint, evidence)
        except OSError as error:
            raise NodeError(f"the file {path} cannot be read: {error.strerror}") from error
        except PolicyProblem as error:
            raise NodeError(
                str(error),
                hint="name facilities other than the log's own, each once, by --witness-card",
            ) from error
    except NodeError as error:
        # A check that could not be made must never look like a verdict.
        error.code = ExitCode(_CANNOT_TELL)
        raise
    if session.as_json:
        click.echo(to_json(verdict))
    else:
        for line in report_lines(verdict):
            output.say(phrases.clean(line))
    return verdict.exit_code


def _evidence(given: dict[str, Any], fingerprint: bytes, own_card: "Card | None") -> "Evidence":
    from protocol.verify import Evidence
    from protocol.verify.command import parse_pin
    from protocol.verify.handed import checkpoints_in, receipts_in
    from protocol.verify.moments import parse_age, parse_since

    since, age = given.get("since"), given["not_older_than"]
    return Evidence(
        pins=[
            _parsed(parse_pin, text, "pin", "take it as `radmesh audit export` printed it")
            for text in given["pin"]
        ],
        checkpoints=_handed(given["checkpoint"], checkpoints_in, fingerprint),
        receipts=_handed(given["receipt"], receipts_in, fingerprint),
        peer_cards=[read_card(path) for path in given["peer_card"]],
        witness_cards=[read_card(path) for path in given["witness_card"]],
        quorum=given["quorum"],
        policy=None if given["policy"] is None else _policy(given["policy"]),
        own_card=own_card,
        since=None
        if since is None
        else _parsed(parse_since, since, "option --since", "see `radmesh audit verify --help`"),
        not_older_than=None
        if age is None
        else _parsed(parse_age, age, "option --not-older-than", "such as --not-older-than 36h"),
        now=SYSTEM_CLOCK.now(),
    )


def _parsed(parse: Callable[[str], T], text: str, what: str, hint: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise NodeError(f"the {what} {text}: {error}", hint=hint) from error


def _policy(path: Path) -> "Policy":
    from protocol.verify import PolicyProblem, parse_policy

    try:
        return parse_policy(_content(path))
    except PolicyProblem as error:
        raise NodeError(
            f"the file {path} is no witness policy: {error}",
            hint="`radmesh audit policy` of a facility prints one; see c2sp.org/tlog-policy",
        ) from error


def _handed(
    paths: Sequence[Path], read: Callable[[BinaryIO, bytes], list[bytes]], fingerprint: bytes
) -> list[bytes]:
    """What files hold about the log at hand."""
    from protocol.verify.handed import HandedProblem

    found = []
    for path in paths:
        try:
            with path.open("rb") as file:
                found += read(file, fingerprint)
        except OSError as error:
            raise NodeError(f"the file {path} cannot be read: {error.strerror}") from error
        except HandedProblem as problem:
            raise NodeError(
                f"the file {path} {problem}",
                hint="ask its maker for what is about the facility that you named by --facility",
            ) from problem
    return found


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_EVIDENCE_BYTES)
    except OSError as error:
        raise NodeError(f"the file {path} cannot be read: {error.strerror}") from error
