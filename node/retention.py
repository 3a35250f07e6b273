"""What this node keeps about people: where, for what, who reads it, and for how long.

One table. `radmesh retention` shows it, and deletes what was kept for long enough; the inventory in
docs/data-protection.md is compared with it. A test compares it with the tables of the databases, so
that none is forgotten. Nothing goes by itself: without a setting all is kept as long as the last
column says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from node.app import Node
from node.audit.erasing import erase
from node.audit.erasure import BEFORE
from node.audit.times import first_since
from protocol.log.entry import Event, format_time

_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Ageing:
    """How rows go by age; times in milliseconds since the epoch, UTC.

    Attributes:
        days: gives the days that they are kept, 0 for ever.
        due: counts those that are older than a time.
        apply: deletes them, each act after its entry; gives the indices of the entries.
    """

    days: Callable[[Node], int]
    due: Callable[[Node, int], int]
    apply: Callable[[Node, int], list[int]]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One row: something that is kept about people.

    Attributes:
        name: a word for it.
        holds: what of whom.
        place: where it is, in the home.
        purpose: for what it is kept.
        readers: who reads it.
        kept: for how long.
        setting: the setting that says how long; "" if none does.
        tables: tables of the databases that hold it.
        ageing: how it goes by age; None if it does not.
    """

    name: str
    holds: str
    place: str
    purpose: str
    readers: str
    kept: str
    setting: str = ""
    tables: tuple[str, ...] = ()
    ageing: Ageing | None = None


def _due_openings(node: Node, before_ms: int) -> int:
    index = first_since(node.audit, before_ms)
    return node.audit.evidence.erasures.count(BEFORE, str(index), node.audit.size)[0]


def _erase_openings(node: Node, before_ms: int) -> list[int]:
    index = first_since(node.audit, before_ms)
    _, entry, _ = erase(node.audit, BEFORE, str(index), node.forget)
    return [entry]


def _transfers_days(node: Node) -> int:
    """The list must not say of what an old entry is when its openings have gone."""
    kept = node.settings.retention
    return min(filter(None, (kept.transfers_days, kept.openings_days)), default=0)


def _forget_transfers(node: Node, before_ms: int) -> list[int]:
    details: dict[str, str | int | bool] = {
        "what": "transfers",
        "count": node.transfers.ended_before(before_ms),
        "before": format_time(before_ms),
    }
    event = Event(type="retention-applied", actor="operator", details=details)
    entry = node.audit.append(event)
    node.transfers.forget_ended_before(before_ms)
    return [entry]


