"""People of a group: who they are, what they may, and that the log names each, erasably."""

import contextlib
import functools
import grp
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from facilities import Facility, two_facilities, wait_until
from facility_in_memory import publish_study
from other_users import OTHER, OTHERS_GROUP, OUTSIDER, as_root, as_user, public
from studies_made import make_study

from keys.fingerprint import parse_fingerprint
from node.api.client import call_people
from node.api.people import caller_of, listening_for_people, uid_of
from node.api.server import application, serve_api
from node.app import Node
from node.blocking import in_thread
from node.callers import SERVICE, Caller, asked_by, asking
from node.errors import ExitCode, NodeError
from node.home import Home
from node.operations import OPERATIONS, TABLE, Call
from protocol.log.entry import Event
from protocol.verify import Code, verify_bundle

__all__ = ["public"]

JANE = Caller("person", "j.doe")
GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", name="North General")


@pytest.fixture
def node(home: Home) -> Iterator[Node]:
    with home.config_path.open("a") as settings:
        settings.write('\n[people]\nunlisted = "all"\n')
    with Node.open(home) as opened:
        yield opened


async def _post(node: Node, caller: Caller, operation: str, **parameters: Any) -> dict[str, Any]:
    """Ask the API as ASGI has it, without a socket; the last line of the answer."""
    sent: list[Any] = []
    given = iter([{"type": "http.request", "body": json.dumps(parameters).encode()}])

    async def receive() -> Any:
        try:
            return next(given)
        except StopIteration:
            await trio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": f"/v1/{operation}", "headers": []}
    await application(node, None, caller)(scope, receive, send)
    body = b"".join(one.get("body", b"") for one in sent)
    answer: dict[str, Any] = json.loads(body.splitlines()[-1])
    return answer


def _ask(node: Node, caller: Caller, operation: str, **parameters: Any) -> dict[str, Any]:
    return trio.run(functools.partial(_post, node, caller, operation, **parameters))


def _opened(entry: dict[str, Any], kind: str) -> list[str]:
    return [one["value"] for one in entry["opened"] if one["kind"] == kind]


