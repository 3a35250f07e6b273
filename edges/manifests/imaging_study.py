"""A study as an ImagingStudy of FHIR R4, with its patient and the endpoint within it."""

import re
from typing import Any

from edges.manifests.study import Series, Study
from edges.values import fitting

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_OF_ENDPOINTS = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
_OF_IDENTIFIERS = "http://terminology.hl7.org/CodeSystem/v2-0203"
_GENDERS = {"M": "male", "F": "female", "O": "other"}


def imaging_study(study: Study) -> dict[str, Any]:
    """The resource as JSON values; nothing in it is empty, as FHIR wants it."""
    contained = [_patient(study)]
    found: dict[str, Any] = {
        "resourceType": "ImagingStudy",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{study.uid}"}],
        "status": "available",
        "subject": {"reference": "#patient"},
    }
    if study.accession_number.strip():
        kind = {"coding": [{"system": _OF_IDENTIFIERS, "code": "ACSN"}]}
        found["identifier"].append({"type": kind, "value": study.accession_number.strip()})
    modalities = sorted({_modality(one) for one in study.series})
    found["modality"] = [{"system": _DCM, "code": one} for one in modalities]
    if _date(study.date):
        found["started"] = _date(study.date)
    if study.url:
        contained.append(_endpoint(study))
        found["endpoint"] = [{"reference": "#wado"}]
    found["numberOfSeries"] = len(study.series)
    found["numberOfInstances"] = sum(len(one.instances) for one in study.series)
    if study.description.strip():
        found["description"] = study.description.strip()
    found["series"] = [_series(one, with_endpoint=bool(study.url)) for one in study.series]
    return {"resourceType": "ImagingStudy", "contained": contained, **found}


def _patient(study: Study) -> dict[str, Any]:
    patient: dict[str, Any] = {"resourceType": "Patient", "id": "patient"}
    if study.patient_id.strip():
        identifier: dict[str, Any] = {"value": study.patient_id.strip()}
        if study.patient_issuer.strip():
            identifier["assigner"] = {"display": study.patient_issuer.strip()}
        patient["identifier"] = [identifier]
    # The first group of a name is the one in letters; its parts are family, given, middle, ...
    family, given, middle, *_ = [
        part.strip() for part in (study.patient_name.split("=")[0] + "^^^").split("^")
    ]
    name: dict[str, Any] = {"family": family} if family else {}
    if given or middle:
        name["given"] = [one for one in (given, middle) if one]
    if name:
        patient["name"] = [name]
    if study.sex in _GENDERS:
        patient["gender"] = _GENDERS[study.sex]
    if _date(study.birth_date):
        patient["birthDate"] = _date(study.birth_date)
    return patient


def _endpoint(study: Study) -> dict[str, Any]:
    return {
        "resourceType": "Endpoint",
        "id": "wado",
        "status": "active",
        "connectionType": {"system": _OF_ENDPOINTS, "code": "dicom-wado-rs"},
        "payloadType": [{"text": "DICOM WADO-RS"}],
        "payloadMimeType": ["application/dicom"],
        "address": study.url,
    }


def _series(series: Series, *, with_endpoint: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"uid": series.uid}
    if series.number is not None and series.number >= 0:
        found["number"] = series.number
    found["modality"] = {"system": _DCM, "code": _modality(series)}
    if series.description.strip():
        found["description"] = series.description.strip()
    found["numberOfInstances"] = len(series.instances)
    if with_endpoint:
        found["endpoint"] = [{"reference": "#wado"}]
    if _date(series.date):
        found["started"] = _date(series.date)
    found["instance"] = [
        {
            "uid": one.uid,
            "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{one.sop_class}"},
            **({"number": one.number} if one.number is not None and one.number >= 0 else {}),
        }
        for one in series.instances
    ]
    return found


def _modality(series: Series) -> str:
    # A code of FHIR has no space at its ends, and one at most between its words.
    return re.sub(r"\s+", " ", fitting("CS", series.modality)) or "OT"


def _date(text: str) -> str:
    day = fitting("DA", text)
    return f"{day[:4]}-{day[4:6]}-{day[6:]}" if day else ""