RETENTION = (
    Kept(
        name="images",
        holds="the studies: patients, referring physicians, operators, as the images name them",
        place="store/, node.db",
        purpose="care and the other purposes for which they came",
        readers="people of the facility; peers by their rules",
        kept="until they are discarded (`radmesh discard STUDY --reason retention`)",
        tables=(
            "studies", "study_patients", "study_values", "unread_studies", "series", "batches",
            "study_batches", "instances", "conflicts", "discards", "leftover_batches",
            "study_words", "study_sources", "peer_sharing", "indexed_studies", "foreign_studies",
        ),
    ),
    Kept(
        name="arrivals",
        holds="images that were handed over and are not packed yet",
        place="arrivals/",
        purpose="to survive a crash before they are packed",
        readers="the node",
        kept="until they are packed, some minutes",
    ),
    Kept(
        name="dicomweb",
        holds="the headers of images of which a viewer asked for the metadata",
        place="dicomweb/",
        purpose="to answer the next viewer at once",
        readers="the node",
        kept="until the study changes or is discarded; of all of it the latest 1 GiB",
    ),
    Kept(
        name="incoming",
        holds="parts of studies that are on their way here",
        place="incoming/",
        purpose="to go on with a transfer that broke off",
        readers="the node",
        kept="until the transfer is complete; of a cancelled one for 7 days",
    ),
    Kept(
        name="quarantine",
        holds="files and versions of images that were not taken in",
        place="quarantine/, store/",
        purpose="to repair what was wrong with them",
        readers="the owner of the home",
        kept="until an operator drops or takes them, or for the days of the setting",
        setting="retention.quarantine_days",
        ageing=Ageing(
            lambda node: node.settings.retention.quarantine_days,
            lambda node, before: sum(one.time * 1000 < before for one in node.set_aside.all()),
            lambda node, before: [
                done.entry for done in node.set_aside.drop_older(-(-before // 1000))
            ],
        ),
    ),
    # Before the openings: an act that a crash cuts short must not leave what says whose they were.
    Kept(
        name="transfers",
        holds="which studies went where, why, when and for whom, also requests that were refused",
        place="node.db",
        purpose="to see and to resume transfers",
        readers="people of the facility",
        kept="for ever, or for the days of the setting after its end; never longer than openings",
        setting="retention.transfers_days",
        tables=("transfers",),
        ageing=Ageing(
            _transfers_days,
            lambda node, before: node.transfers.ended_before(before),
            _forget_transfers,
        ),
    ),
    Kept(
        name="openings",
        holds="patients, studies, people and deciding facts of each entry of the log",
        place="audit/evidence.db",
        purpose="accounting of disclosures, and to prove what was done",
        readers="people of the facility; an auditor, if they are exported",
        kept="for ever, or for the days of the setting; until they are erased"
        " (`radmesh audit erase`)",
        setting="retention.openings_days",
        tables=("openings", "erasures", "erasing"),
        ageing=Ageing(
            lambda node: node.settings.retention.openings_days, _due_openings, _erase_openings
        ),
    ),
    Kept(
        name="log",
        holds="what was done, when and with which facility; commitments in place of names",
        place="audit/",
        purpose="to prove what was done",
        readers="people of the facility, auditors; witnesses see sizes and digests",
        kept="for ever: taking an entry out would be a forgery",
        tables=(
            "exchange_entries", "exchanges", "exchange_receipts", "exchanges_read", "effects",
            "effects_compared", "forwarded",
        ),
    ),
    Kept(
        name="receipts",
        holds="digests, sizes and purposes of the transfers that both sides signed, and whether the"
        " archive has what arrived; no name",
        place="audit/evidence.db, node.db",
        purpose="to prove that a study arrived, and was stored",
        readers="people of the facility, auditors",
        kept="as long as the log",
        tables=(
            "receipts", "receipts_kept", "receipt_answers", "stored_contents", "stored_statements",
        ),
    ),
    Kept(
        name="announced",
        holds="which studies a peer has: UID, date, kinds; names only where the peer shows them",
        place="node.db",
        purpose="to find and to fetch studies",
        readers="people of the facility",
        kept="until the peer withdraws them, or trust in it ends",
        tables=("remote_feeds", "remote_studies", "remote_words"),
    ),
    Kept(
        name="found",
        holds="studies of a patient that a search found at a peer, and the patient as we asked",
        place="node.db",
        purpose="to fetch what was found",
        readers="people of the facility",
        kept="24 hours, or until the peer withdraws them, or trust in it ends",
        tables=("found_studies",),
    ),
    Kept(
        name="questions",
        holds="when a peer searched for a patient, not for whom",
        place="node.db",
        purpose="to keep to the number of searches of a peer",
        readers="the node",
        kept="24 hours, then until somebody asks again",
        tables=("find_questions",),
    ),
    Kept(
        name="told",
        holds="which studies a peer was told of",
        place="node.db",
        purpose="to tell it of changes, and no study twice",
        readers="the node",
        kept="as long as the study is here and the peer trusted, and of one that was withdrawn, so"
        " that the peer is told",
        tables=("feed_heads", "feed"),
    ),
    Kept(
        name="recalls",
        holds="studies that a peer recalled, and why",
        place="node.db",
        purpose="to have somebody act on it, once",
        readers="people of the facility",
        kept="until openings of the study are erased",
        tables=("recalls",),
    ),
    Kept(
        name="followed",
        holds="studies whose growth is fetched from their source",
        place="node.db",
        purpose="to fetch what is new",
        readers="the node",
        kept="7 days at most, and when it grew until openings of the study are erased",
        tables=("followed_sources", "followed_studies"),
    ),
    Kept(
        name="peers",
        holds="facilities and their rules; lists of patients and physicians only as keyed digests",
        place="node.db",
        purpose="to decide what a peer may do",
        readers="people of the facility; of a rule the peer itself, if it points at nobody",
        kept="for ever, as the log does; its postal address until it is taken away",
        tables=("peers", "contests", "rule_key", "grants_told", "grants_heard", "sharing_rules"),
    ),
    Kept(
        name="wishes",
        holds="patients who object to the exchange of their studies, or consent to it",
        place="node.db",
        purpose="to keep to what they want, also for studies that come later",
        readers="people of the facility",
        kept="for ever, also when it has ended",
        tables=("patient_wishes",),
    ),
    Kept(
        name="offers",
        holds="which studies were offered to whom and by whom, why, and what a person wrote",
        place="node.db",
        purpose="to let the other side fetch the study, and to have somebody decide on it",
        readers="people of the facility; the other facility",
        kept="30 days after its end, at most 1,000 of a peer, or until openings of the study are"
        " erased; what a person wrote until it is declined or ended",
        tables=("offers",),
    ),
    Kept(
        name="requests",
        holds="requests of peers that a person had to approve: study, and until it is over who"
        " asked and why",
        place="node.db",
        purpose="to have somebody decide, and to let one transfer go on",
        readers="people of the facility with the role look, approve or admin",
        kept="until openings of the study are erased",
        tables=("requests",),
    ),
    Kept(
        name="emergencies",
        holds="studies that were asked for in an emergency, and until it is reviewed by whom and"
        " why",
        place="node.db",
        purpose="to have a person review each",
        readers="people of the facility with the role look, audit or admin",
        kept="until it is reviewed, and openings of the study are erased; the study and who asked"
        " never longer than these openings",
        tables=("emergencies",),
    ),
    Kept(
        name="legal holds",
        holds="studies that must not be deleted, and the matter in a person's words",
        place="node.db",
        purpose="to keep what a court or an authority may ask for",
        readers="people of the facility with the role look or admin",
        kept="until the hold is lifted",
        tables=("study_holds",),
    ),
    Kept(
        name="door studies",
        holds="studies that came in to be offered to another facility, and are not yet",
        place="node.db",
        purpose="to offer them when all of it is here",
        readers="people of the facility with the role look or admin",
        kept="until it is offered, at most a week, or until openings of the study are erased",
        tables=("door_studies",),
    ),
    Kept(
        name="commitments",
        holds="images (UIDs) whose storage was asked for: of archives, and by systems of the"
        " facility",
        place="node.db",
        purpose="to report on them, and to know what an archive has stored",
        readers="the node",
        kept="until it is reported, at most a week; what archives were asked for a week; never"
        " longer than openings of the study",
        tables=("commitments", "commitment_requests"),
    ),
    Kept(
        name="archive studies",
        holds="which studies and images went to which archive of the facility, and its answers",
        place="node.db",
        purpose="to send each once, and to know what is proven stored",
        readers="people of the facility with the role look, send or admin",
        kept="as long as the study is here; of one that is gone until its openings are erased",
        tables=("archive_studies", "archive_instances"),
    ),
    Kept(
        name="matches",
        holds="which patient here a study from elsewhere is of: Patient ID, and name, birth date,"
        " sex and accession number if they were given",
        place="node.db",
        purpose="to send the study to an archive here under the right patient",
        readers="people of the facility with the role look, send or admin",
        kept="as long as the study is here, or until openings of the study are erased",
        tables=("study_matches", "matched_patients"),
    ),
    Kept(
        name="people",
        holds="people of the facility: name, user of the machine and its number, roles, and what"
        " they proposed",
        place="node.db",
        purpose="to decide what each may do, and to say who did it",
        readers="people of the facility with the role admin",
        kept="until they are taken out of the list (`radmesh people remove`); proposals for ever,"
        " without what they were about once they are over",
        tables=("people", "people_bindings", "people_before", "two_person_rules", "proposals"),
    ),
    Kept(
        name="budgets",
        holds="how much each facility asked for, and refusals that are not logged one by one",
        place="memory",
        purpose="to bound what a peer may cause",
        readers="people of the facility",
        kept="a day; counts of refusals an hour, then as one entry of the log",
    ),
)  # fmt: skip
"""One row for each kind of record. Rows that go by age go in this order."""

WITHOUT_PEOPLE: Mapping[str, str] = {
    "witnessed": "sizes and digests of the logs of other facilities",
    "own_checkpoints": "sizes and digests of our log",
    "own_cosignatures": "signatures of other facilities under them",
    "log_alerts": "logs that contradict what they had signed",
    "notices_told": "of which states mail and webhook have told: numbers and words",
    "notices_unsent": "notices that are to be sent: numbers and words",
}
"""Tables that hold nothing about people: table to what it holds."""


def cut_of(node: Node, days: int) -> int:
    """The time before which something that is kept for so many days goes; milliseconds, UTC."""
    return max(0, node.clock.now_ms() - days * _DAY_MS)
