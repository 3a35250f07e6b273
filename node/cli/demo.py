"""`radmesh demo`: two facilities exchange a study on this machine."""

import signal
from pathlib import Path
from types import FrameType

import click

from node.cli import output


@click.command()
@click.argument("dicom_path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--home",
    "directory",
    default="demo-home",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the two facilities are made; one of an earlier demonstration is replaced.",
)
def demo(dicom_path: Path | None, directory: Path) -> None:
    """Show Radmesh: two facilities on this machine exchange a study.

    DICOM_PATH is a file or folder of your own images; without it, images that come
    with an installed package are used. Nothing leaves this machine.
    """
    from node.demo import run_demo

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    # However this process is stopped, the two nodes must stop with it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    run_demo(dicom_path, directory, output.say)
