"""An operator is told: two real nodes, a mail relay, an https server, and Prometheus' parser."""

import contextlib
import datetime
import http.client
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates_made import Authority
from facilities import Facility, free_port, two_facilities, wait_until
from notices_made import SECRET, Hook, Relay, hook, relay
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from studies_made import make_study

from node.errors import NodeError

pytestmark = [pytest.mark.slow, pytest.mark.integration]

LABELS = {
    "version", "peer", "direction", "state", "kind", "reason", "became", "what", "subject",
    "severity", "channel",
}  # fmt: skip


@dataclass
class Watched:
    """North, which tells an operator; and South, which asks it for studies."""

    north: Facility
    south: Facility
    server: Hook
    mail: Relay
    authority: Authority
    metrics_port: int

    def read(
        self, *, accept: str = "", host: str = "", method: str = "GET", path: str = "/metrics"
    ):
        """One request to the metrics: status, type, text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=20)
        with contextlib.closing(connection):
            headers = {"Accept": accept, "Host": host or f"127.0.0.1:{self.metrics_port}"}
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers["content-type"], answer.read().decode()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """All values, by name and labels."""
        _, _, text = self.read()
        return {
            (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    authority = Authority(tmp_path)
    identity = authority.issue("localhost")
    with (
        two_facilities(tmp_path, start=False) as (north, south),
        hook(identity) as server,
        relay(identity) as mail,
    ):
        port = free_port()
        (north.home.path / "webhook.secret").write_text(SECRET)
        with north.home.config_path.open("a") as settings:
            settings.write(f"""
