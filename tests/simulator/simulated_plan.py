"""The actions and faults of a simulation, chosen by seed before it begins."""

import random
from dataclasses import dataclass

GRANTS = ("see", "fetch", "witness")

FETCHING = (
    "allow fetch studies-a-day=1",
    "allow fetch studies-a-day=2",
    "allow fetch purpose=TREAT bytes-a-day=2kb",
    "allow fetch until={soon}",
)
BREAKING = (
    "allow emergency studies-a-day=1",
    "allow emergency studies-a-day=1 withheld=yes",
    "allow emergency modality=CT",
)
ASKING = ("ask fetch", "ask fetch purpose=research", "ask fetch modality=MR")
OTHERS = ("allow see until={soon}", "allow see shows=on-request", "allow send purpose=TREAT")
"""Rules, of each group at most one, with which a peer may begin; `soon` is a moment while others
act."""

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
    "rule": 12,
    "unrule": 6,
    "object": 3,
    "unobject": 4,
    "approve": 6,
    "turn_down": 3,
    "emergency": 6,
    "review": 3,
    "offer": 6,
    "answer_offer": 6,
    "end_offer": 3,
}
"""Actions of people, with their relative frequencies."""

FAULTS = {"cut": 8, "slow": 4, "kill": 10, "restart": 3, "fill": 3}
"""Faults, with their relative frequencies."""

ABOUT = {
    "all": PEOPLE | FAULTS,
    "rights": PEOPLE
    | {"withdraw": 4, "ungrant": 2, "grant": 4, "revoke": 1, "trust": 2, "rotate": 1, "rule": 16}
    | {"fetch": 40, "approve": 16, "turn_down": 6, "emergency": 16, "offer": 14, "review": 2}
    | {"answer_offer": 10, "end_offer": 8, "object": 8}
    | {"cut": 3, "slow": 2, "kill": 12, "restart": 2, "fill": 2},
}
"""Frequencies of all that happens, by what a run is about."""

AFTER_KILL = tuple(sorted(PEOPLE.keys() - {"grow", "discard"}))
"""Actions on a node that is about to be killed."""

HOURS = (25, 74, 74)
"""So many hours may pass at once: a day of the limits, an approval and a following are over; or the
review of an emergency is overdue, too."""

STEPS_PER_SITE = 7

Rights = tuple[tuple[str, ...], tuple[str, ...]]
"""Grants and rules."""

Pair = tuple[int, int, Rights, Rights]
"""Two sites that trust each other, and what each gives to the other."""


@dataclass(frozen=True)
class Step:
    """One action or fault.

    Attributes:
        at: its time, seconds from the beginning.
        kind: the kind of action or fault.
        site: its site.
        pair: the two sites, for a fault of a line.
        how: "refused" or "silent" for a cut; the following action for a kill.
        seconds: how long it lasts; for "hours", how many of them.
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
    return [(one, other, _rights(rng), _rights(rng)) for one, other in chosen]


def _rights(rng: random.Random) -> Rights:
    groups = (FETCHING, BREAKING, ASKING, OTHERS)
    rules = tuple(rng.choice(group) for group in groups if rng.random() < 0.4)
    if rng.random() < 0.4:
        return GRANTS, rules
    return tuple(grant for grant in ("see", "witness") if rng.random() < 0.7), rules


def a_rule(rng: random.Random, until: str) -> list[str]:
    """The words of some rule; `until` is the end that it may have."""
    [effect] = rng.choices(("allow", "ask", "deny"), (5, 3, 3))
    actions = {
        "allow": ("fetch", "fetch", "see", "emergency", "send"),
        "ask": ("fetch", "fetch", "send"),
        "deny": ("fetch", "see", "emergency", "send"),
    }
    action = rng.choice(actions[effect])
    words = [effect, action]
    if action != "send" and rng.random() < 0.5:
        words.append("modality=" + rng.choice(("CT", "MR")))
    if action in ("fetch", "send") and rng.random() < 0.3:
        words.append("purpose=" + rng.choice(("TREAT", "treatment", "research")))
    if (effect, action) == ("allow", "see") and rng.random() < 0.4:
        words.append("shows=on-request")
    if effect == "allow" and action in ("fetch", "emergency") and rng.random() < 0.6:
        # A study has about a kilobyte.
        words.append(rng.choice(("studies-a-day=1", "studies-a-day=2", "bytes-a-day=2kb")))
    if (effect, action) == ("allow", "emergency") and rng.random() < 0.4:
        words.append("withheld=yes")
    if rng.random() < 0.5:
        words.append(f"until={until}")
    return words


def plan(
    rng: random.Random,
    pairs: list[Pair],
    *,
    sites: int,
    seconds: float,
    steps_per_site: int,
    about: str,
) -> list[Step]:
    """All steps in order; most studies are taken in during the first fifth of the time."""
    weights = ABOUT[about]
    steps = [
        Step(rng.uniform(0, seconds / 10), "ingest", site, chance=rng.random())
        for site in range(sites)
    ]
    for _ in range(sites * steps_per_site):
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
    if rng.random() < 0.7:
        hours = rng.choice(HOURS)
        steps.append(Step(rng.uniform(seconds / 3, seconds), "hours", 0, seconds=hours))
    return sorted(steps, key=lambda step: (step.at, step.site, step.kind))
