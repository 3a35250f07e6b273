"""The changes in the node's databases since the first homes, as numbered steps.

A step's number is its place, counted from 2; steps are only ever added at the end. The
present tables are declared by their owners; a test checks that a migrated file and a new
one have the same columns and indexes.
"""

import json
import sqlite3

from node.catalog.words import index_study, words_of
from node.database import Migration


def _transfers_by_side(connection: sqlite3.Connection) -> None:
    """The requester chooses a transfer's id, so it is unique only with direction and peer."""
    connection.execute("ALTER TABLE transfers RENAME TO transfers_1")
    connection.execute("DROP INDEX transfers_by_start")
    connection.execute(
        "CREATE TABLE transfers ("
        " transfer BLOB NOT NULL, direction TEXT NOT NULL, study TEXT NOT NULL,"
        " peer BLOB NOT NULL, purpose TEXT NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL,"
        " only_peer INTEGER NOT NULL, instances INTEGER NOT NULL, bytes INTEGER NOT NULL,"
        " bytes_done INTEGER NOT NULL, wire_bytes INTEGER NOT NULL,"
        " wire_bytes_total INTEGER NOT NULL, held_bytes INTEGER NOT NULL,"
        " started INTEGER NOT NULL, ended INTEGER, stat INTEGER NOT NULL,"
        " PRIMARY KEY (direction, peer, transfer)) STRICT"
    )
    connection.execute("INSERT INTO transfers SELECT * FROM transfers_1")
    connection.execute("DROP TABLE transfers_1")
    connection.execute("CREATE INDEX transfers_by_start ON transfers (started)")


def _feeds_within_budgets(connection: sqlite3.Connection) -> None:
    """Announcements are logged once per sequence; kept records of a peer's feed are counted."""
    connection.execute("ALTER TABLE feed ADD COLUMN logged INTEGER NOT NULL DEFAULT 0")
    for column in ("records", "bytes", "left_out"):
        connection.execute(
            f"ALTER TABLE remote_feeds ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0"
        )
    connection.execute(
        "UPDATE remote_feeds SET (records, bytes) ="
        " (SELECT count(*), coalesce(sum(length(record)), 0) FROM remote_studies s"
        "  WHERE s.peer = remote_feeds.peer)"
    )


def _contested_keys(connection: sqlite3.Connection) -> None:
    """Reports about keys that two facilities claim are remembered, so that each is made once."""
    connection.execute(
        "CREATE TABLE contests ("
        " facility BLOB NOT NULL, other BLOB NOT NULL, key BLOB NOT NULL,"
        " shown INTEGER NOT NULL, logged INTEGER NOT NULL,"
        " PRIMARY KEY (facility, other)) STRICT, WITHOUT ROWID"
    )


def _transfers_tell_when_they_moved(connection: sqlite3.Connection) -> None:
    """A fetch without progress for a week ends, even across restarts."""
    connection.execute("ALTER TABLE transfers ADD COLUMN moved INTEGER NOT NULL DEFAULT 0")


def _all_patients(connection: sqlite3.Connection) -> None:
    """A study has all patients that its images name; so far it had only one of them."""
    connection.execute("ALTER TABLE studies ADD COLUMN to_check TEXT NOT NULL DEFAULT ''")
    connection.execute("ALTER TABLE studies ADD COLUMN note TEXT NOT NULL DEFAULT ''")
    connection.execute("CREATE INDEX studies_to_check ON studies (to_check) WHERE to_check <> ''")
    connection.execute(
        "CREATE TABLE study_patients ("
        " study_uid TEXT NOT NULL REFERENCES studies, patient_id TEXT NOT NULL,"
        " issuer TEXT NOT NULL,"
        " PRIMARY KEY (study_uid, patient_id, issuer)) STRICT, WITHOUT ROWID"
    )
    connection.execute(
        "INSERT INTO study_patients SELECT study_uid, patient_id, coalesce(issuer, '')"
        " FROM studies LEFT JOIN patient_id_issuers USING (study_uid) WHERE patient_id <> ''"
    )
    connection.execute("DROP TABLE patient_id_issuers")
    connection.execute(
        "CREATE TABLE unread_studies (study_uid TEXT PRIMARY KEY) STRICT, WITHOUT ROWID"
    )
    connection.execute("INSERT INTO unread_studies SELECT study_uid FROM studies")


def _recalls_are_told(connection: sqlite3.Connection) -> None:
    """A place in a feed stores the recalls that it announces; older homes have no recalls."""
    connection.execute("ALTER TABLE feed ADD COLUMN recalls INTEGER NOT NULL DEFAULT 0")


def _transfers_are_followed(connection: sqlite3.Connection) -> None:
    """A fetch stores whether its source is followed; earlier fetches follow none."""
    for column in ("follow", "follow_up"):
        connection.execute(f"ALTER TABLE transfers ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")


