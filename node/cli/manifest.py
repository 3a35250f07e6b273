"""`radmesh manifest`: a study described for a registry or a portal."""

from pathlib import Path

import click

from node import phrases
from node.cli import output
from node.cli.session import Session, json_option, pass_session


@click.command()
@click.argument("study")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--form",
    type=click.Choice(["kos", "mado", "fhir"]),
    default="kos",
    show_default=True,
    help="A Key Object Selection of XDS-I, that of IHE MADO, or a FHIR R4 ImagingStudy.",
)
@json_option
@pass_session
def manifest(session: Session, study: str, file: Path, form: str) -> None:
    """Write what STUDY consists of to a new FILE, without its images; it names the patient.

    With `[manifests]` in config.toml it says where the images are served.
    """
    made = session.call("manifest", {"study": study, "path": str(Path.cwd() / file), "form": form})
    if session.as_json:
        output.emit_json(made)
        return
    output.say(
        f"wrote {phrases.clean(made['path'])} ({phrases.size(made['bytes'])}): "
        f"{phrases.count(made['instances'], 'image')} of study {phrases.clean(made['study'])}"
    )
    if not made["url"]:
        output.note("it does not say where the images are: see [manifests] in docs/operations.md")
