"""What a facility lets another have, said a second time: from the entries of its log alone.

Nothing of `keys` or `node` decides here. The words are those of docs/operations.md section 5, said
as plainly as possible and without a thought for speed. What a study is, its UID tells.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.log.entry import Event

DAY_MS = 24 * 3600 * 1000
REVIEW_SECONDS = 72 * 3600
BREAK_GLASS = "BTG"

COVERED_BY = {
    "treatment": {"treatment", "TREAT"},
    "research": {"research", "HRESCH"},
    BREAK_GLASS: {BREAK_GLASS},
    "": set[str](),
}
"""A purpose to the words of a rule that are for it."""


def modality_of(study: str) -> str:
    """The modality of a study (UID) of a simulation."""
    return ("CT", "MR")[int(study.rpartition(".")[2]) % 2]


def patient_of(study: str) -> str:
    """The Patient ID of a study (UID) of a simulation."""
    return f"MARKER-PATIENT-{int(study.rpartition('.')[2]) // 2 % 2}"


@dataclass(frozen=True)
class Asked:
    """What a peer asks for.

    Attributes:
        study: UID.
        purpose: as in the request.
        transfer: its name, hex.
        asker: name, role and reason as the entries have them; "" for nobody.
    """

    study: str
    purpose: str
    transfer: str = ""
    asker: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the rules say: "yes", "ask" or "no", and why not; `names` of the rules that allow."""

    kind: str
    why: str = ""
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Wait:
    """A request that a person is asked about; state as in `radmesh requests`, `until` an approval's
    end, seconds since the epoch."""

    number: int
    asked: Asked
    rule: str
    state: str = "waiting"
    until: int = 0


@dataclass(frozen=True)
class Offered:
    """An offer that stands until a time (seconds since the epoch)."""

    peer: bytes
    study: str
    purpose: str
    until: int


@dataclass(frozen=True)
class Glass:
    """An emergency access by the log of one side; `begun` in seconds since the epoch."""

    direction: str
    peer: bytes
    transfer: str
    begun: int
    is_reviewed: bool = False


@dataclass(frozen=True)
class Begun:
    """A disclosure that has begun."""

    time_ms: int
    peer: bytes
    study: str
    size: int
    purpose: str


