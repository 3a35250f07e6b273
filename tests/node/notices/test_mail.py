"""Mail, against a real relay; and relays that are none, slow, or refuse."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from certificates_made import Authority
from notices_made import Relay, dripping, relay

from node.errors import NodeError
from node.notices.mail import Mail
from node.notices.message import Message
from node.notices.settings import BadNotices, MailSettings, is_address, is_relay, read_mail

pytestmark = pytest.mark.integration

MESSAGE = Message(
    id="cd" * 16,
    made=1_800_000_000,
    facility="ABC-DEF",
    subject="break-glass",
    severity="alarm",
    count=1,
    text="an emergency access took place; a person has to review it",
    next="`radmesh review` shows it",
    about=("3",),
    entries=(40,),
)
TO = ("pacs-team@hospital.example", "night@hospital.example")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Iterator[Relay]:
    with relay(authority.issue("localhost")) as found:
        yield found


def _mail(directory: Path, port: int, facility: str = "North", **more: object) -> Mail:
    settings = MailSettings(
        host="localhost",
        port=port,
        sender="radmesh@hospital.example",
        to=TO,
        ca=directory / "authority.pem",
    )
    return Mail(dataclasses.replace(settings, **more), facility)


async def _fails(mail: Mail) -> str:
    with trio.fail_after(20), pytest.raises(Exception) as caught:
        await mail.send(MESSAGE)
    error = caught.value
    while isinstance(error, ExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, NodeError)
    return error.message


async def test_a_mail_arrives_over_tls_alone(server: Relay, tmp_path: Path) -> None:
    await _mail(tmp_path, server.port).send(MESSAGE)
    [mail] = server.mails
    assert server.secured == [True]
    assert server.recipients == [list(TO)]
    assert mail["From"] == "radmesh@hospital.example"
    assert mail["To"] == ", ".join(TO)
    assert mail["Subject"] == f"Radmesh at North: {MESSAGE.text}"
    assert mail["Date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
    assert mail["Message-ID"] == f"<{'cd' * 16}@hospital.example>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().splitlines() == [
        "An emergency access took place; a person has to review it.",
        "",
        "Next: `radmesh review` shows it.",
        "",
        "Severity: alarm",
        "About: 3",
        "Entries of the log: 40",
        "Node: North, ABC-DEF",
        f"Notice: {'cd' * 16}",
    ]


async def test_tls_from_the_first_byte_and_a_login(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("geheim ü\n")
    identity = authority.issue("localhost")
    with relay(identity, security="tls") as server:
        await _mail(tmp_path, server.port, security="tls").send(MESSAGE)
        assert server.secured == [True]
    with relay(identity, login=True) as server:
        assert "530" in await _fails(_mail(tmp_path, server.port))
        mail = _mail(tmp_path, server.port, user="radmesh", password=tmp_path / "password")
        assert "other characters than those of ASCII" in await _fails(mail)
        (tmp_path / "password").write_text("secret\n")
        await mail.send(MESSAGE)
        assert server.logins == [("radmesh", "secret")]
        assert len(server.mails) == 1
    (tmp_path / "password").unlink()
    assert "mail.password cannot be used" in await _fails(mail)


@pytest.mark.parametrize(
    "facility",
    [
        "North\r\nBcc: all@everywhere.example",
        "North\nX: y\n\nHello",
        "North\r\n.\r\nMAIL FROM:<x@y>",
        "Nörd\u2028Klinik\x00\x1b[31m",
        "N" * 2000,
    ],
)
async def test_no_name_begins_another_header_or_another_mail(
    server: Relay, tmp_path: Path, facility: str
) -> None:
    await _mail(tmp_path, server.port, facility).send(MESSAGE)
    [mail] = server.mails
    assert set(mail.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version",
        "Content-Type", "Content-Transfer-Encoding", "X-Peer", "X-MailFrom", "X-RcptTo",
    } - {"X-Peer", "X-MailFrom", "X-RcptTo"}  # fmt: skip
    assert server.recipients == [list(TO)]
    assert len(mail.get_content().splitlines()) == 9


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("RCPT", "450 greylisted, come again"),
        ("RCPT", "550 there is no such mailbox"),
        ("DATA", "451 later"),
        ("DATA", "554 this looks like spam \x1b[31m" + "x" * 300),
    ],
)
async def test_what_a_relay_says_is_told_short_and_clean(
    server: Relay, tmp_path: Path, command: str, answer: str
) -> None:
    server.refuses[command] = answer
    why = await _fails(_mail(tmp_path, server.port))
    assert f"it answers {answer[:3]} {answer[4:20]}" in why
    assert why.isprintable()
    assert len(why) < 400
    assert server.mails == []


async def test_without_starttls_nothing_is_said_in_the_open(tmp_path: Path) -> None:
    with relay(None) as server:
        assert "it offers no STARTTLS" in await _fails(_mail(tmp_path, server.port, ca=None))
        assert server.recipients == []
        await _mail(tmp_path, server.port, security="none").send(MESSAGE)
        assert server.secured == [False]


async def test_only_the_authority_of_the_settings_is_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    for identity in (stranger.issue("localhost"), authority.issue("elsewhere", name="wrong")):
        for security in ("starttls", "tls"):
            with relay(identity, security=security) as server:
                why = await _fails(_mail(tmp_path, server.port, security=security))
                assert "its certificate is not trusted" in why
                assert server.mails == []


async def test_a_relay_that_is_away_or_none(tmp_path: Path, authority: Authority) -> None:
    with relay(authority.issue("localhost")) as server:
        port = server.port
    assert "cannot be reached: connection refused" in await _fails(_mail(tmp_path, port))
    with dripping(b"SSH-2.0-x\r\n", 0) as port:
        assert "did not take it" in await _fails(_mail(tmp_path, port))


@pytest.mark.parametrize("line", [b"2", b"220-and so on\r\n"])
@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_relay_that_drips_is_left_when_the_time_is_over(
    tmp_path: Path, authority: Authority, line: bytes, security: str
) -> None:
    """Each single read would be in time: the thread ends, since its connection is cut."""
    with dripping(line, 0.01) as port, trio.fail_after(5):
        with trio.move_on_after(0.1) as patience:
            try:
                await _mail(tmp_path, port, security=security).send(MESSAGE)
            except* NodeError:
                # It is no TLS.
                assert security == "tls"
        assert patience.cancelled_caught or security == "tls"


async def test_a_relay_that_answers_without_end(tmp_path: Path) -> None:
    with dripping(b"220-and so on\r\n" * 1000, 0) as port:
        mail = _mail(tmp_path, port, security="none", ca=None)
        assert "it answers too much" in await _fails(mail)


def test_settings(tmp_path: Path) -> None:
    entries = {"relay": "mail.example", "from": "a@b.example", "to": ["c@d.example"]}
    found = read_mail(entries, tmp_path)
    assert found == MailSettings(
        host="mail.example", port=25, sender="a@b.example", to=("c@d.example",)
    )
    for relay_, security, place in (
        ("mail.example", "tls", ("mail.example", 465)),
        ("mail.example:2525", "starttls", ("mail.example", 2525)),
        ("[fd00::1]:26", "none", ("fd00::1", 26)),
        ("fd00::1", "none", ("fd00::1", 25)),
    ):
        found = read_mail({**entries, "relay": relay_, "security": security}, tmp_path)
        assert found is not None
        assert (found.host, found.port) == place
        assert is_relay(relay_)
    assert read_mail({"to": ["c@d.example"]}, tmp_path) is None
    for wrong in (
        {"from": ""},
        {"to": []},
        {"user": "x"},
        {"password": "x"},
        {"user": "ü", "password": "y"},
        {"user": "x", "password": "y", "security": "none"},
    ):
        with pytest.raises(BadNotices):
            read_mail({**entries, **wrong}, tmp_path)
    for address in ("a@b\r\n", "a@b\nBcc: c@d", "a@b>", "a@b ", "ä@b.example", "a@b,c@d", "@b"):
        assert not is_address(address)
