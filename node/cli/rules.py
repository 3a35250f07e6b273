"""`radmesh trust rule`, `try`, `explain` and `who`: what decides about a facility, and why."""

from typing import Any

import click

from keys.conditions import KINDS
from keys.grants import ACTIONS
from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode
from node.phrases import count

_purpose_option = click.option(
    "--purpose",
    default="treatment",
    show_default=True,
    metavar="P",
    help="The purpose that it would name: treatment, second-opinion, research, operations, or an"
    " HL7 code such as TREAT, ETREAT, HRESCH.",
)
_role_option = click.option(
    "--role", default="", metavar="R", help="The role of the person who would ask."
)


@click.group()
def rule() -> None:
    """Rules of a facility, beside its grants.

    A rule allows, asks or denies one action, under conditions. Deny goes before ask, ask before
    allow; what no rule allows is refused. An attribute that a study lacks counts as no in a rule
    that allows, and as yes in the others.
    """


@rule.command("add")
@click.argument("peer")
@click.argument("words", metavar="RULE...", nargs=-1, required=True)
@json_option
@pass_session
def add_rule(session: Session, peer: str, words: tuple[str, ...]) -> None:
    """Give PEER a RULE, such as: allow fetch modality=CT,MR max-age=5y purpose=TREAT.

    It begins with allow, ask or deny, and an action. Then come conditions, all of which must hold;
    limits a day (studies-a-day=20, bytes-a-day=50GB); for `allow see` what is shown
    (shows=exam, patient or on-request); and an end (until=2027-03-31, the last day).
    """
    found = session.call("rules.add", {"peer": peer, "rule": list(words)})
    _show_change(session, found, f"has rule {found['number']} now: {found['rule']}")


@rule.command("remove")
@click.argument("peer")
@click.argument("number", type=int)
@json_option
@pass_session
def remove_rule(session: Session, peer: str, number: int) -> None:
    """Take the rule NUMBER from PEER; takes effect at once."""
    found = session.call("rules.remove", {"peer": peer, "number": number})
    _show_change(session, found, f"has rule {found['number']} no more: {found['rule']}")


def _show_change(session: Session, found: dict[str, Any], what: str) -> None:
    if session.as_json:
        output.emit_json(found)
        return
    output.say(phrases.clean(f"{found['petname']} {what}"))


@rule.command("list")
@click.argument("peer")
@json_option
@pass_session
def list_rules(session: Session, peer: str) -> None:
    """List the rules of PEER, those of its grants first."""
    found = session.call("rules.list", {"peer": peer})
    if session.as_json:
        output.emit_json(found)
        return
    if not found["rules"]:
        output.note(f"{phrases.clean(found['petname'])} has no grant and no rule: it may nothing")
        return
    rows = [
        (one["number"] or "-", one["rule"], "ended" if one["has_ended"] else "")
        for one in found["rules"]
    ]
    columns = (output.Column("NO", right=True), output.Column("RULE"), output.Column(""))
    for line in output.table(columns, rows):
        output.say(line)


@rule.command("conditions")
def conditions() -> None:
    """List the conditions that a rule can have, each with an example."""
    rows = [
        (
            f"{name}={kind.example}",
            "the study" if kind.of_study else "the request",
            "kept unreadable" if kind.is_hidden else "",
        )
        for name, kind in KINDS.items()
    ]
    columns = (output.Column("CONDITION"), output.Column("OF"), output.Column("LIST"))
    for line in output.table(columns, rows):
        output.say(line)


@click.command("try")
@click.argument("peer")
@click.argument("words", metavar="RULE...", nargs=-1, required=True)
@_purpose_option
@_role_option
@click.option("--days", default=90, show_default=True, type=click.IntRange(min=1), metavar="N")
@json_option
@pass_session
def try_rule(
    session: Session, peer: str, words: tuple[str, ...], purpose: str, role: str, days: int
) -> None:
    """Show what a RULE would decide, before PEER gets it.

    Looks at the shared studies that came in the last days. Limits a day are left out of account.
    """
    found = session.call(
        "rules.try",
        {"peer": peer, "rule": list(words), "purpose": purpose, "role": role, "days": days},
    )
    if session.as_json:
        output.emit_json(found)
        return
    name = phrases.clean(found["peer"])
    output.say(f"{found['rule']}, for {name}, with the other rules it has now:")
    output.say(
        f"  {count(found['studies'], 'shared study', 'shared studies')} came in the last"
        f" {count(found['days'], 'day')}; the rule counts for {found['concerned']}"
    )
    for key, word in (("yes", "allowed"), ("ask", "a person is asked"), ("no", "refused")):
        output.say(f"  {word}: {found['before'][key]} before, {found['after'][key]} with it")
    output.say(
        f"  patients of what is allowed: {found['patients_before']} before,"
        f" {found['patients_after']} with it"
    )
    output.say(f"  decided only since an attribute is missing: {found['only_missing']}")
    output.note("nothing was changed; save it with `radmesh trust rule add`")


