"""The table `dimse`: who may call, and each sentence about what is wrong with it."""

import re
from pathlib import Path
from typing import Any

import pytest

from node.config import read_settings
from node.edges.dimse_server import _written
from node.edges.dimse_settings import (
    DEFAULT_IDLE_SECONDS,
    Address,
    Caller,
    DimseSettings,
    is_place,
    read_dimse,
)
from node.edges.door_settings import BadEdge, Door
from node.errors import ExitCode, NodeError

DIGEST = "9f" * 32
TLS = {"tls_listen": ["10.1.2.3:2762"], "certificate": "a", "key": "b", "ca": "c"}


def test_nothing_listens_by_itself() -> None:
    found = read_dimse({}, {}, {})
    assert found == DimseSettings()
    assert not found.is_on
    assert found.idle_seconds == DEFAULT_IDLE_SECONDS
    assert found.doors == {"RADMESH": Door(name="RADMESH")}
    assert found.plain_links == ()


def test_what_the_table_says() -> None:
    found = read_dimse(
        {"listen": ["10.1.2.3:11112", "[fd00::1]:104"], "idle_seconds": 30, **TLS},
        {
            "CT 1": {"addresses": ["10.1.2.4", "FD00::0002"]},
            "PACS": {"certificates": [DIGEST.upper(), ":".join(["ab"] * 32)]},
        },
        {"RM_SOUTH": {"to": "South Clinic", "purpose": "treatment", "stat": True}, "RM-STAT": {}},
    )
    assert found.listen == (Address(host="10.1.2.3", port=11112), Address(host="fd00::1", port=104))
    assert found.tls_listen == (Address(host="10.1.2.3", port=2762),)
    assert found.is_on
    assert found.callers["CT 1"].addresses == {"10.1.2.4", "fd00::2"}
    assert found.callers["PACS"].certificates == {DIGEST, "ab" * 32}
    assert found.doors["RM_SOUTH"] == Door(
        name="RM_SOUTH", to="South Clinic", purpose="treatment", stat=True
    )
    assert found.doors["RM-STAT"] == Door(name="RM-STAT")
    assert found.doors["RADMESH"] == Door(name="RADMESH")
    assert found.plain_links == (("CT 1", "10.1.2.4"), ("CT 1", "fd00::2"))


def test_who_queries_and_who_receives() -> None:
    found = read_dimse(
        {},
        {
            "WS1": {"addresses": ["10.1.2.9"], "query": True, "purpose": "second-opinion",
                    "studies_a_day": 5, "receives_at": "ws1:11112"},
            "WS2": {"addresses": ["10.1.2.9"], "query": True},
            # Only a place to send to: it may not call.
            "SHOW": {"receives_at": "10.1.2.8:104"},
        },
        {"RADMESH": {"partners": True}, "RM_SOUTH": {"to": "South", "purpose": "treatment"}},
    )  # fmt: skip
    ws1, ws2, show = (found.callers[title] for title in ("WS1", "WS2", "SHOW"))
    assert (ws1.purpose, ws1.studies_a_day) == ("second-opinion", 5)
    assert ws1.receives_at == Address(host="ws1", port=11112)
    assert (ws2.query, ws2.purpose, ws2.studies_a_day, ws2.receives_at) == (
        True, "treatment", 200, None,
    )  # fmt: skip
    assert not show.query
    assert not show.may_call("10.1.2.8", None)
    assert found.doors["RADMESH"].partners
    assert not found.doors["RM_SOUTH"].partners
    assert found.plain_calls == (
        ("images", "WS1", "ws1:11112"), ("images", "SHOW", "10.1.2.8:104"),
    )  # fmt: skip


def _ws(**entry: Any) -> dict[str, Any]:
    return {"WS1": {"addresses": ["10.1.2.9"], **entry}}


@pytest.mark.parametrize(
    ("callers", "doors", "why"),
    [
        (_ws(query=1), {}, "a `query` that is not true or false"),
        (_ws(purpose="treatment"), {}, "without `query = true`"),
        (_ws(studies_a_day=5), {}, "without `query = true`"),
        (_ws(query=True, purpose="fun"), {}, "a purpose that there is not"),
        (_ws(query=True, purpose="break-glass"), {}, "that only a person can have"),
        (_ws(query=True, studies_a_day=0), {}, "no number from 1 to 1000000"),
        (_ws(query=True, studies_a_day=True), {}, "no number from 1 to 1000000"),
        (_ws(receives_at="ws1"), {}, "a receives_at that is no place"),
        (_ws(receives_tls=True), {}, "without receives_at"),
        (_ws(receives_at="ws1:104", receives_tls=True), {}, "lacks one of certificate"),
        ({"WS1": {"query": True, "receives_at": "ws1:104"}}, {}, "a title alone admits nobody"),
        ({}, {"RM": {"partners": 1}}, "a `partners` that is not true or false"),
        ({}, {"RM": {"partners": True, "to": "South", "purpose": "treatment"}}, "both `to` and"),
    ],
)
def test_what_a_workstation_cannot_have(
    callers: dict[str, Any], doors: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadEdge, match=re.escape(why)):
        read_dimse({}, callers, doors)


