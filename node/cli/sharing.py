"""`radmesh share`, `withdraw` and `sharing`: what peers may know of, one by one and by rule."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from keys.conditions import KINDS
from keys.sharing import SHARING_CONDITIONS, SOURCE
from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode, NodeError
from node.phrases import count

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN = 20


def _matching_options(function: F) -> F:
    for option in (
        click.option("--yes", is_flag=True, help="Of a search: do not ask."),
        click.option("--dry-run", is_flag=True, help="Of a search: only show what matches."),
        click.option(
            "--source",
            default="",
            metavar="S",
            help="All that this source brought, such as command, dimse:CT1, 'dimse:*' or"
            " peer:NAME.",
        ),
        click.option(
            "--date",
            "study_date",
            default="",
            metavar="DAYS",
            help="All of this day, or of days: 2026-01-01..2026-01-31, 2026-01-01.. or"
            " ..2026-01-31.",
        ),
        click.option("--modality", default="", metavar="M", help="All with images of this kind."),
        click.option(
            "--accession", "accession_number", default="", metavar="A", help="All with this number."
        ),
    ):
        function = option(function)
    return function


@click.command()
@click.argument("study", required=False)
@click.option("--to", "peer", metavar="PEER", help="For this facility alone.")
@_matching_options
@json_option
@pass_session
def share(session: Session, /, study: str | None, peer: str | None, **search: Any) -> int:
    """Announce STUDY, or all studies that match, to the facilities that may see our studies.

    With --to, to one of them alone. A study that waits to be checked is confirmed with this: its
    images may name more than one patient, and all of them are disclosed with it. A search leaves
    such studies out.

    STUDY is a Study Instance UID, the beginning of one, or an accession number.
    """
    if study is None:
        return _change_matching(session, search | {"peer": peer, "shared": True})
    _require_no_search(search)
    found = session.call("share", {"study": study, "peer": peer})
    what = "is shared now" if peer is None else f"is shared with {peer} now"
    _show_state(session, found, what)
    if not session.as_json and peer is None and found["withdrawn_from"]:
        names = ", ".join(found["withdrawn_from"])
        output.note(phrases.clean(f"it stays withdrawn from {names}: see `radmesh share --to`"))
    return ExitCode.OK


@click.command()
@click.argument("study", required=False)
@click.option("--from", "peer", metavar="PEER", help="For this facility alone.")
@_matching_options
@json_option
@pass_session
def withdraw(session: Session, /, study: str | None, peer: str | None, **search: Any) -> int:
    """Stop sharing STUDY, or all studies that match; they stay here.

    One that waits to be checked waits no more. With --from, one facility does not have it any more,
    also when it is shared later, until `radmesh share --to` says so.
    """
    if study is None:
        return _change_matching(session, search | {"peer": peer, "shared": False})
    _require_no_search(search)
    found = session.call("withdraw", {"study": study, "peer": peer})
    what = "is not shared any more" if peer is None else f"is not shared with {peer} any more"
    _show_state(session, found, what)
    return ExitCode.OK


def _require_no_search(search: dict[str, Any]) -> None:
    if any(search.values()):
        raise click.UsageError("name a STUDY, or search with options, not both")


def _show_state(session: Session, study: dict[str, Any], what: str) -> None:
    if session.as_json:
        output.emit_json(study)
        return
    output.say(phrases.clean(f"study {study['study']} {what}"))


def _change_matching(session: Session, search: dict[str, Any]) -> int:
    is_dry, is_sure = search.pop("dry_run"), search.pop("yes")
    verb = "share" if search["shared"] else "withdraw"
    confirmed = None
    if is_dry or not is_sure:
        found = session.call("sharing.change", search | {"dry": True})
        if is_dry and session.as_json:
            output.emit_json(found)
            return ExitCode.OK
        _show_matching(found, verb)
        if is_dry or not found["chosen"]:
            return ExitCode.OK
        if session.as_json or not sys.stdin.isatty():
            raise NodeError(
                "nothing was changed: nobody can be asked here",
                hint="look with --dry-run, then say --yes",
                code=ExitCode.USAGE,
            )
        click.confirm(f"{verb} {count(found['chosen'], 'study', 'studies')}?", abort=True, err=True)
        confirmed = found["digest"]
    found = session.call("sharing.change", search | {"confirmed": confirmed})
    if session.as_json:
        output.emit_json(found)
    else:
        done = "shared" if search["shared"] else "withdrawn"
        output.say(f"{done}: {count(found['done'], 'study', 'studies')}")
        for one in found["refused"][:_SHOWN]:
            output.say(phrases.clean(f"  not {done}: {one['study']}: {one['why']}"))
        _note_waiting(found)
    return ExitCode.PARTLY if found["refused"] else ExitCode.OK


def _show_matching(found: dict[str, Any], verb: str) -> None:
    output.note(f"{count(found['chosen'], 'study', 'studies')} to {verb}")
    for study in found["studies"]:
        output.note(f"  {phrases.clean(study)}")
    more = found["chosen"] - len(found["studies"])
    if more:
        output.note(f"  and {more} more")
    _note_waiting(found)


def _note_waiting(found: dict[str, Any]) -> None:
    if found["waiting"]:
        output.note(
            f"left out: {count(found['waiting'], 'study', 'studies')} that somebody has to look at:"
            " see `radmesh studies --to-check`, and share each by its name"
        )


# --- rules -----------------------------------------------------------------------------


@click.group()
def sharing() -> None:
    """Rules that say what new studies become.

    A rule shares, withholds, or has a person check. Withhold beats check, and check beats share.
    Without a rule that counts, what a person brings in by hand is shared, and all else is
    withheld. What a study does not tell counts against sharing.
    """


@sharing.command("add", epilog=f"Conditions: {', '.join(SHARING_CONDITIONS)}.")
@click.argument("words", metavar="RULE...", nargs=-1, required=True)
@json_option
@pass_session
def add_rule(session: Session, words: tuple[str, ...]) -> None:
    """Add a RULE, such as: share source='dimse:CT*' modality=CT,MR max-age=5y.

    It begins with share, check or withhold; then come conditions, all of which must hold. A source
    is command (by hand), what an edge of this node calls a sender, or peer:NAME for what was
    fetched; a * stands for any characters.
    """
    found = session.call("sharing.add", {"rule": list(words)})
    _show_change(session, found, "is")


@sharing.command("remove")
@click.argument("number", type=int)
@json_option
@pass_session
def remove_rule(session: Session, number: int) -> None:
    """Remove the rule NUMBER; studies that are here stay as they are."""
    found = session.call("sharing.remove", {"number": number})
    _show_change(session, found, "was")


def _show_change(session: Session, found: dict[str, Any], verb: str) -> None:
    if session.as_json:
        output.emit_json(found)
        return
    output.say(phrases.clean(f"sharing rule {found['number']} {verb}: {found['rule']}"))


@sharing.command("list")
@json_option
@pass_session
def list_rules(session: Session) -> None:
    """List the rules."""
    found = session.call("sharing.list", {})
    if session.as_json:
        output.emit_json(found)
        return
    if found["rules"]:
        columns = (output.Column("NO", right=True), output.Column("RULE"))
        for line in output.table(columns, [(one["number"], one["rule"]) for one in found["rules"]]):
            output.say(line)
    output.note("else: what comes by hand is shared, all other studies are withheld")


@sharing.command("conditions")
def conditions() -> None:
    """List the conditions that a rule can have, each with an example."""
    for name in SHARING_CONDITIONS:
        example = "dimse:CT*,command,peer:NAME" if name == SOURCE else KINDS[name].example
        output.say(f"{name}={example}")


@sharing.command("try")
@click.argument("words", metavar="RULE...", nargs=-1, required=True)
@click.option("--days", default=90, show_default=True, type=click.IntRange(min=1), metavar="N")
@json_option
@pass_session
def try_rule(session: Session, words: tuple[str, ...], days: int) -> None:
    """Show what a RULE would have decided for the studies that came in the last days."""
    found = session.call("sharing.try", {"rule": list(words), "days": days})
    if session.as_json:
        output.emit_json(found)
        return
    output.say(phrases.clean(f"{found['rule']}, with the other sharing rules there are now:"))
    output.say(
        f"  {count(found['studies'], 'study', 'studies')} came in the last"
        f" {count(found['days'], 'day')}; the rule counts for {found['concerned']}"
    )
    for effect, word in (("share", "shared"), ("check", "to check"), ("withhold", "withheld")):
        output.say(f"  {word}: {found['before'][effect]} before, {found['after'][effect]} with it")
    output.say(f"  decided only since something is not known: {found['only_missing']}")
    output.note("nothing was changed; save it with `radmesh sharing add`")
