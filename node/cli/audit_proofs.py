"""`radmesh audit prove` and `radmesh audit check-proof`: one entry, shown to anybody."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node import phrases
from node.cli import output
from node.cli.audit_verify import evidence_options, run_check
from node.cli.session import Session, json_option, pass_session

if TYPE_CHECKING:
    from protocol.verify import Evidence, Verdict

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("entry", metavar="ENTRY|TRANSFER")
@click.argument("file", type=_FILE)
@click.option(
    "--without-openings",
    is_flag=True,
    help="Leave out what opens the commitments: no study or patient can be told from it.",
)
@json_option
@pass_session
def prove(session: Session, entry: str, file: Path, without_openings: bool) -> None:
    """Write to FILE the proof that one entry is in our log.

    ENTRY is a number, as `radmesh audit show` lists it. Of a TRANSFER the entry with
    the receipt is taken, or else the last. The proof is checked by `radmesh audit
    check-proof` or `radmesh-verify`, with our fingerprint and nothing else.
    """
    made = session.call(
        "audit.prove",
        {"what": entry, "path": str(Path.cwd() / file), "openings": not without_openings},
    )
    if session.as_json:
        output.emit_json(made)
        return
    output.say(
        f"wrote the proof of entry {made['index']} ({made['type']}, "
        f"{phrases.size(made['bytes'])}) to {made['path']}"
    )


@click.command("check-proof")
@click.argument("file", type=_FILE)
@evidence_options
@json_option
@pass_session
def check_proof(session: Session, /, file: Path, facility: str, **given: Any) -> int:
    """Check the proof of an entry in FILE; needs no node and no home.

    Exit code 0: proven. 1: not proven, and why. 2: cannot tell.
    """

    def check(fingerprint: bytes, evidence: "Evidence") -> "Verdict":
        from protocol.verify import verify_proof
        from protocol.verify.proof import PROOF_BYTES

        with file.open("rb") as stream:
            data = stream.read(PROOF_BYTES + 1)
        return verify_proof(data, facility_fingerprint=fingerprint, evidence=evidence)

    return run_check(session, file, facility, given, check)