@dataclass
class Standing:
    """All that decides what peers may have, up to one entry of a log.

    Attributes:
        over_objections, rests: the settings for emergencies.
        cards: peer (facility key) to the end of its card, seconds since the epoch.
        grants: peer to its grants; only trusted peers are in it.
        rules: peer to its rules by number, as the entries have them.
        shared: study (UID) that is here to whether it is shared.
        objections: number to peer (b"" for all), Patient ID and use.
        waits: peer and transfer (hex) to what was asked.
        offers: number to an offer of ours.
        glass: direction and number to an emergency access.
    """

    over_objections: bool = True
    rests: bool = False
    cards: dict[bytes, int] = field(default_factory=dict)
    grants: dict[bytes, frozenset[str]] = field(default_factory=dict)
    rules: dict[bytes, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    shared: dict[str, bool] = field(default_factory=dict)
    objections: dict[int, tuple[bytes, str, str]] = field(default_factory=dict)
    waits: dict[tuple[bytes, str], Wait] = field(default_factory=dict)
    offers: dict[int, Offered] = field(default_factory=dict)
    glass: dict[tuple[str, int], Glass] = field(default_factory=dict)

    def copy(self) -> "Standing":
        """A copy that later entries do not change."""
        values = {
            name: dict(one) if isinstance(one, dict) else one for name, one in vars(self).items()
        }
        values["rules"] = {peer: dict(rules) for peer, rules in self.rules.items()}
        return Standing(**values)

    # --- what is decided ---------------------------------------------------------------

    def decide(self, peer: bytes, asked: Asked, used: Mapping[str, int], now: int) -> Verdict:
        """Whether a peer may have what it asks for.

        Args:
            peer: its facility key.
            asked: what it asks for.
            used: what it has used of each limit, with this study.
            now: seconds since the epoch.
        """
        if peer not in self.grants:
            return Verdict("no", "it is not trusted")
        wait = self.waits.get((peer, asked.transfer))
        if wait is not None and wait.state == "denied":
            return Verdict("no", "it was denied")
        is_emergency = asked.purpose == BREAK_GLASS
        found, to_ask = [], False
        for action in ("emergency",) if is_emergency else ("fetch", "see"):
            # Nobody asks to see: a rule to see has no purpose.
            purpose = asked.purpose if action != "see" else ""
            every = list(self._rules(peer, action, now, also_ended=True))
            counting = dict(self._rules(peer, action, now))
            # An approval answers its rule, and those that stand before it.
            answered = [
                place
                for place, (name, _) in enumerate(every, 1)
                if _is_approved(wait, name, asked, now)
            ]
            rules = [
                (place, name, rule)
                for place, (name, rule) in enumerate(every, 1)
                if name in counting and _is_for(rule, asked.study, purpose)
            ]
            if any(rule["effect"] == "deny" for _, _, rule in rules):
                return Verdict("no", f"a rule denies {action}")
            letting = [one for one in rules if one[2]["effect"] in ("allow", "ask")]
            if not letting:
                return Verdict("no", f"no rule allows {action}")
            within = [
                one
                for one in letting
                if all(used[limit] <= most for limit, most in one[2].get("limits", {}).items())
            ]
            if not within:
                return Verdict("no", "the limit is used up")
            asking = [one for one in within if one[2]["effect"] == "ask"]
            allowing = [one for one in within if one[2]["effect"] == "allow"]
            found.append([(name, rule) for _, name, rule in allowing or asking[:1]])
            to_ask |= any(place > max(answered, default=0) for place, _, _ in asking)
        names = frozenset(
            name
            for name, rule in found[0]
            if self.shared.get(asked.study) or rule.get("withheld") is True
        )
        if asked.study not in self.shared or not names:
            return Verdict("no", "the study is not shared")
        goes_over = is_emergency and self.over_objections
        if not goes_over and self.is_objected(
            peer, asked.study, asked.purpose, now, by_offers=True
        ):
            return Verdict("no", "the patient objects")
        if to_ask:
            return Verdict("ask", "nobody has approved it", names)
        return Verdict("yes", "", names)

    def sees(self, peer: bytes, study: str, now: int) -> bool:
        """Whether a peer is told of a study by itself."""
        rules = [one for _, one in self._rules(peer, "see", now) if _is_for(one, study, "")]
        return (
            peer in self.grants
            and self.shared.get(study, False)
            and all(rule["effect"] == "allow" for rule in rules)
            and any(rule.get("shows") != "on-request" for rule in rules)
            and not self.is_objected(peer, study, "", now)
        )

    def is_objected(
        self, peer: bytes, study: str, purpose: str, now: int, *, by_offers: bool = False
    ) -> bool:
        """Whether the patient objects to this use, or to that for which the peer is told of it.

        That is research for who may ask for research alone, and else care; with `by_offers`, what
        is offered counts as well.
        """
        may_ask_for: set[str] = set()
        for action in ("find", "fetch", "emergency"):
            for name, rule in self._rules(peer, action, now):
                if rule["effect"] == "deny" or (rule["effect"] == "ask" and action != "fetch"):
                    continue
                if name.startswith("offer ") and not by_offers:
                    continue
                purposes = rule.get("conditions", {}).get("purpose", ("treatment", "research"))
                may_ask_for |= {_use_of(one) for one in purposes}
        told = "research" if may_ask_for == {"research"} else "care"
        uses = {"all", told, _use_of(purpose) if purpose else told}
        return any(
            against in (b"", peer) and patient == patient_of(study) and use in uses
            for against, patient, use in self.objections.values()
        )

    def rest_of(self, peer: bytes, transfer: str, now: int) -> bool:
        """Whether a peer has no emergency access, since nobody has reviewed an earlier one."""
        open_ones = [
            one
            for one in self.glass.values()
            if (one.direction, one.peer, one.is_reviewed) == ("out", peer, False)
        ]
        if not self.rests or any(one.transfer == transfer for one in open_ones):
            return False
        return any(one.begun + REVIEW_SECONDS <= now for one in open_ones)

    def digest(self, peer: bytes) -> str:
        """The digest of a peer's rights, as docs/protocol-log.md has it."""
        rights = {
            "card_until": self.cards.get(peer, 0),
            "filters": "{}",
            "grants": sorted(self.grants.get(peer, ())),
            "purposes": [],
            "rules": list(self.rules.get(peer, {}).values()),
        }
        text = json.dumps(rights, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(b"radmesh-rights-v1\0" + text.encode()).hexdigest()

    def _rules(
        self, peer: bytes, action: str, now: int, *, also_ended: bool = False
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Name and fields of all that counts for an action now, in order."""
        if action in self.grants.get(peer, ()):
            yield f"the grant {action}", {"effect": "allow"}
        for number, rule in self.rules.get(peer, {}).items():
            if rule["action"] == action and (also_ended or now < rule.get("until", now + 1)):
                yield f"rule {number}", rule
        for number, one in self.offers.items():
            if one.peer == peer and now < one.until and action in ("see", "fetch"):
                more = {"purpose": [one.purpose]} if action == "fetch" else {}
                yield (
                    f"offer {number}",
                    {
                        "effect": "allow",
                        "conditions": {"study": [one.study], **more},
                        "shows": "on-request",
                    },
                )

    # --- what the entries change -------------------------------------------------------

    def take(self, event: Event, time_ms: int) -> None:
        """Take one more entry."""
        peer, details = event.peer or b"", event.details
        named = frozenset(filter(None, str(details.get("grants", "")).split(",")))
        studies = [value for kind, value in event.subjects if kind == "study"]
        if "card_until" in details:
            self.cards[peer] = int(details["card_until"])
        match event.type:
            case "trust-added" | "trust-granted":
                self.grants[peer] = self.grants.get(peer, frozenset()) | named
            case "trust-ungranted":
                self.grants[peer] = self.grants.get(peer, frozenset()) - named
            case "trust-revoked":
                self.grants.pop(peer, None)
                self.rules.pop(peer, None)
                self.offers = {n: one for n, one in self.offers.items() if one.peer != peer}
                for key, wait in list(self.waits.items()):
                    if key[0] == peer and wait.state in ("waiting", "approved"):
                        self.waits[key] = replace(wait, state="ended")
            case "rule-added":
                rule = json.loads(str(details["rule"]))
                self.rules.setdefault(peer, {})[rule["number"]] = rule
            case "rule-removed":
                self.rules.get(peer, {}).pop(int(details["number"]), None)
            case "objection-added":
                [patient] = [value for kind, value in event.subjects if kind == "patient"]
                against = (peer, patient.partition("^^^")[0], str(details["uses"]))
                self.objections[int(details["number"])] = against
            case "objection-ended":
                self.objections.pop(int(details["number"]), None)
            case "ingest" | "received":
                for study in studies:
                    self.shared.setdefault(study, event.type == "ingest")
            case "shared" | "withdrawn":
                self.shared |= dict.fromkeys(studies, event.type == "shared")
            case "discarded":
                for study in studies:
                    self.shared.pop(study, None)
            case "approval-asked":
                asked = Asked(studies[0], event.purpose, str(details["transfer"]), asker_in(event))
                wait = Wait(int(details["number"]), asked, str(details["rule"]))
                self.waits[peer, asked.transfer] = wait
            case "approved" | "denied":
                key = (peer, str(details["transfer"]))
                until = int(details.get("until", 0))
                self.waits[key] = replace(self.waits[key], state=event.type, until=until)
            case "disclosed":
                key = (peer, str(details["transfer"]))
                wait = self.waits.get(key)
                if wait is not None and wait.state in ("waiting", "approved"):
                    self.waits[key] = replace(wait, state="ended")
            case "offered":
                self.offers[int(details["number"])] = Offered(
                    peer, studies[0], event.purpose, int(details["until"])
                )
            case "offer-answered" | "offer-ended":
                if details["direction"] == "out" and details.get("answer") != "accepted":
                    self.offers.pop(int(details["number"]), None)
            case "emergency-begun":
                which = (str(details["direction"]), int(details["number"]))
                known = self.glass.get(which)
                begun = time_ms // 1000 if known is None else known.begun
                self.glass[which] = Glass(which[0], peer, str(details["transfer"]), begun)
            case "emergency-reviewed":
                which = (str(details["direction"]), int(details["number"]))
                self.glass[which] = replace(self.glass[which], is_reviewed=True)


def used_of(begun: list[Begun], peer: bytes, asked: Asked, size: int, now: int) -> dict[str, int]:
    """What a peer has used of each limit in a day, with a study of this size.

    Each study counts once, with the most bytes that it had; emergencies count among themselves.
    """
    is_emergency = asked.purpose == BREAK_GLASS
    most = {asked.study: size}
    for one in begun:
        if (one.peer, one.purpose == BREAK_GLASS) != (peer, is_emergency):
            continue
        if one.time_ms > now * 1000 - DAY_MS:
            most[one.study] = max(one.size, most.get(one.study, 0))
    return {"studies-a-day": len(most), "bytes-a-day": sum(most.values())}


def asker_in(event: Event) -> str:
    """Who asks, in the subjects of an entry."""
    return next((value for kind, value in event.subjects if kind == "asker"), "")


def _is_for(rule: Mapping[str, Any], study: str, purpose: str) -> bool:
    """Whether all conditions of a rule hold."""
    for kind, values in rule.get("conditions", {}).items():
        found = {
            "study": {study},
            "modality": {modality_of(study)},
            "purpose": COVERED_BY[purpose],
        }[kind]
        if not found & set(values):
            return False
    return True


def _use_of(purpose: str) -> str:
    return "research" if purpose in ("research", "HRESCH") else "care"


def _is_approved(wait: Wait | None, rule: str, asked: Asked, now: int) -> bool:
    return (
        wait is not None
        and (wait.state, wait.rule, wait.asked) == ("approved", rule, asked)
        and now < wait.until
    )
