"""`radmesh backup` and `radmesh restore`: a copy of the home, and a home from a copy."""

import time
from pathlib import Path
from typing import Any

import click

from node import phrases
from node.cli import output, passphrases
from node.cli.progress import ProgressBar
from node.cli.session import Session, json_option, pass_session
from node.errors import ExitCode

_SHOWN = 20

_passphrase_option = click.option(
    "--passphrase-fd",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Read the passphrase, a line, from this file descriptor and not from the terminal.",
)


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--with-keys", is_flag=True, help="Also the private keys, under a passphrase.")
@_passphrase_option
@json_option
@pass_session
def backup(session: Session, directory: Path, with_keys: bool, passphrase_fd: int | None) -> int:
    """Write a backup of the home into DIRECTORY, also while the node runs.

    Each backup is a folder named by its time. Batches are kept once for all backups, so a
    second one copies what is new. Exit code 9 says that batches are missing from it.
    """
    import nacl.utils

    from keys.passphrase import SALT_BYTES
    from keys.sealed_files import derive_key

    if passphrase_fd is not None and not with_keys:
        raise click.UsageError("--passphrase-fd goes with --with-keys")
    seal = None
    if with_keys:
        passphrase = passphrases.new("passphrase of the keys in the backup", passphrase_fd)
        # The cost is that of the form of `keys.sealed`, which knows no other.
        salt = nacl.utils.random(SALT_BYTES)
        seal = {"key": derive_key(passphrase, salt).hex(), "salt": salt.hex()}
    with ProgressBar("copying") as bar:
        saved = session.call(
            "backup",
            {"directory": str(Path.cwd() / directory), "seal": seal},
            lambda event: bar.update("copying", event["bytes"], event["bytes_total"]),
        )
    if session.as_json:
        output.emit_json(saved)
    else:
        for line in _saved_lines(saved):
            output.say(line)
    return ExitCode.PARTLY if saved["missing"] else ExitCode.OK


def _saved_lines(saved: dict[str, Any]) -> list[str]:
    lines = [
        f"wrote the backup {saved['backup']}",
        f"{phrases.count(saved['batches'], 'batch', 'batches')}, {phrases.size(saved['bytes'])}; "
        f"new among them: {saved['new_batches']}, {phrases.size(saved['new_bytes'])}",
        f"size and root of the log, to note down elsewhere: {saved['size']}:{saved['root']}",
    ]
    if not saved["with_keys"]:
        lines.append("without keys: keep a copy of the folder `keys` apart from it")
    if saved["missing"]:
        lines.append(
            "not in the backup, since missing here or damaged: "
            f"{phrases.count(len(saved['missing']), 'batch', 'batches')}; see `radmesh check`"
        )
    return lines


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="The home to make, empty or not there; by default that of `radmesh --home`.",
)
@click.option(
    "--keys",
    "keys_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder with the key files, where the backup has none.",
)
@_passphrase_option
@json_option
@pass_session
def restore(
    session: Session,
    directory: Path,
    home: Path | None,
    keys_folder: Path | None,
    passphrase_fd: int | None,
) -> int:
    """Make a home from the newest backup in DIRECTORY, or from the backup that it is.

    All is compared with its digest and checked. Exit code 9 says that something is
    missing. Never let two homes of one facility run.
    """
    from node.backup import restoring

    found = restoring.find_backup(Path.cwd() / directory)
    target = (home or session.home_path).expanduser()
    if keys_folder is not None:
        keys = restoring.read_keys(keys_folder)
    elif restoring.has_keys(found):
        keys = restoring.open_keys(
            found, passphrases.read("passphrase of the keys in the backup", passphrase_fd)
        )
    else:
        keys = {}
    with ProgressBar("copying") as bar:
        restored = restoring.restore(
            found,
            target.absolute(),
            keys,
            now=time.time(),
            progress=lambda done, total: bar.update("copying", done, total),
        )
    needed = [role for role in restored.missing_keys if role != "facility"]
    if session.as_json:
        output.emit_json(
            {
                "home": str(target.absolute()),
                "backup": str(restored.backup),
                "time": restored.time,
                "size": restored.size,
                "root": restored.root.hex(),
                "batches": restored.batches,
                "missing": list(restored.missing),
                "studies": list(restored.studies),
                "missing_keys": list(restored.missing_keys),
                "findings": [
                    {"kind": one.kind, "where": one.where, "what": one.what, "mend": one.mend}
                    for one in restored.findings
                ],
            }
        )
    else:
        for line in _restored_lines(restored, target.absolute()):
            output.say(line)
    return ExitCode.PARTLY if restored.missing or restored.findings or needed else ExitCode.OK


def _restored_lines(restored: Any, home: Path) -> list[str]:
    lines = [
        f"made {home} from the backup {restored.backup}",
        f"batches: {restored.batches}, each checked against its digest",
        f"size and root of the log: {restored.size}:{restored.root.hex()}",
    ]
    if restored.missing:
        lines.append(
            f"missing: {phrases.count(len(restored.missing), 'batch', 'batches')}; these studies "
            "are not whole, ingest or fetch them again:"
        )
        lines += [f"  {phrases.clean(uid)}" for uid in restored.studies[:_SHOWN]]
        if len(restored.studies) > _SHOWN:
            lines.append(f"  and {len(restored.studies) - _SHOWN} more: see `radmesh check`")
    for one in restored.findings[:_SHOWN]:
        lines += [f"{one.kind}: {phrases.clean(one.what)}", f"  to mend it: {one.mend}"]
    if restored.missing_keys:
        lines.append(
            f"missing keys: {', '.join(restored.missing_keys)}; put them into {home / 'keys'}, "
            "mode 0600, before the node starts (it works without facility)"
        )
    lines.append("the peers that cosigned its log tell the node whether it lost entries: look at")
    lines.append("`radmesh status` once it is connected; and never let two of one facility run")
    return lines