def test_over_tls_alone_there_is_no_plain_link() -> None:
    found = read_dimse(TLS, {"CT1": {"addresses": ["10.1.2.4"]}}, {})
    assert found.is_on
    assert found.plain_links == ()


@pytest.mark.parametrize(
    ("caller", "address", "certificate", "may"),
    [
        ({"addresses": {"10.0.0.1"}}, "10.0.0.1", None, True),
        ({"addresses": {"10.0.0.1"}}, "10.0.0.2", None, False),
        ({"addresses": {"10.0.0.1"}}, "10.0.0.2", DIGEST, False),
        ({"addresses": {"10.0.0.1"}}, "10.0.0.1", DIGEST, True),
        ({"certificates": {DIGEST}}, "10.0.0.1", None, False),
        ({"certificates": {DIGEST}}, "10.0.0.1", DIGEST, True),
        ({"certificates": {DIGEST}}, "10.0.0.1", "ab" * 32, False),
        ({}, "10.0.0.1", None, False),
    ],
)
def test_who_may_call(
    caller: dict[str, Any], address: str, certificate: str | None, may: bool
) -> None:
    made = Caller(ae_title="CT1", **{name: frozenset(some) for name, some in caller.items()})
    assert made.may_call(address, certificate) is may


CT1 = {"CT1": {"addresses": ["10.1.2.4"]}}


def _reporting(place: object, **more: object) -> dict[str, Any]:
    return {"CT1": {"addresses": ["10.1.2.4"], "report_to": place, **more}}


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("10.1.2.4:104", "10.1.2.4"),
        ("[fd00::1]:104", "fd00::1"),
        ("ct.example:104", "ct.example"),
    ],
)
def test_where_reports_go(text: str, host: str) -> None:
    found = read_dimse({}, _reporting(text), {})
    assert found.callers["CT1"].report_to == Address(host=host, port=104)
    assert found.plain_calls == (("reports", "CT1", f"{host}:104"),)
    assert found.plain_links == ()
    over_tls = read_dimse(TLS, _reporting(text, report_tls=True), {})
    assert over_tls.callers["CT1"].report_tls
    assert over_tls.plain_calls == ()