def _entries(node: Node, **parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _ask(node, SERVICE, "audit.show", **parameters)["result"][
        "entries"
    ]
    return found


# --- who asked, in the log ------------------------------------------------------------------


def test_each_entry_that_a_person_causes_names_the_person_and_no_other_does(node: Node) -> None:
    study = publish_study(node)
    _ask(node, JANE, "withdraw", study=study)
    _ask(node, SERVICE, "share", study=study)
    withdrawn, shared = _entries(node)[-2:]
    assert (withdrawn["type"], shared["type"]) == ("withdrawn", "shared")
    assert (withdrawn["actor"], shared["actor"]) == ("operator", "operator")
    assert _opened(withdrawn, "person") == ["j.doe"]
    assert _opened(withdrawn, "study") == [study]
    assert _opened(shared, "person") == []
    assert [entry["index"] for entry in _entries(node, person="j.doe")] == [withdrawn["index"]]
    assert _entries(node, person="j") == []


def test_the_name_of_a_person_is_not_in_the_log_itself(node: Node) -> None:
    study = publish_study(node)
    _ask(node, JANE, "withdraw", study=study)
    assert b"j.doe" not in b"".join(node.audit.entries())


async def test_threads_and_tasks_of_a_call_are_the_callers_and_what_goes_on_is_nobodys() -> None:
    seen: dict[str, Caller] = {}

    async def note(name: str) -> None:
        seen[name] = await in_thread(asking)

    token = trio.lowlevel.current_trio_token()
    woken = trio.Event()

    def wake() -> None:
        seen["woken"] = asking()
        woken.set()

    async with trio.open_nursery() as nursery:
        with asked_by(JANE):
            nursery.start_soon(note, "task")
            await note("call")
            await in_thread(token.run_sync_soon, wake)
        nursery.start_soon(note, "later")
        await woken.wait()
    assert seen == {"task": JANE, "call": JANE, "woken": SERVICE, "later": SERVICE}


def test_a_key_that_is_changed_names_the_person(node: Node) -> None:
    with asked_by(JANE):
        trio.run(OPERATIONS["keys.rotate"].answer, Call(node, caller=JANE), {"role": "log"})
    assert _opened(_entries(node, type="rotation")[0], "person") == ["j.doe"]


def test_an_entry_names_a_person_once(node: Node) -> None:
    with asked_by(JANE):
        node.audit.append(Event(type="shared", subjects=(("person", "j.doe"),)))
    assert len(_entries(node)[-1]["subjects"]) == 1


# --- erasing ----------------------------------------------------------------------------------


def test_a_person_is_erased_and_the_log_verifies(node: Node, tmp_path: Path) -> None:
    study = publish_study(node)
    _ask(node, JANE, "withdraw", study=study)
    _ask(node, Caller("person", "j.doe2"), "share", study=study)
    asked = {"what": "j.doe", "kind": "person"}
    assert _ask(node, SERVICE, "audit.erase", **asked)["result"]["openings"] == 1
    done = _ask(node, SERVICE, "audit.erase", **asked, confirmed=True)["result"]
    assert (done["openings"], done["entries"], done["studies"]) == (1, 1, 0)
    assert _entries(node, person="j.doe") == []
    withdrawn, shared, erased = _entries(node)[-3:]
    assert _opened(withdrawn, "person") == []
    assert _opened(withdrawn, "study") == [study]
    assert _opened(shared, "person") == ["j.doe2"]
    assert erased["details"]["kind"] == "person"
    bundle = tmp_path / "log.zip"
    _ask(node, SERVICE, "audit.export", path=str(bundle))
    with bundle.open("rb") as file:
        fingerprint = parse_fingerprint(node.card.fingerprint)
        assert verify_bundle(file, facility_fingerprint=fingerprint).code == Code.OK


def test_erasing_a_study_leaves_who_asked_for_it(node: Node) -> None:
    study = publish_study(node)
    _ask(node, JANE, "withdraw", study=study)
    _ask(node, SERVICE, "audit.erase", what=study, confirmed=True)
    [entry] = _entries(node, person="j.doe")
    assert entry["opened"] == [{"kind": "person", "value": "j.doe"}]


def test_a_name_alone_is_never_taken_for_a_person(node: Node) -> None:
    _ask(node, JANE, "withdraw", study=publish_study(node))
    error = _ask(node, SERVICE, "audit.erase", what="j.doe")["error"]
    assert error["code"] == ExitCode.NOT_FOUND


def test_what_a_part_of_the_log_is_given_out_for_names_no_person(
    node: Node, tmp_path: Path
) -> None:
    study = publish_study(node)
    _ask(node, JANE, "withdraw", study=study)
    for name, parameters in (("whole", {}), ("part", {"study": study})):
        _ask(node, SERVICE, "audit.export", path=str(tmp_path / name), **parameters)
    found = {}
    for name in ("whole", "part"):
        shutil.unpack_archive(tmp_path / name, tmp_path / f"{name}-out", "zip")
        openings = (tmp_path / f"{name}-out" / "openings.jsonl").read_text().splitlines()
        found[name] = {json.loads(line)["kind"] for line in openings}
    assert "person" in found["whole"]
    assert found["part"] == {"study", "patient"}


@pytest.mark.parametrize("form", ["dicom", "fhir"])
def test_without_the_setting_a_report_names_none_of_our_people(
    node: Node, tmp_path: Path, form: str
) -> None:
    _ask(node, JANE, "withdraw", study=publish_study(node))
    assert not node.settings.audit.persons, "it is off unless somebody has set it"
    _ask(node, SERVICE, "audit.report", format=form, path=str(tmp_path / "report"))
    written = (tmp_path / "report").read_text()
    assert "j.doe" not in written
    assert "a person whose name is not here" in written


@pytest.mark.parametrize("form", ["dicom", "fhir"])
def test_a_report_names_who_asked_as_the_one_who_acted(
    home: Home, tmp_path: Path, form: str
) -> None:
    with home.config_path.open("a") as settings:
        settings.write('\n[people]\nunlisted = "all"\n[audit]\npersons = true\n')
    with Node.open(home) as node:
        _report_names(node, tmp_path, form)


def _report_names(node: Node, tmp_path: Path, form: str) -> None:
    _ask(node, JANE, "withdraw", study=publish_study(node))
    for name in ("named", "erased"):
        made = _ask(node, SERVICE, "audit.report", format=form, path=str(tmp_path / name))
        assert "result" in made
        _ask(node, SERVICE, "audit.erase", what="j.doe", kind="person", confirmed=True)
    assert "j.doe" in (tmp_path / "named").read_text()
    erased = (tmp_path / "erased").read_text()
    assert "j.doe" not in erased
    assert "a person whose name is not here" in erased


# --- what people may ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [operation.name for operation in TABLE if operation.local_only], ids=str
)
def test_what_is_local_only_is_refused_to_people_before_anything_is_done(
    node: Node, tmp_path: Path, name: str
) -> None:
    before = node.audit.size
    error = _ask(node, JANE, name, path=str(tmp_path / "x"))["error"]
    assert error["code"] == ExitCode.REFUSED
    assert error["message"] == f"{name} is for the owner of the node alone"
    assert node.audit.size == before
    assert not (tmp_path / "x").exists()
    # The owner gets as far as the parameters, or further.
    owner = _ask(node, SERVICE, name, path=str(tmp_path / "x"))
    assert owner.get("error", {}).get("code") != ExitCode.REFUSED


