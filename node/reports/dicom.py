"""Audit messages of DICOM PS3.15 section A.5 as XML, in the schema of section A.5.1."""

import base64
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

from node.phrases import clean
from node.reports.audit_messages import CODES, Agent, AuditMessage, Thing

_OWN_SCHEME = "99RADMESH"
_RFC_3881 = "RFC-3881"

_PERSON, _SYSTEM_OBJECT, _ORGANIZATION = "1", "2", "3"
_PATIENT, _REPORT, _USER, _SECURITY_USER, _SECURITY_RESOURCE = "1", "3", "6", "11", "13"
_QUERY = "24"

_APPLICATION_SERVER = "4"

_WITH_PATIENT = frozenset(("110102", "110104", "110105", "110107"))
"""Events that must name a patient (PS3.15 sections A.5.3.3, 5, 7 and 8)."""

_NO_PATIENT = Thing(kind="patient", identity="<none>", name="the images name no patient")

_HEAD, _TAIL = b"<AuditMessages>\n", b"</AuditMessages>\n"


def audit_message(message: AuditMessage) -> bytes:
    """One message in UTF-8: one line, without a line end."""
    root = ElementTree.Element("AuditMessage")
    record, meaning = message.record, message.meaning
    event = _add(
        root,
        "EventIdentification",
        EventActionCode=meaning.action,
        EventDateTime=record.time,
        EventOutcomeIndicator=message.outcome,
    )
    _add_code(event, "EventID", meaning.event)
    if meaning.kind:
        _add_code(event, "EventTypeCode", meaning.kind)
    _add_coded(event, "EventTypeCode", record.type, _OWN_SCHEME, record.type)
    why = record.details.get("why")
    if why:
        _add(event, "EventOutcomeDescription").text = clean(why)
    for agent in message.agents:
        _add_agent(root, agent)
    source = _add(
        root,
        "AuditSourceIdentification",
        AuditEnterpriseSiteID=message.own.name,
        AuditSourceID=message.own.fingerprint,
    )
    _add(source, "AuditSourceTypeCode").set("csd-code", _APPLICATION_SERVER)
    _add_log(root, message)
    for thing in message.things:
        _add_thing(root, thing, message)
    if meaning.event in _WITH_PATIENT and not message.of_kind("patient"):
        _add_thing(root, _NO_PATIENT, message)
    return ElementTree.tostring(root, encoding="unicode").encode()


def document(messages: Iterable[AuditMessage]) -> Iterator[bytes]:
    """A file of messages: one element `AuditMessages`, with one message a line."""
    yield b'<?xml version="1.0" encoding="UTF-8"?>\n'
    yield _HEAD
    for message in messages:
        yield audit_message(message) + b"\n"
    yield _TAIL


def _add_agent(root: ElementTree.Element, agent: Agent) -> None:
    element = _add(root, "ActiveParticipant", UserID=agent.identity)
    if agent.node:
        element.set("AlternativeUserID", clean(agent.node))
    element.set("UserName", clean(agent.name))
    element.set("UserIsRequestor", "true" if agent.is_requestor else "false")
    address, kind = agent.access_point
    if address:
        element.set("NetworkAccessPointID", clean(address))
        element.set("NetworkAccessPointTypeCode", kind)
    if agent.role:
        _add_code(element, "RoleIDCode", agent.role)
    if agent.acts_as:
        _add_coded(element, "RoleIDCode", clean(agent.acts_as), _OWN_SCHEME, "role at the node")


def _add_log(root: ElementTree.Element, message: AuditMessage) -> None:
    """Add the entry itself with all its details, so that a reader can find and check it."""
    record = message.record
    element = _add(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=message.reference,
        ParticipantObjectTypeCode=_SYSTEM_OBJECT,
        ParticipantObjectTypeCodeRole=_SECURITY_RESOURCE,
    )
    _add_coded(element, "ParticipantObjectIDTypeCode", "12", _RFC_3881, "URI")
    _add(element, "ParticipantObjectName").text = "Security Audit Log"
    details = dict(record.details)
    if record.entry["purpose"]:
        details["purpose"] = record.entry["purpose"]
    for name, value in sorted(details.items()):
        _add(
            element,
            "ParticipantObjectDetail",
            type=name,
            value=base64.b64encode(_plain(value).encode()).decode(),
        )


def _plain(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _add_thing(root: ElementTree.Element, thing: Thing, message: AuditMessage) -> None:
    type_code, role = _PLACES[thing.kind]
    element = _add(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=thing.identity,
        ParticipantObjectTypeCode=type_code,
        ParticipantObjectTypeCodeRole=role,
    )
    if message.meaning.lifecycle and thing.kind in ("study", "patient", "instance"):
        element.set("ParticipantObjectDataLifeCycle", message.meaning.lifecycle)
    if not thing.is_open:
        _add_coded(
            element,
            "ParticipantObjectIDTypeCode",
            f"{thing.kind}-commitment",
            _OWN_SCHEME,
            "Salted commitment, radmesh-commitment-v1",
        )
    else:
        _add_coded(element, "ParticipantObjectIDTypeCode", *_ID_TYPES[thing.kind])
    if thing.kind == "query":
        query = base64.b64encode(thing.query).decode()
        _add(element, "ParticipantObjectQuery").text = query
    else:
        _add(element, "ParticipantObjectName").text = clean(thing.name)
    count = message.record.details.get("instances")
    if thing.kind == "study" and isinstance(count, int):
        description = _add(element, "ParticipantObjectDescription")
        _add(description, "SOPClass", NumberOfInstances=str(count))


_PLACES = {
    "study": (_SYSTEM_OBJECT, _REPORT),
    "instance": (_SYSTEM_OBJECT, _REPORT),
    "patient": (_PERSON, _PATIENT),
    "person": (_PERSON, _SECURITY_USER),
    "facility": (_ORGANIZATION, _USER),
    "query": (_SYSTEM_OBJECT, _QUERY),
}
_ID_TYPES = {
    "study": ("110180", "DCM", "Study Instance UID"),
    "instance": ("sop-instance-uid", _OWN_SCHEME, "SOP Instance UID"),
    "patient": ("2", _RFC_3881, "Patient Number"),
    "person": ("11", _RFC_3881, "User Identifier"),
    "facility": ("11", _RFC_3881, "User Identifier"),
    "query": ("10", _RFC_3881, "Search Criteria"),
}


def _add(parent: ElementTree.Element, name: str, **attributes: str) -> ElementTree.Element:
    cleaned = {key: clean(value) for key, value in attributes.items()}
    return ElementTree.SubElement(parent, name, cleaned)


def _add_code(parent: ElementTree.Element, name: str, code: str) -> None:
    _add_coded(parent, name, code, "DCM", CODES[code])


def _add_coded(
    parent: ElementTree.Element, name: str, code: str, scheme: str, meaning: str
) -> None:
    element = ElementTree.SubElement(parent, name)
    element.set("csd-code", code)
    element.set("codeSystemName", scheme)
    element.set("originalText", meaning)
