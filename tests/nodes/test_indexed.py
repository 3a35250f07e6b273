"""Studies that lie only in an archive of North: announced without a copy, brought when wanted."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives_made import LOOPBACK
from facilities import Facility, free_port, two_facilities, wait_until
from orthanc_made import PASSWORD, USER, Orthanc, made_orthanc, with_orthanc
from studies_made import make_study

pytestmark = [pytest.mark.slow, pytest.mark.integration]

IMAGES = 7


def _write(facility: Facility, text: str) -> None:
    with facility.home.config_path.open("a") as settings:
        settings.write(text)


def _by_dimse(north: Facility, orthanc: Orthanc, listens: int) -> str:
    return f"""
[dimse]
listen = ["{LOOPBACK}:{listens}"]
[dimse.callers."PACS"]
addresses = ["{LOOPBACK}"]
[archives."PACS"]
ae_title = "PACS"
host = "{LOOPBACK}"
port = {orthanc.port}
index_days = 3650
"""


def _by_web(north: Facility, orthanc: Orthanc, listens: int) -> str:
    from base64 import b64encode

    token = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (north.home.path / "pacs.token").write_text(f"Basic {token}\n")
    return f"""
[archives."PACS"]
stow = "http://{LOOPBACK}:{orthanc.http_port}/dicom-web"
token = "pacs.token"
index_days = 3650
"""


def _digests(directory: Path) -> set[str]:
    """What the files of a folder hold, without their heads, which an archive writes anew."""
    found = set()
    for path in directory.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            length = int.from_bytes(data[140:144], "little")
            found.add(hashlib.sha256(data[144 + length :]).hexdigest())
    return found


def _own(facility: Facility) -> list[dict[str, Any]]:
    found = facility.call("studies")["studies"]
    return [one for one in found if one["where"] == "own"]


@contextlib.contextmanager
def _sites(
    tmp_path: Path, settings: Callable[[Facility, Orthanc, int], str], more: str = ""
) -> Iterator[tuple[Facility, Facility, Orthanc, str]]:
    """North with an archive that has one study, which South may see."""
    listens = free_port()
    orthanc = made_orthanc(tmp_path / "pacs", calls={"radmesh": ("RADMESH", listens)})
    study = make_study(tmp_path / "in", IMAGES)
    with two_facilities(tmp_path, grants=("see", "fetch"), start=False) as (north, south):
        _write(north, settings(north, orthanc, listens) + more)
        with orthanc.running():
            for path in (tmp_path / "in").iterdir():
                orthanc.rest("POST", "/instances", path.read_bytes())
            north.start()
            south.start()
            wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
            yield north, south, orthanc, study


@with_orthanc
@pytest.mark.parametrize("settings", [_by_dimse, _by_web])
def test_what_an_archive_alone_has_is_shared_and_fetched(
    tmp_path: Path, settings: Callable[[Facility, Orthanc, int], str]
) -> None:
    with _sites(tmp_path, settings) as (north, south, orthanc, study):
        [indexed] = wait_until(lambda: _own(north), what="North has indexed it")
        assert (indexed["study"], indexed["indexed"]) == (study, "PACS")
        assert (indexed["instances"], indexed["bytes"], indexed["held"]) == (IMAGES, 0, False)
        # Nobody is told of it before a person or a rule says so.
        assert indexed["state"] == "withheld"
        assert study not in south.announced(north)
        assert "not here but in the archive PACS" in north.cli("studies").stdout
        assert "indexed: 1 study" in north.cli("archive").stdout
        refused = north.cli("export", study, tmp_path / "none", check=False)
        assert "it is in the archive PACS" in refused.stderr
        north.cli("share", study)
        wait_until(lambda: study in south.announced(north), what="South knows of it")
        [told] = south.call("studies", peer=north.name)["studies"]
        assert (told["indexed"], told["instances"], told["bytes"]) == ("archive", IMAGES, 0)
        assert set(told["content_root"]) == {"0"}
        assert "in an archive there" in south.cli("studies", "--peer", north.name).stdout
        # Nothing has come so far.
        assert not north.entries("retrieve-begun")
        assert not north.entries("ingest")
        south.call("fetch", study=study, peer=north.name)
        [began] = north.entries("retrieve-begun")
        assert began["details"] == {"archive": "PACS"}
        [requested] = north.entries("requested")
        assert began["index"] < requested["index"]
        south.cli("export", study, tmp_path / "out")
        assert _digests(tmp_path / "out") == _digests(tmp_path / "in")
        assert len(south.entries("requested")) == 1
        # It is here now, and told of as it is.
        [row] = _own(north)
        assert (row["indexed"], row["instances"], row["state"]) == ("", IMAGES, "shared")
        wait_until(lambda: not south.call("studies", peer=north.name)["studies"][0]["indexed"])
        # It does not go back to where it came from, and is proven to be there.
        wait_until(lambda: north.entries("stored"), what="it is stored")
        assert not north.entries("forward-begun")
        assert len(orthanc.rest("GET", "/instances")) == IMAGES
        for facility in (north, south):
            facility.check_log(tmp_path, facility.name)
            assert facility.cli("check").returncode == 0
            assert "MARKER" not in facility.stderr()


@with_orthanc
def test_an_archive_that_is_away_when_a_study_is_wanted(tmp_path: Path) -> None:
    """The peer waits and is told why; nothing is lost when either side ends meanwhile."""
    with _sites(tmp_path, _by_dimse) as (north, south, orthanc, study):
        wait_until(lambda: _own(north), what="North has indexed it")
        north.cli("share", study)
        wait_until(lambda: study in south.announced(north), what="South knows of it")
        orthanc.kill()
        fetching = _start_fetch(south, study)
        why = wait_until(lambda: _waits(south), what="South is told why it waits")
        assert "archive of North" in why
        assert "does not give the study now" in why
        shown = wait_until(lambda: north.call("archive")["retrieved"], what="North says it too")
        assert (shown[0]["state"], shown[0]["archive"]) == ("failed", "PACS")
        assert "cannot be reached" in shown[0]["why"]
        assert f"study {study} from PACS: failed: " in north.cli("archive").stdout
        assert "WRONG archive PACS: 1 study did not come from it" in _doctor(north)
        # It is shared all the same: that an archive does not answer says nothing of its studies.
        assert [one["state"] for one in _own(north)] == ["shared"]
        north.kill()
        orthanc.start()
        north.start()
        fetching.join(90)
        assert not fetching.is_alive(), "the fetch goes on"
        south.cli("export", study, tmp_path / "out")
        assert _digests(tmp_path / "out") == _digests(tmp_path / "in")
        assert len(south.entries("received")) == 1
        assert north.cli("check").returncode == 0


def _doctor(facility: Facility) -> str:
    return " ".join(facility.cli("doctor", check=False).stdout.split())


def _start_fetch(facility: Facility, study: str) -> threading.Thread:
    """Fetch a study; the thread fails the test if the command does."""
    thread = threading.Thread(target=facility.cli, args=("fetch", study), daemon=True)
    thread.start()
    return thread


def _waits(facility: Facility) -> str:
    """Why the only fetch waits for the archive of the other side; "" if it does not."""
    transfers = facility.call("transfers")["transfers"]
    whys = [str(one["why"]) for one in transfers if one["state"] == "waiting"]
    return next((why for why in whys if "does not give" in why), "")


@with_orthanc
def test_a_node_that_is_killed_while_its_archive_gives(tmp_path: Path) -> None:
    with _sites(tmp_path, _by_dimse) as (north, south, orthanc, study):
        wait_until(lambda: _own(north), what="North has indexed it")
        north.cli("share", study)
        wait_until(lambda: study in south.announced(north), what="South knows of it")
        fetching = _start_fetch(south, study)
        wait_until(lambda: north.entries("retrieve-begun"), what="the archive is asked")
        north.kill()
        north.start()
        fetching.join(90)
        assert not fetching.is_alive(), "the fetch goes on"
        south.cli("export", study, tmp_path / "out")
        assert _digests(tmp_path / "out") == _digests(tmp_path / "in")
        for facility in (north, south):
            facility.check_log(tmp_path, facility.name)
            assert facility.cli("check").returncode == 0
        wait_until(lambda: north.entries("stored"), 40, "it is stored")
        assert len(orthanc.rest("GET", "/instances")) == IMAGES


@with_orthanc
def test_it_grows_in_the_archive_goes_here_and_is_wanted_again(tmp_path: Path) -> None:
    more = "\n[keeping]\nquota_gb = 1\nyoungest_days = 0\n"
    with _sites(tmp_path, _by_dimse, more) as (north, south, orthanc, study):
        wait_until(lambda: _own(north), what="North has indexed it")
        # Without a peer, too: a person brings it.
        brought = north.cli("archive", "retrieve", study[:-2]).stdout
        assert brought == f"study {study} came from PACS: {IMAGES} images\n"
        again = north.cli("archive", "retrieve", study).stdout
        assert again == f"study {study} is here with {IMAGES} images\n"
        assert north.entries("retrieve-begun")[0]["actor"] != "node"
        wait_until(lambda: north.entries("stored"), 40, "it is stored")
        north.cli("share", study)
        south.call("fetch", study=study, peer=north.name)
        # The archive gets more of it. The next look at all days is at a start.
        extra = make_study(tmp_path / "more", 2, study=study, first=IMAGES + 1)
        assert extra == study
        for path in (tmp_path / "more").iterdir():
            orthanc.rest("POST", "/instances", path.read_bytes())
        north.stop()
        north.start()
        wait_until(lambda: north.call("archive")["archives"][0]["index"]["days_left"] == 0)
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        south.call("fetch", study=study, peer=north.name)
        south.cli("export", study, tmp_path / "out")
        assert _digests(tmp_path / "out") == _digests(tmp_path / "in") | _digests(tmp_path / "more")
        north.check_log(tmp_path, "north")
