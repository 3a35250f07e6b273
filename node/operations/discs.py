"""Operations on discs: looking through them, and writing them. Taking them is `ingest`."""

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keys.purposes import WORDS, is_purpose
from node.app import Node
from node.blocking import in_thread
from node.catalog.catalog import StudyRow
from node.errors import ExitCode, NodeError
from node.images.disc_texts import beyond_profile
from node.images.media_forms import form_for
from node.operations import parameters
from node.operations.base import Call, Operation, Result
from node.operations.images import read_mode, run_work
from node.phrases import clean
from protocol.log.entry import Event, subjects_of
from protocol.manifest import Manifest

_MOST_RECIPIENT = 200
_MOST_STUDIES = 1000


@dataclass(frozen=True)
class Look:
    """Parameters of `disc.look`."""

    paths: parameters.Paths


@dataclass(frozen=True)
class Write:
    """Parameters of `disc.write`; without a form its name says it, without a mode the settings."""

    target: parameters.Path
    studies: tuple[str, ...]
    recipient: str
    purpose: str = WORDS[0]
    form: str | None = None
    mode: str | None = None


async def look(call: Call, asked: Look) -> Result:
    """Which patients and studies folders, ZIP files and ISO images hold; nothing is taken."""
    from node.images import looking  # here, since pydicom is slow to load

    node = call.node

    def work(progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any:
        return looking.look(
            [Path(path) for path in asked.paths],
            catalog=node.catalog,
            exclude=node.home.path,
            progress=progress,
            cancelled=cancelled,
        )

    discs = await run_work(work, call.report, dataclasses.asdict)
    return await in_thread(lambda: {"discs": [_describe_disc(disc) for disc in discs]})


def _describe_disc(disc: Any) -> Result:
    return {
        "path": disc.path,
        "form": disc.form,
        "patients": [_describe_patient(one) for one in disc.patients.values()],
        "files": disc.files,
        "directories": disc.directories,
        "listed": disc.listed,
        "missing": disc.missing,
        "missing_count": disc.missing_count,
        "other": disc.other,
        "problems": [{"file": one.file, "reason": one.reason} for one in disc.problems],
        "problem_count": disc.problem_count,
    }


def _describe_patient(patient: Any) -> Result:
    return {
        "patient_id": patient.patient_id,
        "issuer": patient.issuer,
        "name": patient.name,
        "birth_date": patient.birth_date,
        "sex": patient.sex,
        "studies": [
            {
                "study": one.study,
                "date": one.date,
                "description": one.description,
                "accession_number": one.accession_number,
                "modalities": sorted(one.modalities),
                "series": len(one.series),
                "instances": len(one.instances),
                "bytes": one.bytes,
                "here": one.here,
            }
            for one in sorted(patient.studies.values(), key=lambda one: (one.date, one.study))
        ],
    }


async def write(call: Call, asked: Write) -> Result:
    """Write studies to a disc for somebody who carries it: a folder, a ZIP file or an ISO image."""
    from node.images import disc_writing  # here, since pydicom is slow to load

    node = call.node
    mode = read_mode(node, asked.mode)
    recipient = _recipient(asked.recipient)
    if not is_purpose(asked.purpose):
        raise NodeError(
            f"there is no purpose {asked.purpose!a}",
            hint=f"the purposes are {', '.join(WORDS)}, and the codes of HL7 such as PATRQT",
            code=ExitCode.USAGE,
        )
    target = Path(asked.target)
    form = form_for(target, asked.form)
    logged: dict[int, Event] = {}

    def log(manifests: Sequence[Manifest]) -> None:
        events = [_event(node, one, recipient, asked.purpose, form) for one in manifests]
        logged.update(zip(node.audit.append_many(events), events, strict=True))

    def work(progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any:
        rows = _rows(node, asked.studies)
        disc = disc_writing.Disc(
            target=target,
            form=form,
            facility=node.card.name,
            sop_instance=f"2.25.{uuid.uuid4().int}",
            now=datetime.fromtimestamp(node.clock.now(), UTC),
            mode=mode,
        )
        try:
            written = disc_writing.write_disc(
                node.catalog, node.store, rows, disc, log, progress, cancelled
            )
        except Exception:
            _say_failed(node, logged)
            raise
        return rows, written

    rows, written = await run_work(work, call.report, dataclasses.asdict)
    return {
        "target": str(target),
        "form": form,
        "studies": [row.study_uid for row in rows],
        "files": written.files,
        "bytes": written.bytes,
        "beyond_profile": beyond_profile(written.syntaxes),
        "made_up": written.made_up,
        "to_check": {row.study_uid: row.to_check for row in rows if row.to_check},
        "entries": list(logged),
    }


def _recipient(text: str) -> str:
    """For whom the disc is, as the log commits to it; one line."""
    text = clean(text).strip()
    if not text or len(text) > _MOST_RECIPIENT:
        raise NodeError(
            "a disc is for somebody: say for whom",
            hint=f"up to {_MOST_RECIPIENT} characters, such as 'Dr. Weber, Bern'",
            code=ExitCode.USAGE,
        )
    return text


def _rows(node: Node, studies: Sequence[str]) -> list[StudyRow]:
    if not studies or len(studies) > _MOST_STUDIES:
        raise NodeError(f"a disc holds 1 to {_MOST_STUDIES} studies", code=ExitCode.USAGE)
    rows = {row.study_uid: row for row in map(node.catalog.find_study, studies)}
    return list(rows.values())


def _event(node: Node, manifest: Manifest, recipient: str, purpose: str, form: str) -> Event:
    study = manifest.study_instance_uid
    return Event(
        type="exported",
        actor="operator",
        purpose=purpose,
        subjects=(*subjects_of(study, node.catalog.patients(study)), ("message", recipient)),
        details={
            "form": form,
            "instances": len(manifest.instances),
            "bytes": manifest.total_original_bytes,
            "content_root": manifest.content_root.hex(),
        },
    )


def _say_failed(node: Node, logged: Mapping[int, Event]) -> None:
    """The disc did not come about: without further entries, the log says that it did."""
    failed = [
        dataclasses.replace(event, outcome="failed", details={"of": entry})
        for entry, event in logged.items()
    ]
    # If the log takes no entry, it says more than happened, which harms nobody.
    with contextlib.suppress(NodeError):
        node.audit.append_many(failed)


OPERATIONS = (
    # It changes nothing, but takes long: as one that writes, it is not asked again by itself.
    Operation("disc.look", Look, look, writes=True, local_only=True, without_private_keys=True),
    Operation("disc.write", Write, write, writes=True, local_only=True),
)
