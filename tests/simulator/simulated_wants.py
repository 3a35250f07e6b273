"""What facilities want when nothing fails any more: each gets exactly what the rules allow.

Without this, a source that refuses everything would keep all other promises.
"""

import random
from typing import TYPE_CHECKING

import trio
from simulated_checks import trusts
from simulated_rules import BREAK_GLASS, REVIEW_SECONDS, Asked, Verdict

from node.blocking import in_thread

if TYPE_CHECKING:
    from simulated_site import Site
    from simulator import Simulation

PURPOSES = ("treatment", "research", BREAK_GLASS, BREAK_GLASS)
SITES = 4
"""So many sites ask: each asks twice for several studies, and a run should not take long."""

PATIENCE_SECONDS = 200.0
"""A request that waits is asked again each minute."""


async def want_all(sim: "Simulation", rng: random.Random) -> None:
    """Let some sites ask two others for studies that they do not have, once offered or not."""
    for site in rng.sample(sim.sites, min(SITES, len(sim.sites))):
        friends = [one for one in sim.sites if one is not site and _are_friends(site, one)]
        for source in rng.sample(friends, min(2, len(friends))):
            held = source.rights.standing.shared.keys() - site.rights.standing.shared.keys()
            on_way = {one.study for one in site.node.transfers.active.values()}
            studies = sorted(held - on_way)
            wanted = [
                (one, rng.choice(PURPOSES)) for one in rng.sample(studies, min(3, len(studies)))
            ]
            offered = source.rights.offered.get(site.facility_key, {})
            for study, purpose in [*offered.items(), *wanted]:
                if study in studies:
                    studies.remove(study)
                    await _want(sim, site, source, study, purpose)


def _are_friends(site: "Site", other: "Site") -> bool:
    return trusts(site, other) and trusts(other, site)


async def _want(sim: "Simulation", site: "Site", source: "Site", study: str, purpose: str) -> None:
    row = await in_thread(source.node.catalog.study, study)
    if row is None:
        # It came, as its log says, and whatever fetched it ended before it was published.
        return
    verdict = _expected(sim, site, source, Asked(study, purpose), row.original_bytes)
    outcomes: list[str] = []

    async def ask() -> None:
        outcomes.append(await site.ask_for(study, source.name, purpose))

    with trio.move_on_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while verdict.kind == "ask" and not outcomes:
                await trio.sleep(1)
                await source.approve_all()
    outcome = outcomes[0] if outcomes else "waits still"
    sim.trace("wanted", site.number, source.number, study, purpose, verdict.kind, outcome)
    if (outcome == "done") is (verdict.kind == "no"):
        sim.violated(
            f"{site.name} wants {study} of {source.name} for {purpose}: {outcome}, although the"
            f" rules say {verdict.kind} ({verdict.why})"
        )


def _expected(sim: "Simulation", site: "Site", source: "Site", asked: Asked, size: int) -> Verdict:
    """What should become of it by the logs of both."""
    peer, now = site.facility_key, sim.clock.now()
    verdict = source.rights.decide(peer, asked, size, now)
    if asked.purpose != BREAK_GLASS:
        return verdict
    late = any(
        one.direction == "in" and not one.is_reviewed and one.begun + REVIEW_SECONDS <= now
        for one in site.rights.standing.glass.values()
    )
    if (late and site.settings.rests) or source.rights.standing.rest_of(peer, "", now):
        return Verdict("no", "emergency access rests")
    return verdict
