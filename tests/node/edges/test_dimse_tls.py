"""Associations over TLS: dcmtk's profiles, and whose certificate is whose."""

import hashlib
import ssl
from pathlib import Path

import pytest
import trio
from certificates_made import Authority
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from dimse_made import LOOPBACK, Caller, Listening, identity_files, listening, run, with_dcmtk
from pdus_made import usual_request
from studies_made import make_study

from node.edges import dimse_server
from node.edges.dimse_server import DimseServer
from node.edges.dimse_settings import read_dimse
from node.errors import ExitCode, NodeError

NO_TLS = (0, b"")
REJECTED_CALLING = (3, bytes((0, 1, 1, 3)))


def digest(path: Path) -> str:
    """SHA-256 of the certificate in a file."""
    found = x509.load_pem_x509_certificate(identity_files(path)[1].read_bytes())
    return hashlib.sha256(found.public_bytes(serialization.Encoding.DER)).hexdigest()


class Hospital:
    """An authority, and what it has signed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.authority = Authority(directory)
        self.node = self.authority.issue(LOOPBACK, name="node")
        self.ct1 = self.authority.issue("ct1.example", name="ct1")
        self.ct2 = self.authority.issue("ct2.example", name="ct2")
        (directory / "elsewhere").mkdir()
        self.stranger = Authority(directory / "elsewhere", "other").issue("ct1.example", name="ct1")

    @property
    def entries(self) -> dict[str, object]:
        """Of `[dimse]`."""
        return {
            "listen": [],
            "tls_listen": [f"{LOOPBACK}:0"],
            "certificate": str(self.node),
            "key": str(self.node),
            "ca": str(self.authority.ca),
        }

    @property
    def callers(self) -> dict[str, object]:
        """CT1 and CT2 each with its certificate alone, WS1 from loopback with any."""
        return {
            "CT1": {"certificates": [digest(self.ct1)]},
            "CT2": {"certificates": [digest(self.ct2)]},
            "WS1": {"addresses": [LOOPBACK]},
        }

    def listening(self, path: Path):
        return listening(path, entries=self.entries, callers=self.callers)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "hospital")


async def heard(
    north: Listening, hospital: Hospital, identity: Path | None, calling: bytes,
    most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, ciphers: str = "DEFAULT",
) -> tuple[int, bytes]:  # fmt: skip
    """The first PDU that a caller with a certificate hears; 0 if there is no TLS, or none comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(hospital.authority.ca)
    context.maximum_version = most
    context.set_ciphers(ciphers)
    if identity is not None:
        context.load_cert_chain(identity)
    async with await trio.open_tcp_stream(LOOPBACK, north.port) as raw:
        stream = trio.SSLStream(raw, context, server_hostname=LOOPBACK, https_compatible=True)
        try:
            await stream.send_all(usual_request(calling=calling))
            with trio.fail_after(10):
                data = await stream.receive_some(65_536)
        except trio.BrokenResourceError:
            data = b""
        return (data[0], bytes(data[6:])) if data else NO_TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_whose_certificate_is_whose(
    tmp_path: Path, hospital: Hospital, version: ssl.TLSVersion
) -> None:
    async with hospital.listening(tmp_path / "north") as north:
        assert (await heard(north, hospital, hospital.ct1, b"CT1", version))[0] == 2
        assert (await heard(north, hospital, hospital.ct2, b"CT2", version))[0] == 2
        # Each with the title of the other; and a title that is known by its address.
        assert await heard(north, hospital, hospital.ct2, b"CT1", version) == REJECTED_CALLING
        assert await heard(north, hospital, hospital.ct1, b"CT2", version) == REJECTED_CALLING
        assert (await heard(north, hospital, hospital.ct2, b"WS1", version))[0] == 2
        assert north.server.counts.refused == {
            "this caller calls from elsewhere than the settings say": 2
        }


@pytest.mark.parametrize("whose", ["none", "of another authority"])
async def test_without_a_certificate_of_ours_there_is_no_tls(
    tmp_path: Path, hospital: Hospital, whose: str
) -> None:
    identity = None if whose == "none" else hospital.stranger
    async with hospital.listening(tmp_path / "north") as north:
        for calling in (b"CT1", b"WS1"):
            assert await heard(north, hospital, identity, calling) == NO_TLS
        await north.quiet()
        assert north.server.counts.refused == {"the TLS handshake failed": 2}
        assert north.server.counts.associations == 0


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_an_older_tls_is_refused(tmp_path: Path, hospital: Hospital) -> None:
    async with hospital.listening(tmp_path / "north") as north:
        found = await heard(north, hospital, hospital.ct1, b"CT1", ssl.TLSVersion.TLSv1_1)
        assert found == NO_TLS


