"""What is logged of a pairing, and what a person is told when it comes to nothing."""

from keys.card import Card, check_card
from keys.errors import KeysError
from keys.fingerprint import matches
from keys.trust import TrustStore
from node.errors import ExitCode, NodeError
from node.sharing.pairing_stage import Meeting
from node.sharing.pairing_talk import Talk
from node.sharing.peers import Terms
from protocol import limits
from protocol.log.entry import Event

Details = dict[str, str | int | bool]


def opened() -> Event:
    """The entry before a code is shown."""
    details: Details = {"seconds": limits.PAIRING_WINDOW_SECONDS}
    return Event(type="pairing-opened", actor="operator", details=details)


def closed(why: str, tries: int, talk: Talk | None) -> Event:
    """The entry when a code counts no more."""
    details: Details = {"why": why, "tries": tries}
    if talk is not None:
        details["sid"] = talk.exchange.session.hex()
    return Event(type="pairing-closed", details=details)


def accepted(meeting: Meeting, terms: Terms) -> Terms:
    """The terms of a person who accepts, with how the facility was confirmed."""
    how: Details = {"method": "code", "tries": meeting.tries, "sid": meeting.session.hex()}
    return Terms(terms.purposes, terms.expires, how)


def why_refused(
    card: Card, own: bytes, fingerprint: str, store: TrustStore, now: int
) -> NodeError | None:
    """Why no person may accept a facility; None when one may.

    Args:
        card: its card; the signature holds.
        own: our facility key, 32 bytes.
        fingerprint: that it must have; "" if not known.
        store: whom we trust.
        now: seconds since the epoch, UTC.
    """
    if card.facility_key == own:
        return NodeError(
            "this is our own card: the code was typed at a node of this same facility",
            hint="type it at the node of the other facility",
            code=ExitCode.REFUSED,
        )
    if fingerprint and not matches(card.facility_key, fingerprint):
        return NodeError(
            f"the facility there is {card.name} with the fingerprint {card.fingerprint}, "
            "which is not the one of the QR code",
            hint="nothing was changed; ask the other admin by phone which one is right",
            code=ExitCode.INTEGRITY,
        )
    try:
        check_card(card, now)
    except KeysError as error:
        return NodeError(
            f"the card is refused: {error}",
            hint="the other admin renews the card, and both begin again",
            code=ExitCode.INTEGRITY,
        )
    known = store.namesake(card)
    if known is not None:
        return NodeError(
            f"{card.name} has another facility key than {known.petname}, which is trusted "
            "here; nothing was changed",
            hint="if that facility has made a new home, revoke the old one first (`radmesh "
            "trust revoke`); if it is another facility, add its card with a petname "
            "(`radmesh trust add`)",
            code=ExitCode.REFUSED,
        )
    return None


def wrong(host: str, tries: int, side: str) -> Event:
    """The entry of a wrong confirmation, at the side that has `shown` or `typed` the code."""
    details: Details = {"address": host, "tries": tries, "side": side}
    return Event(type="pairing-failed", outcome="failed", details=details)


def declined(meeting: Meeting, why: str) -> Event:
    """The entry when nobody here accepts the facility that has the code."""
    return Event(
        type="pairing-declined",
        actor="node" if why in ("refused", "time") else "operator",
        peer=meeting.met.card.facility_key,
        outcome="refused",
        details={"why": why, "sid": meeting.session.hex()},
    )


def ended(why: str) -> NodeError:
    """A code counts no more, and nobody had it."""
    if why == "tries":
        return NodeError(
            f"the code was tried wrongly {limits.PAIRING_TRIES} times and is dead",
            hint="somebody guesses: see `radmesh audit show --type pairing-failed`. Let the other "
            "side show the code, or use card files (`radmesh trust add`)",
            code=ExitCode.REFUSED,
        )
    return NodeError(
        "nobody typed the code in time",
        hint="begin again with a new code, when the other admin is on the phone",
        code=ExitCode.FAILED,
    )


def not_confirmed(address: str) -> NodeError:
    """The node that was called does not have the code that was typed."""
    return NodeError(
        f"the node at {address} did not confirm the code; nothing was changed",
        hint="have the code read out again and compare each digit; if it is right, somebody may be "
        "between the two nodes",
        code=ExitCode.INTEGRITY,
    )
