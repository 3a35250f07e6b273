"""A-ASSOCIATE-RQ and -AC as bytes, by pynetdicom; the only file of the upper layer to import it.

Its version is pinned exactly: the items of a PDU are read from classes that it does not document.
"""

from typing import Any

from pydicom.uid import UID
from pynetdicom import pdu_items as items
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext

from edges.dimse import limits
from edges.dimse.negotiation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    AssociateAnswer,
    AssociateRequest,
    Proposed,
)


class BadRequest(ValueError):
    """Bytes that are no A-ASSOCIATE-RQ."""


def decode_request(pdu: bytes) -> AssociateRequest:
    """Read an A-ASSOCIATE-RQ, head included.

    Raises:
        BadRequest: it is none.
    """
    try:
        return _decode(pdu)
    except BadRequest:
        raise
    except Exception as error:
        # pynetdicom raises what its slices happen to raise.
        raise BadRequest(f"the A-ASSOCIATE-RQ cannot be read: {type(error).__name__}") from error


def _decode(pdu: bytes) -> AssociateRequest:
    request = A_ASSOCIATE_RQ()
    request.decode(pdu)
    contexts: list[Proposed] = []
    application = ""
    found: dict[type, list[Any]] = {}
    for item in request.variable_items:
        if isinstance(item, items.ApplicationContextItem):
            application = _uid(item.application_context_name)
        elif isinstance(item, items.PresentationContextItemRQ):
            contexts.append(
                Proposed(
                    item.context_id or 0,
                    _uid(item.abstract_syntax),
                    tuple(filter(None, map(_uid, item.transfer_syntax))),
                )
            )
        elif isinstance(item, items.UserInformationItem):
            for sub in item.user_data:
                found.setdefault(type(sub), []).append(sub)
    ids = [one.context_id for one in contexts]
    if len(ids) > limits.CONTEXTS or len(set(ids)) != len(ids) or any(one % 2 == 0 for one in ids):
        raise BadRequest("the A-ASSOCIATE-RQ numbers its presentation contexts wrongly")
    if any(not one.abstract_syntax for one in contexts):
        raise BadRequest("a presentation context of the A-ASSOCIATE-RQ has no abstract syntax")
    most = _first(found, items.MaximumLengthSubItem)
    window = _first(found, items.AsynchronousOperationsWindowSubItem)
    user = _first(found, items.UserIdentitySubItemRQ)
    return AssociateRequest(
        calling=request.calling_ae_title.strip(),
        called=request.called_ae_title.strip(),
        application_context=application,
        contexts=tuple(contexts),
        most=0 if most is None else int(most.maximum_length_received),
        roles={
            _uid(one.sop_class_uid): (bool(one.scu_role), bool(one.scp_role))
            for one in found.get(items.SCP_SCU_RoleSelectionSubItem, [])
        },
        operations=None if window is None else int(window.maximum_number_operations_invoked),
        implementation=(
            _uid(getattr(_first(found, items.ImplementationClassUIDSubItem),
                         "implementation_class_uid", "")),
            str(getattr(_first(found, items.ImplementationVersionNameSubItem),
                        "implementation_version_name", "") or ""),
        ),
        user="" if user is None else bytes(user.primary_field).decode("utf-8", "replace"),
    )  # fmt: skip


def _first(found: dict[type, list[Any]], kind: type) -> Any:
    return next(iter(found.get(kind, [])), None)


def _uid(value: object) -> str:
    return "" if value is None else str(value).strip("\0 ")


def encode_answer(request: AssociateRequest, answer: AssociateAnswer) -> bytes:
    """Write an A-ASSOCIATE-AC."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = request.application_context
    primitive.calling_ae_title = request.calling
    primitive.called_ae_title = request.called
    primitive.result = 0
    primitive.result_source = 1
    contexts = []
    for one in answer.contexts:
        context = PresentationContext()
        context.context_id = one.context_id
        context.abstract_syntax = one.abstract_syntax
        context.transfer_syntax = [one.transfer_syntax]
        context.result = int(one.result)
        contexts.append(context)
    primitive.presentation_context_definition_results_list = contexts
    longest = MaximumLengthNotification()
    longest.maximum_length_received = limits.PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION
    told: list[object] = [longest, implementation, version]
    if answer.operations is not None:
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked = answer.operations
        window.maximum_number_operations_performed = 1
        told.append(window)
    for sop_class, (as_scu, as_scp) in answer.roles.items():
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid = UID(sop_class)
        role.scu_role, role.scp_role = as_scu, as_scp
        told.append(role)
    primitive.user_information = told  # type: ignore[assignment]
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())
