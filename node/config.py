"""The settings of one node: `config.toml`, read once and passed down.

The table `node.setting_rows` lists the entries and their allowed values.
"""

import contextlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from node import setting_texts
from node.edges.archive_settings import ArchiveSettings, read_archives, read_worklists
from node.edges.dicomweb_settings import DicomWebSettings, read_dicomweb
from node.edges.dimse_settings import Address, DimseSettings, read_address, read_dimse
from node.edges.door_settings import BadEdge, Door
from node.edges.folder_settings import FolderSettings, read_folders
from node.edges.identity_settings import IdentitySettings, read_identity
from node.edges.prefetch import PrefetchSettings, read_prefetch
from node.errors import ExitCode, NodeError
from node.images.arrival_groups import Windows
from node.images.arrival_windows import BadWindows, read_windows
from node.images.keeping import KeepingSettings
from node.notices.settings import (
    BadNotices,
    MailSettings,
    WebhookSettings,
    read_mail,
    read_webhook,
)
from node.reports.collector import Collector, parse_collector
from node.setting import parse_mode
from node.setting_rows import DEFAULTS, TABLES, rows_of, tables_in
from node.sharing.budgets import BadBudget, Overrides, read_overrides
from node.transfer.bandwidth import BadRule, BandwidthRule, read_rule

Found = TypeVar("Found")

Systems = Mapping[str, ArchiveSettings]

DEFAULT_LISTEN = tuple(DEFAULTS["listen"])


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """The table `audit`.

    Attributes:
        witness_quorum: how many witnesses must have cosigned a checkpoint.
        witness_seconds: time between rounds while some entries are not cosigned.
        heartbeat_seconds: time without an entry after which a heartbeat is logged.
        persons: whether reports and collectors name our people.
        syslog: the collector to which the log is forwarded.
    """

    witness_quorum: int = DEFAULTS["audit.witness_quorum"]
    witness_seconds: int = DEFAULTS["audit.witness_seconds"]
    heartbeat_seconds: int = DEFAULTS["audit.heartbeat_seconds"]
    persons: bool = DEFAULTS["audit.persons"]
    syslog: Collector | None = None


@dataclass(frozen=True, kw_only=True)
class PeopleSettings:
    """The table `people`.

    Attributes:
        group: system group whose members may use the local API; "" for none.
        folder: folder of their socket; "" for `HOME-people` beside the home.
        unlisted: what members may who are not in the list of people; None where it is not set.
    """

    group: str = DEFAULTS["people.group"]
    folder: str = DEFAULTS["people.folder"]
    unlisted: str | None = DEFAULTS["people.unlisted"]


@dataclass(frozen=True, kw_only=True)
class EmergencySettings:
    """The table `emergency`.

    Attributes:
        reasons: the words with which a reason may begin.
        over_objections: whether a peer's emergency goes over a patient's objection.
        rest_until_reviewed: whether emergency access rests while a review is overdue.
    """

    reasons: tuple[str, ...] = tuple(DEFAULTS["emergency.reasons"])
    over_objections: bool = DEFAULTS["emergency.over_objections"]
    rest_until_reviewed: bool = DEFAULTS["emergency.rest_until_reviewed"]


@dataclass(frozen=True, kw_only=True)
class RetentionSettings:
    """The table `retention`: days that something is kept; 0 for ever.

    Attributes:
        openings_days: openings beside the log.
        transfers_days: ended transfers of the list of transfers.
        quarantine_days: what was set aside.
    """

    openings_days: int = DEFAULTS["retention.openings_days"]
    transfers_days: int = DEFAULTS["retention.transfers_days"]
    quarantine_days: int = DEFAULTS["retention.quarantine_days"]