def _no_statement_of_sqlite_alone(connection: sqlite3.Connection) -> None:
    """Queried fields of a peer's records are columns, not in JSON; the owner of alerts numbers
    them."""
    connection.execute("DROP INDEX IF EXISTS remote_studies_by_date")
    connection.execute("ALTER TABLE remote_studies ADD COLUMN study_date TEXT NOT NULL DEFAULT ''")
    connection.execute("ALTER TABLE remote_studies ADD COLUMN recalls INTEGER NOT NULL DEFAULT 0")
    connection.execute(
        "ALTER TABLE remote_studies ADD COLUMN content_root TEXT NOT NULL DEFAULT ''"
    )
    connection.execute("ALTER TABLE remote_studies ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0")
    connection.execute(
        "UPDATE remote_studies SET"
        " study_date = coalesce(json_extract(record, '$.study_date'), ''),"
        " recalls = coalesce(json_extract(record, '$.recalls'), 0),"
        " content_root = coalesce(json_extract(record, '$.content_root'), ''),"
        " bytes = coalesce(json_extract(record, '$.bytes'), 0)"
    )
    connection.execute(
        "CREATE INDEX remote_studies_by_date ON remote_studies (study_date DESC, study DESC)"
    )
    connection.execute("ALTER TABLE log_alerts RENAME TO log_alerts_7")
    connection.execute(
        "CREATE TABLE log_alerts ("
        " number INTEGER PRIMARY KEY, facility BLOB NOT NULL, witness BLOB NOT NULL,"
        " kind TEXT NOT NULL, held BLOB NOT NULL, shown BLOB NOT NULL, seen INTEGER NOT NULL,"
        " logged INTEGER NOT NULL DEFAULT 0, settled INTEGER) STRICT"
    )
    connection.execute("INSERT INTO log_alerts SELECT * FROM log_alerts_7")
    connection.execute("DROP TABLE log_alerts_7")


def _people_are_listed(connection: sqlite3.Connection) -> None:
    """There is a list of people; in older homes the group keeps what it could do, until then."""
    connection.execute(
        "CREATE TABLE people_before (one INTEGER PRIMARY KEY CHECK (one = 1)) STRICT"
    )
    connection.execute("INSERT INTO people_before (one) VALUES (1)")


def _fetches_know_who_asked(connection: sqlite3.Connection) -> None:
    """A fetch that goes on after a restart is still somebody's; earlier ones are nobody's."""
    connection.execute("ALTER TABLE transfers ADD COLUMN asked_by TEXT NOT NULL DEFAULT ''")


def _fetches_have_reasons(connection: sqlite3.Connection) -> None:
    """A fetch tells its sources why somebody asks."""
    connection.execute("ALTER TABLE transfers ADD COLUMN reason TEXT NOT NULL DEFAULT ''")


def _words_to_search_by(connection: sqlite3.Connection) -> None:
    """Studies are searched by the words of their patients and by their modalities."""
    connection.execute(
        "CREATE TABLE study_words ("
        " study_uid TEXT NOT NULL REFERENCES studies, kind TEXT NOT NULL, word TEXT NOT NULL,"
        " PRIMARY KEY (study_uid, kind, word)) STRICT, WITHOUT ROWID"
    )
    connection.execute("CREATE INDEX study_words_by_word ON study_words (kind, word, study_uid)")
    for [study] in connection.execute("SELECT study_uid FROM studies").fetchall():
        index_study(connection, study)
    connection.execute(
        "CREATE TABLE remote_words ("
        " peer BLOB NOT NULL, study TEXT NOT NULL, kind TEXT NOT NULL, word TEXT NOT NULL,"
        " PRIMARY KEY (peer, study, kind, word)) STRICT, WITHOUT ROWID"
    )
    connection.execute(
        "CREATE INDEX remote_words_by_word ON remote_words (kind, word, study, peer)"
    )
    rows = connection.execute("SELECT peer, study, record FROM remote_studies").fetchall()
    for peer, study, record in rows:
        # No record so far names a patient.
        words = words_of(modalities=json.loads(record).get("modalities", ()))
        connection.executemany(
            "INSERT INTO remote_words VALUES (?,?,?,?)",
            [(peer, study, *each) for each in sorted(words)],
        )


def _feeds_show_patients(connection: sqlite3.Connection) -> None:
    """A feed tells of the exam, or of its patient as well."""
    connection.execute("ALTER TABLE feed ADD COLUMN shows TEXT NOT NULL DEFAULT 'exam'")


def _where_images_differ(connection: sqlite3.Connection) -> None:
    """Rules see each value that images give an attribute: all studies are read for them."""
    connection.execute(
        "INSERT INTO unread_studies SELECT study_uid FROM studies WHERE study_uid NOT IN"
        " (SELECT study_uid FROM unread_studies)"
    )


def _receipts_by_content(connection: sqlite3.Connection) -> None:
    """The index of our log lists receipts by content, too: it is made from the log anew."""
    connection.execute("DROP TABLE IF EXISTS exchanges_read")


def _studies_of_archives(connection: sqlite3.Connection) -> None:
    """A study may be in an archive of the facility alone."""
    connection.execute("ALTER TABLE studies ADD COLUMN indexed_in TEXT NOT NULL DEFAULT ''")


NODE_MIGRATIONS = (
    Migration("a transfer is known by its direction, peer and id", _transfers_by_side),
    Migration(
        "announcements are logged once, and feeds of peers are bounded", _feeds_within_budgets
    ),
    Migration("what was told of contested keys", _contested_keys),
    Migration("when something of a transfer moved last", _transfers_tell_when_they_moved),
    Migration("every patient of a study is known", _all_patients),
    Migration("which recalls a peer was told of", _recalls_are_told),
    Migration("which fetches follow their sources", _transfers_are_followed),
    Migration("no statement that only SQLite knows", _no_statement_of_sqlite_alone),
    Migration("people of the group have roles", _people_are_listed),
    Migration("who asked for a fetch", _fetches_know_who_asked),
    Migration("why somebody asked for a fetch", _fetches_have_reasons),
    Migration("by which words a study is searched", _words_to_search_by),
    Migration("what a feed tells of a study", _feeds_show_patients),
    Migration("where images of a study differ", _where_images_differ),
    Migration("which receipts are for which content", _receipts_by_content),
    Migration("which studies are in an archive alone", _studies_of_archives),
)
"""The steps of `node.db`."""

EVIDENCE_MIGRATIONS: tuple[Migration, ...] = ()
"""The steps of `audit/evidence.db`."""
