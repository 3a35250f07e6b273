"""Two facilities pair by the command line: what people see, kill -9 in between, and no trace."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import Facility, wait_until
from pairing_commands import PairCommand

from node.errors import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Facility, Facility]]:
    north, south = Facility(tmp_path, "North General"), Facility(tmp_path, "South Clinic")
    try:
        north.start()
        south.start()
        yield north, south
    finally:
        for one in (north, south):
            if one.process is not None:
                one.process.kill()
                one.process.wait()


def _forms(code: str) -> list[bytes]:
    """A code as it could be written: in groups, as digits, and without the check digit."""
    digits = code.replace(" ", "")
    return [code.encode(), digits.encode(), digits[:10].encode(), code[:-2].encode()]


def _processes() -> bytes:
    """What the machine shows of all processes: their words, and their environment."""
    found = b""
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ", "comm"):
            try:
                found += (process / name).read_bytes()
            except OSError:
                continue
    return found


def test_two_admins_on_the_phone(both: tuple[Facility, Facility], tmp_path: Path) -> None:
    north, south = both
    picture = tmp_path / "north.png"
    shows = PairCommand(north, "--grant", "see,fetch", "--ask", "see", "--qr", str(picture))
    with shows:
        place, code = shows.shown()
        assert place == f"127.0.0.1:{north.port}"
        with PairCommand(south, place, "--purpose", "treatment", "--until", "2099-12-31") as types:
            seen = _processes()
            types.types(code)
            for one, name, asks in ((shows, "South Clinic", "nothing"), (types, "North", "see")):
                one.sees("at the other end is")
                one.sees(name)
                one.sees(f"asks for     {asks}")
            assert not north.call("trust.list")["peers"]
            assert not south.call("trust.list")["peers"]
            seen += _processes()
            shows.types("y")
            shows.sees("is trusted here now")
            types.types("see")
            types.types("y")
            assert (shows.ends(), types.ends()) == (0, 0)
            assert "it may: fetch,see\nit trusts this facility, too" in shows.screen
            assert "it may: see\nit trusts this facility, too" in types.screen
            assert (
                "Trust North General? It may: see, for treatment, until 2099-12-31" in types.screen
            )
    wait_until(lambda: south.peer(north)["connected"], what="they connect")
    assert north.peer(south)["grants"] == ["fetch", "see"]
    assert (south.peer(north)["purposes"], south.peer(north)["grants"]) == (["treatment"], ["see"])
    assert south.peer(north)["expires"] > 4_000_000_000
    assert "trusted until  21" in south.cli("trust", "show", "North General").stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    # No trace of the code, but on the screen of the one who showed it.
    north.stop()
    south.stop()
    north.check_log(tmp_path)
    south.check_log(tmp_path)
    kept = b"".join(
        path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "north.pair"
    )
    for form in _forms(code):
        assert form not in seen
        assert form not in kept


def test_a_wrong_code_and_then_the_right_one(both: tuple[Facility, Facility]) -> None:
    north, south = both
    with PairCommand(north, "--grant", "see") as shows:
        place, code = shows.shown()
        # One digit wrong, which the check digit finds; then a code of somebody else.
        with PairCommand(south, place) as types:
            types.types(code[:-1] + str((int(code[-1]) + 1) % 10))
            assert types.ends() == ExitCode.USAGE
            assert "this costs no try" in types.screen
        with PairCommand(south, place) as types:
            types.types("482 915 706 39" if code != "482 915 706 39" else "482 915 706 47")
            assert types.ends() == ExitCode.INTEGRITY
            assert "did not confirm the code" in types.screen
        shows.sees("a wrong code came from 127.0.0.1 (1 of 20 tries)")
        with PairCommand(south, place, "--grant", "see") as types:
            types.types(code)
            types.sees("[y/N]")
            types.types("n")
            assert types.ends() == ExitCode.FAILED
            assert "North General is not trusted; nothing was changed" in types.screen
        shows.sees("[y/N]")
        shows.types("y")
        assert shows.ends() == ExitCode.REFUSED
        assert "South Clinic has stopped; nothing was changed" in shows.screen
    assert not north.call("trust.list")["peers"]
    assert not south.call("trust.list")["peers"]


@pytest.mark.parametrize("killed", ["who has accepted", "who has not"])
def test_killed_between_the_two_acceptances_and_paired_again(
    both: tuple[Facility, Facility], killed: str
) -> None:
    north, south = both
    with PairCommand(north, "--grant", "see,fetch") as shows:
        place, code = shows.shown()
        with PairCommand(south, place, "--grant", "see") as types:
            types.types(code)
            types.sees("[y/N]")
            shows.sees("[y/N]")
            shows.types("y")
            shows.sees("South Clinic is trusted here now")
            if killed == "who has not":
                south.kill()
                assert shows.ends() == 0
                assert "could not be heard" in shows.screen
                types.types("y")
                assert types.ends() != 0
                south.start()
            else:
                north.kill()
                assert shows.ends() == ExitCode.BUSY
                # South still knows whom it met, and is free to stop.
                types.types("n")
                assert types.ends() == ExitCode.FAILED
                north.start()
    assert north.peer(south)["grants"] == ["fetch", "see"]
    assert not south.call("trust.list")["peers"]
    with PairCommand(south, "--grant", "see") as shows:
        place, code = shows.shown()
        with PairCommand(north, place, "--grant", "see") as types:
            types.types(code)
            types.sees("it is trusted already")
            for one in (types, shows):
                one.sees("[y/N]")
                one.types("y")
            assert (shows.ends(), types.ends()) == (0, 0)
    assert north.peer(south)["grants"] == ["fetch", "see"]
    assert south.peer(north)["grants"] == ["see"]
    wait_until(lambda: south.peer(north)["connected"], what="they connect")


def test_the_one_who_shows_goes_away(both: tuple[Facility, Facility]) -> None:
    north, south = both
    with PairCommand(north) as shows:
        place, code = shows.shown()
        shows.process.terminate()
        shows.ends()
        wait_until(lambda: north.entries("pairing-closed"), what="the window is closed")
        with PairCommand(south, place) as types:
            types.types(code)
            assert types.ends() == ExitCode.UNREACHABLE
            assert "no code is shown" in types.screen
    [closed] = north.entries("pairing-closed")
    assert closed["details"]["why"] == "stopped"
