"""`python -m protocol.verify BUNDLE --facility FINGERPRINT-OR-CARD`.

Exit code: 0 sound, 1 not sound, 2 cannot tell.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence

from keys.card import Card, parse_card_untrusted
from keys.errors import KeysError
from keys.fingerprint import parse_fingerprint
from protocol.verify import Evidence, report_lines, to_json, verify_bundle


def _facility(text: str) -> bytes:
    try:
        return parse_fingerprint(text)
    except KeysError as error:
        try:
            return hashlib.sha256(_card(text).facility_key).digest()
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(
                f"neither a fingerprint ({error}) nor the file of a facility card"
            ) from None


def _card(path: str) -> Card:
    try:
        return parse_card_untrusted(_content(path))
    except KeysError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from error


def _content(path: str) -> bytes:
    try:
        # Packages below `node` do not import pathlib.
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(1 << 20)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from error


def parse_pin(text: str) -> tuple[int, bytes]:
    """A pin, `SIZE:ROOT` with the root in hex.

    Raises:
        ValueError: something else.
    """
    size_text, _, root_text = text.partition(":")
    size, root = int(size_text), bytes.fromhex(root_text)
    if size < 0 or len(root) != 32:
        raise ValueError("a pin is SIZE:ROOT, the root in 64 hex digits")
    return size, root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verifier; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m protocol.verify", description="Verify an exported Radmesh audit log."
    )
    parser.add_argument("bundle", help="the exported file")
    parser.add_argument(
        "--facility",
        required=True,
        type=_facility,
        metavar="FINGERPRINT-OR-CARD",
        help="whose log it is, learned from somebody else than the maker of the bundle",
    )
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        type=parse_pin,
        metavar="SIZE:ROOT",
        help="a size and root that you noted earlier",
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        type=_content,
        metavar="FILE",
        help="a signed checkpoint of this log that you got elsewhere",
    )
    parser.add_argument(
        "--receipt",
        action="append",
        default=[],
        type=_content,
        metavar="FILE",
        help="a receipt that another facility holds",
    )
    parser.add_argument(
        "--peer-card",
        action="append",
        default=[],
        type=_card,
        metavar="FILE",
        help="the card of another facility, whose fingerprint you compared",
    )
    parser.add_argument("--json", action="store_true", help="the verdict as one JSON object")
    options = parser.parse_args(arguments)
    evidence = Evidence(
        pins=options.pin,
        checkpoints=options.checkpoint,
        receipts=options.receipt,
        peer_cards=options.peer_card,
    )
    try:
        with open(options.bundle, "rb") as file:  # noqa: PTH123
            verdict = verify_bundle(file, facility_fingerprint=options.facility, evidence=evidence)
    except OSError as error:
        parser.error(f"{options.bundle}: {error.strerror}")
    lines = [to_json(verdict)] if options.json else report_lines(verdict)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
