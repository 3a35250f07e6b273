"""A finding of `radmesh doctor`: about what, how it is, and what to do."""

from pathlib import Path

from cryptography import x509

from node.phrases import moment

ENDING_SECONDS = 30 * 24 * 3600
"""A certificate or card that ends within this time is named."""

Finding = dict[str, str]
"""`about`, `state` (`fine`, `note`, `wrong`), `found`, and `next`, what to do."""


def finding(about: str, state: str, found: str, todo: str = "") -> Finding:
    """A finding; texts as in `Finding`."""
    return {"about": about, "state": state, "found": found, "next": todo}


def certificate_finding(about: str, path: Path, now: int) -> Finding:
    """Until when our certificate in a file (PEM) holds.

    Args:
        about: what it is for.
        path: the file.
        now: seconds since the epoch, UTC.
    """
    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return finding(
            about, "wrong", "the certificate cannot be read", "see `certificate` in config.toml"
        )
    left = end - now
    state = "fine" if left > ENDING_SECONDS else "wrong"
    ends = "has ended" if left <= 0 else "ends"
    todo = "" if state == "fine" else "get a new one, and start the node again"
    return finding(about, state, f"its certificate {ends} {moment(end)}", todo)
