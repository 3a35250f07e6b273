"""Runs the simulator: `python tests/simulator/simulate.py --seed 7`; see docs/testing.md."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":
    # The hash seed determines the order of sets.
    os.execve(
        sys.executable,
        [sys.executable, *sys.argv],
        os.environ
        | {
            "PYTHONHASHSEED": "0",
            "RADMESH_CHECK_BLOCKING": "1",
            "RADMESH_CHECK_TRANSACTIONS": "1",
        },
    )

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "support"), str(HERE)]

import seeded  # noqa: E402

seeded.take_over()

from simulated_faults import MISTAKES  # noqa: E402
from simulated_plan import ABOUT, STEPS_PER_SITE  # noqa: E402
from simulator import Result, simulate  # noqa: E402


def main() -> int:
    """Run the requested seeds; returns 0 if every promise held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--step", type=int, default=1, help="from one seed to the next")
    parser.add_argument("--sites", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=45.0, help="of trouble, in its time")
    parser.add_argument("--steps", type=int, default=STEPS_PER_SITE, help="for each site")
    parser.add_argument("--about", choices=sorted(ABOUT), default="all", help="what happens most")
    parser.add_argument(
        "--fault",
        action="append",
        choices=sorted(MISTAKES),
        help="a mistake put into the product: the seeds are run until one finds it",
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each seed")
    parser.add_argument("--verbose", action="store_true", help="all that happens")
    chosen = parser.parse_args()
    held = [_run(chosen, fault) for fault in chosen.fault or [None]]
    return int(not all(held))


def _run(chosen: argparse.Namespace, fault: str | None) -> bool:
    """Run all seeds, or with a mistake only up to the seed that finds it; whether all held."""
    mistake = MISTAKES[fault] if fault else None
    tell = print if chosen.verbose else lambda line: None
    held = True
    for number in range(chosen.count):
        seed = chosen.seed + number * chosen.step
        with mistake.made() if mistake else contextlib.nullcontext():
            result = simulate(
                seed,
                sites=chosen.sites,
                seconds=chosen.seconds,
                steps=chosen.steps,
                about=chosen.about,
                tell=tell,
            )
        held &= not result.violations
        print(
            _json(result, chosen, fault) if chosen.json else _text(result, chosen, fault),
            flush=True,
        )
        if mistake and any(mistake.found in what for what in result.violations):
            break
    return held


def _json(result: Result, chosen: argparse.Namespace, fault: str | None) -> str:
    more = {"fault": fault, "again": _again(result, chosen, fault)}
    return json.dumps(vars(result) | more)


def _again(result: Result, chosen: argparse.Namespace, fault: str | None) -> str:
    """The command that repeats a run."""
    command = (
        f"again: python tests/simulator/simulate.py --seed {result.seed} "
        f"--sites {chosen.sites} --seconds {chosen.seconds:g}"
    )
    if chosen.steps != STEPS_PER_SITE:
        command += f" --steps {chosen.steps}"
    if chosen.about != "all":
        command += f" --about {chosen.about}"
    return command + (f" --fault {fault}" if fault else "")


def _text(result: Result, chosen: argparse.Namespace, fault: str | None) -> str:
    lines = [
        f"seed {result.seed}: {'FAILED' if result.violations else 'held'}, "
        f"{result.virtual_seconds:.0f} s in {result.real_seconds:.1f} s "
        f"({result.cpu_seconds:.1f} of the processor), {result.digest[:16]}, "
        + ", ".join(f"{count} {what}" for what, count in sorted(result.counts.items()))
    ]
    lines += [f"  {what}" for what in result.violations]
    if result.violations:
        lines.append(f"  {_again(result, chosen, fault)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