[metrics]
listen = "127.0.0.1:{port}"
[webhook]
url = "https://localhost:{server.port}/radmesh"
secret = "webhook.secret"
ca = "{authority.ca}"
[mail]
relay = "localhost:{mail.port}"
from = "radmesh@hospital.example"
to = ["pacs-team@hospital.example"]
ca = "{authority.ca}"
""")
        north.start()
        south.start()
        wait_until(lambda: south.peer(north)["connected"], what="South connects to North")
        yield Watched(north, south, server, mail, authority, port)


def _asks(watched: Watched, directory: Path) -> str:
    """South asks for a study, and a person at North has to approve; gives its UID."""
    study = make_study(directory / "in", 3)
    watched.north.call("ingest", paths=[str(directory / "in")])
    watched.north.call("rules.add", peer=watched.south.name, rule=["ask", "fetch"])
    wait_until(lambda: study in watched.south.announced(watched.north), what="announcement")

    def fetch() -> None:
        with contextlib.suppress(NodeError, OSError):
            watched.south.call("fetch", study=study, reason="before the operation")

    threading.Thread(target=fetch, daemon=True).start()
    wait_until(lambda: watched.north.call("requests")["requests"], what="the request")
    return study


def test_what_waits_for_a_person_is_told_once_over_a_kill(watched: Watched, tmp_path: Path) -> None:
    north, server, mail = watched.north, watched.server, watched.mail
    study = _asks(watched, tmp_path)
    wait_until(lambda: server.got and mail.mails, what="mail and webhook")
    [told], [letter] = server.got, mail.mails
    [asked] = north.entries("approval-asked")
    assert (told["subject"], told["about"], told["entries"]) == (
        "approval", ["1"], [asked["index"]],
    )  # fmt: skip
    assert told["facility"] == north.home.read_card().fingerprint
    assert letter["Subject"] == "Radmesh at North General: a request waits for approval"
    assert mail.secured == [True]
    wait_until(lambda: not watched.metrics()["radmesh_notices_unsent", "mail"], what="noted")
    wait_until(lambda: not watched.metrics()["radmesh_notices_unsent", "webhook"], what="noted")
    north.kill()
    # What is new after the kill comes alone.
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=5, hours=1)
    pem = watched.authority.issue("dicom", name="dicom", ends=soon)
    with north.home.config_path.open("a") as settings:
        settings.write(
            f'[dimse]\ntls_listen = ["127.0.0.1:{free_port()}"]\ncertificate = "{pem}"\n'
        )
        settings.write(f'key = "{pem}"\nca = "{watched.authority.ca}"\n')
    north.start()
    wait_until(lambda: len(server.got) == 2 and len(mail.mails) == 2, what="the certificate")
    assert server.got[1]["subject"] == "certificate"
    assert server.got[1]["about"] == ["dimse.certificate, 7 days before its end"]
    assert "ends soon or has ended" in mail.mails[1]["Subject"]
    shown = north.cli("status", check=False).stdout
    assert f"mail by localhost:{mail.port}: 1 sent" in shown
    assert "ALERT: the certificate dimse.certificate of config.toml ends" in shown
    # Nothing of patient, study, person or facility has left, but our own name.
    said = [str(one) for one in server.got] + [one.as_string() for one in mail.mails]
    for text in (study, "South", "operation", "Doe"):
        assert text not in " ".join(said)
    assert SECRET not in north.stderr()


def test_a_relay_that_is_away_is_named_and_gets_it_later(watched: Watched, tmp_path: Path) -> None:
    watched.mail.refuses["DATA"] = "451 the queue is full"
    _asks(watched, tmp_path)
    wait_until(lambda: watched.server.got, what="the webhook has it")
    wait_until(
        lambda: "451 the queue is full" in watched.north.cli("status", check=False).stdout,
        what="status names it",
    )
    done = watched.north.cli("doctor", check=False)
    assert done.returncode == 1
    assert re.search(r"WRONG  mail by .*: 1 notice waits: .* it answers 451", done.stdout)
    watched.north.kill()
    del watched.mail.refuses["DATA"]
    watched.north.start()
    wait_until(lambda: watched.mail.mails, what="the mail comes after all")
    assert len(watched.server.got) == 1


def test_prometheus_reads_it_and_nobody_is_in_it(watched: Watched, tmp_path: Path) -> None:
    north, south = watched.north, watched.south
    study = make_study(tmp_path / "in", 3)
    north.call("ingest", paths=[str(tmp_path / "in")])
    wait_until(lambda: study in south.announced(north), what="announcement")
    south.call("fetch", study=study)
    status, kind, text = watched.read()
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = watched.metrics()
    short = south.home.read_card().fingerprint[:15]
    assert found["radmesh_peers_connected",] == found["radmesh_peer_connected", short] == 1
    assert found["radmesh_studies",] == 1
    wait_until(
        lambda: watched.metrics().get(("radmesh_transfers_ended_total", "out", "complete")) == 1,
        what="the transfer has ended",
    )
    sent = watched.metrics()["radmesh_transfer_bytes_total", "out"]
    assert sent == north.call("transfers")["transfers"][0]["wire_bytes"] > 0
    assert watched.metrics()["radmesh_log_entries",] == north.call("status")["log_size"]
    assert 0 < found["radmesh_days_left", "card"] < 1200
    assert found["radmesh_alerts", "alarm", "disk"] == found["radmesh_log_in_doubt",] == 0
    assert found["radmesh_disk_free_bytes",] > 0
    families = list(text_string_to_metric_families(text))
    assert {key for one in families for each in one.samples for key in each.labels} <= LABELS
    for word in (study, "South", "Doe", "/home", str(tmp_path)):
        assert word not in text
    # The newer format as well, by its own strict parser.
    status, kind, text = watched.read(accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert {one.name for one in openmetrics.text_string_to_metric_families(text)} == {
        one.name.removesuffix("_total") for one in families
    }
    assert watched.read(method="HEAD")[2] == ""
    assert watched.read(path="/")[0] == watched.read(method="POST")[0] == 404
    assert watched.read(host="localhost:1")[0] == watched.read(host="[::1]:1")[0] == 200
    for host in ("attacker.example", "127.0.0.1.attacker.example:9464", "10.0.0.1"):
        assert watched.read(host=host)[0] == 403
    # Who says nothing takes a place and nothing else.
    silent = [socket.create_connection(("127.0.0.1", watched.metrics_port)) for _ in range(7)]
    assert watched.read()[0] == 200
    for one in silent:
        one.close()


def test_doctor_asks_each_facility_and_tries_each_channel(watched: Watched) -> None:
    north, south, mail = watched.north, watched.south, watched.mail
    done = north.cli("doctor", "--send-test")
    assert re.search(
        r"ok     facility South Clinic: it is connected \(radmesh [0-9.]+\), and answers in .*; "
        r"its clock is [0-9.]+ s (ahead of|behind) ours",
        done.stdout,
    ), done.stdout
    assert f"ok     mail by localhost:{mail.port}: it took a test" in done.stdout
    assert "ok     webhook by localhost" in done.stdout
    assert "ok     our address: /ip4/127.0.0.1/tcp/" in done.stdout
    assert [one["subject"] for one in watched.server.got] == ["test"]
    assert mail.mails[0]["Subject"].endswith("this is a test of the notices of the node")
    mail.refuses["RCPT"] = "550 no such mailbox"
    done = north.cli("doctor", "--send-test", check=False)
    assert (done.returncode, "550 no such mailbox" in done.stdout) == (1, True)
    assert "at least one facility" not in south.cli("doctor").stdout

    # It is away; another node is in its place; somebody who says nothing is.
    south.stop()
    done = north.cli("doctor", check=False)
    assert done.returncode == 1
    assert re.search(
        r"WRONG  facility South Clinic: it does not answer: 127.0.0.1 port \d+: connection refused;"
        r" it was last connected 2",
        done.stdout,
    ), done.stdout
    assert re.search("note   facility South Clinic: it cannot be called at /ip4/", done.stdout)
    other = Facility(north.home.path.parent, "Other Clinic", port=south.port)
    other.start()
    try:
        found = north.cli("doctor", check=False).stdout
        assert "the node there has another key or does not speak Noise" in found, found
    finally:
        other.stop()
    with socket.create_server(("127.0.0.1", south.port)):
        found = north.cli("doctor", check=False).stdout
        assert "it does not answer: no answer within 10 s" in found, found


def test_a_place_for_metrics_that_is_taken_is_named(tmp_path: Path) -> None:
    north = Facility(tmp_path, "North General")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with north.home.config_path.open("a") as settings:
            settings.write(f'\n[metrics]\nlisten = "127.0.0.1:{port}"\n')
        done = north.cli("serve", check=False)
    assert f"the node cannot listen for metrics at 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr
