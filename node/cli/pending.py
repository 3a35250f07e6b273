"""`radmesh audit pending`: transfers whose receipt is missing."""

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session


@click.command()
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Those under way too, and those that did not arrive, as the recipient says.",
)
@json_option
@pass_session
def pending(session: Session, everything: bool) -> None:
    """List transfers that lack a receipt or its countersignature.

    The node asks for what is missing when the peer is connected. What we sent and
    nobody confirmed, some of it may have arrived.
    """
    found = session.call("audit.pending", {"all": everything})
    if session.as_json:
        output.emit_json(found)
        return
    if not found["pending"]:
        output.say("no receipt is missing")
        return
    for line in output.table(
        (
            output.Column("ENTRY", right=True),
            output.Column("TIME (UTC)"),
            output.Column("WAY"),
            output.Column("PEER", flexible=True),
            output.Column("MISSING"),
            output.Column("STATE"),
            output.Column("TRANSFER"),
            output.Column("STUDY", flexible=True),
        ),
        [
            (
                "-" if item["entry"] is None else item["entry"],
                item["time"][:19].replace("T", " "),
                "to" if item["direction"] == "out" else "from",
                item["peer"],
                item["missing"],
                _state(item["state"], item["answer"]),
                item["transfer"][:8],
                item["study"] or "-",
            )
            for item in found["pending"]
        ],
    ):
        output.say(line)


def _state(state: str, answer: str) -> str:
    if state == "refused":
        return f"refused ({phrases.clean(answer).replace('_', ' ')})"
    return state
