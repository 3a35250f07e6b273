"""`radmesh fetch`, `transfers`, `cancel`: studies on their way."""

from typing import Any

import click

from node import phrases
from node.cli import output
from node.cli.progress import ProgressBar
from node.cli.session import Session, json_option, pass_session


@click.command()
@click.argument("study")
@click.option(
    "--from", "peer", metavar="NAME", help="The only facility to ask; else all that have it."
)
@click.option(
    "--purpose",
    default="treatment",
    show_default=True,
    help="Why: treatment, second-opinion, research, operations, or an HL7 code such as TREAT; "
    "logged on both sides.",
)
@click.option(
    "--reason",
    default="",
    metavar="TEXT",
    help="Why, in your words, for a person there who has to approve it.",
)
@click.option(
    "--emergency",
    metavar="REASON",
    help="Break the glass: one word of the facility's list of reasons, and after a colon what "
    "there is to say. Needs --from. Both sides are alerted, and a person reviews it.",
)
@click.option(
    "--stat", is_flag=True, help="Urgent: it goes before all routine transfers of the source."
)
@click.option(
    "--no-follow",
    is_flag=True,
    help="Do not fetch by itself, for a day, what the study grows by at these facilities; "
    "stops it for a study that is followed.",
)
@json_option
@pass_session
def fetch(
    session: Session,
    study: str,
    peer: str | None,
    purpose: str,
    reason: str,
    emergency: str | None,
    stat: bool,
    no_follow: bool,
) -> None:
    """Fetch STUDY from the facilities that announced it.

    The node fetches, this command follows. Ctrl-C ends the following, not the fetch;
    a broken connection ends neither.
    """
    if emergency is not None and peer is None:
        raise click.UsageError("--emergency needs --from: one facility is asked")
    latest: dict[str, Any] = {}
    with ProgressBar("waiting") as bar:

        def show(event: dict[str, Any]) -> None:
            latest.update(event)
            bar.update(event["state"], event["bytes_done"], event["bytes"], _extra(event))

        try:
            if emergency is not None:
                broken = {"study": study, "peer": peer, "reason": emergency}
                done = session.call("emergency", broken, show)
            else:
                asked = {
                    "study": study,
                    "peer": peer,
                    "purpose": purpose,
                    "stat": stat,
                    "follow": not no_follow,
                    "reason": reason,
                }
                done = session.call("fetch", asked, show)
        except KeyboardInterrupt:
            if latest:
                name = latest["transfer"][:8]
                output.note("the node goes on fetching in the background")
                output.note(f"look with `radmesh transfers`, stop it with `radmesh cancel {name}`")
            raise
    if session.as_json:
        output.emit_json(done)
        return
    for line in fetched_lines(done):
        output.say(line)
    if emergency is not None:
        output.note("both facilities are alerted; a person has to review it: `radmesh review`")
    if done["follow"]:
        output.note("what it grows by there is fetched by itself for a day (not with --no-follow)")


def _extra(transfer: dict[str, Any]) -> str:
    if transfer["state"] == "waiting" and transfer["why"]:
        return phrases.clean(transfer["why"])
    moved = transfer["bytes_done"] - transfer["held_bytes"]
    if transfer["wire_bytes"] and moved > 0:
        return f"ratio {phrases.ratio(moved, transfer['wire_bytes'])}"
    return ""


def fetched_lines(transfer: dict[str, Any]) -> list[str]:
    """A complete transfer for people."""
    seconds = max(1, transfer["ended"] - transfer["started"]) / 1000
    moved = transfer["bytes"] - transfer["held_bytes"]
    lines = [
        f"fetched {phrases.count(transfer['instances'], 'image')} "
        f"({phrases.size(transfer['bytes'])}) from {_sources(transfer)} in "
        f"{phrases.duration(seconds)}, every one verified"
    ]
    if transfer["wire_bytes"]:
        lines.append(
            f"sent as {phrases.size(transfer['wire_bytes'])} "
            f"({phrases.ratio(moved, transfer['wire_bytes'])} times smaller), "
            f"{phrases.size(int(moved / seconds))} of images a second"
        )
    if len(transfer["sources"]) > 1:
        lines += [
            f"{phrases.size(source['wire_bytes'])} came from {phrases.clean(source['peer'])}"
            for source in transfer["sources"]
        ]
    if transfer["held_bytes"]:
        lines.append(f"{phrases.size(transfer['held_bytes'])} were here already")
    return lines


