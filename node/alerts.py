"""The alerts for an operator: one sentence each, with its consequence and what to do."""

from typing import TYPE_CHECKING

from keys.trust import Contested
from node.errors import ExitCode
from node.images.store import RESERVE_BYTES
from node.people.rules import KINDS
from node.phrases import count, moment, size
from node.transfer.followed import FOLLOW_RESERVE_BYTES, FOLLOW_UPS_A_DAY
from protocol.limits import FEED_BYTES, FEED_RECORDS
from protocol.recalls import meaning

if TYPE_CHECKING:
    from node.app import Node
    from node.serving import Serving

FULL_BYTES = 16 * 1024 * 1024
"""A disk with less free space counts as full: the log writes ahead in steps of megabytes."""


def alerts_of(node: "Node", serving: "Serving | None") -> list[str]:
    """The alerts of a node now, each with its consequence; reads the disk.

    Args:
        node: the node.
        serving: its network parts; None if it does not serve.
    """
    found = []
    free, failure = node.free_bytes(), node.audit.failure
    if free < FULL_BYTES or (failure is not None and failure.code is ExitCode.DISK):
        found.append(
            f"the disk is full ({size(free)} free): nothing can be logged, so nothing is "
            "announced, sent, received or ingested, and no trust can be given; make room"
        )
    elif free < RESERVE_BYTES:
        found.append(
            f"the disk is nearly full ({size(free)} free): no study is received or ingested; "
            "make room"
        )
    elif failure is not None:
        found.append(
            f"nothing can be logged ({failure.message}), so nothing is announced, sent, received "
            "or ingested; look at the disk of the home"
        )
    found += [
        f"{petname} is cut off, and that is not written yet: it is tried again while this node "
        "runs; after a restart look with `radmesh trust list`"
        for petname in node.peers.unwritten
    ]
    found += [
        f"what was taken from the person {name} is not written yet: it is tried again while this "
        "node runs; after a restart look with `radmesh people list`"
        for name in node.persons.unwritten
    ]
    waiting_acts = len(node.proposals.open())
    if waiting_acts:
        found.append(
            f"{count(waiting_acts, 'act', 'acts')} wait for a second person: see "
            "`radmesh proposals`"
        )
    found += [
        f"the owner of the node has ended the two-person rule for {KINDS[rule.kind]} "
        f"{moment(rule.changed // 1000)}: "
        + (
            "one person was enough until it was made again"
            if rule.persons == 2
            else "one person is enough again"
        )
        + "; if that was not agreed, look into the log"
        for rule in node.rules.ended_by_owner()
    ]
    found += [
        f"what {peer.petname} was granted has a filter that this release cannot read, so nothing "
        "is allowed to it; use the release that wrote it, or revoke its trust and pair again"
        for peer in node.peers.store.peers
        if peer.filters and peer.is_trusted(node.clock.now())
    ]
    found += [
        f"study {study} is held back, and its withdrawal is not written yet: it is tried again "
        "while this node runs; after a restart look with `radmesh studies`"
        for study in node.shared_studies.unwritten
    ]
    found += [
        f"{name} counts, and that is not written yet: it is tried again while this node runs; "
        "after a restart look with `radmesh objection list` and `radmesh consent list`"
        for name in node.wishes.unwritten
    ]
    requests = node.requests.waiting()
    if requests:
        found.append(
            f"{count(len(requests), 'request waits', 'requests wait')} for approval: see"
            " `radmesh requests`"
        )
    found += [
        f"{name} is denied, and that is not written yet: it is tried again while this node runs; "
        "after a restart look with `radmesh requests --all`"
        for name in node.requests.unwritten
    ]
    found += _emergencies(node)
    offered = len(node.offers.waiting())
    if offered:
        waits = count(offered, "offer of a facility waits", "offers of facilities wait")
        found.append(f"{waits} for a person: see `radmesh offers`")
    found += [
        f"{name} has ended, and that is not written yet: it is tried again while this node runs; "
        "after a restart look with `radmesh offers`"
        for name in node.offers.unwritten
    ]
    late = [one for one in node.doors.waiting() if one.why]
    if late:
        found.append(
            f"{count(len(late), 'study', 'studies')} that came in to be offered "
            f"{'is' if len(late) == 1 else 'are'} not: see `radmesh doctor`"
        )
    why_full = node.keeping.describe().why_full
    if why_full:
        found.append(f"no more images are taken in: {why_full}; see `radmesh keeping`")
    waiting, shared = node.catalog.waiting_count()
    if waiting:
        found.append(
            f"{count(waiting, 'study', 'studies')} to check: not shared until somebody has looked; "
            "see `radmesh studies --to-check`"
        )
    if shared:
        found.append(
            f"{count(shared, 'study', 'studies')} to check that an earlier release has shared: the "
            "images name more than one patient; see `radmesh studies --to-check`, then confirm "
            "each with `radmesh share`, or end it with `radmesh withdraw`"
        )
    found += [
        f"study {study} is held back, and that it is discarded is not written yet: it is tried "
        "again while this node runs; after a restart look with `radmesh studies`"
        for study in node.discards.unwritten
    ]
    found += _card_ending(node)
    found += _recalled(node)
    found += _grown(node, serving)
    found += [
        f"{contest_sentence(node, contested)}; call both facilities, see docs/operations.md "
        "section 15"
        for contested in node.peers.contested(node.clock.now())
    ]
    found += [
        f"{node.petname(peer)} announced {more} studies more than are kept of a feed "
        f"({FEED_RECORDS} studies, {size(FEED_BYTES)}): ask its admin what it shares"
        for peer, more in node.feeds.left_out().items()
    ]
    if serving is not None:
        arrived, trouble = serving.arrivals.trouble()
        if trouble:
            found.append(
                f"of {count(arrived, 'image')} that arrived and wait, some cannot be packed now: "
                f"{trouble}; it is tried again by itself"
            )
        found += [
            f"study {study} is not announced to {node.petname(peer)} for now: {why}; it is tried "
            "again by itself"
            for peer, study, why in serving.announcer.aside()
        ]
    return found


