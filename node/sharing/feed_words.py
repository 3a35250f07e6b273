"""The words by which announced studies are searched, derived from the records that are kept."""

import json
import sqlite3
from typing import Any

from node.catalog.words import Words, words_of
from protocol.fields import from_map_untrusted, to_map
from protocol.messages import Record

_WORDS, _WORD_BYTES = 16, 256
"""Words of a record that are not counted, and about what each further one takes on disk."""


def record_from_json(text: str) -> Record:
    """A record as `remote_studies` keeps it."""
    fields = json.loads(text)
    fields["content_root"] = bytes.fromhex(fields["content_root"])
    record: Record = from_map_untrusted(Record, fields)
    return record


def record_to_json(record: Record) -> str:
    """The text that `record_from_json` reads."""
    fields: dict[str, Any] = to_map(record)
    fields["content_root"] = record.content_root.hex()
    return json.dumps(fields)


def size_of(record: Record, text: str) -> int:
    """The bytes that a record takes, with this text of it; for the bounds of a feed.

    A few words come with each record. A name of very many would take much more than its text.
    """
    return len(text) + _WORD_BYTES * max(0, len(_words(record)) - _WORDS)


def keep_words(connection: sqlite3.Connection, peer: bytes, record: Record) -> None:
    """Store the words of a record of a peer (facility key); in the transaction at hand."""
    connection.executemany(
        "INSERT INTO remote_words VALUES (?,?,?,?)"
        " ON CONFLICT (peer, study, kind, word) DO NOTHING",
        [(peer, record.study, *each) for each in sorted(_words(record))],
    )


def forget_words(connection: sqlite3.Connection, peer: bytes, study: str = "") -> None:
    """Delete the words of one study that a peer announced, or of all."""
    if study:
        connection.execute("DELETE FROM remote_words WHERE peer=? AND study=?", (peer, study))
    else:
        connection.execute("DELETE FROM remote_words WHERE peer=?", (peer,))


def _words(record: Record) -> Words:
    patient = [(record.patient_id, record.issuer or "")] if record.patient_id else []
    return words_of(
        name=record.patient_name or "",
        patients=patient,
        birth_date=record.birth_date or "",
        accession_number=record.accession or "",
        modalities=record.modalities,
    )