@pytest.mark.parametrize(
    ("entries", "callers", "doors", "sentence"),
    [
        ({}, [], {}, "has callers that are no tables, each written [dimse.callers.\"AE_TITLE\"]"),
        ({}, {"CT1": 5}, {}, "has callers that are no tables"),
        ({}, {}, {"RM": "x"}, "has doors that are no tables, each written [dimse.doors."),
        ({}, {"": CT1["CT1"]}, {}, 'has for callers."" a name that is no AE title'),
        ({}, {"A" * 17: CT1["CT1"]}, {}, "a name that is no AE title"),
        ({}, {"CT\\1": CT1["CT1"]}, {}, "a name that is no AE title"),
        ({}, {" CT1": CT1["CT1"]}, {}, "a name that is no AE title"),
        ({}, {"CT1 ": CT1["CT1"]}, {}, "a name that is no AE title"),
        ({}, {"RÖ": CT1["CT1"]}, {}, "a name that is no AE title"),
        ({}, {"CT1": {"adresses": ["10.1.2.4"]}}, {},
         'has for callers."CT1" adresses: its entries are addresses, certificates'),
        ({}, {"CT1": {"addresses": "10.1.2.4"}}, {}, "addresses that are no list of texts"),
        ({}, {"CT1": {"certificates": [1]}}, {}, "certificates that are no list of texts"),
        ({}, {"CT1": {}}, {}, "neither addresses nor certificates: a title alone admits nobody"),
        ({}, {"CT1": {"addresses": []}}, {}, "a title alone admits nobody"),
        ({}, {"CT1": {"addresses": ["10.1.2.0/24"]}}, {}, "are no IP addresses, one by one"),
        ({}, {"CT1": {"addresses": ["ct1.example"]}}, {}, "are no IP addresses, one by one"),
        ({}, {"CT1": {"certificates": ["9f"]}}, {}, "are no SHA-256 digests (64 hex digits)"),
        ({}, {"CT1": {"certificates": ["xy" * 32]}}, {}, "are no SHA-256 digests (64 hex digits)"),
        ({}, {}, {"rm": {}}, 'has for doors."rm" a name that is none: up to 16 of A to Z'),
        ({}, {}, {"A" * 17: {}}, "a name that is none"),
        ({}, {}, {"R M": {}}, "a name that is none"),
        ({}, {}, {"RM": {"too": "South"}}, "too: its entries are to, purpose, stat"),
        ({}, {}, {"RM": {"to": 5, "purpose": "treatment"}}, "a `to` that is no name"),
        ({}, {}, {"RM": {"stat": "yes"}}, "a `stat` that is not true or false"),
        ({}, {}, {"RM": {"to": "South"}}, "one of `to` and `purpose` without the other"),
        ({}, {}, {"RM": {"purpose": "treatment"}}, "one of `to` and `purpose` without the other"),
        ({}, {}, {"RM": {"to": "South", "purpose": "fun"}}, "a purpose that there is not"),
        ({}, {}, {"RM": {"to": "South", "purpose": "break-glass"}}, "not for offers"),
        ({"tls_listen": ["10.1.2.3:1"]}, {}, {}, "lacks one of certificate, key and ca"),
        ({**TLS, "ca": ""}, {}, {}, "report_tls, and lacks one of certificate, key and ca"),
        ({}, _reporting("10.1.2.4"), {}, 'a report_to that is no place such as "10.1.2.4:104"'),
        ({}, _reporting("10.1.2.4:0"), {}, "a report_to that is no place"),
        ({}, _reporting("10.1.2.4:65536"), {}, "a report_to that is no place"),
        ({}, _reporting("10.1.2.4:x"), {}, "a report_to that is no place"),
        ({}, _reporting("ct 1:104"), {}, "a report_to that is no place"),
        ({}, _reporting(104), {}, "a report_to that is no place"),
        ({}, _reporting("ct1:104", report_tls=True), {}, "lacks one of certificate, key and ca"),
        ({}, _reporting("ct1:104", report_tls=1), {}, "a report_tls that is not true or false"),
        ({}, {"CT1": {"addresses": ["10.1.2.4"], "report_tls": True}}, {}, "without report_to"),
    ],
)  # fmt: skip
def test_each_error_is_a_sentence(
    entries: dict[str, Any], callers: Any, doors: Any, sentence: str
) -> None:
    with pytest.raises(BadEdge) as raised:
        read_dimse(entries, callers, doors)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("10.1.2.3:11112", True),
        ("[fd00::1]:11112", True),
        ("0.0.0.0:0", True),
        ("10.1.2.3:65535", True),
        ("10.1.2.3:65536", False),
        ("10.1.2.3:-1", False),
        ("10.1.2.3:", False),
        ("10.1.2.3", False),
        (":11112", False),
        ("pacs.example:11112", False),
        ("10.1.2.3.4:11112", False),
        ("", False),
    ],
)
def test_a_place_to_listen_at(text: str, good: bool) -> None:
    assert is_place(text) is good


def test_files_are_in_the_home_and_errors_name_their_place(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[dimse]\ntls_listen = ["10.1.2.3:2762"]\ncertificate = "a.pem"\nkey = "/etc/a.key"\n'
        'ca = "ca.pem"\n[dimse.callers."CT1"]\naddresses = ["10.1.2.4"]\n'
    )
    found = read_settings(path).dimse
    assert found.certificate == str(tmp_path / "a.pem")
    assert found.key == "/etc/a.key"
    assert found.ca == str(tmp_path / "ca.pem")
    path.write_text('[dimse.callers."CT1"]\n')
    with pytest.raises(NodeError, match="a title alone admits nobody") as raised:
        read_settings(path)
    assert str(path) in raised.value.message
    assert raised.value.code is ExitCode.USAGE
    for wrong in ('listen = ["pacs.example:1"]', "listen = 5", "idle_seconds = 5", "lisen = []"):
        path.write_text(f"[dimse]\n{wrong}\n")
        with pytest.raises(NodeError, match="dimse"):
            read_settings(path)


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("10.1.2.4", "10.1.2.4"),
        ("::ffff:10.1.2.4", "10.1.2.4"),
        ("fd00:0::1", "fd00::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_of_a_caller_is_compared_as_settings_have_it(address: str, written: str) -> None:
    assert _written(address) == written
