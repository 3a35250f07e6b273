"""`radmesh-verify FILE --facility FINGERPRINT-OR-CARD`: the auditor's program.

FILE is a bundle or the proof of one entry, told apart by its first bytes. Exit code: 0
sound or proven, 1 not sound or not proven, 2 cannot tell, 3 sound since the entry of
--since, with losses before it.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import BinaryIO, TypeVar

from keys.card import CARD_BYTES, Card, parse_card_untrusted
from keys.errors import KeysError
from keys.fingerprint import parse_fingerprint
from protocol.verify.check import verify_bundle
from protocol.verify.evidence import Evidence
from protocol.verify.giving import PRINTED, Giving, NotGiven, printable
from protocol.verify.handed import HandedProblem, checkpoints_in, receipts_in
from protocol.verify.moments import parse_age, parse_since
from protocol.verify.policy import POLICY_BYTES, Policy, PolicyProblem, parse_policy
from protocol.verify.proof import HEADER, PROOF_BYTES, verify_proof
from protocol.verify.verdict import Verdict, report_lines, to_json

T = TypeVar("T")

_PIN = re.compile(r"([0-9]{1,18}):([0-9a-fA-F]{64})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verifier; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    fingerprint, card = options.facility
    evidence = Evidence(
        pins=options.pin,
        checkpoints=_handed(parser, options.checkpoint, checkpoints_in, fingerprint),
        receipts=_handed(parser, options.receipt, receipts_in, fingerprint),
        peer_cards=options.peer_card,
        witness_cards=options.witness_card,
        quorum=options.quorum,
        policy=options.policy,
        own_card=card,
        since=options.since,
        not_older_than=options.not_older_than,
        now=int(datetime.now(UTC).timestamp()),
    )
    give = Giving(options.extract, options.print)
    try:
        verdict = verify_file(options.file, fingerprint, evidence, give.take)
    except (PolicyProblem, NotGiven) as problem:
        parser.error(str(problem))
    except OSError as error:
        parser.error(f"{options.file}: {error.strerror}")
    lines = [to_json(verdict)] if options.json else report_lines(verdict)
    # With --print, only the printed file goes to the standard output.
    output = sys.stderr if options.print else sys.stdout
    output.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    output.write("".join(f"{printable(line)}\n" for line in lines))
    if give.refused:
        sys.stderr.write(f"radmesh-verify: {give.refused}\n")
    return verdict.exit_code


def verify_file(
    path: str,
    facility_fingerprint: bytes,
    evidence: Evidence,
    take: Callable[[BinaryIO, Verdict], None] = lambda _file, _verdict: None,
) -> Verdict:
    """Verify the bundle or proof in a file.

    Args:
        path: the file.
        facility_fingerprint: as for `verify_bundle`.
        evidence: the auditor's own evidence.
        take: called with the open file and its verdict, before the file is closed.

    Raises:
        OSError: the file cannot be read.
        PolicyProblem: the evidence has an impossible rule for witnesses.
    """
    # Packages below `node` do not import pathlib.
    with open(path, "rb") as file:  # noqa: PTH123
        if file.read(len(HEADER)) == HEADER:
            file.seek(0)
            verdict = verify_proof(
                file.read(PROOF_BYTES + 1),
                facility_fingerprint=facility_fingerprint,
                evidence=evidence,
            )
        else:
            file.seek(0)
            verdict = verify_bundle(
                file, facility_fingerprint=facility_fingerprint, evidence=evidence
            )
        take(file, verdict)
    return verdict


def parse_pin(text: str) -> tuple[int, bytes]:
    """Read a pin, `SIZE:ROOT` with the root in hex.

    Raises:
        ValueError: not a pin.
    """
    found = _PIN.fullmatch(text)
    if found is None:
        raise ValueError("a pin is SIZE:ROOT, the root in 64 hex digits")
    return int(found[1]), bytes.fromhex(found[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="radmesh-verify",
        description="Verify an exported Radmesh audit log, or the proof of one of its entries.",
        epilog="Exit code: 0 sound or proven, 1 not so, 2 cannot tell, 3 sound since the entry "
        "of --since and lost before it.",
    )
    parser.add_argument("file", metavar="FILE", help="the bundle or proof")
    parser.add_argument(
        "--facility",
        required=True,
        type=_facility,
        metavar="FINGERPRINT-OR-CARD",
        help="whose log it is, learned from somebody else than the maker of the file",
    )

    def repeated(name: str, kind: Callable[[str], object], metavar: str, text: str) -> None:
        parser.add_argument(
            name, action="append", default=[], type=kind, metavar=metavar, help=text
        )

    repeated("--pin", _checked(parse_pin), "SIZE:ROOT", "a size and root that you noted earlier")
    repeated(
        "--checkpoint",
        str,
        "FILE",
        "signed checkpoints of this log that you got elsewhere: one, what `radmesh audit "
        "witness --export` wrote, another bundle, or a proof",
    )
    repeated(
        "--receipt",
        str,
        "FILE",
        "receipts that another facility holds: one, what `radmesh audit receipts --export` "
        "wrote, its bundle, or a proof",
    )
    repeated(
        "--peer-card", _card, "FILE", "the card of another facility, whose fingerprint you compared"
    )
    repeated(
        "--witness-card",
        _card,
        "FILE",
        "the same, of a facility whose cosignature --quorum counts",
    )
    parser.add_argument(
        "--quorum",
        type=int,
        metavar="K",
        help="how many of the facilities of --witness-card must have cosigned",
    )
    parser.add_argument(
        "--policy",
        type=_policy,
        metavar="FILE",
        help="who must have cosigned, as a policy of the form c2sp.org/tlog-policy",
    )
    parser.add_argument(
        "--extract",
        metavar="DIR",
        help="write what was verified to a new folder, if it is what was signed",
    )
    parser.add_argument(
        "--print",
        choices=sorted(PRINTED),
        help="print what was verified, and the verdict to the standard error",
    )
    parser.add_argument(
        "--since",
        type=_checked(parse_since),
        metavar="SIZE|TIME",
        help="judge a log that says that it lost entries by what came after: from this entry on",
    )
    parser.add_argument(
        "--not-older-than",
        type=_checked(parse_age),
        metavar="AGE",
        help="how lately your witnesses must have seen the log: 90min, 36h or 7d",
    )
    parser.add_argument("--json", action="store_true", help="the verdict as one JSON object")
    return parser


def _content(path: str, most: int) -> bytes:
    """The file's content, but at most `most` + 1 bytes, so that the caller sees it is too long."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(most + 1)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from error


def _handed(
    parser: argparse.ArgumentParser,
    paths: Sequence[str],
    read: Callable[[BinaryIO, bytes], list[bytes]],
    facility_fingerprint: bytes,
) -> list[bytes]:
    """What files hold about the verified log; ends the program if a file holds nothing."""
    found = []
    for path in paths:
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                found += read(file, facility_fingerprint)
        except OSError as error:
            parser.error(f"{path}: {error.strerror}")
        except HandedProblem as problem:
            parser.error(f"the file {path} {problem}")
    return found


def _facility(text: str) -> tuple[bytes, Card | None]:
    """The fingerprint, and the card if the text names a card."""
    try:
        return parse_fingerprint(text), None
    except KeysError as error:
        try:
            card = _card(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(
                f"neither a fingerprint ({error}) nor the file of a facility card"
            ) from None
        return hashlib.sha256(card.facility_key).digest(), card


def _card(path: str) -> Card:
    try:
        return parse_card_untrusted(_content(path, CARD_BYTES))
    except KeysError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from error


def _policy(path: str) -> Policy:
    try:
        return parse_policy(_content(path, POLICY_BYTES))
    except PolicyProblem as problem:
        raise argparse.ArgumentTypeError(f"{path}: {problem}") from problem


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed
