"""Logs that report lost entries, and the unsigned files beside them."""

from bundles_made import CARD, Log, alert_event, fill, init_event
from bundles_tampered import rebuilt

from protocol.log.entry import Event

HELD, SHOWN = "checkpoints/12", "checkpoints/9"


def lossy(held=12, shown=9, after=5, **details):
    """A log of nine entries that had been signed with twelve others, reports it, and continues."""
    log = fill(Log().add(init_event()), range(1, 9))
    log.add(alert_event(rebuilt(), held, shown, **details))
    for number in range(after):
        log.add(Event(type="ingest", details={"instances": number}))
    return log.sign()


def with_files(log):
    """The same log, and beside it the unsigned files about what it lost."""
    other = rebuilt().sign(12).sign(9)
    log.extra = [
        ("witnessed/1/held", other.checkpoints[HELD].encode()),
        ("witnessed/1/shown", other.checkpoints[SHOWN].encode()),
        ("witnessed/1/card", CARD.encoded),
    ]
    return log
