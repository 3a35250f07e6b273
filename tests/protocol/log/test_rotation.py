"""Entries that change keys: what is signed, by whom, and what a reader refuses."""

import base64
from dataclasses import replace

import pytest
from logs_made import FACILITY, LOG, NODE, ORIGIN, WITNESS

from keys.identity import KeyPair, verify
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.log.entry import decode_entry_untrusted, encode_entry
from protocol.log.rotation import KeyChange, parse_change_untrusted

NEW = KeyPair.from_seed(bytes([9]) * 32)
ROTATION = KeyChange(
    origin=ORIGIN,
    facility_key=FACILITY.public,
    role="log",
    old_key=LOG.public,
    new_key=NEW.public,
    size=7,
    root=bytes([5]) * 32,
)
REVOKED = replace(ROTATION, trusted=(3, bytes([4]) * 32))
CARD = "ab" * 32


def _event(change):
    old = LOG if change.trusted is None else None
    return change.event(old=old, new=NEW, facility=FACILITY, card=CARD, serial=2)


def _entry(event, index=7):
    return decode_entry_untrusted(encode_entry(event, index=index, time_ms=0, openings=()))


def _read(event, index=7, origin=ORIGIN, facility_key=FACILITY.public):
    return parse_change_untrusted(_entry(event, index), origin=origin, facility_key=facility_key)


@pytest.mark.parametrize("change", [ROTATION, REVOKED, replace(ROTATION, role="node")])
def test_what_is_written_is_read(change):
    assert _read(_event(change)) == change


def test_the_signatures_are_those_of_the_document():
    details = _event(ROTATION).details
    signed = (
        f'{{"facility_key":"{FACILITY.public.hex()}","new_key":"{NEW.public.hex()}",'
        f'"old_key":"{LOG.public.hex()}","origin":"{ORIGIN}","role":"log",'
        f'"root":"{"05" * 32}","size":7}}'
    ).encode()
    for name, pair in (("old", LOG), ("new", NEW), ("facility", FACILITY)):
        signature = base64.b64decode(details[f"signature_{name}"])
        verify(pair.public, b"radmesh-rotation-v1", signed, signature)
    signed = signed.replace(b"}", f',"trusted_root":"{"04" * 32}","trusted_size":3}}'.encode())
    details = _event(REVOKED).details
    assert "signature_old" not in details
    for name, pair in (("new", NEW), ("facility", FACILITY)):
        signature = base64.b64decode(details[f"signature_{name}"])
        verify(pair.public, b"radmesh-key-revoked-v1", signed, signature)


def test_from_which_size_the_new_key_signs():
    assert ROTATION.since_size == 8
    assert REVOKED.since_size == 4


@pytest.mark.parametrize("change", [ROTATION, REVOKED])
def test_any_change_of_a_detail_is_refused(change):
    event = _event(change)
    for name, value in event.details.items():
        if name in ("card", "serial"):
            continue
        for other in (_another(value), None):
            details = {**event.details, name: other}
            if other is None:
                del details[name]
            with pytest.raises(RemoteProtocolError):
                _read(replace(event, details=details))


def _another(value):
    if isinstance(value, int):
        return value - 1
    last = "1" if value[0] == "0" else "0"
    return last + value[1:]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("old_key", "zz" * 32),
        ("new_key", "AB" * 32),
        ("root", "ab"),
        ("size", True),
        ("size", 0),
        ("trusted_size", "3"),
        ("signature_new", "not base64"),
        ("signature_facility", base64.b64encode(bytes(63)).decode()),
    ],
)
def test_a_malformed_detail_is_refused(name, value):
    event = _event(REVOKED)
    with pytest.raises(RemoteProtocolError):
        _read(replace(event, details={**event.details, name: value}))


def test_an_entry_of_another_log_place_or_facility_is_refused():
    event = _event(ROTATION)
    with pytest.raises(RemoteProtocolError):
        _read(event, index=8)
    with pytest.raises(RemoteProtocolError):
        _read(event, origin=ORIGIN + "x")
    with pytest.raises(RemoteProtocolError):
        _read(event, facility_key=WITNESS.public)


def test_one_type_does_not_pass_for_the_other():
    with pytest.raises(RemoteProtocolError):
        _read(replace(_event(REVOKED), type="rotation"))
    with pytest.raises(RemoteProtocolError):
        _read(replace(_event(ROTATION), type="key-revoked"))


def test_only_a_log_key_is_taken_back_and_not_into_the_future():
    for wrong in (replace(REVOKED, role="node"), replace(REVOKED, trusted=(8, bytes(32)))):
        with pytest.raises(RemoteProtocolError):
            _read(_event(wrong))


def test_a_change_is_signed_by_the_keys_that_it_names():
    for keys in (
        {"old": NODE, "new": NEW, "facility": FACILITY},
        {"old": LOG, "new": NODE, "facility": FACILITY},
        {"old": LOG, "new": NEW, "facility": NODE},
        {"old": None, "new": NEW, "facility": FACILITY},
    ):
        with pytest.raises(LocalProtocolError):
            ROTATION.event(card=CARD, serial=2, **keys)
    with pytest.raises(LocalProtocolError):
        REVOKED.event(old=LOG, new=NEW, facility=FACILITY, card=CARD, serial=2)
