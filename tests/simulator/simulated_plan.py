"""The actions and faults of a simulation, chosen by seed before it begins."""

import random
from dataclasses import dataclass

GRANTS = ("see", "fetch", "witness")

PEOPLE = {
    "ingest": 16,
    "grow": 4,
    "withdraw": 10,
    "share": 8,
    "ungrant": 8,
    "grant": 8,
    "revoke": 4,
    "trust": 6,
    "rotate": 3,
    "fetch": 24,
    "discard": 2,
    "deny": 5,
    "undeny": 5,
    "object": 3,
    "unobject": 4,
}
"""Actions of people, with their relative frequencies."""

FAULTS = {"cut": 8, "slow": 4, "kill": 10, "restart": 3, "fill": 3}
"""Faults, with their relative frequencies."""

AFTER_KILL = (
    "withdraw",
    "ungrant",
    "revoke",
    "ingest",
    "share",
    "grant",
    "trust",
    "rotate",
    "deny",
    "undeny",
    "object",
    "unobject",
)
"""Actions on a node that is about to be killed: those that change who may know of which study."""

STEPS_PER_SITE = 7

Pair = tuple[int, int, tuple[str, ...], tuple[str, ...]]
"""Two sites that trust each other, and what each grants to the other."""


@dataclass(frozen=True)
class Step:
    """One action or fault.

    Attributes:
        at: its time, seconds from the beginning.
        kind: the kind of action or fault.
        site: its site.
        pair: the two sites, for a fault of a line.
        how: "refused" or "silent" for a cut; the following action for a kill.
        seconds: how long it lasts.
        chance: chooses its object: a study, a peer, a role, a commit.
    """

    at: float
    kind: str
    site: int
    pair: tuple[int, int] = (0, 0)
    how: str = ""
    seconds: float = 0.0
    chance: float = 0.0


def people_of(rng: random.Random, sites: int) -> list[Pair]:
    """The pairs that trust each other: a ring, so that all are connected, and some across it."""
    pairs = {(one, (one + 1) % sites) for one in range(sites)} if sites > 1 else set()
    for one in range(sites):
        if sites > 3 and rng.random() < 0.7:
            pairs.add((one, (one + rng.randrange(2, sites - 1)) % sites))
    chosen = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
    return [(one, other, _grants(rng), _grants(rng)) for one, other in chosen]


def _grants(rng: random.Random) -> tuple[str, ...]:
    if rng.random() < 0.6:
        return GRANTS
    return tuple(grant for grant in GRANTS if rng.random() < 0.6)


def plan(rng: random.Random, sites: int, pairs: list[Pair], seconds: float) -> list[Step]:
    """All steps in order; most studies are taken in during the first fifth of the time."""
    weights = PEOPLE | FAULTS
    steps = [
        Step(rng.uniform(0, seconds / 10), "ingest", site, chance=rng.random())
        for site in range(sites)
    ]
    for _ in range(sites * STEPS_PER_SITE):
        [kind] = rng.choices(list(weights), list(weights.values()))
        pair = rng.choice(pairs)
        how = ""
        if kind == "cut":
            how = rng.choice(("refused", "silent"))
        elif kind == "kill":
            how = rng.choice(AFTER_KILL)
        steps.append(
            Step(
                at=rng.uniform(seconds / 20, seconds),
                kind=kind,
                site=rng.randrange(sites),
                pair=(pair[0], pair[1]),
                how=how,
                seconds=rng.uniform(1, 40),
                chance=rng.random(),
            )
        )
    return sorted(steps, key=lambda step: (step.at, step.site, step.kind))
