"""The promises of the threat model, checked when a simulation has come to rest.

While the nodes still run: each peer knows exactly what it may know. When they have stopped:
the auditor's program verifies each log, the logs of two facilities agree, `radmesh check`
finds nothing in any home, and everything acknowledged is present.
"""

import json
from typing import TYPE_CHECKING

from keys.fingerprint import parse_fingerprint
from node.alerts import alerts_of
from node.app import Node
from node.fsck.check import check_home
from protocol.log.tree import Frontier, leaf_hash
from protocol.reconcile import Ledger, compare
from protocol.verify import verify_bundle

if TYPE_CHECKING:
    from simulated_site import Site
    from simulator import Simulation


def trusts(site: "Site", other: "Site") -> bool:
    """Whether a running node trusts another facility."""
    assert site.node is not None
    peer = site.node.find_peer(other.facility_key)
    return peer is not None and peer.is_trusted(site.node.clock.now())


def unrest(sim: "Simulation") -> list[str]:
    """Sentences about everything that is not at rest yet."""
    found = [f"the node of {site.name} is down" for site in sim.sites if not site.is_up]
    if found:
        return found
    for site in sim.sites:
        for other in sim.sites:
            if site is other or not (trusts(site, other) and trusts(other, site)):
                continue
            if other.node.keys.node.public not in site.serving.network.connected():
                found.append(f"{site.name} is not connected to {other.name}")
        for transfer in site.node.transfers.active.values():
            if transfer.direction == "in" and not _is_hopeless(sim, site, transfer):
                found.append(f"{site.name} waits for {transfer.study}: {transfer.why}")
        if site.node.audit.halt.reason is not None:
            found.append(f"{site.name}: {site.node.audit.halt.reason.message}")
        # Only people settle a recall, and the simulation has none who do; or review an emergency.
        alerts = [
            alert
            for alert in alerts_of(site.node, site.serving)
            if "recalled" not in alert and not alert.startswith("emergency ")
        ]
        found += [f"{site.name}: {alert}" for alert in alerts]
    return found


def _is_hopeless(sim: "Simulation", site: "Site", transfer) -> bool:  # type: ignore[no-untyped-def]
    """Whether a fetch waits, up to a week, for a peer that no longer trusts its facility."""
    source = sim.site_of(transfer.peer)
    return source is None or not (trusts(source, site) and trusts(site, source))


def check_at_rest(sim: "Simulation") -> None:
    """Check feeds and rights while the nodes run."""
    for site in sim.sites:
        if site.node is None:
            continue
        _check_rights(sim, site)
        for other in sim.sites:
            if other is not site and trusts(site, other):
                site.friends.add(other.number)
            if other is not site and other.node is not None:
                _check_feed(sim, site, other)


def _check_rights(sim: "Simulation", site: "Site") -> None:
    for key, states in site.possible.items():
        peer = site.node.find_peer(key)
        state = None if peer is None or peer.revoked is not None else frozenset(peer.grants)
        if state not in states:
            sim.violated(f"{site.name} has {state} for {key.hex()[:8]}, not one of {states}")
        by_log = site.rights.standing.grants.get(key)
        if (None if by_log is None else frozenset(by_log)) != state:
            sim.violated(f"{site.name} has {state} for {key.hex()[:8]}, its log says {by_log}")
        held = {} if peer is None else {rule.number: rule.to_fields() for rule in peer.rules}
        if site.rights.standing.rules.get(key, {}) != held:
            sim.violated(
                f"{site.name} has the rules {held} for {key.hex()[:8]}, its log says"
                f" {site.rights.standing.rules.get(key, {})}"
            )
    _check_waiting(sim, site)
    for study, count in site.instances.items():
        row = site.node.catalog.study(study)
        if row is None or row.instance_count < count:
            if study not in site.may_be_gone:
                sim.violated(f"{site.name} has lost {study}, which it had answered for")
            continue
        states = site.shared.get(study)
        if study in site.may_be_gone or states is None:
            continue
        if (row.state == "shared") not in states:
            sim.violated(f"{study} of {site.name} is {row.state}, not shared in {states}")


