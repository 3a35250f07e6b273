"""The table of a node's listening sockets; docs/operations.md section 2 is made from it.

Add a row before a new listener; unless a setting says otherwise, it must be off, or on the
loopback address only. The tests compare the table with the sockets of a running node, and
with the code files that listen.
"""

from dataclasses import dataclass

from node.setting_rows import DEFAULTS


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One row.

    Attributes:
        name: name for people.
        is_on: whether it listens by default.
        setting: the setting that turns it on or changes its place; "" for none.
        address: `any` (of the machine, also from outside), `loopback` or `file` (Unix socket).
        place: default address or path.
        port: default port; None for a file.
        protection: TLS, or the protection in its place.
        callers: who may call.
        module: the code file that listens.
    """

    name: str
    is_on: bool
    setting: str
    address: str
    place: str
    port: int | None
    protection: str
    callers: str
    module: str


_HOST, _PORT = DEFAULTS["listen"][0].split("/")[2::2]

LISTENERS = (
    Listener(
        name="peers",
        is_on=True,
        setting="listen",
        address="any",
        place=_HOST,
        port=int(_PORT),
        protection="Noise (libp2p), both sides proved by key",
        callers="nodes of trusted facilities; of others whoever shows the card of one; "
        "with `radmesh pair`, for ten minutes, whoever has the code",
        module="node/network/sockets.py",
    ),
    Listener(
        name="local API",
        is_on=True,
        setting="",
        address="file",
        place="api.sock in the home, mode 0600",
        port=None,
        protection="none: a file of the machine",
        callers="the node's own user",
        module="node/api/endpoint.py",
    ),
    Listener(
        name="local API for people",
        is_on=False,
        setting="people.group",
        address="file",
        place="api.sock in a folder of mode 0750, itself 0660",
        port=None,
        protection="none: a file of the machine",
        callers="users of the group, each known by name",
        module="node/api/people.py",
    ),
    Listener(
        name="metrics",
        is_on=False,
        setting="metrics.listen",
        address="loopback",
        place="the address of the setting, of this machine",
        port=None,
        protection="none: an address of the machine",
        callers="users of the machine",
        module="node/api/server.py",
    ),
    Listener(
        name="DICOM",
        is_on=False,
        setting="dimse.listen",
        address="any",
        place="the address of the setting",
        port=None,
        protection="none: callers by address and AE title",
        callers="systems of the hospital that `dimse.callers` lists with their addresses",
        module="node/edges/dimse_server.py",
    ),
    Listener(
        name="DICOM over TLS",
        is_on=False,
        setting="dimse.tls_listen",
        address="any",
        place="the address of the setting",
        port=None,
        protection="TLS 1.2 or newer (BCP 195), certificates on both sides",
        callers="systems of the hospital that `dimse.callers` lists with address or certificate",
        module="node/edges/dimse_server.py",
    ),
)


def document() -> str:
    """The table of docs/operations.md section 2."""
    lines = [
        "| listener | default | address | port | TLS | who may call | setting |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in LISTENERS:
        cells = (
            one.name,
            "on" if one.is_on else "off",
            one.place,
            "-" if one.port is None else str(one.port),
            one.protection,
            one.callers,
            f"`{one.setting}`" if one.setting else "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
