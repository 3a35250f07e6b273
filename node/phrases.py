"""Sizes, times and foreign text in a form for people."""

import datetime
import unicodedata


def clean(text: object) -> str:
    """Text from a file or a peer, safe for a terminal.

    Control characters, terminal escapes, and characters that are invisible or turn
    the direction of writing become U+FFFD; other spaces become plain ones.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        character
        if character.isprintable()
        else " "
        if unicodedata.category(character) == "Zs"
        else "\N{REPLACEMENT CHARACTER}"
        for character in shown
    )


def size(count: int) -> str:
    """Bytes for people: 14.7 MB; decimal units, as disks and networks count."""
    if count < 1000:
        return f"{count} B"
    value = count / 1000
    for unit in ("kB", "MB", "GB"):
        if value < 999.95:
            return f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """A time span for people: 0.8 s, 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def ratio(original: int, encoded: int) -> str:
    """The compression ratio, as in "2.2"; "-" when nothing was moved."""
    return f"{original / encoded:.1f}" if encoded else "-"


def moment(seconds: float | None) -> str:
    """A time (seconds since the epoch) on the clock of this machine; "never" for None."""
    if seconds is None:
        return "never"
    try:
        local = datetime.datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):
        # A peer may have told us anything.
        return "in no year of the calendar"
    return local.strftime("%Y-%m-%d %H:%M:%S")


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 study, 3 studies."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