# --- who they are ---------------------------------------------------------------------------------


def test_the_system_names_people_and_our_own_account_is_none() -> None:
    assert caller_of(os.getuid()) == SERVICE
    other = next(user for user in pwd.getpwall() if user.pw_uid != os.getuid())
    assert caller_of(other.pw_uid) == Caller("person", other.pw_name, number=other.pw_uid)
    assert caller_of(4_000_000_001) == Caller("person", "#4000000001", number=4_000_000_001)


def test_the_system_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert uid_of(ours) == os.getuid()


# --- the socket -----------------------------------------------------------------------------------


def test_folder_and_socket_are_open_to_the_group_alone(tmp_path: Path) -> None:
    folder = tmp_path / "people"
    for _ in range(2):
        with listening_for_people(folder, GROUP):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o750
            assert stat.S_IMODE((folder / "api.sock").stat().st_mode) == 0o660
            assert (folder / "api.sock").stat().st_gid == os.getgid()
        assert not (folder / "api.sock").exists()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o700, 0o751])
def test_a_folder_that_is_there_is_not_opened_to_anybody(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "people"
    folder.mkdir()
    folder.chmod(mode)
    with (
        pytest.raises(NodeError, match="is not as it must be") as caught,
        listening_for_people(folder, GROUP),
    ):
        pass
    assert "chgrp" in caught.value.hint
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert list(folder.iterdir()) == []


def test_a_link_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "true").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to(tmp_path / "true")
    with pytest.raises(NodeError, match="is not as it must be"):
        with listening_for_people(tmp_path / "link", GROUP):
            pass


def test_what_cannot_be_had_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="there is no group no-such-group"):
        with listening_for_people(tmp_path / "people", "no-such-group"):
            pass
    with pytest.raises(NodeError, match="cannot be made"):
        with listening_for_people(tmp_path / "no" / "such", GROUP):
            pass
    with pytest.raises(NodeError, match="cannot be made"):
        with listening_for_people(tmp_path / ("d" * 100), GROUP):
            pass


@asynccontextmanager
async def _serving(home: Home, folder: Path) -> AsyncIterator[Node]:
    with home.config_path.open("a") as settings:
        settings.write(f'\n[people]\ngroup = "{GROUP}"\nfolder = "{folder}"\nunlisted = "all"\n')
    with Node.open(home) as node:
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(serve_api, node, None, home.socket_path, ready.set)
            await ready.wait()
            try:
                yield node
            finally:
                nursery.cancel_scope.cancel()


async def test_both_sockets_answer_and_go_with_the_node(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "people" / "api.sock"
    async with _serving(home, path.parent):
        found = await trio.to_thread.run_sync(call_people, path, "card.own", {})
        assert found["name"] == "North General"
        assert home.socket_path.exists()
    assert not path.exists()
    assert not home.socket_path.exists()
    with pytest.raises(NodeError, match="no node listens at"):
        call_people(path, "card.own", {})


async def test_without_a_group_there_is_no_second_socket(home: Home, tmp_path: Path) -> None:
    with Node.open(home) as node:
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(serve_api, node, None, home.socket_path, ready.set)
            await ready.wait()
            assert os.listdir(tmp_path) == ["home"]  # noqa: PTH208
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_connections_of_people_are_bounded(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.api.server.PERSON_CONNECTIONS", 3)
    path = tmp_path / "people" / "api.sock"
    async with _serving(home, path.parent), contextlib.AsyncExitStack() as held:
        clients = [await trio.open_unix_socket(str(path)) for _ in range(4)]
        for client in clients:
            await held.enter_async_context(client)
        with trio.fail_after(5):
            assert await clients[-1].receive_some(1) == b""
        for client in clients:
            await client.aclose()
        with trio.fail_after(20):
            # The server forgets a silent connection after 5 s.
            while True:
                with contextlib.suppress(NodeError):
                    await trio.to_thread.run_sync(call_people, path, "card.own", {})
                    break
                await trio.sleep(0.1)
        for _ in range(8):
            assert (await trio.to_thread.run_sync(call_people, path, "card.own", {}))["name"]


def test_a_socket_where_others_could_have_put_it_is_not_spoken_to(tmp_path: Path) -> None:
    folder = tmp_path / "people"
    folder.mkdir(mode=0o770)
    folder.chmod(0o770)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "api.sock"))
        listener.listen()
        with pytest.raises(NodeError, match="others can write into the folder"):
            call_people(folder / "api.sock", "card.own", {})


