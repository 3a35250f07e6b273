"""The operation that describes a study for others: KOS, MADO or FHIR ImagingStudy."""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edges.manifests.imaging_study import imaging_study
from edges.manifests.kos import key_object
from edges.manifests.study import Instance, Series, Study
from node.app import Node
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.reports.writing import write_logged, write_parts
from protocol.log.entry import Event, subjects_of

FORMS = ("kos", "mado", "fhir")


@dataclass(frozen=True)
class Make:
    """Parameters of `manifest`."""

    study: str
    path: parameters.Path
    form: str = FORMS[0]


async def make(call: Call, asked: Make) -> Result:
    """Write the manifest of a study to a new file."""
    return await in_thread(_make, call.node, asked)


def _make(node: Node, asked: Make) -> Result:
    if asked.form not in FORMS:
        raise NodeError(
            f"there is no form {asked.form!a}",
            hint=f"the forms are {', '.join(FORMS)}",
            code=ExitCode.USAGE,
        )
    node.audit.halt.require_none()
    study = _described(node, node.catalog.find_study(asked.study).study_uid)
    instances = sum(len(one.instances) for one in study.series)
    patients = node.catalog.patients(study.uid)
    written = write_logged(
        Path(asked.path),
        write_parts([_content(node, study, asked.form)]),
        lambda: Event(
            type="exported",
            actor="operator",
            subjects=subjects_of(study.uid, patients),
            details={"form": asked.form, "instances": instances},
        ),
        node.audit,
        salted=True,
    )
    return {
        "study": study.uid,
        "form": asked.form,
        "path": asked.path,
        "instances": instances,
        "bytes": written.bytes,
        "entry": written.entry,
        "url": study.url,
    }


def _content(node: Node, study: Study, form: str) -> bytes:
    if form == "fhir":
        return json.dumps(imaging_study(study), indent=1, ensure_ascii=False).encode()
    return key_object(
        study,
        instance_uid=f"2.25.{uuid.uuid4().int}",
        series_uid=f"2.25.{uuid.uuid4().int}",
        now=datetime.fromtimestamp(node.clock.now(), UTC),
        with_descriptions=form == "mado",
    )


def _described(node: Node, study_uid: str) -> Study:
    row = node.catalog.study(study_uid)
    instances: dict[str, list[Instance]] = {}
    for one in node.catalog.instances(study_uid):
        instances.setdefault(one.series_uid, []).append(
            Instance(one.sop_uid, one.sop_class_uid, one.number)
        )
    if row is None or not instances:
        raise NodeError(f"there is no study {study_uid} here", code=ExitCode.NOT_FOUND)
    issuers = {
        identity.removeprefix(f"{row.patient_id}^^^")
        for identity in node.catalog.patients(study_uid)
        if row.patient_id and identity.startswith(f"{row.patient_id}^^^")
    }
    settings = node.settings.manifests
    return Study(
        uid=study_uid,
        date=row.study_date,
        time=row.study_time,
        description=row.description,
        study_id=row.study_id,
        accession_number=row.accession_number,
        referring_physician=row.referring_physician,
        patient_id=row.patient_id,
        # Of two issuers none is the one of this patient.
        patient_issuer=issuers.pop() if len(issuers) == 1 else "",
        patient_name=row.patient_name,
        birth_date=row.patient_birth_date,
        sex=row.patient_sex,
        series=tuple(
            Series(
                uid=one.series_uid,
                modality=one.modality,
                number=one.series_number,
                description=one.series_description,
                date=one.series_date,
                body_part=one.body_part,
                instances=tuple(instances.get(one.series_uid, ())),
            )
            for one in node.catalog.series(study_uid)
            if one.series_uid in instances
        ),
        institution=node.card.name,
        url=settings.dicomweb_url.rstrip("/"),
        location_uid=settings.location_uid,
    )


OPERATIONS = (Operation("manifest", Make, make, writes=True, local_only=True),)
