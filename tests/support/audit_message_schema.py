"""The schema of DICOM audit messages (PS3.15 section A.5.1) as a structural check.

Written from the RELAX NG text of the standard: the elements in their order, how often each
may occur, the attributes that must and may be there, and their values.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

Value = Callable[[str], bool]


def _text(_: str) -> bool:
    return True


def _token(_: str) -> bool:
    """Any text: a validator removes superfluous white space from a token before checking it."""
    return True


def _one_of(*values: str) -> Value:
    return lambda value: value in values


def _number(most: int) -> Value:
    return _one_of(*map(str, range(1, most + 1)))


def _date_time(value: str) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", value))


def _base64(value: str) -> bool:
    return base64.b64encode(base64.b64decode(value, validate=True)).decode() == value


_BOOLEAN = _one_of("true", "false", "0", "1")


@dataclass
class Rule:
    """Content of an element: children in order as (names, least, most), attributes, text."""

    children: list[tuple[tuple[str, ...], int, float]] = field(default_factory=list)
    required: dict[str, Value] = field(default_factory=dict)
    optional: dict[str, Value] = field(default_factory=dict)
    text: Value | None = None


_MANY = float("inf")
_CODED = Rule(
    required={"csd-code": _token, "codeSystemName": _token, "originalText": _token},
    optional={"displayName": _token},
)

RULES: dict[str, Rule] = {
    "AuditMessage": Rule(
        children=[
            (("EventIdentification",), 1, 1),
            (("ActiveParticipant",), 1, _MANY),
            (("AuditSourceIdentification",), 1, 1),
            (("ParticipantObjectIdentification",), 0, _MANY),
        ]
    ),
    "EventIdentification": Rule(
        children=[
            (("EventID",), 1, 1),
            (("EventTypeCode",), 0, _MANY),
            (("EventOutcomeDescription",), 0, 1),
        ],
        required={
            "EventDateTime": _date_time,
            "EventOutcomeIndicator": _one_of("0", "4", "8", "12"),
        },
        optional={"EventActionCode": _one_of(*"CRUDE")},
    ),
    "EventID": _CODED,
    "EventTypeCode": _CODED,
    "EventOutcomeDescription": Rule(text=_text),
    "ActiveParticipant": Rule(
        children=[(("RoleIDCode",), 0, _MANY), (("MediaIdentifier",), 0, 1)],
        required={"UserID": _text, "UserIsRequestor": _BOOLEAN},
        optional={
            "AlternativeUserID": _text,
            "UserName": _text,
            "NetworkAccessPointID": _token,
            "NetworkAccessPointTypeCode": _number(5),
        },
    ),
    "RoleIDCode": _CODED,
    "AuditSourceIdentification": Rule(
        children=[(("AuditSourceTypeCode",), 0, _MANY)],
        required={"AuditSourceID": _token},
        optional={"AuditEnterpriseSiteID": _token},
    ),
    "AuditSourceTypeCode": Rule(required={"csd-code": _number(9)}),
    "ParticipantObjectIdentification": Rule(
        children=[
            (("ParticipantObjectIDTypeCode",), 1, 1),
            (("ParticipantObjectName", "ParticipantObjectQuery"), 1, 1),
            (("ParticipantObjectDetail",), 0, _MANY),
            (("ParticipantObjectDescription",), 0, _MANY),
        ],
        required={"ParticipantObjectID": _token},
        optional={
            "ParticipantObjectTypeCode": _number(4),
            "ParticipantObjectTypeCodeRole": _number(26),
            "ParticipantObjectDataLifeCycle": _number(15),
            "ParticipantObjectSensitivity": _token,
        },
    ),
    "ParticipantObjectIDTypeCode": _CODED,
    "ParticipantObjectName": Rule(text=_token),
    "ParticipantObjectQuery": Rule(text=_base64),
    "ParticipantObjectDetail": Rule(required={"type": _token, "value": _base64}),
    "ParticipantObjectDescription": Rule(children=[(("SOPClass",), 0, _MANY)]),
    "SOPClass": Rule(
        children=[(("Instance",), 0, _MANY)],
        required={"NumberOfInstances": lambda value: bool(re.fullmatch(r"-?\d+", value))},
        optional={"UID": _token},
    ),
}


def problems(element: Element, where: str = "") -> list[str]:
    """The violations of the schema in a message."""
    path = f"{where}/{element.tag}"
    rule = RULES.get(element.tag)
    if rule is None:
        return [f"{path}: unknown"]
    found = [f"{path}@{name}: missing" for name in rule.required if name not in element.attrib]
    for name, value in element.attrib.items():
        check = rule.required.get(name) or rule.optional.get(name)
        if check is None:
            found.append(f"{path}@{name}: unknown")
        elif not check(value):
            found.append(f"{path}@{name}: bad value {value!r}")
    text = element.text or ""
    if (rule.text is None and text.strip()) or (rule.text is not None and not rule.text(text)):
        found.append(f"{path}: bad text")
    children = list(element)
    for names, least, most in rule.children:
        count = 0
        while children and children[0].tag in names and count < most:
            found += problems(children.pop(0), path)
            count += 1
        if count < least:
            found.append(f"{path}: {' or '.join(names)} is missing")
    found += [f"{path}/{child.tag}: out of place" for child in children]
    return found
