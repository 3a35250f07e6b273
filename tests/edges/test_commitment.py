"""Requests and reports of storage commitment against pydicom's, and what is none."""

from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from edges.dimse import commitment
from edges.dimse.commands import Element
from edges.dimse.commitment import Reason, Reference, Report, Request
from edges.dimse.data_sets import BadDataSet, Value, encode_data_set, sequence, uid
from edges.dimse.negotiation import EXPLICIT, IMPLICIT

CT = "1.2.840.10008.5.1.4.1.1.2"
ONE, TWO, THREE = (Reference(CT, f"1.2.3.{number}") for number in (1, 22, 333))
SYNTAXES = pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])


def _theirs(transaction: str, stored: list[Reference], failed: list[Reference]) -> Dataset:
    found = Dataset()
    found.TransactionUID = transaction
    for name, some in (("ReferencedSOPSequence", stored), ("FailedSOPSequence", failed)):
        if not some:
            continue
        items = []
        for one in some:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one
            if name == "FailedSOPSequence":
                item.FailureReason = 0x0112
            items.append(item)
        setattr(found, name, items)
    return found


def _written(data_set: Dataset, syntax: str) -> bytes:
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == IMPLICIT
    write_dataset(out, data_set)
    return out.getvalue()


@SYNTAXES
def test_a_request_is_what_pydicom_writes_and_reads(syntax: str) -> None:
    request = Request("1.2.840.7", (ONE, TWO))
    data = commitment.encode_request(request, syntax)
    assert data == _written(_theirs("1.2.840.7", [ONE, TWO], []), syntax)
    assert commitment.decode_request(data, syntax) == request
    read = read_dataset(BytesIO(data), syntax == IMPLICIT, True)
    assert [one.ReferencedSOPInstanceUID for one in read.ReferencedSOPSequence] == [
        ONE.sop_instance, TWO.sop_instance,
    ]  # fmt: skip


@SYNTAXES
@pytest.mark.parametrize(
    ("stored", "failed", "kind"), [([ONE], [], 1), ([ONE, TWO], [THREE], 2), ([], [ONE], 2)]
)
def test_a_report_is_what_pydicom_writes(
    syntax: str, stored: list[Reference], failed: list[Reference], kind: int
) -> None:
    report = Report("1.2", tuple(stored), dict.fromkeys(failed, Reason.NO_SUCH_OBJECT))
    data = commitment.encode_report(report, syntax)
    assert data == _written(_theirs("1.2", stored, failed), syntax)
    assert commitment.decode_report(data, syntax) == report
    assert report.event_type == kind
    assert commitment.event(report)[Element.EVENT_TYPE_ID] == kind


def test_what_is_named_twice_counts_once_and_what_failed_is_not_stored() -> None:
    twice = commitment.encode_request(Request("1.2", (ONE, TWO, ONE)), IMPLICIT)
    assert commitment.decode_request(twice, IMPLICIT).references == (ONE, TWO)
    both = Report("1.2", (ONE, TWO), {ONE: 0x0110})
    read = commitment.decode_report(commitment.encode_report(both, EXPLICIT), EXPLICIT)
    assert (read.stored, dict(read.failed)) == ((TWO,), {ONE: 0x0110})


def test_a_failure_without_a_reason_is_one_of_processing() -> None:
    item = {0x00081150: uid(CT), 0x00081155: uid("1.2")}
    data = encode_data_set({0x00081195: uid("1.2"), 0x00081198: sequence([item])}, EXPLICIT)
    assert commitment.decode_report(data, EXPLICIT).failed == {Reference(CT, "1.2"): 0x0110}


ITEM = {0x00081150: uid(CT), 0x00081155: uid("1.2")}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({0x00081195: uid("1.2")}, "no instance"),
        ({0x00081195: uid("1.2"), 0x00081199: sequence([])}, "no instance"),
        ({0x00081199: sequence([ITEM])}, "lacks a UID"),
        ({0x00081195: uid("PATIENT"), 0x00081199: sequence([ITEM])}, "lacks a UID"),
        ({0x00081195: uid("1" * 65), 0x00081199: sequence([ITEM])}, "lacks a UID"),
        ({0x00081195: uid("1.2"), 0x00081199: sequence([{}])}, "lacks a UID"),
        ({0x00081195: uid("1.2"), 0x00081199: Value("UN", b"abcd")}, "no list"),
    ],
)
def test_what_is_no_request_is_refused(values: dict[int, Value], why: str) -> None:
    with pytest.raises(BadDataSet, match=why):
        commitment.decode_request(encode_data_set(values, EXPLICIT), EXPLICIT)


@pytest.mark.slow
def test_instances_are_counted() -> None:
    most = commitment.REFERENCES
    some = tuple(Reference(CT, f"1.2.{number}") for number in range(most + 1))
    whole = commitment.encode_request(Request("1.2", some[:most]), IMPLICIT)
    assert len(commitment.decode_request(whole, IMPLICIT).references) == most
    with pytest.raises(BadDataSet, match=f"more than {most}"):
        commitment.decode_request(
            commitment.encode_request(Request("1.2", some), IMPLICIT), IMPLICIT
        )
