"""The outcome of a comparison, for people and for programs."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from protocol.reconcile import DIFFERENCES, Class, Comparison, Finding
from protocol.reconcile_bundles import Outcome
from protocol.verify import Code, Verdict

MEANINGS = {
    Class.MATCHED: "in both logs, with the same receipt",
    Class.ONLY_A: "in A's log alone",
    Class.ONLY_B: "in B's log alone",
    Class.MISMATCH: "in both logs, which differ or lack a receipt",
    Class.BROKEN_OFF: "begun and never arrived, as both logs say",
    Class.NOT_YET: "too new for the other log, or under way",
}

LIMITS = (
    "an exchange that neither node logged is in neither log",
    "each log's own limits: see `radmesh audit verify`",
)
"""Notes about what a comparison of two logs cannot show."""


LOST_HEADLINE = "LOST: nothing else differs, and a log lacks entries that had been signed"


def lost_lines(lost: Iterable[str]) -> list[str]:
    """What is known about lost entries, one line each."""
    return [f"  LOST        {each}" for each in lost]


def outcome_lines(outcome: Outcome) -> list[str]:
    """The outcome for two bundles, one line each, without line ends."""
    comparison = outcome.comparison
    lines = [f"CANNOT TELL: {outcome.reason}"] if comparison is None else [headline(comparison)]
    if _word(outcome) == "lost":
        lines = [LOST_HEADLINE]
    for name, verdict in (("A", outcome.verdict_a), ("B", outcome.verdict_b)):
        lines.append(f"  {name}  {_log(verdict)}")
    if comparison is not None:
        lines += comparison_lines(comparison)
    return lines


def _word(outcome: Outcome) -> str:
    if outcome.comparison is not None and outcome.exit_code and not outcome.comparison.differences:
        return "lost"
    return {0: "agreed", 1: "differences", 2: "cannot tell"}[outcome.exit_code]


def headline(comparison: Comparison) -> str:
    """The outcome in one line."""
    total = len(comparison.findings)
    disclosures = f"{total:,} disclosure{'' if total == 1 else 's'}"
    if comparison.differences:
        return f"DIFFERENCES: {comparison.differences:,} of {disclosures}"
    return f"AGREED: no difference in {disclosures}"


def comparison_lines(comparison: Comparison) -> list[str]:
    """Counts, the disclosures named one by one, and what the comparison does not cover."""
    lines = [
        f"  {kind:<10}  {count:,} {MEANINGS[kind]}"
        for kind, count in comparison.counts.items()
        if count
    ]
    named = sorted(comparison.named(), key=lambda one: one.kind not in DIFFERENCES)
    if named:
        lines.append("not matched:")
        lines += [f"  - {finding_line(finding)}" for finding in named]
    lines.append("what this does not cover:")
    lines += [f"  - {limit}" for limit in LIMITS]
    return lines


def finding_line(finding: Finding) -> str:
    """One disclosure in one line."""
    way = "A to B" if finding.source == "A" else "B to A"
    places = [
        f"entry {entry} of {name} at {_time(time)}"
        for name, entry, time in (
            ("A", finding.entry_a, finding.time_a),
            ("B", finding.entry_b, finding.time_b),
        )
        if entry is not None
    ]
    differs = f", differs in {', '.join(finding.fields)}" if finding.fields else ""
    return f"{finding.kind}: {way}, transfer {finding.transfer}, {'; '.join(places)}{differs}"


def comparison_json(comparison: Comparison, *, everything: bool = False) -> dict[str, Any]:
    """The comparison as JSON values; with `everything`, also lists matched disclosures."""
    chosen = comparison.findings if everything else comparison.named()
    return {
        "disclosures": len(comparison.findings),
        "differences": comparison.differences,
        "counts": {str(kind): count for kind, count in comparison.counts.items()},
        "named": [
            {
                "class": str(finding.kind),
                "source": finding.source,
                "transfer": finding.transfer,
                "fields": list(finding.fields),
                "receipt": finding.receipt,
                "entry_a": finding.entry_a,
                "entry_b": finding.entry_b,
                "time_a": _time(finding.time_a),
                "time_b": _time(finding.time_b),
            }
            for finding in chosen
        ],
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome for two bundles as JSON values."""
    compared = {} if outcome.comparison is None else comparison_json(outcome.comparison)
    return {
        "outcome": _word(outcome),
        "reason": outcome.reason,
        "a": _log_json(outcome.verdict_a),
        "b": _log_json(outcome.verdict_b),
        **compared,
    }


def _log(verdict: Verdict) -> str:
    if not verdict.sound:
        head = "cannot tell" if verdict.sound is None else "not sound"
        head = f"{verdict.name or 'unknown facility'}: {head} ({verdict.code})"
        if verdict.code != Code.LOST:
            return head
        return f"{head}, {verdict.size:,} entries, to {verdict.last_time}"
    return f"{verdict.name}: sound, {verdict.size:,} entries, to {verdict.last_time}"


def _log_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "facility": verdict.name,
        "origin": verdict.origin,
        "sound": verdict.sound,
        "code": str(verdict.code),
        "reason": verdict.reason,
        "size": verdict.size,
        "root": verdict.root,
        "last_time": verdict.last_time,
    }


def _time(time: int | None) -> str:
    if time is None:
        return ""
    moment = datetime.fromtimestamp(time / 1000, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"
