"""The head of a file around a data set that came over the network, as pydicom reads it."""

from io import BytesIO

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from studies_made import make_instance

from edges.dimse.negotiation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from edges.file_head import file_head
from node.dicom.studies import read_dataset

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("number", [1, 12])
def test_the_file_is_one(syntax: str, number: int) -> None:
    instance = make_instance("1.2.3", number, rows=4)
    buffer = BytesIO()
    implicit = syntax == ImplicitVRLittleEndian
    meta = instance.file_meta
    del instance.file_meta
    pydicom.dcmwrite(buffer, instance, implicit_vr=implicit, little_endian=True)
    instance.file_meta = meta
    head = file_head(instance.SOPClassUID, instance.SOPInstanceUID, syntax)
    whole = head + buffer.getvalue()
    found = pydicom.dcmread(BytesIO(whole))
    assert found.file_meta.MediaStorageSOPClassUID == CTImageStorage
    assert found.file_meta.MediaStorageSOPInstanceUID == instance.SOPInstanceUID
    assert found.file_meta.TransferSyntaxUID == syntax
    assert found.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert found.file_meta.ImplementationVersionName == IMPLEMENTATION_VERSION
    assert found.file_meta.FileMetaInformationVersion == b"\0\1"
    assert found == instance
    header = read_dataset(lambda at, length: whole[at : at + length], len(whole))
    assert header.sop_instance_uid == instance.SOPInstanceUID
    # The same once more.
    assert file_head(instance.SOPClassUID, instance.SOPInstanceUID, syntax) == head


UIDS = st.from_regex(r"[1-9][0-9]{0,15}(\.(0|[1-9][0-9]{0,10})){0,4}", fullmatch=True)


@given(st.lists(UIDS, min_size=3, max_size=3))
@settings(max_examples=30)
def test_the_bytes_are_those_that_pydicom_writes(uids: list[str]) -> None:
    head = file_head(*uids)
    assert head[:132] == bytes(128) + b"DICM"
    meta = pydicom.dcmread(BytesIO(head), force=True).file_meta
    written = BytesIO()
    write_file_meta_info(written, meta, enforce_standard=False)
    assert written.getvalue() == head[132:]


def test_other_letters_are_replaced() -> None:
    assert b"1.2?3" in file_head("1.2\ufffd3", "1.2", "1.2")