@pytest.mark.parametrize(
    ("ciphers", "taken"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        # Not of the non-downgrading profile of BCP 195.
        ("ECDHE-ECDSA-AES128-SHA256", False),
        ("ECDHE-ECDSA-AES256-SHA", False),
    ],
)
async def test_only_ciphers_of_the_profile_are_taken(
    tmp_path: Path, hospital: Hospital, ciphers: str, taken: bool
) -> None:
    async with hospital.listening(tmp_path / "north") as north:
        found = await heard(north, hospital, hospital.ct1, b"CT1", ssl.TLSVersion.TLSv1_2, ciphers)
        assert (found[0] == 2) == taken
        assert taken or found == NO_TLS


async def test_who_speaks_no_tls_gets_nothing(tmp_path: Path, hospital: Hospital) -> None:
    async with hospital.listening(tmp_path / "north") as north:
        for data in (
            usual_request(),
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + bytes(9),
        ):
            stream = await trio.open_tcp_stream(LOOPBACK, north.port)
            async with stream:
                await stream.send_all(data)
                if data[0] != 0x16:
                    assert (await Caller(stream).hear())[0] != 2
        await north.quiet()
        assert north.server.counts.associations == 0


@pytest.mark.slow
async def test_who_is_silent_in_the_handshake_keeps_nobody_out(
    tmp_path: Path, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dimse_server, "REQUEST_SECONDS", 1.0)
    async with hospital.listening(tmp_path / "north") as north:
        silent = [await trio.open_tcp_stream(LOOPBACK, north.port) for _ in range(20)]
        await silent[0].send_all(b"\x16\x03\x01")
        assert (await heard(north, hospital, hospital.ct1, b"CT1"))[0] == 2
        assert len(north.server._guests) >= 20
        # After their time they are closed.
        for one in silent:
            assert (await Caller(one).hear())[0] == 0
            await one.aclose()


@pytest.mark.parametrize("wrong", ["certificate", "key", "ca"])
@pytest.mark.parametrize("how", ["missing", "no PEM"])
async def test_files_that_cannot_be_used_are_a_sentence(
    tmp_path: Path, hospital: Hospital, wrong: str, how: str
) -> None:
    path = tmp_path / "wrong.pem"
    if how == "no PEM":
        path.write_text("no certificate")
    settings = read_dimse({**hospital.entries, wrong: str(path)}, {}, {})
    nothing: list = []
    with pytest.raises(NodeError, match="certificate, key or ca of `dimse`") as raised:
        await DimseServer(settings, *nothing, None, None, {}).open()  # type: ignore[arg-type]
    assert raised.value.code is ExitCode.USAGE
    assert "PEM" in raised.value.hint


# --- dcmtk -----------------------------------------------------------------------------


@with_dcmtk
@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize(
    ("profile", "taken"), [("+px", True), ("+py", True), ("+pz", True), ("+pa", False)]
)
async def test_the_profiles_of_dcmtk(
    tmp_path: Path, hospital: Hospital, profile: str, taken: bool
) -> None:
    make_study(tmp_path / "in", 3, rows=16)
    async with hospital.listening(tmp_path / "north") as north:
        done = await run(
            "storescu", "+tls", *identity_files(hospital.ct1), "+cf", hospital.authority.ca,
            profile, "-aet", "CT1", "-aec", "RADMESH", "+sd", LOOPBACK, north.port, tmp_path / "in",
        )  # fmt: skip
        assert (done.returncode == 0) == taken, done.stdout.decode()
        assert north.server.counts.images == ({"success": 3} if taken else {})


@with_dcmtk
@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize(
    ("whose", "said"), [("ct2", b"Calling AE Title"), ("stranger", b"Association Request Failed")]
)
async def test_a_wrong_certificate_of_dcmtk(
    tmp_path: Path, hospital: Hospital, whose: str, said: bytes
) -> None:
    async with hospital.listening(tmp_path / "north") as north:
        done = await run(
            "echoscu", "-v", "+tls", *identity_files(getattr(hospital, whose)),
            "+cf", hospital.authority.ca, "-aet", "CT1", "-aec", "RADMESH", LOOPBACK, north.port,
        )  # fmt: skip
        assert done.returncode != 0
        assert said in done.stdout
        assert north.server.counts.associations == 0
