"""The settings of one node: `config.toml`, read once and passed down."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.errors import ExitCode, NodeError
from node.reports.collector import Collector, parse_collector
from node.sharing.budgets import BadBudget, Overrides, read_overrides
from node.transfer.bandwidth import BadRule, BandwidthRule, read_rule
from protocol import limits

DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/4101",)

TEMPLATE = """\
# Settings of this Radmesh node; read at start. docs/operations.md explains each.

# Where the node listens (libp2p multiaddrs). A hospital opens this one port.
listen = [{listen}]

# Where peers reach the node, as written into the facility card. Empty: the
# addresses that it listens on, without private ones (10.x, 192.168.x, ...).
addresses = [{addresses}]

# Bytes per write to the network. Lower it to 16384 behind a proxy or VPN that
# cuts packets very small; it costs speed.
write_block_bytes = {block}

# "warning" logs what an operator must know; "debug" adds detail, never patient data.
log_level = "info"

# Permissions of exported images. "0640" lets the group of the node's user read them.
# export_mode = "0600"

# The audit log: how many of the facilities with the grant `witness` must have cosigned
# a checkpoint (0: none must), how often they are asked while there are new entries, and
# after which silence an entry says that nothing happened.
# [audit]
# witness_quorum = 0
# witness_seconds = 60
# heartbeat_seconds = 900

# A second socket of the local API, for the people of a group of this machine: each entry
# of the log that somebody causes names the person. None without a group.
# [people]
# group = "radiology"
# folder = "/run/radmesh"

# A syslog collector that gets each entry over TLS: "dicom" sends DICOM audit messages,
# which name studies and patients; "json" the entries as they are, which name nobody.
# [audit.syslog]
# address = "logs.hospital.example:6514"
# ca = "/etc/radmesh/logs-ca.pem"
# format = "dicom"

# How much a facility may cause here, a pair [an hour, at once] a kind (protocol.md 3.6).
# [limits."South Clinic"]
# request = [72000, 2000]

# The most that is sent to a facility, in 10^6 bits a second, at a time of day (local
# time); without from and to at all times. "*" is each facility without an entry of
# its own. stat_exempt = true lets urgent transfers go as fast as they can.
# [[bandwidth]]
# peer = "South Clinic"
# from = "07:00"
# to = "19:00"
# mbit_per_second = 50
"""


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """The table `audit`.

    Attributes:
        witness_quorum: how many witnesses must have cosigned a checkpoint.
        witness_seconds: between rounds while there are entries that are not cosigned.
        heartbeat_seconds: without an entry, after which one says so.
        syslog: the collector that the log is forwarded to.
    """

    witness_quorum: int = 0
    witness_seconds: int = 60
    heartbeat_seconds: int = 900
    syslog: Collector | None = None


@dataclass(frozen=True, kw_only=True)
class PeopleSettings:
    """The table `people`.

    Attributes:
        group: of the system, whose members may use the local API; "": none.
        folder: where their socket lies; "": beside the home, `HOME-people`.
    """

    group: str = ""
    folder: str = ""


_LEAST_AUDIT = {"witness_quorum": 0, "witness_seconds": 1, "heartbeat_seconds": 1}
_MOST_AUDIT = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `config.toml` says, with defaults for what it does not."""

    listen: tuple[str, ...] = DEFAULT_LISTEN
    addresses: tuple[str, ...] = ()
    write_block_bytes: int = limits.WRITE_BLOCK_BYTES
    log_level: str = "info"
    export_mode: int = 0o600
    bandwidth: tuple[BandwidthRule, ...] = ()
    audit: AuditSettings = AuditSettings()
    people: PeopleSettings = PeopleSettings()
    limits: Overrides = field(default_factory=dict)


def template(listen: tuple[str, ...], addresses: tuple[str, ...]) -> str:
    """Text of a new `config.toml`."""
    return TEMPLATE.format(
        listen=_quoted(listen), addresses=_quoted(addresses), block=limits.WRITE_BLOCK_BYTES
    )


def _quoted(values: tuple[str, ...]) -> str:
    return ", ".join(f'"{value}"' for value in values)


