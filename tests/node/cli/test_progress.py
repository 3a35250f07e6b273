"""Progress where there is no terminal: a line now and then, and not the same one each time."""

import time

import pytest

from node.cli.progress import PLAIN_SECONDS, UNCHANGED_SECONDS, ProgressBar


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(time, "monotonic", made.monotonic)
    return made


def _said(
    clock: _Clock,
    capsys: pytest.CaptureFixture[str],
    bar: ProgressBar,
    steps: list[tuple[str, int, str]],
) -> list[str]:
    for label, done, extra in steps:
        clock.now += PLAIN_SECONDS
        bar.update(label, done, 0, extra)
    return capsys.readouterr().err.splitlines()


def test_what_stays_the_same_is_said_once_a_minute(
    clock: _Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("waiting") as bar:
        minutes = 5
        count = int(minutes * UNCHANGED_SECONDS / PLAIN_SECONDS)
        lines = _said(clock, capsys, bar, [("waiting", 0, "North is not connected")] * count)
    assert len(lines) == minutes
    assert set(lines) == {"radmesh: waiting: 0 B, North is not connected"}


def test_what_changes_is_said_at_once(clock: _Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("waiting") as bar:
        steps = [
            ("waiting", 0, "North is not connected"),
            ("waiting", 0, "North is not connected"),
            ("waiting", 0, "connection refused"),
            ("receiving", 1000, ""),
            ("receiving", 2000, ""),
        ]
        lines = _said(clock, capsys, bar, steps)
    assert len(lines) == 4
    assert "connection refused" in lines[1]
    assert lines[2].startswith("radmesh: receiving: 1.0 kB")
    assert lines[3].startswith("radmesh: receiving: 2.0 kB")
