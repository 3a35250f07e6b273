"""Operations on what is shared: sharing rules, and sharing or withdrawing what matches a search."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

from keys import sharing
from keys.sharing import BY_HAND, FROM_PEER, SHARING_EFFECTS, SharingRule, decide
from keys.trust import Peer
from node.app import Node
from node.blocking import in_thread
from node.catalog.catalog import StudyRow
from node.catalog.matching import Matching, studies_matching
from node.catalog.rows import SHARED, WITHHELD
from node.catalog.sharing import effects_of_each, sources_of_each
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.images import change_sharing, run_work
from node.operations.parameters import From, Nothing

TRIED_DAYS = 90

MATCHES_NAMED = 20
"""Most studies that an answer names for each thing that it says of them."""


@dataclass(frozen=True)
class Words:
    """Parameters of `sharing.add`: the rule in words, such as `share`, `source=dimse:CT*`."""

    rule: tuple[str, ...]


@dataclass(frozen=True)
class OfRule:
    """Parameters of `sharing.remove`."""

    number: Annotated[int, From(1)]


@dataclass(frozen=True)
class Tried:
    """Parameters of `sharing.try`."""

    rule: tuple[str, ...]
    days: Annotated[int, From(1)] = TRIED_DAYS


@dataclass(frozen=True)
class Matched:
    """Parameters of `sharing.change`; "" is anything.

    With `shared`, the studies that match are shared, else withdrawn. `study_date` is one day, or
    two with `..` between, of which one may be missing. `confirmed` is the `digest` of an answer
    with `dry`: then something is done only if the same studies still match.
    """

    shared: bool
    accession_number: str = ""
    modality: str = ""
    study_date: str = ""
    source: str = ""
    peer: str | None = None
    confirmed: str | None = None
    dry: bool = False


def _shown(node: Node, rule: SharingRule) -> str:
    """A rule in words, with the names of facilities instead of their fingerprints."""
    text = str(rule)
    for peer in node.peers.store.peers:
        text = text.replace(f"{FROM_PEER}:{peer.fingerprint}", f"{FROM_PEER}:{peer.petname}")
    return text


def _describe(node: Node, rule: SharingRule) -> dict[str, Any]:
    return {"number": rule.number, "effect": rule.effect, "rule": _shown(node, rule)}


async def sharing_list(call: Call, asked: Nothing) -> Result:
    """The sharing rules."""
    rules = await in_thread(call.node.sharing_rules.all)
    return {"rules": [_describe(call.node, rule) for rule in rules]}


async def sharing_add(call: Call, asked: Words) -> Result:
    """Add a sharing rule."""
    rule = await in_thread(call.node.sharing_rules.add, asked.rule)
    return _describe(call.node, rule)


async def sharing_remove(call: Call, asked: OfRule) -> Result:
    """Remove a sharing rule."""
    rule = await in_thread(call.node.sharing_rules.remove, asked.number)
    return _describe(call.node, rule)


async def sharing_try(call: Call, asked: Tried) -> Result:
    """What a rule would have decided for the studies that came in the last days."""
    return await in_thread(_try, call.node, asked)


def _try(node: Node, asked: Tried) -> Result:
    rules = node.sharing_rules.all()
    rule = node.sharing_rules.read(asked.rule, max((one.number for one in rules), default=0) + 1)
    since = node.clock.now() - asked.days * 86_400
    rows = [row for row in node.catalog.studies() if row.received >= since]
    sources = sources_of_each(node.database, (row.study_uid for row in rows))
    counts: Counter[str] = Counter()
    for row in rows:
        brought, facts = _sources(row, sources), node.catalog.deciding.facts(row.study_uid)
        for when, tried in (("before", rules), ("after", (*rules, rule))):
            decided = decide(tried, brought, facts, row.received)
            counts[f"{decided.effect} {when}"] += 1
        counts["concerned"] += sharing.counts(rule, brought, facts, row.received)
        counts["missing"] += sharing.hangs_on_missing(rule, brought, facts, row.received)
    return {
        "rule": _shown(node, rule),
        "days": asked.days,
        "studies": len(rows),
        "concerned": counts["concerned"],
        "before": {effect: counts[f"{effect} before"] for effect in SHARING_EFFECTS},
        "after": {effect: counts[f"{effect} after"] for effect in SHARING_EFFECTS},
        "only_missing": counts["missing"],
    }


def _sources(row: StudyRow, sources: dict[str, list[str]]) -> Sequence[str]:
    # An earlier release did not keep who brought a study; what was fetched has an origin.
    return sources.get(row.study_uid) or (
        BY_HAND if row.origin == "local" else f"{FROM_PEER}:unknown",
    )


# --- all that match --------------------------------------------------------------------


def read_matching(asked: Matched) -> Matching:
    """The search by these parameters.

    Raises:
        NodeError: a date is malformed, or nothing narrows the search.
    """
    first, is_range, last = (part.strip() for part in asked.study_date.partition(".."))
    found = Matching(
        accession_number=asked.accession_number.strip(),
        modality=asked.modality.strip().upper(),
        first_date=_day(first),
        last_date=_day(last if is_range else first),
        source=asked.source.strip(),
    )
    if found.is_anything:
        raise NodeError(
            "it is not said which studies are meant",
            hint="name a study, or narrow the search: --modality, --date, --accession, --source",
            code=ExitCode.USAGE,
        )
    if found.last_date and found.first_date > found.last_date:
        raise NodeError("the last study date is before the first", code=ExitCode.USAGE)
    return found


def _day(text: str) -> str:
    if not text:
        return ""
    try:
        if re.fullmatch(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}", text) is None:
            raise ValueError
        return date.fromisoformat(text).strftime("%Y%m%d")
    except ValueError:
        raise NodeError(
            "the study date is not a day that there is",
            hint="write it 2026-01-31; several days are 2026-01-01..2026-01-31",
            code=ExitCode.USAGE,
        ) from None


async def sharing_change(call: Call, asked: Matched) -> Result:
    """Share all studies that match, except those that wait to be looked at; or withdraw all."""
    node, wanted, to_share = call.node, read_matching(asked), asked.shared

    def work(progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Result:
        peer = None if asked.peer is None else node.peers.find(asked.peer)
        source = node.sharing_rules.source(wanted.source)
        rows = studies_matching(node.database, _with_source(wanted, source))
        # Whoever shares a study that waits has looked at it: not so for a whole search.
        waiting = [row.study_uid for row in rows if row.to_check and to_share]
        apart = effects_of_each(node.database, (row.study_uid for row in rows))
        chosen = [
            row.study_uid
            for row in rows
            if not (row.to_check and to_share)
            and _changes(row, dict(apart.get(row.study_uid, ())), peer, to_share=to_share)
        ]
        digest = _digest(chosen)
        result = {
            "matching": len(rows),
            "chosen": len(chosen),
            "studies": chosen[:MATCHES_NAMED],
            "waiting": len(waiting),
            "digest": digest,
            "done": 0,
            "refused": [],
        }
        if asked.dry:
            return result
        if asked.confirmed is not None and asked.confirmed != digest:
            raise NodeError(
                "other studies match now than those that were confirmed; nothing was changed",
                hint="look at them again",
                code=ExitCode.BUSY,
            )
        return result | _do_all(node, chosen, peer, progress, cancelled, to_share=to_share)

    return await run_work(work, call.report, lambda done: {"done": done})


def _changes(row: StudyRow, apart: dict[bytes, str], peer: Peer | None, *, to_share: bool) -> bool:
    """Whether a study is not yet as it is to be; `apart` is what holds for single peers."""
    if peer is None:
        has_one = row.state == "shared" or SHARED in apart.values()
        return row.state != "shared" if to_share else has_one or bool(row.to_check)
    effect = apart.get(peer.facility_key, "")
    if not to_share:
        return effect != WITHHELD
    return effect == WITHHELD or (row.state != "shared" and effect != SHARED)


def _with_source(wanted: Matching, source: str) -> Matching:
    return Matching(**{**wanted.__dict__, "source": source})


def _digest(studies: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(studies).encode()).hexdigest()


def _do_all(
    node: Node,
    studies: Sequence[str],
    peer: Peer | None,
    progress: Callable[[Any], None],
    cancelled: Callable[[], bool],
    *,
    to_share: bool,
) -> Result:
    """Share or withdraw each; a withdrawal that cannot be written holds up none of the others."""
    refused: list[dict[str, str]] = []
    failure: NodeError | None = None
    done = 0
    for study in studies:
        if cancelled():
            break
        try:
            change_sharing(node, study, peer, to_share=to_share)
            done += 1
        except NodeError as error:
            if error.code in (ExitCode.REFUSED, ExitCode.NOT_FOUND):
                refused.append({"study": study, "why": error.message})
            elif to_share:
                raise
            else:
                failure = failure or error
        progress(done)
    if failure is not None:
        raise failure
    return {"done": done, "refused": refused}


OPERATIONS = (
    Operation("sharing.list", Nothing, sharing_list, writes=False, roles=("look", "admin")),
    Operation("sharing.add", Words, sharing_add, writes=True, roles=("admin",)),
    Operation("sharing.remove", OfRule, sharing_remove, writes=True, roles=("admin",)),
    Operation("sharing.try", Tried, sharing_try, writes=False, roles=("admin",)),
    Operation("sharing.change", Matched, sharing_change, writes=True, roles=("send", "admin")),
)
