"""Where a node listens: the table, the document, the code, and the sockets of a real process."""

import grp
import ipaddress
import os
import re
import sys
from pathlib import Path

import pytest
from certificates_made import Authority
from facilities import Facility, free_port
from places import ROOT

from node.config import Settings
from node.listeners import LISTENERS, document
from node.network.sockets import parse_address
from node.setting_rows import SETTINGS

TCP_LISTEN, UDP_BOUND, UNIX_ACCEPTS = "0A", "07", 0x10000

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_the_document_has_the_table_as_it_is_made_from_the_code() -> None:
    assert document() in (ROOT / "docs/operations.md").read_text()


def test_nothing_but_the_port_of_peers_is_open_to_other_machines_by_default() -> None:
    assert [one.name for one in LISTENERS if one.is_on and one.address == "any"] == ["peers"]
    # What other machines could reach, or what is off, has a setting that puts it there.
    names = {row.name for row in SETTINGS}
    assert all(one.setting in names for one in LISTENERS if one.address == "any" or not one.is_on)


def test_the_port_of_peers_is_that_of_the_settings() -> None:
    [peers] = [one for one in LISTENERS if one.name == "peers"]
    [address] = [parse_address(text) for text in Settings().listen]
    assert (address.host, address.port) == (peers.place, peers.port)


def test_only_files_of_the_table_listen() -> None:
    listening = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "node").rglob("*.py")
        if re.search(
            r"\.listen\([A-Z_]*\)|open_tcp_listeners|serve_tcp|create_server|start_server"
            r"|HTTPServer|fromfd\(",
            path.read_text(),
        )
    }
    assert listening == {one.module for one in LISTENERS}


# --- the sockets of a process ---------------------------------------------------------------


def _sockets_of(pid: int) -> set[str]:
    """Inodes of the sockets that a process holds."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:
            continue
        if match := re.fullmatch(r"socket:\[([0-9]+)\]", target):
            found.add(match[1])
    return found


def _inet(pid: int, name: str, state: str) -> set[tuple[str, str, int]]:
    held = _sockets_of(pid)
    found = set()
    for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == state and fields[9] in held:
            host, port = fields[1].split(":")
            words = [host[start : start + 8] for start in range(0, len(host), 8)]
            packed = b"".join(bytes.fromhex(word)[::-1] for word in words)
            found.add((name, str(ipaddress.ip_address(packed)), int(port, 16)))
    return found


def _files(pid: int) -> set[str]:
    held = _sockets_of(pid)
    lines = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    return {
        (fields[7] if len(fields) > 7 else "")
        for fields in (line.split(maxsplit=7) for line in lines)
        if int(fields[3], 16) & UNIX_ACCEPTS and fields[6] in held
    }


def _listening(facility: Facility) -> tuple[set[tuple[str, str, int]], set[str]]:
    """All places where anybody could call the process: of TCP and UDP, and files."""
    assert facility.process is not None
    pid = facility.process.pid
    network = set()
    for name, state in (
        ("tcp", TCP_LISTEN),
        ("tcp6", TCP_LISTEN),
        ("udp", UDP_BOUND),
        ("udp6", UDP_BOUND),
    ):
        network |= _inet(pid, name, state)
    return network, _files(pid)


@pytest.fixture
def facility(tmp_path: Path) -> Facility:
    """A node of which nothing is set but another port for peers, since 4101 may be taken."""
    made = Facility(tmp_path, "North General")
    written = made.home.config_path.read_text()
    ours = f'listen = ["/ip4/127.0.0.1/tcp/{made.port}"]'
    assert ours in written
    default = f'listen = ["/ip4/0.0.0.0/tcp/{made.port}"]'
    made.home.config_path.write_text(written.replace(ours, default))
    return made


@on_linux
@pytest.mark.slow
@pytest.mark.integration
def test_a_node_with_default_settings_listens_where_the_table_says_and_nowhere_else(
    facility: Facility,
) -> None:
    facility.start()
    try:
        network, files = _listening(facility)
    finally:
        facility.stop()
    [peers] = [one for one in LISTENERS if one.name == "peers"]
    assert network == {("tcp", peers.place, facility.port)}
    assert files == {str(facility.home.socket_path)}
    assert len(network) + len(files) == sum(one.is_on for one in LISTENERS)


@on_linux
@pytest.mark.slow
@pytest.mark.integration
def test_a_setting_adds_what_its_row_says(facility: Facility, tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    plain, secured, metrics = free_port(), free_port(), free_port()
    authority = Authority(facility.home.path)
    pem = authority.issue("127.0.0.1", name="dicom")
    with facility.home.config_path.open("a") as settings:
        settings.write(f'\n[people]\ngroup = "{group}"\nfolder = "{tmp_path / "people"}"\n')
        settings.write(f'[metrics]\nlisten = "127.0.0.1:{metrics}"\n')
        settings.write(f'[dimse]\nlisten = ["127.0.0.1:{plain}"]\n')
        settings.write(f'tls_listen = ["127.0.0.1:{secured}"]\n')
        settings.write(f'certificate = "{pem}"\nkey = "{pem}"\nca = "{authority.ca}"\n')
    facility.start()
    try:
        network, files = _listening(facility)
    finally:
        facility.stop()
    assert network == {
        ("tcp", "0.0.0.0", facility.port),
        ("tcp", "127.0.0.1", plain),
        ("tcp", "127.0.0.1", secured),
        ("tcp", "127.0.0.1", metrics),
    }
    assert files == {str(facility.home.socket_path), str(tmp_path / "people" / "api.sock")}
    assert len(network) + len(files) == len(LISTENERS)