def _sources(transfer: dict[str, Any]) -> str:
    names = [source["peer"] for source in transfer["sources"]] or [transfer["peer"]]
    return " and ".join(phrases.clean(name) for name in names)


@click.command()
@json_option
@pass_session
def transfers(session: Session) -> None:
    """List the transfers, newest first."""
    found = session.call("transfers")
    found.pop("next", None)  # only the newest transfers are wanted here
    if session.as_json:
        output.emit_json(found)
        return
    if not found["transfers"]:
        output.note("there was no transfer yet")
        return
    for line in transfer_table(found["transfers"]):
        output.say(line)


def transfer_table(transfers: list[dict[str, Any]]) -> list[str]:
    """Transfers for people: a line each, then its study, and why where there is a reason."""
    lines = output.table(
        (
            output.Column("TRANSFER"),
            output.Column("STARTED"),
            output.Column("DIRECTION"),
            output.Column("STATE"),
            output.Column("DONE", right=True),
            output.Column("SIZE", right=True),
            output.Column("FACILITY", flexible=True),
        ),
        [
            (
                transfer["transfer"][:8],
                phrases.moment(transfer["started"] / 1000),
                "to us" if transfer["direction"] == "in" else "from us",
                _state(transfer),
                _percent(transfer),
                phrases.size(transfer["bytes"]),
                transfer["peer"],
            )
            for transfer in transfers
        ],
    )
    shown = [lines[0]]
    for line, transfer in zip(lines[1:], transfers, strict=True):
        shown += [line, f"  {phrases.clean(transfer['study'])}"]
        if transfer["still_since"]:
            since = phrases.moment(transfer["still_since"] / 1000)
            shown.append(f"  stands still since {since}: the line or the other side does not move")
        if transfer["why"]:
            shown.append(f"  {phrases.clean(transfer['why'])}")
        for receipt in transfer.get("receipts", ()):
            shown += _receipt_lines(transfer["direction"], receipt)
    return shown


_PROOFS = {
    "commitment": "by storage commitment",
    "query": "as a query showed",
    "returned": "as it sent it back",
}


def _receipt_lines(direction: str, receipt: dict[str, Any]) -> list[str]:
    """What both sides signed, and what the recipient alone says of its archive."""
    peer, stored = phrases.clean(receipt["peer"]), receipt["stored"]
    is_ours = direction == "in"
    who, whose = (f"from {peer}", "our archive") if is_ours else (f"by {peer}", "its archive")
    lines = [f"  received {phrases.moment(receipt['received'] / 1000)} {who}, signed by both"]
    if stored is not None:
        line = f"  stored   {phrases.moment(stored['proven_at'])} in {whose}, "
        line += _PROOFS[stored["proven_by"]]
        lines.append(line if stored["noted"] else f"{line}; {peer} has not noted it yet")
    return lines


def _state(transfer: dict[str, Any]) -> str:
    kinds = (("stat", "stat"), ("follow_up", "follow-up"))
    return ", ".join([transfer["state"], *(word for key, word in kinds if transfer[key])])


def _percent(transfer: dict[str, Any]) -> str:
    if not transfer["bytes"]:
        return "-"
    if transfer["state"] == "complete":
        # A source counts only the bytes sent since the last interruption.
        return "100 %"
    return f"{100 * transfer['bytes_done'] // transfer['bytes']} %"


@click.command()
@click.argument("transfer")
@json_option
@pass_session
def cancel(session: Session, transfer: str) -> None:
    """Stop the incoming TRANSFER: the beginning of its name in `radmesh transfers`.

    What was received stays, so that a later fetch need not take it again.
    """
    stopped = session.call("transfer.cancel", {"transfer": transfer})
    if session.as_json:
        output.emit_json(stopped)
        return
    output.say(f"stopped the transfer of study {phrases.clean(stopped['study'])}")
