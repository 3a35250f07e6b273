"""What stands now that an operator has to know: one sentence each, of a subject of the table."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from keys.trust import Contested
from node.audit.times import numbered_entry
from node.certificates import before_end, certificates_ending, step_before
from node.errors import ExitCode
from node.images.store import RESERVE_BYTES
from node.notices.subjects import Alert
from node.people.rules import KINDS
from node.phrases import count, duration, moment, size
from node.transfer.followed import FOLLOW_RESERVE_BYTES, FOLLOW_UPS_A_DAY
from protocol.limits import FEED_BYTES, FEED_RECORDS
from protocol.recalls import meaning

if TYPE_CHECKING:
    from node.app import Node
    from node.serving import Serving

FULL_BYTES = 16 * 1024 * 1024
"""A disk with less free space counts as full: the log writes ahead in steps of megabytes."""

FORWARD_SECONDS = 3600
"""Forwarding that has failed for so long is told; before that it is tried again in silence."""

ENTRIES_READ = 1000
"""Most entries that are read to find the one that something comes from."""


def alerts_of(node: "Node", serving: "Serving | None") -> list[str]:
    """The sentences of `standing` for `radmesh status`, which tells of a log in doubt by itself."""
    return [one.text for one in standing(node, serving) if one.subject != "in-doubt"]


def standing(node: "Node", serving: "Serving | None") -> list[Alert]:
    """What an operator has to know now, each with its consequence; reads disk and database.

    Args:
        node: the node.
        serving: its network parts; None if it does not serve.
    """
    found = [*_log_and_disk(node), *_unwritten(node), *_persons(node)]
    found += [
        Alert(
            "peer",
            f"what {peer.petname} was granted has a filter that this release cannot read, so "
            "nothing is allowed to it; use the release that wrote it, or revoke its trust and "
            "pair again",
        )
        for peer in node.peers.store.peers
        if peer.filters and peer.is_trusted(node.clock.now())
    ]
    late = [one for one in node.doors.waiting() if one.why]
    if late:
        text = (
            f"{count(len(late), 'study', 'studies')} that came in to be offered "
            f"{'is' if len(late) == 1 else 'are'} not: see `radmesh doctor`"
        )
        found.append(Alert("door", text))
    stuck = node.archive_queue.late(FORWARD_SECONDS)
    if stuck:
        text = (
            f"{count(stuck, 'study', 'studies')} could not go to an archive here for an hour, or "
            "failed: see `radmesh archive`"
        )
        found.append(Alert("forward", text, ("studies to an archive",)))
    why_full = node.keeping.why_full
    if why_full:
        text = f"no more images are taken in: {why_full}; see `radmesh keeping`"
        found.append(Alert("quota", text))
    waiting, shared = node.catalog.waiting_count()
    if waiting:
        text = (
            f"{count(waiting, 'study', 'studies')} to check: not shared until somebody has looked; "
            "see `radmesh studies --to-check`"
        )
        found.append(Alert("to-check", text))
    if shared:
        text = (
            f"{count(shared, 'study', 'studies')} to check that an earlier release has shared: the "
            "images name more than one patient; see `radmesh studies --to-check`, then confirm "
            "each with `radmesh share`, or end it with `radmesh withdraw`"
        )
        found.append(Alert("to-check", text))
    found += _card_ending(node)
    found += certificates_ending(node.settings, node.clock.now())
    found += [Alert("recalled", text) for text in _recalled(node)]
    found += [Alert("grown", text) for text in _grown(node, serving)]
    found += [
        Alert(
            "contested",
            f"{contest_sentence(node, contested)}; call both facilities, see docs/operations.md "
            "section 15",
        )
        for contested in node.peers.contested(node.clock.now())
    ]
    found += [
        Alert(
            "peer",
            f"{node.petname(peer)} announced {more} studies more than are kept of a feed "
            f"({FEED_RECORDS} studies, {size(FEED_BYTES)}): ask its admin what it shares",
        )
        for peer, more in node.feeds.left_out().items()
    ]
    return found if serving is None else [*found, *_at_work(node, serving)]


def _log_and_disk(node: "Node") -> list[Alert]:
    free, failure, doubt = node.free_bytes(), node.audit.failure, node.audit.halt.reason
    found = []
    if free < FULL_BYTES or (failure is not None and failure.code is ExitCode.DISK):
        text = (
            f"the disk is full ({size(free)} free): nothing can be logged, so nothing is "
            "announced, sent, received or ingested, and no trust can be given; make room"
        )
        found.append(Alert("disk", text, ("full",)))
    elif free < RESERVE_BYTES:
        text = (
            f"the disk is nearly full ({size(free)} free): no study is received or ingested; "
            "make room"
        )
        found.append(Alert("disk", text, ("nearly full",)))
    elif failure is not None:
        text = (
            f"nothing can be logged ({failure.message}), so nothing is announced, sent, received "
            "or ingested; look at the disk of the home"
        )
        found.append(Alert("log", text))
    if doubt is not None:
        found.append(Alert("in-doubt", f"the log is in doubt: {doubt.message}"))
    return found


def _unwritten(node: "Node") -> list[Alert]:
    """Ends that count already, and are not on the disk yet."""
    ends = [
        (
            node.peers.unwritten,
            "{} is cut off, and that is not written yet",
            "`radmesh trust list`",
        ),
        (
            node.persons.unwritten,
            "what was taken from the person {} is not written yet",
            "`radmesh people list`",
        ),
        (
            node.shared_studies.unwritten,
            "study {} is held back, and its withdrawal is not written yet",
            "`radmesh studies`",
        ),
        (
            node.wishes.unwritten,
            "{} counts, and that is not written yet",
            "`radmesh objection list` and `radmesh consent list`",
        ),
        (
            node.requests.unwritten,
            "{} is denied, and that is not written yet",
            "`radmesh requests --all`",
        ),
        (node.offers.unwritten, "{} has ended, and that is not written yet", "`radmesh offers`"),
        (node.matches.unwritten, "{} is undone, and that is not written yet", "`radmesh match`"),
        (
            node.discards.unwritten,
            "study {} is held back, and that it is discarded is not written yet",
            "`radmesh studies`",
        ),
    ]
    return [
        Alert(
            "unwritten",
            f"{what.format(name)}: it is tried again while this node runs; after a restart look "
            f"with {where}",
        )
        for names, what, where in ends
        for name in names
    ]


def _persons(node: "Node") -> list[Alert]:
    """What waits for a person, and what one has done alone."""
    found = []
    waiting_acts = len(node.proposals.open())
    if waiting_acts:
        text = (
            f"{count(waiting_acts, 'act', 'acts')} wait for a second person: see "
            "`radmesh proposals`"
        )
        found.append(Alert("proposal", text))
    found += [
        Alert(
            "two-persons",
            f"the owner of the node has ended the two-person rule for {KINDS[rule.kind]} "
            f"{moment(rule.changed // 1000)}: "
            + (
                "one person was enough until it was made again"
                if rule.persons == 2
                else "one person is enough again"
            )
            + "; if that was not agreed, look into the log",
        )
        for rule in node.rules.ended_by_owner()
    ]
    requests = node.requests.waiting()
    if requests:
        text = (
            f"{count(len(requests), 'request waits', 'requests wait')} for approval: see"
            " `radmesh requests`"
        )
        entries = _entries_of(node, "approval-asked", {one.number: one.asked for one in requests})
        found.append(Alert("approval", text, tuple(str(one.number) for one in requests), entries))
    found += _emergencies(node)
    offered = len(node.offers.waiting())
    if offered:
        waits = count(offered, "offer of a facility waits", "offers of facilities wait")
        found.append(Alert("offer", f"{waits} for a person: see `radmesh offers`"))
    return found


def _at_work(node: "Node", serving: "Serving") -> list[Alert]:
    """What the parts of a serving node cannot do now."""
    found = []
    arrived, trouble = serving.arrivals.trouble()
    if trouble:
        text = (
            f"of {count(arrived, 'image')} that arrived and wait, some cannot be packed now: "
            f"{trouble}; it is tried again by itself"
        )
        found.append(Alert("arrivals", text))
    found += [
        Alert(
            "announce",
            f"study {study} is not announced to {node.petname(peer)} for now: {why}; it is tried "
            "again by itself",
        )
        for peer, study, why in serving.announcer.aside()
    ]
    forwarder = serving.forwarder
    if forwarder is not None and forwarder.failing_seconds >= FORWARD_SECONDS:
        text = (
            f"the log has not been forwarded for {duration(forwarder.failing_seconds)}: "
            f"{forwarder.describe()['last_error']}; what is missing is sent when that is mended"
        )
        found.append(Alert("forward", text, ("the log to its collector",)))
    return found


def _entries_of(
    node: "Node", kind: str, since: Mapping[int, int]
) -> Callable[[Sequence[str]], list[int]]:
    """Gives the entries of a type by number; `since` has when each was made, in seconds."""

    def entries(keys: Sequence[str]) -> list[int]:
        known = [number for number in map(int, keys) if number in since]
        found = (
            numbered_entry(node.audit, kind, number, since[number], ENTRIES_READ)
            for number in known
        )
        return [index for index in found if index is not None]

    return entries


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


def _emergencies(node: "Node") -> list[Alert]:
    """Emergency accesses that nobody has reviewed; those that are overdue first."""
    waiting = sorted(node.emergencies.open(), key=lambda one: one.begun)
    entries = _entries_of(
        node,
        "emergency-begun",
        {one.number: one.begun for one in waiting},
    )
    found = []
    for one in waiting[:EMERGENCIES_SHOWN]:
        peer = node.petname(one.peer)
        who = f"we asked {peer}" if one.direction == "in" else f"{peer} asked us"
        late = ", and its review is OVERDUE" if node.emergencies.is_late(one) else ""
        text = (
            f"emergency {one.number}: {who} for study {one.study or 'that was erased'} "
            f"{moment(one.begun)}{late}; a person has to review it: `radmesh review`"
        )
        found.append(Alert("break-glass", text, (str(one.number),), entries))
    more = waiting[EMERGENCIES_SHOWN:]
    if more:
        text = f"{len(more)} more emergencies wait for a review: see `radmesh review`"
        keys = tuple(str(one.number) for one in more)
        found.append(Alert("break-glass", text, keys, entries))
    return found


CARD_DAYS = (90, 30, 7)
"""Days before the end of the card at which the alert appears, and grows more urgent."""


def _card_ending(node: "Node") -> list[Alert]:
    """What to do before our card ends, since no peer connects to us after that."""
    step, days = step_before(node.card.expires - node.clock.now(), CARD_DAYS)
    if step is None:
        return []
    if step == 0:
        when = f"our card ended {moment(node.card.expires)}: no peer connects to us any more"
    else:
        urgent = {90: "soon", 30: "this week", 7: "today"}[step]
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
    return [Alert("card", f"{when}, with {how}", (before_end(step),))]


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