@click.command()
@click.argument("peer")
@click.argument("study")
@click.option("--action", type=click.Choice(list(ACTIONS)), default="fetch", show_default=True)
@_purpose_option
@_role_option
@click.option("--stat", is_flag=True, help="As if it were urgent.")
@click.option("--at", metavar="TIME", help="As it was at a past moment, such as 2026-11-24T09:30Z.")
@json_option
@pass_session
def explain(
    session: Session,
    peer: str,
    study: str,
    action: str,
    purpose: str,
    role: str,
    stat: bool,
    at: str | None,
) -> ExitCode:
    """Explain why PEER may have STUDY now, or may not.

    Names the rule that decides, why each other rule does not, what is left of limits, the fewest
    changes of rules that would allow it, and what the peer is told. The exit code is 0 for a yes,
    and that of a refusal for all else.
    """
    found = session.call(
        "trust.explain",
        {
            "peer": peer,
            "study": study,
            "action": action,
            "purpose": purpose,
            "role": role,
            "stat": stat,
            "at": at,
        },
    )
    if session.as_json:
        output.emit_json(found)
    else:
        for line in explained(found):
            output.say(phrases.clean(line))
    return ExitCode.OK if found["allowed"] else ExitCode.REFUSED


def explained(found: dict[str, Any]) -> list[str]:
    """An explanation in lines for people."""
    lines = [f"{found['verdict']}: {found['answer']}"]
    if found["allowed"] and found["action"] == "see":
        lines.append(f"it is shown: {found['shows']}")
    for one in found["rules"]:
        mark = "does not count"
        if one["counts"]:
            mark = "decides" if one["decides"] else "counts"
        why = f" ({one['why_not']})" if one["why_not"] and not one["counts"] else ""
        lines.append(f"  {one['name']}: {one['rule']}: {mark}{why}")
    for one in found["left"]:
        used = "an unknown number" if one["used"] is None else str(one["used"])
        what = one["limit"].replace("-", " ")
        lines.append(f"  {one['rule']} allows {one['most']} {what}; {used} would be used with this")
    for one in found["approved"]:
        until = phrases.moment(one["until"])
        lines.append(f"  a person approved request {one['request']} for it, until {until}")
    if found["changes"]:
        lines.append(f"it would be allowed if {' and '.join(found['changes'])}")
    if found["beyond_rules"]:
        lines.append(found["beyond_rules"])
    if not found["allowed"] and found["told"]:
        lines.append(f"the peer is told only: {found['told']}")
    lines += [f"not known: {one}" for one in found["unknown"]]
    return lines


@click.command()
@click.argument("study")
@_purpose_option
@_role_option
@json_option
@pass_session
def who(session: Session, study: str, purpose: str, role: str) -> None:
    """List which facilities may be told of STUDY now, and which may have it."""
    found = session.call("trust.who", {"study": study, "purpose": purpose, "role": role})
    if session.as_json:
        output.emit_json(found)
        return
    rows = [
        (
            one["peer"],
            one["see"] or "no",
            one["fetch"],
            one["fetch_why"] if one["fetch"] != "yes" or one["see"] else one["see_why"],
        )
        for one in found["peers"]
    ]
    if not rows:
        output.note("no facility is trusted yet: see `radmesh trust add --help`")
        return
    columns = (
        output.Column("NAME", flexible=True),
        output.Column("SEES"),
        output.Column("MAY FETCH"),
        output.Column("WHY"),
    )
    for line in output.table(columns, rows):
        output.say(line)


@click.command()
@click.argument("peer", required=False)
@json_option
@pass_session
def mine(session: Session, peer: str | None) -> None:
    """Show what other facilities let us do, as each said and signed it; or only PEER.

    It is what they said when we were last connected. They may still refuse a single study without
    saying why.
    """
    found = session.call("trust.mine", {"peer": peer})
    if session.as_json:
        output.emit_json(found)
        return
    if not found["peers"]:
        output.note("no facility is trusted yet: see `radmesh trust add --help`")
        return
    for one in found["peers"]:
        for line in allowed_there(one):
            output.say(phrases.clean(line))


def allowed_there(one: dict[str, Any]) -> list[str]:
    """What one facility lets us do, in lines for people."""
    if one["heard"] is None:
        return [f"{one['peer']} has not said what we may do there"]
    until = ""
    if one["until"] is not None:
        until = f", {'which ended' if one['has_ended'] else 'until'} {phrases.moment(one['until'])}"
    lines = [
        f"{one['peer']} trusts us since {phrases.moment(one['since'])}{until};"
        f" said {phrases.moment(one['said'])}"
    ]
    for rule in one["rules"]:
        until = ""
        if rule["until"] is not None:
            until = f", {'ended' if rule['has_ended'] else 'until'} {phrases.moment(rule['until'])}"
        lines.append(f"  {rule['rule']}{until}")
    if not one["rules"]:
        lines.append("  it allows nothing")
    return lines