# --- another user, for real ---------------------------------------------------------------------


@as_root
@pytest.mark.slow
@pytest.mark.integration
def test_a_member_of_the_group_fetches_and_the_log_says_who(tmp_path: Path, public: Path) -> None:
    path = public / "people" / "api.sock"
    with two_facilities(tmp_path, start=False) as (north, south):
        with south.home.config_path.open("a") as settings:
            settings.write(
                f'\n[people]\ngroup = "{OTHERS_GROUP}"\nfolder = "{path.parent}"\n'
                'unlisted = "all"\n'
            )
        for facility in (north, south):
            facility.start()
        study = make_study(tmp_path / "in", 2, rows=8)
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: study in south.announced(north), 30, "the announcement")

        ran = as_user(OTHER, [OTHERS_GROUP], path, "fetch", study=study)
        assert b'"state":"complete"' in ran.stdout, ran
        refused = as_user(OTHER, [OTHERS_GROUP], path, "audit.export", path="/tmp/none")
        assert b"is for the owner of the node alone" in refused.stdout
        outside = as_user(OUTSIDER, [], path, "status")
        assert outside.returncode != 0
        assert b"PermissionError" in outside.stderr

        named = {entry["type"] for entry in south.call("audit.show", person=OTHER)["entries"]}
        assert {"requested", "received"} <= named
        assert "start" not in named
        assert {entry["type"] for entry in south.entries() if study in _opened(entry, "study")} <= (
            named | {"receipt"}
        )
        assert north.call("audit.show", person=OTHER)["entries"] == []
        assert OTHER not in south.stderr()
        south.check_log(tmp_path)


@as_root
@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("erased", [False, True])
def test_a_fetch_that_goes_on_after_a_kill_is_still_the_persons(
    tmp_path: Path, public: Path, erased: bool
) -> None:
    path = public / "people" / "api.sock"
    with two_facilities(tmp_path, start=False) as (north, south):
        with south.home.config_path.open("a") as settings:
            settings.write(f'\n[people]\ngroup = "{OTHERS_GROUP}"\nfolder = "{path.parent}"\n')
        for facility in (north, south):
            facility.start()
        roles = ("--role", "send", "--role", "look", "--display", "Dr. Anna")
        south.cli("people", "add", "anna", "--user", OTHER, *roles)
        study = make_study(tmp_path / "in", 2, rows=8)
        north.call("ingest", paths=[str(tmp_path / "in")])
        wait_until(lambda: study in south.announced(north), 30, "the announcement")
        north.kill()

        def asked() -> bool:
            return any(one["study"] == study for one in south.call("transfers")["transfers"])

        with ThreadPoolExecutor(1) as pool:
            asking_ = pool.submit(as_user, OTHER, [OTHERS_GROUP], path, "fetch", study=study)
            wait_until(asked, 30, "the fetch of a person")
            south.kill()
            asking_.result()
        if erased:
            south.cli("audit", "erase", "--person", "anna", "--yes")
        south.start()
        north.start()
        wait_until(lambda: south.entries("received"), 60, "the study")
        [received] = south.entries("received")
        assert _opened(received, "person") == ([] if erased else ["anna^^^send^^^Dr. Anna"])
        wait_until(
            lambda: south.call("transfers")["transfers"][0]["state"] == "complete", 30, "its end"
        )
        south.stop()
        for file in south.home.path.glob("node.db*"):
            assert b"anna^^^send" not in file.read_bytes(), "over, so the log alone knows"
        south.check_log(tmp_path)


@as_root
@pytest.mark.slow
@pytest.mark.integration
def test_the_command_line_of_a_person(tmp_path: Path, public: Path) -> None:
    facility = Facility(tmp_path, "North General")
    with facility.home.config_path.open("a") as settings:
        settings.write(f'\n[people]\ngroup = "{OTHERS_GROUP}"\nfolder = "{public / "people"}"\n')
    facility.start()
    try:
        words = [sys.executable, "-m", "node.cli", "--socket", str(public / "people" / "api.sock")]
        ran = subprocess.run([*words, "status"], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran
        assert "North General" in ran.stdout
    finally:
        facility.stop()