def _check_waiting(sim: "Simulation", site: "Site") -> None:
    """Compare what people have to do, or have done, with what the log of a site says."""
    node, standing, now = site.node, site.rights.standing, sim.clock.now()
    wishes = {
        one.number: (one.peer, one.patient_id, one.uses)
        for one in node.wishes.all("objection")
        if not one.ended
    }
    asked = {(one.peer, one.transfer.hex()): one.state for one in node.requests.all()}
    said_asked = {key: one.state for key, one in standing.waits.items()}
    for key, state in asked.items():
        if (state, said_asked.get(key)) == ("ended", "approved"):
            # All of it has gone out, and the process was killed before the entry that says so.
            said_asked[key] = state
    offers = {
        one.number
        for one in node.offers.all()
        if (one.direction, one.is_open) == ("out", True) and now < one.until
    }
    glass = {(one.direction, one.number) for one in node.emergencies.open()}
    for what, held, said in (
        ("objections", wishes, standing.objections),
        ("requests", asked, said_asked),
        ("offers", offers, {n for n, one in standing.offers.items() if now < one.until}),
        ("emergencies", glass, {key for key, one in standing.glass.items() if not one.is_reviewed}),
    ):
        if held != said:
            sim.violated(f"{site.name} has the {what} {held}, its log says {said}")
    for one in standing.waits.values():
        if one.state == "waiting":
            sim.violated(f"nobody has answered request {one.number} of {site.name}")
    for peer, digest in site.rights.named:
        if digest not in site.rights.digests[peer]:
            sim.violated(f"{site.name} sent by rights {digest[:8]}, which its log does not have")


def _check_feed(sim: "Simulation", site: "Site", other: "Site") -> None:
    """Check that another site knows exactly the site's studies that it may know."""
    roots = {
        record.study: record.content_root
        for _, record in other.node.feeds.announced(peer=site.facility_key)
    }
    if not trusts(other, site):
        if roots:
            sim.violated(f"{other.name} remembers {sorted(roots)} of {site.name}, now a stranger")
        return
    if not trusts(site, other):
        # The site no longer trusts the other, so it cannot announce or withdraw anything.
        return
    visible = site.rights.visible(other.facility_key, sim.clock.now())
    if roots.keys() - visible:
        what = sorted(roots.keys() - visible)
        sim.violated(f"{other.name} knows {what} of {site.name}, which it may not know")
    if visible - roots.keys():
        what = sorted(visible - roots.keys())
        sim.violated(f"{other.name} does not know {what} of {site.name}, which it may know")
    for study in roots.keys() & visible:
        row = site.node.catalog.study(study)
        if row is not None and row.content_root != roots[study]:
            sim.violated(f"{other.name} knows an older {study} of {site.name}")


def check_stopped(sim: "Simulation") -> None:
    """Check logs and homes when all nodes have stopped."""
    for site in sim.sites:
        site.bundle.seek(0)
        verdict = verify_bundle(
            site.bundle, facility_fingerprint=parse_fingerprint(site.card.fingerprint)
        )
        if verdict.sound is not True:
            sim.violated(f"the log of {site.name} does not verify: {verdict.reason}")
        report = check_home(site.home_path, now=sim.ended_ms / 1000)
        for finding in report.findings:
            # An interrupted ingest leaves batches, which its next run uses; a fetch that ended
            # leaves some for a week, and files have the dates of the machine, not of this world.
            left = ("batch-orphaned", "incoming-leftover")
            if finding.kind not in left or not site.was_broken_off:
                sim.violated(f"radmesh check of {site.name}: {finding}")
    for number, site in enumerate(sim.sites):
        _check_witnessed(sim, site)
        for other in sim.sites[number + 1 :]:
            _check_agreement(sim, site, other)


def look_at(sim: "Simulation", site: "Site", node: Node) -> None:
    """Check a log that is about to be closed."""
    for size, root in site.acknowledged.items():
        if size > node.audit.size or node.audit.root_at(size) != root:
            sim.violated(f"the log of {site.name} has lost entries that it had answered for")
            break
    site.entries = list(node.audit.entries())
    for other in sim.sites:
        held, _ = node.witness_store.held(other.facility_key)
        if held.size:
            site.witnessed[other.number] = (held.size, held.root)


def _check_agreement(sim: "Simulation", site: "Site", other: "Site") -> None:
    ours, theirs = Ledger(other.facility_key), Ledger(site.facility_key)
    for ledger, entries in ((ours, site.entries), (theirs, other.entries)):
        for entry in entries:
            ledger.add(json.loads(entry))
        ledger.reaches(sim.ended_ms)
    if site.number not in other.friends or other.number not in site.friends:
        # A missing receipt is not requested from a peer that is no longer trusted.
        return
    for finding in compare(ours, theirs, grace_seconds=0).named():
        if finding.kind.value in ("ONLY_A", "ONLY_B", "MISMATCH"):
            sim.violated(f"the logs of {site.name} and {other.name} differ: {finding}")


def _check_witnessed(sim: "Simulation", site: "Site") -> None:
    """Check that the checkpoints that others cosigned match a site's log."""
    tree, roots = Frontier(), {}
    for entry in site.entries:
        tree.append(leaf_hash(entry))
        roots[tree.size] = tree.root()
    for other in sim.sites:
        seen = other.witnessed.get(site.number)
        if seen is not None and roots.get(seen[0]) != seen[1]:
            sim.violated(f"{other.name} has cosigned another log of {site.name}, size {seen[0]}")