@dataclass(frozen=True, kw_only=True)
class ManifestSettings:
    """The table `manifests`: where others get the images of our studies.

    Attributes:
        dicomweb_url: the base of our DICOMweb, without `/studies`; "" for none.
        location_uid: its Retrieve Location UID; "" for none.
    """

    dicomweb_url: str = DEFAULTS["manifests.dicomweb_url"]
    location_uid: str = DEFAULTS["manifests.location_uid"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings in `config.toml`, with defaults for missing ones."""

    listen: tuple[str, ...] = DEFAULT_LISTEN
    addresses: tuple[str, ...] = tuple(DEFAULTS["addresses"])
    write_block_bytes: int = DEFAULTS["write_block_bytes"]
    log_level: str = DEFAULTS["log_level"]
    export_mode: int = parse_mode(DEFAULTS["export_mode"])
    bandwidth: tuple[BandwidthRule, ...] = ()
    audit: AuditSettings = AuditSettings()
    people: PeopleSettings = PeopleSettings()
    emergency: EmergencySettings = EmergencySettings()
    retention: RetentionSettings = RetentionSettings()
    manifests: ManifestSettings = ManifestSettings()
    keeping: KeepingSettings = field(default_factory=KeepingSettings)
    limits: Overrides = field(default_factory=dict)
    arrivals: Mapping[str, Windows] = field(default_factory=dict)
    dimse: DimseSettings = field(default_factory=DimseSettings)
    folders: Mapping[str, FolderSettings] = field(default_factory=dict)
    dicomweb: DicomWebSettings = field(default_factory=DicomWebSettings)
    archives: Mapping[str, ArchiveSettings] = field(default_factory=dict)
    worklists: Mapping[str, ArchiveSettings] = field(default_factory=dict)
    prefetch: PrefetchSettings = field(default_factory=PrefetchSettings)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    metrics: Address | None = None
    webhook: WebhookSettings | None = None
    mail: MailSettings | None = None

    @property
    def doors(self) -> dict[str, Door]:
        """All doors by which images come in, by their names."""
        folders = (one.door for one in self.folders.values())
        return {**self.dimse.doors, **{door.name: door for door in folders}}


def template(listen: tuple[str, ...], addresses: tuple[str, ...]) -> str:
    """Text of a new `config.toml`."""
    return setting_texts.template({"listen": list(listen), "addresses": list(addresses)})


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
    found = _read(path, "", values)
    for name in ("listen", "addresses"):
        if name in found:
            found[name] = tuple(found[name])
    if "export_mode" in found:
        found["export_mode"] = parse_mode(found["export_mode"])
    return Settings(
        **found,
        bandwidth=_rules(path, values.get("bandwidth", [])),
        audit=_audit(path, values.get("audit", {})),
        people=PeopleSettings(**_read(path, "people", values.get("people", {}))),
        emergency=_emergency(path, values.get("emergency", {})),
        retention=RetentionSettings(**_read(path, "retention", values.get("retention", {}))),
        manifests=ManifestSettings(**_read(path, "manifests", values.get("manifests", {}))),
        keeping=KeepingSettings(**_read(path, "keeping", values.get("keeping", {}))),
        limits=_overrides(path, values.get("limits", {})),
        arrivals=_arrivals(path, values.get("arrivals", {})),
        dimse=_dimse(path, values.get("dimse", {})),
        folders=_folders(path, values.get("folders", {})),
        dicomweb=_dicomweb(path, values.get("dicomweb", {})),
        archives=_systems(path, "archives", values, read_archives),
        worklists=_systems(path, "worklists", values, read_worklists),
        prefetch=_prefetch(path, values.get("prefetch", {}), values.get("worklists", {})),
        identity=_identity(path, values.get("identity", {})),
        metrics=_metrics(path, values.get("metrics", {})),
        webhook=_notices(path, "webhook", values.get("webhook", {}), read_webhook),
        mail=_notices(path, "mail", values.get("mail", {}), read_mail),
    )


def _read(path: Path, table: str, values: Any) -> dict[str, Any]:
    """The entries of one table, checked by their rows; tables within it are left out."""
    rows, inner = rows_of(table), tables_in(table)
    if not isinstance(values, dict):
        what = "a table of texts" if _is_of_texts(table) else "a table"
        raise _wrong(path, table, f"{what}, written {TABLES[table]}")
    unknown = set(values) - set(rows) - inner
    if unknown:
        what = f"the table {table} in {path} has" if table else f"the settings {path} have"
        raise NodeError(
            f"{what} an unknown entry: {', '.join(sorted(unknown))}",
            hint=f"its entries are {', '.join(sorted({*rows, *inner}))}"
            if table
            else "see docs/operations.md for the entries that there are",
            code=ExitCode.USAGE,
        )
    for name, row in rows.items():
        if name in values and not row.is_fit(values[name]):
            raise _wrong(path, row.name, row.expected)
    return {name: values[name] for name in rows if name in values}


def _is_of_texts(table: str) -> bool:
    return all(row.kind in ("text", "path", "choice") for row in rows_of(table).values())


def _overrides(path: Path, table: Any) -> Overrides:
    try:
        return read_overrides(table)
    except BadBudget as error:
        raise NodeError(
            f"limits in {path} {error}",
            hint="see docs/operations.md section 4",
            code=ExitCode.USAGE,
        ) from error


def _arrivals(path: Path, table: Any) -> dict[str, Windows]:
    try:
        return read_windows(table)
    except BadWindows as error:
        raise NodeError(
            f"arrivals in {path} {error}",
            hint="see docs/operations.md section 4",
            code=ExitCode.USAGE,
        ) from error


@contextlib.contextmanager
def _edge(path: Path, table: str) -> Iterator[None]:
    """Turn what is wrong with the table of an edge into a sentence for people."""
    try:
        yield
    except BadEdge as error:
        raise NodeError(
            f"{table} in {path} {error}",
            hint="see docs/operations.md section 4 and docs/edges.md",
            code=ExitCode.USAGE,
        ) from error


def _full_paths(path: Path, table: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The table with its files as full paths: they are relative to the folder of `config.toml`."""
    given = {name: str(path.parent / table[name]) for name in names if table.get(name)}
    return table | given


def _dimse(path: Path, values: Any) -> DimseSettings:
    table = _full_paths(path, _read(path, "dimse", values), ("certificate", "key", "ca"))
    with _edge(path, "dimse"):
        return read_dimse(table, values.get("callers", {}), values.get("doors", {}))


def _dicomweb(path: Path, values: Any) -> DicomWebSettings:
    table = _full_paths(path, _read(path, "dicomweb", values), ("certificate", "key"))
    with _edge(path, "dicomweb"):
        return read_dicomweb(table, values.get("callers", {}))


def _folders(path: Path, tables: Any) -> dict[str, FolderSettings]:
    with _edge(path, "folders"):
        found = read_folders(tables)
    home = path.parent.resolve()
    for one in found.values():
        if one.path.is_relative_to(home) or home.is_relative_to(one.path):
            raise NodeError(
                f"the folder {one.name} in {path} is in the home, or the home is in it",
                hint="watch a folder of its own",
                code=ExitCode.USAGE,
            )
    return found


def _systems(
    path: Path, name: str, values: Mapping[str, Any], read: Callable[[Any, Path], Systems]
) -> Systems:
    with _edge(path, name):
        return read(values.get(name, {}), path.parent)


def _prefetch(path: Path, values: Any, worklists: Mapping[str, Any]) -> PrefetchSettings:
    with _edge(path, "prefetch"):
        found = read_prefetch(_read(path, "prefetch", values))
        if found.worklist and found.worklist not in worklists:
            raise BadEdge(f'has a worklist "{found.worklist}" without its table')
        return found


def _identity(path: Path, values: Any) -> IdentitySettings:
    table = _read(path, "identity", values)
    with _edge(path, "identity"):
        return read_identity(table, values)


def _metrics(path: Path, values: Any) -> Address | None:
    text = _read(path, "metrics", values).get("listen", "")
    return read_address(text) if text else None


def _notices(path: Path, table: str, values: Any, read: Callable[[Any, Path], Found]) -> Found:
    try:
        return read(_read(path, table, values), path.parent)
    except BadNotices as error:
        raise NodeError(
            f"{table} in {path} {error}",
            hint="see docs/operations.md section 18",
            code=ExitCode.USAGE,
        ) from error


def _emergency(path: Path, values: Any) -> EmergencySettings:
    found = _read(path, "emergency", values)
    if "reasons" in found:
        found["reasons"] = tuple(found["reasons"])
        if not all(map(_is_reason, found["reasons"])):
            raise _wrong(
                path, "emergency.reasons", "a list of words of at most 64 characters, no colon"
            )
    return EmergencySettings(**found)


def _is_reason(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isprintable() and text == text.strip() and ":" not in text


def _audit(path: Path, values: Any) -> AuditSettings:
    found = _read(path, "audit", values)
    syslog = _syslog(path, values["syslog"]) if "syslog" in values else None
    return AuditSettings(**found, syslog=syslog)


def _syslog(path: Path, values: Any) -> Collector:
    table = _read(path, "audit.syslog", values)
    # A path is relative to the home, the folder of config.toml.
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


def _wrong(path: Path, name: str, expected: str) -> NodeError:
    return NodeError(f"{name} in {path} must be {expected}", code=ExitCode.USAGE)
