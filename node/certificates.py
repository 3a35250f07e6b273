"""The certificates that the settings name: when each of them ends."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography import x509

from node.config import Settings
from node.notices.subjects import Alert
from node.phrases import moment

CERTIFICATE_DAYS = (30, 7)
"""Days before the end of a certificate at which its alert appears, and is told again."""


def _named(settings: Settings) -> Iterator[tuple[str, str | Path]]:
    """One line for each setting that names a certificate of ours."""
    if settings.dimse.tls_listen:
        yield "dimse.certificate", settings.dimse.certificate
    for archive in settings.archives.values():
        if archive.certificate:
            yield f'archives."{archive.name}".certificate', archive.certificate
    if settings.audit.syslog is not None and settings.audit.syslog.certificate is not None:
        yield "audit.syslog.certificate", settings.audit.syslog.certificate


def certificate_ends(settings: Settings) -> dict[str, float | None]:
    """When each certificate ends, by the name of its setting; reads the files.

    Returns:
        Seconds since the epoch, UTC; None where the file cannot be read.
    """
    return {name: _end(Path(path)) for name, path in _named(settings)}


def _end(path: Path) -> float | None:
    try:
        # In a chain ours is the first.
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found.not_valid_after_utc.timestamp()


def certificates_ending(settings: Settings, now: int) -> list[Alert]:
    """An alert for each certificate that ends soon, has ended, or cannot be read.

    Args:
        settings: name them.
        now: seconds since the epoch, UTC.
    """
    found = []
    for name, end in certificate_ends(settings).items():
        if end is None:
            text = f"the certificate {name} of config.toml cannot be read: see `radmesh doctor`"
            found.append(Alert("certificate", text, (f"{name}, not readable",)))
            continue
        step, _ = step_before(end - now, CERTIFICATE_DAYS)
        if step is not None:
            ends = "ends" if step else "has ended"
            text = f"the certificate {name} of config.toml {ends} {moment(end)}: get a new one"
            found.append(Alert("certificate", text, (f"{name}, {before_end(step)}",)))
    return found


def step_before(left: float, steps: Sequence[int]) -> tuple[int | None, int]:
    """Which step before an end is reached.

    Args:
        left: seconds until the end.
        steps: days before it.

    Returns:
        The step (0: the end is over; None: none is reached yet), and the whole days that are left.
    """
    days = max(0, int(left // (24 * 3600)))
    if left <= 0:
        return 0, 0
    return min((each for each in steps if days <= each), default=None), days


def before_end(step: int) -> str:
    """A step in words, as a key of an alert."""
    return f"{step} days before its end" if step else "at its end"
