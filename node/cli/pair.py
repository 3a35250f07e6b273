"""`radmesh pair`: two admins on the phone make their facilities known to each other by a code."""

import io
import sys
from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.cli.trust import GRANTS_HELP, split_words
from node.errors import ExitCode, NodeError

_PURPOSES_HELP = "treatment, second-opinion, research, operations"
_QR_KINDS = (".png", ".svg")
_NOTHING = "nothing"


@click.command()
@click.argument("address", required=False)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="GRANTS",
    callback=split_words,
    help=f"What the other facility may do; without it you are asked. {GRANTS_HELP}",
)
@click.option(
    "--purpose",
    "purposes",
    multiple=True,
    metavar="PURPOSES",
    callback=split_words,
    help=f"The only purposes that it may name: {_PURPOSES_HELP}. Without it, any.",
)
@click.option("--until", metavar="DATE", help="When trust in it ends, such as 2027-12-31.")
@click.option("--petname", default="", metavar="N", help="Our name for it; else its own.")
@click.option(
    "--ask",
    multiple=True,
    metavar="GRANTS",
    callback=split_words,
    help="What we ask for; the other admin sees it and decides.",
)
@click.option(
    "--ask-purpose",
    multiple=True,
    metavar="PURPOSES",
    callback=split_words,
    help="For which purposes we ask.",
)
@click.option(
    "--qr",
    "qr_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write our fingerprint and address as a QR code, .png or .svg; never the code.",
)
@json_option
@pass_session
def pair(
    session: Session,
    address: str | None,
    grants: tuple[str, ...],
    purposes: tuple[str, ...],
    until: str | None,
    petname: str,
    ask: tuple[str, ...],
    ask_purpose: tuple[str, ...],
    qr_file: Path | None,
) -> None:
    """Trust another facility by a code that its admin tells you on the phone, or you tell it.

    Without ADDRESS, show a code for ten minutes, and where the other admin types it. With the
    ADDRESS that the other admin reads to you (or the text of its QR code), type the code that is
    shown there; it is asked for, and never a word of the command. Both then see who the other is,
    and accept, or not.
    """
    session.require_home()
    _check(until, qr_file)
    terms = {"purposes": list(purposes), "until": until, "petname": petname}
    dialog = _Dialog(session, grants, terms, qr_file)
    asked = {"ask_grants": list(ask), "ask_purposes": list(ask_purpose)}
    if address is None:
        done = session.call("pair.show", asked, dialog.take)
    else:
        from node.operations.pairing import read_place

        read_place(address)
        code = _read_code()
        done = session.call("pair.call", {**asked, "address": address, "code": code}, dialog.take)
    _show_end(session, done)


def _check(until: str | None, qr_file: Path | None) -> None:
    """Refuse wrong words before anybody is on the phone."""
    if until is not None:
        from node.reports.selection import parse_moment

        parse_moment(until, end=True)
    if qr_file is not None and qr_file.suffix.lower() not in _QR_KINDS:
        raise NodeError(
            f"a QR code is written as {' or '.join(_QR_KINDS)}, not as {qr_file.name}",
            code=ExitCode.USAGE,
        )


def _read_code() -> str:
    """The code from the terminal, unseen, or the first line of standard input."""
    from keys.errors import BadCode
    from keys.spoken_code import parse_code_untrusted

    is_person = sys.stdin.isatty()
    while True:
        typed = (
            click.prompt("the code that the other admin reads to you", hide_input=True, err=True)
            if is_person
            else sys.stdin.readline()
        )
        try:
            return parse_code_untrusted(typed)
        except BadCode as error:
            if not is_person:
                raise NodeError(
                    str(error),
                    hint="give the code on standard input, as the other admin reads it",
                    code=ExitCode.USAGE,
                ) from None
            output.note(str(error))


