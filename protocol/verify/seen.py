"""When witnesses saw the log, compared with now and with the times in its entries.

Nobody signs that a node's clock is right. A cosignature has the time of the witness's
clock: an entry that the witness saw was not written later, and an entry that was missing
was not written earlier.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from protocol.verify.evidence import Evidence
from protocol.verify.moments import age_words, entry_seconds, moment_words
from protocol.verify.policy import Policy
from protocol.verify.verdict import Code, Finding
from protocol.verify.witnesses import Cosigned, missing_quorum

TOLERANCE_SECONDS = 600
"""Allowed difference: clocks differ, and cosignatures are requested minutes after an entry."""


def newest(cosigned: Iterable[Cosigned]) -> Cosigned | None:
    """The newest cosignature; None if there is none."""
    return max(cosigned, key=lambda each: (each.time, each.size), default=None)


def seen_words(last: Cosigned | None, now: int | None) -> str:
    """When the auditor's witnesses last saw the log; "" if never."""
    if last is None:
        return ""
    ago = "" if now is None else f" {age_words(now - last.time)} ago:"
    return f"by your witnesses{ago} {last.size:,} entries at {last.moment}"


def too_old(
    evidence: Evidence, policies: Sequence[Policy], whole: Sequence[Cosigned], last: Cosigned | None
) -> Finding | None:
    """OLD if witnesses did not see the log as recently as the auditor requires.

    Args:
        evidence: the auditor's own evidence.
        policies: enough witnesses for each of these must have seen the log that recently.
        whole: the cosignatures of the auditor's witnesses at the full size.
        last: their newest cosignature at any size; it counts if no policy has a quorum.
    """
    most, now = evidence.not_older_than, evidence.now
    if most is None or now is None:
        return None
    asking = [policy for policy in policies if policy.quorum]
    last_time = None if last is None else last.time
    if asking:
        times = sorted({each.time for each in whole}, reverse=True)
        enough = (time for time in times if _is_enough(asking, whole, time))
        last_time = next(enough, None)
    if last_time is not None and now - last_time <= most:
        return None
    asked = f"you asked for at most {age_words(most)} ago"
    if last_time is None:
        reason = f"no witness that you named is known to have seen the log, and {asked}"
    else:
        reason = (
            f"your witnesses saw the log last {age_words(now - last_time)} ago, at "
            f"{moment_words(last_time)}, and {asked}: what followed may have been kept back"
        )
    return Finding(Code.OLD, None, reason)


def _is_enough(policies: Iterable[Policy], whole: Sequence[Cosigned], since: int) -> bool:
    lately = [each for each in whole if each.time >= since]
    signers = {key for policy in policies for key in policy.logs}
    return all(missing_quorum(policy, signers, lately) is None for policy in policies)


def time_notes(
    cosigned: Iterable[Cosigned], times: Mapping[int, str], *, entry: int | None = None
) -> Iterator[str]:
    """Contradictions between the times of entries and of cosignatures.

    Args:
        cosigned: cosignatures of the auditor's witnesses.
        times: index to time, for some entries; the entries just before and after each
            cosigned size are compared.
        entry: for a proof, the index of the one entry whose time `times` gives for every
            cosigned size.
    """
    late: list[tuple[float, str]] = []
    early: list[tuple[float, str]] = []
    for each in cosigned:
        saw = f"{each.witness.label} saw the first {each.size:,} entries at {each.moment}"
        inside, outside = times.get(each.size - 1), times.get(each.size)
        if inside is not None and (gap := entry_seconds(inside) - each.time) > TOLERANCE_SECONDS:
            place = each.size - 1 if entry is None else entry
            late.append((gap, f"entry {place} is dated {inside}, and {saw}, before that"))
        if outside is not None and (gap := each.time - entry_seconds(outside)) > TOLERANCE_SECONDS:
            early.append((gap, f"entry {each.size} is dated {outside}, and {saw}, without it"))
    for found in (late, early):
        if found:
            yield f"times that do not go together ({len(found):,}): {max(found)[1]}"
