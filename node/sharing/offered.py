"""One offer of a study: what it is, what it lets a peer do, and its entries in the log."""

from collections.abc import Callable
from dataclasses import dataclass

from keys.purposes import BREAK_GLASS, is_purpose
from keys.rules import ON_REQUEST, Rule
from keys.trust import Peer
from node.callers import SEPARATOR
from node.errors import ExitCode, NodeError
from protocol import limits
from protocol.log.entry import Event, subjects_of
from protocol.offers import ACCEPTED, DECLINED

OUT, IN = "out", "in"
OFFERED, ENDED = "offered", "ended"
OPEN = (OFFERED, ACCEPTED)

DEFAULT_DAYS = 7
KEPT_SECONDS = 30 * 24 * 3600
"""How long an offer that is over is still listed, after the end that it was made with."""

OFFERS_KEPT = 1000
"""Offers of one peer that are listed at most; the oldest that are over are forgotten first."""

DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class StudyOffered:
    """One offer, as `OFFERS_SCHEMA` keeps it."""

    number: int
    direction: str
    peer: bytes
    offer: bytes
    study: str
    purpose: str
    message: str
    made: int
    until: int
    state: str = OFFERED
    told: str = ""
    fetched: int = 0
    series: int = 0
    instances: int = 0
    bytes: int = 0
    modalities: str = ""
    study_date: str = ""
    person: str = ""
    role: str = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody has ended or declined it; its time may be over all the same."""
        return self.state in OPEN


def require_fit(purpose: str, message: str, now: int, until: int) -> None:
    """Check what a person says with an offer.

    Raises:
        NodeError: it makes no sense.
    """
    if purpose == BREAK_GLASS:
        raise NodeError(
            f"the purpose {BREAK_GLASS} is for whoever asks in an emergency, not for an offer",
            hint="name another purpose: the offer by itself lets the other side have the study",
            code=ExitCode.USAGE,
        )
    if not is_purpose(purpose):
        raise NodeError(
            f"there is no purpose {purpose}",
            hint="name one such as treatment, second-opinion, or a code of HL7 such as TREAT",
            code=ExitCode.USAGE,
        )
    if len(message) > limits.OFFER_CHARACTERS or not all(
        ord(character) >= 0x20 and ord(character) != 0x7F for character in message
    ):
        raise NodeError(
            f"a message is one line of at most {limits.OFFER_CHARACTERS} characters",
            hint="a report belongs to the study, not to the offer",
            code=ExitCode.USAGE,
        )
    if not now < until <= now + limits.OFFER_DAYS * DAY_SECONDS:
        raise NodeError(
            f"an offer ends within {limits.OFFER_DAYS} days, and not in the past",
            hint="give the peer a rule (`radmesh trust rule add`) for something lasting",
            code=ExitCode.USAGE,
        )


def is_due(one: StudyOffered) -> bool:
    """Whether the other side should hear how an offer stands.

    An offer that waits for an answer is due at each connection: the other side may have lost it.
    """
    if one.direction == IN:
        return one.state in (ACCEPTED, DECLINED) and one.told != one.state
    return one.state == OFFERED or (one.state == ENDED and one.told != ENDED)


def rules_of(offered: StudyOffered, blind: Callable[[str, str], str]) -> tuple[Rule, ...]:
    """What an open offer lets the peer do: fetch this study alone, for this purpose.

    `blind` makes the form in which rules keep studies, see `keys.conditions`.
    """
    name = f"offer {offered.number}"
    of_study = {"study": (blind("study", offered.study),)}
    return (
        Rule(name, "see", conditions=of_study, until=offered.until, shows=ON_REQUEST),
        Rule(
            name,
            "fetch",
            conditions={**of_study, "purpose": (offered.purpose,)},
            until=offered.until,
        ),
    )


def made_event(
    offered: StudyOffered, peer: Peer, patients: tuple[str, ...], door: str = ""
) -> Event:
    """The entry of an offer of ours, by a person or a door."""
    return Event(
        type="offered",
        actor="node" if door else "operator",
        peer=peer.facility_key,
        purpose=offered.purpose,
        subjects=(*subjects_of(offered.study, patients), *_said(offered)),
        details={
            **_names(offered),
            "until": offered.until,
            "rights": peer.rights_digest,
            **({"door": door} if door else {}),
        },
    )


def heard_event(offered: StudyOffered, peer: Peer) -> Event:
    """The entry of an offer of a peer."""
    return Event(
        type="offer-heard",
        actor=peer.fingerprint,
        peer=peer.facility_key,
        purpose=offered.purpose,
        subjects=(("study", offered.study), *_said(offered)),
        details={**_names(offered), "until": offered.until},
    )


def answered_event(changed: StudyOffered, rule: str, actor: str) -> Event:
    """The entry of an answer, by a rule of ours or a person ("")."""
    details = {**_names(changed), "direction": changed.direction, "answer": changed.state}
    if rule:
        details["rule"] = rule
    return Event(
        type="offer-answered",
        actor=actor,
        peer=changed.peer,
        purpose=changed.purpose,
        subjects=(("study", changed.study),),
        details=details,
    )


def ended_event(known: StudyOffered, why: str) -> Event:
    """The entry of an end: by a `person`, the `peer` or the `date`."""
    return Event(
        type="offer-ended",
        actor="operator" if why == "person" else "node",
        peer=known.peer,
        purpose=known.purpose,
        subjects=(("study", known.study),),
        details={**_names(known), "direction": known.direction, "why": why},
    )


def _names(offered: StudyOffered) -> dict[str, str | int | bool]:
    return {"number": offered.number, "offer": offered.offer.hex()}


def _said(offered: StudyOffered) -> tuple[tuple[str, str], ...]:
    """What a person wrote; and of an offer of a peer, who that is by its word."""
    message = (("message", offered.message),) if offered.message else ()
    if offered.direction == OUT or not (offered.person or offered.role):
        return message
    return (("asker", SEPARATOR.join((offered.person, offered.role, ""))), *message)