def read_settings(path: Path) -> Settings:
    """Read `config.toml`.

    Raises:
        NodeError: it cannot be read, or a value is of the wrong kind; the text
            names the setting.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise NodeError(
            f"the settings {path} cannot be read: {error.strerror}", code=ExitCode.NO_HOME
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise NodeError(
            f"the settings {path} are not valid TOML: {error}", code=ExitCode.USAGE
        ) from error
    unknown = set(values) - set(Settings.__dataclass_fields__)
    if unknown:
        raise NodeError(
            f"the settings {path} have an unknown entry: {', '.join(sorted(unknown))}",
            hint="see docs/operations.md for the entries that there are",
            code=ExitCode.USAGE,
        )
    block = values.get("write_block_bytes", limits.WRITE_BLOCK_BYTES)
    if type(block) is not int or not 1024 <= block <= limits.WRITE_BLOCK_BYTES:
        raise _wrong(path, "write_block_bytes", f"a number from 1024 to {limits.WRITE_BLOCK_BYTES}")
    level = values.get("log_level", "info")
    if level not in ("error", "warning", "info", "debug"):
        raise _wrong(path, "log_level", 'one of "error", "warning", "info", "debug"')
    return Settings(
        listen=_texts(path, values, "listen", DEFAULT_LISTEN),
        addresses=_texts(path, values, "addresses", ()),
        write_block_bytes=block,
        log_level=level,
        export_mode=_mode(path, values.get("export_mode", "0600")),
        bandwidth=_rules(path, values.get("bandwidth", [])),
        audit=_audit(path, values.get("audit", {})),
        people=_people(path, values.get("people", {})),
        limits=_overrides(path, values.get("limits", {})),
    )


def parse_mode(text: str) -> int:
    """Permissions of a file from octal digits, such as 0640.

    Raises:
        ValueError: they are none, or the owner could not read and write the file.
    """
    if re.fullmatch("0?[0-7]{3}", text) is None:
        raise ValueError("permissions are three octal digits, such as 0640")
    mode = int(text, 8)
    if mode & 0o111 or mode & 0o600 != 0o600:
        raise ValueError("permissions of a file are 0600, and 4 or 6 for others: 0640")
    return mode


def _mode(path: Path, value: Any) -> int:
    try:
        return parse_mode(value if isinstance(value, str) else "")
    except ValueError:
        raise _wrong(path, "export_mode", 'permissions as a text, such as "0640"') from None


def _overrides(path: Path, table: Any) -> Overrides:
    try:
        return read_overrides(table)
    except BadBudget as error:
        raise NodeError(
            f"limits in {path} {error}",
            hint="see docs/operations.md section 4",
            code=ExitCode.USAGE,
        ) from error


def _audit(path: Path, table: Any) -> AuditSettings:
    if not isinstance(table, dict):
        raise _wrong(path, "audit", "a table, written [audit]")
    unknown = set(table) - set(AuditSettings.__dataclass_fields__)
    if unknown:
        raise NodeError(
            f"the table audit in {path} has an unknown entry: {', '.join(sorted(unknown))}",
            hint="see docs/operations.md section 4",
            code=ExitCode.USAGE,
        )
    syslog = _syslog(path, table["syslog"]) if "syslog" in table else None
    numbers = {name: value for name, value in table.items() if name != "syslog"}
    for name, value in numbers.items():
        if type(value) is not int or not _LEAST_AUDIT[name] <= value <= _MOST_AUDIT:
            raise _wrong(
                path, f"audit.{name}", f"a number from {_LEAST_AUDIT[name]} to {_MOST_AUDIT}"
            )
    return AuditSettings(**numbers, syslog=syslog)


def _people(path: Path, table: Any) -> PeopleSettings:
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise _wrong(path, "people", "a table of texts, written [people]")
    unknown = set(table) - set(PeopleSettings.__dataclass_fields__)
    if unknown:
        raise NodeError(
            f"the table people in {path} has an unknown entry: {', '.join(sorted(unknown))}",
            hint="see docs/operations.md section 4",
            code=ExitCode.USAGE,
        )
    if table.get("folder") and not table["folder"].startswith("/"):
        raise _wrong(path, "people.folder", "an absolute path")
    return PeopleSettings(**table)


def _syslog(path: Path, table: Any) -> Collector:
    names = {"address", "ca", "certificate", "key", "format"}
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise _wrong(path, "audit.syslog", "a table of texts, written [audit.syslog]")
    unknown = set(table) - names
    if unknown:
        raise NodeError(
            f"the table audit.syslog in {path} has an unknown entry: {', '.join(sorted(unknown))}",
            hint=f"its entries are {', '.join(sorted(names))}",
            code=ExitCode.USAGE,
        )
    # A path is relative to the home, where config.toml lies.
    files = {
        name: str(path.parent / table[name]) if table.get(name) else ""
        for name in ("ca", "certificate", "key")
    }
    try:
        return parse_collector(table.get("address", ""), **files, form=table.get("format", "dicom"))
    except NodeError as error:
        raise NodeError(
            f"audit.syslog in {path}: {error.message}", hint=error.hint, code=error.code
        ) from error


def _rules(path: Path, entries: Any) -> tuple[BandwidthRule, ...]:
    if not isinstance(entries, list):
        raise _wrong(path, "bandwidth", "a list of tables, each written [[bandwidth]]")
    rules = []
    for number, entry in enumerate(entries, 1):
        try:
            rules.append(read_rule(entry))
        except BadRule as error:
            raise NodeError(
                f"entry {number} of bandwidth in {path} {error}",
                hint="see docs/operations.md section 4",
                code=ExitCode.USAGE,
            ) from error
    return tuple(rules)


def _texts(
    path: Path, values: dict[str, Any], name: str, default: tuple[str, ...]
) -> tuple[str, ...]:
    value = values.get(name, list(default))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(path, name, "a list of texts")
    return tuple(value)


def _wrong(path: Path, name: str, expected: str) -> NodeError:
    return NodeError(f"{name} in {path} must be {expected}", code=ExitCode.USAGE)
