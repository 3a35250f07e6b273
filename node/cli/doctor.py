"""`radmesh doctor`: what is wrong with each edge and each peer, and what to do."""

import click

from node.cli import output
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode
from node.phrases import clean

_MARKS = {"fine": "ok", "note": "note", "wrong": "WRONG"}


@click.command()
@click.option("--send-test", is_flag=True, help="Also send a test mail and post to the webhook.")
@json_option
@pass_session
def doctor(session: Session, send_test: bool) -> ExitCode:
    """Check each edge and each facility, and say what is wrong and what to do.

    Ends with the table of AE titles, ports and hosts that the vendor of a PACS or a modality enters
    there. Exits with 1 if anything is wrong.
    """
    found = session.call("doctor")
    if send_test:
        found["findings"] += _tested(session)
    if session.as_json:
        output.emit_json(found)
    else:
        for one in found["findings"]:
            output.say(clean(f"{_MARKS[one['state']]:5}  {one['about']}: {one['found']}"))
            if one["next"] and one["state"] != "fine":
                output.say(clean(f"       {one['next']}"))
        if found["doors"]:
            output.say("\nfor the vendor of a PACS or a modality:")
            columns = [
                output.Column("AE title"),
                output.Column("host"),
                output.Column("port", right=True),
                output.Column("TLS"),
                output.Column("what is sent there", flexible=True),
                output.Column("studies found there", flexible=True),
            ]
            rows = [
                (
                    one["ae_title"],
                    one["host"],
                    one["port"],
                    "yes" if one["tls"] else "no",
                    one["does"],
                    one["answers"] or "-",
                )
                for one in found["doors"]
            ]
            for line in output.table(columns, rows):
                output.say(line)
    is_wrong = any(one["state"] == "wrong" for one in found["findings"])
    return ExitCode.FAILED if is_wrong else ExitCode.OK


def _tested(session: Session) -> list[dict[str, str]]:
    """What became of a test by each channel, as findings."""
    tested = session.call("notices.test")["tested"]
    found = [
        {
            "about": f"{one['kind']} by {one['place']}",
            "state": "wrong" if one["error"] else "fine",
            "found": one["error"] or "it took a test",
            "next": "see `mail` and `webhook` in config.toml",
        }
        for one in tested
    ]
    return found or [
        {
            "about": "notices",
            "state": "wrong",
            "found": "there is nobody to send a test to",
            "next": "see docs/operations.md section 18",
        }
    ]
