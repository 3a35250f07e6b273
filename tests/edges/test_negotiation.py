"""What is accepted of what is proposed: so that a sender need not convert what it has."""

import pytest
from pdus_made import CT, EXPLICIT, IMPLICIT, VERIFICATION
from pynetdicom import sop_class as classes
from pynetdicom.sop_class import _STORAGE_CLASSES

from edges.dimse import limits
from edges.dimse.negotiation import AssociateRequest, Proposed, Result, answer, choose
from node.edges.dimse_classes import is_storage, supported

DEFLATED = "1.2.840.10008.1.2.1.99"
BIG = "1.2.840.10008.1.2.2"
JPEG, LOSSLESS, J2K, RLE = (f"1.2.840.10008.1.2.{one}" for one in ("4.50", "4.70", "4.90", "5"))
HTJ2K = "1.2.840.10008.1.2.4.201"
PRIVATE_GE = "1.2.840.113619.5.2"
UNKNOWN = "1.2.840.10008.1.2.4.999"


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ((IMPLICIT,), IMPLICIT),
        ((EXPLICIT,), EXPLICIT),
        ((BIG,), BIG),
        ((DEFLATED,), DEFLATED),
        ((JPEG,), JPEG),
        # What a sender can write itself: Explicit keeps the VRs, wherever it stands.
        ((IMPLICIT, EXPLICIT), EXPLICIT),
        ((EXPLICIT, IMPLICIT), EXPLICIT),
        ((IMPLICIT, EXPLICIT, BIG), EXPLICIT),
        ((BIG, IMPLICIT), IMPLICIT),
        ((BIG, EXPLICIT), EXPLICIT),
        ((DEFLATED, IMPLICIT), DEFLATED),
        ((DEFLATED, EXPLICIT), EXPLICIT),
        # Who proposes a compressed one has such data.
        ((IMPLICIT, JPEG), JPEG),
        ((EXPLICIT, IMPLICIT, BIG, J2K), J2K),
        ((LOSSLESS, J2K, EXPLICIT), LOSSLESS),
        ((J2K, LOSSLESS, EXPLICIT), J2K),
        ((EXPLICIT, RLE), RLE),
        ((EXPLICIT, HTJ2K), HTJ2K),
        ((EXPLICIT, PRIVATE_GE), PRIVATE_GE),
        ((EXPLICIT, UNKNOWN), UNKNOWN),
        ((), None),
    ],
)
def test_the_transfer_syntax_of_what_a_sender_has(
    proposed: tuple[str, ...], chosen: str | None
) -> None:
    assert choose(proposed, lambda _: True) == chosen


def test_what_is_not_supported_is_not_chosen() -> None:
    native = (EXPLICIT, IMPLICIT)
    assert choose((JPEG, IMPLICIT, EXPLICIT), native.__contains__) == EXPLICIT
    assert choose((JPEG, BIG), native.__contains__) is None


def _request(*contexts: Proposed, **more: object) -> AssociateRequest:
    return AssociateRequest(calling="CT1", called="RADMESH", contexts=contexts, most=0, **more)  # type: ignore[arg-type]


ACCEPTED, NO_CLASS, NO_SYNTAX = (
    Result.ACCEPTED,
    Result.NO_ABSTRACT_SYNTAX,
    Result.NO_TRANSFER_SYNTAX,
)