class _Dialog:
    """What a person sees and decides while a pairing goes on.

    Args:
        session: the command.
        grants: what the other facility may do, if that was given.
        terms: the other parameters of `pair.accept`.
        qr_file: where the QR code goes, too.
    """

    def __init__(
        self,
        session: Session,
        grants: tuple[str, ...],
        terms: dict[str, Any],
        qr_file: Path | None,
    ) -> None:
        self._session = session
        self._grants = grants
        self._terms = terms
        self._qr_file = qr_file
        self._has_shown = False
        self._has_decided = False
        self._tries = 0

    def take(self, event: dict[str, Any]) -> None:
        """Take a progress event of `pair.show` or `pair.call`."""
        if event["state"] == "shown":
            self._show(event)
        elif event["state"] == "met" and not self._has_decided:
            self._has_decided = True
            self._decide(event["other"])

    def _say(self, text: str = "") -> None:
        # With --json, standard output is for the result alone.
        click.echo(text, err=self._session.as_json)

    def _show(self, event: dict[str, Any]) -> None:
        if not self._has_shown:
            self._has_shown = True
            for line in _code_lines(event):
                self._say(line)
            if self._qr_file is not None:
                _write_qr(self._qr_file, event["qr"])
                output.note(f"wrote fingerprint and address to {self._qr_file}")
            sys.stdout.flush()
        if event["tries"] > self._tries:
            from protocol.limits import PAIRING_TRIES

            self._tries = event["tries"]
            output.note(
                f"a wrong code came from {phrases.clean(event['last_wrong'])} "
                f"({self._tries} of {PAIRING_TRIES} tries)"
            )

    def _decide(self, other: dict[str, Any]) -> None:
        session, name = self._session, phrases.clean(other["name"])
        self._say()
        self._say("the code is right; at the other end is")
        for line in output.fields(
            [
                ("name", other["name"]),
                ("fingerprint", other["fingerprint"]),
                *[("address", each) for each in other["addresses"] or ("none",)],
                ("asks for", ", ".join(other["asks_grants"]) or _NOTHING),
                ("purposes", ", ".join(other["asks_purposes"]) or "any"),
                *([("known", "it is trusted already")] if other["is_trusted"] else []),
            ]
        ):
            self._say(line)
        sys.stdout.flush()
        grants = self._grants or _ask_grants()
        may = ",".join(grants) or _NOTHING
        if self._terms["purposes"]:
            may += f", for {', '.join(self._terms['purposes'])}"
        if self._terms["until"] is not None:
            may += f", until {self._terms['until']}"
        if click.confirm(f"Trust {name}? It may: {may}", err=True):
            seen = {"fingerprint": other["fingerprint"], "grants": list(grants)}
            session.call("pair.accept", {**self._terms, **seen})
            output.note(f"{name} is trusted here now; waiting for the other admin")
            return
        session.call("pair.decline")
        raise NodeError(f"{name} is not trusted; nothing was changed", code=ExitCode.FAILED)


def _ask_grants() -> tuple[str, ...]:
    from keys.peer import GRANTS

    while True:
        typed = click.prompt(
            f"What may it do ({', '.join(GRANTS)}; or {_NOTHING})", default=_NOTHING, err=True
        )
        words = tuple(dict.fromkeys(typed.replace(",", " ").split()))
        if words == (_NOTHING,):
            return ()
        unknown = [word for word in words if word not in GRANTS]
        if not unknown:
            return words
        output.note(f"there is no grant {phrases.clean(unknown[0])}")


def _code_lines(event: dict[str, Any]) -> list[str]:
    place = event["addresses"][0] if event["addresses"] else "ADDRESS"
    lines = [
        f"on the phone, let the other admin run `radmesh pair {place}` and read out:",
        "",
        f"    {event['code']}",
        "",
        *output.fields(
            [
                ("name", event["name"]),
                ("fingerprint", event["fingerprint"]),
                *[("address", each) for each in event["addresses"] or ("none on the card",)],
                ("until", phrases.moment(event["until"])),
            ]
        ),
    ]
    if not event["addresses"]:
        lines += [
            "",
            "our card names no address: say where this node is reached, or let the other side "
            "show the code",
        ]
    # Where nobody looks at a screen, a picture of blocks is of no use.
    if sys.stdout.isatty():
        lines += ["", *_qr_lines(event["qr"])]
    return lines


def _qr_lines(text: str) -> list[str]:
    import segno

    drawn = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(out=drawn, border=2, compact=True)
    lines = drawn.getvalue().splitlines()
    return lines if max(map(len, lines)) <= output.terminal_width() else []


def _write_qr(file: Path, text: str) -> None:
    import segno

    drawn = io.BytesIO()
    kind = file.suffix.lower().removeprefix(".")
    segno.make(text, error="m", micro=False).save(drawn, kind=kind, scale=8)
    try:
        file.write_bytes(drawn.getvalue())
    except OSError as error:
        raise NodeError(
            f"the QR code cannot be written to {file}: {error.strerror}", code=ExitCode.DISK
        ) from error


def _show_end(session: Session, done: dict[str, Any]) -> None:
    peer, name = done["peer"], phrases.clean(done["other"]["name"])
    if session.as_json:
        output.emit_json(done)
    elif peer is not None:
        output.say(f"{phrases.clean(peer['petname'])} is trusted now")
        output.say(f"it may: {','.join(peer['grants']) or _NOTHING}")
    if done["theirs"] is False:
        raise NodeError(
            f"{name} has not accepted: it does not trust this facility",
            hint="take your trust back with `radmesh trust revoke`, or pair again with a new code",
            code=ExitCode.REFUSED,
        )
    if done["theirs"] is None:
        output.note(f"whether {name} has accepted, too, could not be heard; `radmesh status`")
        output.note("shows whether it connects, and `radmesh pair` may be run again")
    elif not session.as_json:
        output.say("it trusts this facility, too")
