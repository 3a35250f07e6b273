"""The DICOM conformance statement against the code: what it claims by number and by name."""

import re

from places import ROOT
from pydicom.datadict import dictionary_description
from pydicom.uid import UID_dictionary
from pynetdicom.presentation import AllStoragePresentationContexts

from edges.dimse import limits, negotiation
from edges.dimse.querying import ATTRIBUTES, MODELS, Level
from node.edges import dimse_client, dimse_server, dimse_session, guests, patient_query
from node.edges.dimse_classes import is_storage
from node.edges.dimse_settings import DEFAULT_IDLE_SECONDS

TEXT = (ROOT / "docs/dicom-conformance.md").read_text()


def _row(name: str) -> str:
    found = re.search(rf"^\| {re.escape(name)}[^|]*\| (.*) \|$", TEXT, re.MULTILINE)
    assert found is not None, name
    return found[1]


def test_numbers_and_names() -> None:
    assert _row("application context") == negotiation.APPLICATION_CONTEXT
    assert _row("Implementation Class UID") == f"`{negotiation.IMPLEMENTATION_CLASS_UID}`"
    assert _row("Implementation Version Name") == f"`{negotiation.IMPLEMENTATION_VERSION}`"
    most, strangers = re.findall(r"\d+", _row("associations at one time"))
    assert (int(most), int(strangers)) == (dimse_server.ASSOCIATIONS, guests.STRANGERS)
    taken, sent = re.findall(r"[\d,]{4,}", _row("longest P-DATA-TF"))
    assert (taken, sent) == (f"{limits.PDU_BYTES:,}", f"{limits.SENT_PDU_BYTES:,}")
    assert _row("longest A-ASSOCIATE-RQ") == f"{limits.REQUEST_BYTES:,} bytes"
    assert _row("presentation contexts") == str(limits.CONTEXTS)
    assert f"up to {limits.OPERATIONS} invoked" in _row("Asynchronous Operations Window")
    assert _row("time until an association") == f"{dimse_session.REQUEST_SECONDS:.0f} s"
    assert f"{dimse_session.STALL_SECONDS:.0f} s" in _row("time without a byte within a message")
    assert f"{DEFAULT_IDLE_SECONDS} s" in _row("time without a message")
    assert f"at most {patient_query.ANSWERS} answers" in TEXT
    assert dimse_client.ANSWER_SECONDS == dimse_session.STALL_SECONDS


def test_the_attributes_of_queries() -> None:
    for level in Level:
        named = {one.strip() for one in _row(level.name).split(",")}
        assert named == {
            dictionary_description(tag) for tag, one in ATTRIBUTES.items() if one.level is level
        }


def test_both_roots_and_all_three_services() -> None:
    names = {str(UID_dictionary[one][0]) for one in MODELS}
    assert {re.split(r" Query| Information", one)[0] for one in names} == {
        "Patient Root",
        "Study Root",
    }
    assert sorted(one.does for one in MODELS.values()) == [
        "find",
        "find",
        "get",
        "get",
        "move",
        "move",
    ]


def test_all_storage_classes_that_pynetdicom_knows_are_taken() -> None:
    left = {one.abstract_syntax for one in AllStoragePresentationContexts}
    assert {one for one in left if not is_storage(str(one))} == set()