def waiting_persons(node: "Node") -> dict[str, int]:
    """How many of each kind wait for a person; kinds of which none waits are left out."""
    found = {
        "requests": len(node.requests.waiting()),
        "reviews": len(node.emergencies.open()),
        "proposals": len(node.proposals.open()),
        "offers": len(node.offers.waiting()),
    }
    return {kind: many for kind, many in found.items() if many}


EMERGENCIES_SHOWN = 20
"""Most emergencies with an alert of their own; further ones are only counted."""


def _emergencies(node: "Node") -> list[str]:
    """Emergency accesses that nobody has reviewed; those that are overdue first."""
    waiting = sorted(node.emergencies.open(), key=lambda one: one.begun)
    found = []
    for one in waiting[:EMERGENCIES_SHOWN]:
        peer = node.petname(one.peer)
        who = f"we asked {peer}" if one.direction == "in" else f"{peer} asked us"
        late = ", and its review is OVERDUE" if node.emergencies.is_late(one) else ""
        found.append(
            f"emergency {one.number}: {who} for study {one.study or 'that was erased'} "
            f"{moment(one.begun)}{late}; a person has to review it: `radmesh review`"
        )
    if len(waiting) > EMERGENCIES_SHOWN:
        found.append(
            f"{len(waiting) - EMERGENCIES_SHOWN} more emergencies wait for a review: see "
            "`radmesh review`"
        )
    return found


CARD_DAYS = (90, 30, 7)
"""Days before the end of the card at which the alert appears, and grows more urgent."""


def _card_ending(node: "Node") -> list[str]:
    """What to do before our card ends, since no peer connects to us after that."""
    left = node.card.expires - node.clock.now()
    days = max(0, left // (24 * 3600))
    if days > CARD_DAYS[0]:
        return []
    if left <= 0:
        when = f"our card ended {moment(node.card.expires)}: no peer connects to us any more"
    else:
        urgent = {90: "soon", 30: "this week", 7: "today"}[
            min(each for each in CARD_DAYS if days <= each)
        ]
        when = (
            f"our card ends in {count(days, 'day')}, {moment(node.card.expires)}, and no peer "
            f"connects to us after that: renew it {urgent}"
        )
    how = "`radmesh card renew`"
    if not node.home.has_key("facility"):
        how += (
            " with --facility-key and the file of the facility key, or `radmesh keys "
            "import-facility`"
        )
    return [f"{when}, with {how}"]


RECALLS_SHOWN = 20
"""Most recalls with an alert of their own; further ones are only counted."""

GROWN_SHOWN = 20
"""Most grown studies with an alert of their own; further ones are only counted."""


def _recalled(node: "Node") -> list[str]:
    """Recalls by peers of studies that we fetched, until an operator settles them."""
    waiting = [one for one in node.recalls.all() if not one.settled]
    found = [
        f"{'study' if one.whole else 'something of study'} {one.study} was recalled by "
        f"{node.petname(one.peer)}: {meaning(one.code)}; nobody here should use it: discard it or "
        f"fetch it again, then `radmesh recalls settle {one.study}`"
        for one in waiting[:RECALLS_SHOWN]
    ]
    if len(waiting) > RECALLS_SHOWN:
        found.append(
            f"{len(waiting) - RECALLS_SHOWN} more studies were recalled: see `radmesh recalls list`"
        )
    return found


def _grown(node: "Node", serving: "Serving | None") -> list[str]:
    """Studies that grew, or could not be fetched, by following their sources."""
    found = [
        f"study {study} has grown at its source, and is withheld: {why}; look at it, then "
        f"`radmesh share {study}` or `radmesh withdraw {study}`"
        for study, why in node.followed.to_check()
    ]
    found += [
        f"study {study} grows at {node.petname(peer)} and was fetched {FOLLOW_UPS_A_DAY} times "
        f"within a day; that goes on {moment(until)}; `radmesh fetch {study}` fetches it now"
        for study, peer, until in node.followed.spent()
    ]
    if serving is not None:
        found += [
            f"study {news.study} has grown at {node.petname(news.peer)} and is not fetched, since "
            f"less than {size(FOLLOW_RESERVE_BYTES)} of the disk would stay free; make room, or "
            f"`radmesh fetch {news.study}`"
            for news in serving.follower.without_room()
        ]
    if len(found) > GROWN_SHOWN:
        more = len(found) - GROWN_SHOWN
        found = [
            *found[:GROWN_SHOWN],
            f"{count(more, 'more study', 'more studies')} that grew at the source: see "
            "`radmesh studies` and `radmesh transfers`",
        ]
    return found


def contest_sentence(node: "Node", contested: Contested) -> str:
    """The sentence on a key that two facilities claim, and on its owner."""
    first, second = (node.petname(key) for key in contested.facilities)
    if contested.holder is None:
        why = "both prove it, so the key is in two hands and counts for neither"
    else:
        why = f"it counts as the key of {node.petname(contested.holder)}"
        why += ", which proves it" if contested.is_proven else ""
    key = contested.key.hex()[:16]
    return f"{first} and {second} both claim the {contested.role} key {key}: {why}"
