"""`radmesh hold` and `radmesh keeping`: how long studies stay."""

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session


@click.group()
def hold() -> None:
    """Legal holds: studies that nothing deletes before the hold is lifted."""


@hold.command("place")
@click.argument("study")
@click.option("--reference", required=True, help="The matter, such as a file number. No names.")
@json_option
@pass_session
def place_hold(session: Session, study: str, reference: str) -> None:
    """Hold STUDY: neither retention nor `radmesh discard` removes it or a part of it."""
    done = session.call("hold.place", {"study": study, "reference": reference})
    if session.as_json:
        output.emit_json(done)
        return
    output.say(f"study {phrases.clean(done['study'])} is held ({phrases.clean(reference)})")


@hold.command("lift")
@click.argument("study")
@json_option
@pass_session
def lift_hold(session: Session, study: str) -> None:
    """End the hold on STUDY."""
    done = session.call("hold.lift", {"study": study})
    if session.as_json:
        output.emit_json(done)
        return
    output.say(f"study {phrases.clean(done['study'])} is not held any more")


@hold.command("list")
@json_option
@pass_session
def list_holds(session: Session) -> None:
    """List the holds."""
    found = session.call("hold.list")
    if session.as_json:
        output.emit_json(found)
        return
    if not found["holds"]:
        output.say("no study is held")
    for one in found["holds"]:
        output.say(
            f"{phrases.moment(one['placed'])}  {phrases.clean(one['study'])}  "
            f"{phrases.clean(one['reference'])}"
        )


@click.command()
@json_option
@pass_session
def keeping(session: Session) -> None:
    """Show how full the store is, which studies go next, and what keeps the others.

    Only studies that are proven to be in an archive of yours ever go by themselves.
    """
    found = session.call("keeping")
    if session.as_json:
        output.emit_json(found)
        return
    quota = found["quota_bytes"]
    of = f" of {phrases.size(quota)}" if quota else ", without a quota"
    output.say(f"{phrases.size(found['used_bytes'])}{of}")
    if found["days"]:
        days = phrases.count(found["days"], "day")
        output.say(f"a study goes {days} after it was stored in an archive")
    if not found["days"] and not quota:
        output.say("no study goes by itself: see keeping.days in config.toml")
    if found["why_full"]:
        output.say(f"no more images are taken in: {found['why_full']}")
    for study in found["due"]:
        output.say(f"  goes next  {phrases.clean(study)}")
    for one in found["stays"]:
        output.say(f"  stays      {phrases.clean(one['study'])}: it {one['why']}")
