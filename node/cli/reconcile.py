"""`radmesh audit reconcile`: two facilities' logs against each other."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import click

from node import phrases
from node.cli import output
from node.cli.card import read_facility
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError

_CANNOT_TELL = 2
_GRACE_SECONDS = 300
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("bundle_a", type=_FILE, required=False)
@click.argument("bundle_b", type=_FILE, required=False)
@click.option(
    "--facility-a",
    metavar="FINGERPRINT-OR-CARD",
    help="Whose log BUNDLE_A must be: the fingerprint, or a card file, from somebody else "
    "than the bundle's maker.",
)
@click.option(
    "--facility-b", metavar="FINGERPRINT-OR-CARD", help="Whose log BUNDLE_B must be, likewise."
)
@click.option(
    "--peer",
    metavar="NAME",
    help="Compare our log with that of this peer, which is connected; both nodes sign and log "
    "the result.",
)
@click.option(
    "--save",
    type=_FILE,
    metavar="FILE",
    help="Write the signed result to this new file: with --peer signed by both, with two "
    "bundles by our node, whose log then tells of it.",
)
@click.option(
    "--grace",
    type=click.IntRange(0),
    default=_GRACE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="What one log has in so many seconds before the other ends may be missing there.",
)
@json_option
@pass_session
def reconcile(
    session: Session,
    bundle_a: Path | None,
    bundle_b: Path | None,
    facility_a: str | None,
    facility_b: str | None,
    peer: str | None,
    save: Path | None,
    grace: int,
) -> int:
    """Compare what two facilities' logs say about each other.

    Give two exported logs, each with its facility, which needs no openings and, without
    --save, no node and no home; or a peer, and both nodes compare. Each disclosure from
    one to the other is matched, or named: ONLY_A, ONLY_B, MISMATCH, BROKEN_OFF, NOT_YET.

    Exit code 0: nothing differs. 1: something does. 2: cannot tell.
    """
    try:
        bundles = [path for path in (bundle_a, bundle_b) if path is not None]
        facilities = [text for text in (facility_a, facility_b) if text is not None]
        if peer is not None and not bundles and not facilities:
            return _live(session, peer, save, grace)
        if peer is not None or len(bundles) < 2 or len(facilities) < 2:
            raise NodeError(
                "two bundles and their two facilities are needed, or a peer",
                hint="give BUNDLE_A and BUNDLE_B with --facility-a and --facility-b, or --peer",
            )
        if save is not None:
            return _saved(session, bundles, facilities, save, grace)
        return _bundles(session, bundles, facilities, grace)
    except NodeError as error:
        # A comparison that could not be made must never look like a result.
        error.code = ExitCode(_CANNOT_TELL)
        raise


def _bundles(session: Session, paths: Sequence[Path], facilities: Sequence[str], grace: int) -> int:
    from protocol.reconcile_bundles import reconcile_bundles
    from protocol.reconcile_report import outcome_json, outcome_lines

    (fingerprint_a, card_a), (fingerprint_b, card_b) = map(read_facility, facilities)
    with _open(paths[0]) as bundle_a, _open(paths[1]) as bundle_b:
        outcome = reconcile_bundles(
            bundle_a,
            bundle_b,
            fingerprint_a=fingerprint_a,
            fingerprint_b=fingerprint_b,
            card_a=card_a,
            card_b=card_b,
            grace_seconds=grace,
        )
    if session.as_json:
        output.emit_json(outcome_json(outcome))
    else:
        for line in outcome_lines(outcome):
            output.say(phrases.clean(line))
    return outcome.exit_code


def _saved(
    session: Session, paths: Sequence[Path], facilities: Sequence[str], save: Path, grace: int
) -> int:
    parameters: dict[str, object] = {"path": str(Path.cwd() / save), "grace": grace}
    for name, path, facility in zip("ab", paths, facilities, strict=True):
        fingerprint, card = read_facility(facility)
        parameters[f"bundle_{name}"] = str(Path.cwd() / path)
        parameters[f"fingerprint_{name}"] = fingerprint.hex()
        parameters[f"card_{name}"] = None if card is None else card.encoded.decode()
    done = session.call("audit.reconcile-files", parameters)
    lines = done.pop("lines")
    code = int(done.pop("exit_code"))
    if session.as_json:
        output.emit_json(done)
    else:
        for line in lines:
            output.say(phrases.clean(line))
        entry = done["entry"]
        told = "our log is in doubt and does not tell of it" if entry is None else f"entry {entry}"
        output.say(f"signed by our node: {save} ({told})")
    return code


def _live(session: Session, peer: str, save: Path | None, grace: int) -> int:
    if save is not None and save.exists():
        raise NodeError(f"{save} exists already", hint="choose another name")
    done = session.call("audit.reconcile", {"peer": peer, "grace": grace})
    if save is not None:
        try:
            save.write_bytes(base64.b64decode(done["signed_result"]))
        except OSError as error:
            raise NodeError(
                f"the result is in our log, and {save} cannot be written: {error.strerror}"
            ) from error
    if session.as_json:
        output.emit_json({name: value for name, value in done.items() if name != "lines"})
    else:
        head, *lines = done["lines"]
        output.say(phrases.clean(head))
        for name in ("a", "b"):
            side = done[name]
            output.say(
                f"  {name.upper()}  {phrases.clean(side['facility'])}: "
                f"{phrases.count(side['entries'], 'entry', 'entries')} about the other, "
                f"to {side['time']}"
            )
        for line in lines:
            output.say(phrases.clean(line))
        output.say(f"signed by both, in our log as entry {done['entry']}: {done['result']}")
    return 1 if done["differences"] or done["lost"] else 0


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise NodeError(f"the bundle {path} cannot be read: {error.strerror}") from error