@pytest.mark.parametrize(
    ("sop_class", "proposed", "chosen", "result"),
    [
        (VERIFICATION, (IMPLICIT,), IMPLICIT, ACCEPTED),
        (CT, (IMPLICIT, EXPLICIT), EXPLICIT, ACCEPTED),
        (CT, (UNKNOWN,), UNKNOWN, ACCEPTED),
        (CT, (), IMPLICIT, NO_SYNTAX),
        # Classes of vendors, and classes that the standard will have.
        ("1.3.12.2.1107.5.9.1", (EXPLICIT,), EXPLICIT, ACCEPTED),
        ("1.2.840.10008.5.1.4.1.1.999", (EXPLICIT,), EXPLICIT, ACCEPTED),
        (classes.StudyRootQueryRetrieveInformationModelFind, (IMPLICIT,), IMPLICIT, NO_CLASS),
        (classes.StudyRootQueryRetrieveInformationModelMove, (EXPLICIT, JPEG), EXPLICIT, NO_CLASS),
        (classes.ModalityWorklistInformationFind, (IMPLICIT,), IMPLICIT, NO_CLASS),
        (classes.StorageCommitmentPushModel, (IMPLICIT,), IMPLICIT, NO_CLASS),
        (classes.ModalityPerformedProcedureStep, (IMPLICIT,), IMPLICIT, NO_CLASS),
        (classes.BasicFilmSession, (IMPLICIT,), IMPLICIT, NO_CLASS),
        ("1.2.840.10008.1.3.10", (EXPLICIT,), EXPLICIT, NO_CLASS),
    ],
)
def test_the_contexts_of_a_node(
    sop_class: str, proposed: tuple[str, ...], chosen: str, result: Result
) -> None:
    [found] = answer(_request(Proposed(5, sop_class, proposed)), supported).contexts
    assert (found.context_id, found.abstract_syntax) == (5, sop_class)
    assert (found.transfer_syntax, found.result) == (chosen, result)


def test_another_transfer_syntax_is_another_answer() -> None:
    [found] = answer(_request(Proposed(1, CT, (JPEG,))), lambda _, one: one == EXPLICIT).contexts
    assert (found.transfer_syntax, found.result) == (JPEG, NO_SYNTAX)


OF_NO_PATIENT = [uid for name, uid in vars(classes).items() if name in {
    "HangingProtocolStorage", "ColorPaletteStorage", "GenericImplantTemplateStorage",
    "ImplantAssemblyTemplateStorage", "ImplantTemplateGroupStorage", "InventoryStorage",
    "CTDefinedProcedureProtocolStorage", "ProtocolApprovalStorage",
    "XADefinedProcedureProtocolStorage",
}]  # fmt: skip


def test_storage_is_what_pynetdicom_has_as_storage() -> None:
    others = {
        uid
        for name in dir(classes)
        if name.endswith("_CLASSES") and name != "_STORAGE_CLASSES"
        for uid in getattr(classes, name).values()
        if isinstance(uid, str)
    }
    storage = {*_STORAGE_CLASSES.values(), *OF_NO_PATIENT}
    assert len(storage) > 150
    assert len(others - storage) > 50
    assert [uid for uid in sorted(storage) if not is_storage(uid)] == []
    assert [uid for uid in sorted(others - storage) if is_storage(uid)] == []


@pytest.mark.parametrize(
    ("asked", "agreed"), [(None, None), (1, 1), (5, 5), (8, 8), (9, 8), (65535, 8), (0, 8)]
)
def test_the_window_of_operations(asked: int | None, agreed: int | None) -> None:
    assert limits.OPERATIONS == 8
    assert answer(_request(operations=asked), supported).operations == agreed


@pytest.mark.parametrize(
    ("asked", "may", "agreed"),
    [
        ((True, False), (True, False), (True, False)),
        ((True, True), (True, False), (True, False)),
        ((False, True), (True, False), (False, False)),
        ((True, True), (True, True), (True, True)),
        ((False, True), (True, True), (False, True)),
    ],
)
def test_the_roles(
    asked: tuple[bool, bool], may: tuple[bool, bool], agreed: tuple[bool, bool]
) -> None:
    found = answer(
        _request(Proposed(1, CT, (EXPLICIT,)), Proposed(3, CT, (JPEG,)), roles={CT: asked}),
        supported,
        lambda _: may,
    )
    assert found.roles == {CT: agreed}
    assert len(found.contexts) == 2
