"""Where SQL stands, whose tables it names, and that it is one that SQLite and PostgreSQL know."""

import ast
import functools
import re
from collections.abc import Iterator

import pytest
from places import ROOT

NODE = ROOT / "node"

OWNERS = {
    "catalog/": {
        "studies", "study_patients", "study_values", "unread_studies", "series", "batches",
        "study_batches", "instances", "conflicts", "discards", "leftover_batches", "study_words",
        "study_sources", "peer_sharing", "indexed_studies", "foreign_studies",
    },
    "audit/effects.py": {"effects", "effects_compared"},
    "audit/erasure.py": {"erasures", "erasing"},
    "audit/evidence.py": {"openings", "receipts"},
    "audit/exchanges.py": {
        "exchange_entries", "exchanges", "exchange_receipts", "exchanges_read",
    },
    "edges/commitment_requests.py": {"commitment_requests"},
    "edges/commitment_transactions.py": {"commitments"},
    "edges/archive_queue.py": {"archive_studies", "archive_instances"},
    "edges/doors.py": {"door_studies"},
    "edges/match_rows.py": {"study_matches", "matched_patients"},
    "images/holds.py": {"study_holds"},
    "notices/told.py": {"notices_told", "notices_unsent"},
    "people/persons.py": {"people", "people_bindings", "people_before"},
    "people/proposals.py": {"proposals"},
    "people/rules.py": {"two_person_rules"},
    "receipts/pending.py": {"receipts_kept", "receipt_answers"},
    "receipts/stored.py": {"stored_contents", "stored_statements"},
    "reports/forwarding.py": {"forwarded"},
    "sharing/contests.py": {"contests"},
    "sharing/emergencies.py": {"emergencies"},
    "sharing/facts.py": {"rule_key"},
    "sharing/feeds.py": {"feed_heads", "feed", "remote_feeds", "remote_studies", "remote_words"},
    "sharing/found.py": {"find_questions", "found_studies"},
    "sharing/granted.py": {"grants_told", "grants_heard"},
    "sharing/offers.py": {"offers"},
    "sharing/peers.py": {"peers"},
    "sharing/requests.py": {"requests"},
    "sharing/wishes.py": {"patient_wishes"},
    "sharing/recalls.py": {"recalls"},
    "sharing/sharing_rules.py": {"sharing_rules"},
    "transfer/transfers.py": {"transfers"},
    "transfer/followed.py": {"followed_sources", "followed_studies"},
    "witness/store.py": {"witnessed", "own_checkpoints", "own_cosignatures", "log_alerts"},
}  # fmt: skip
"""Who owns which tables: the catalog is a package, each other owner one file."""

PARTS = {
    "sharing/deriving.py": "sharing/feeds.py",
    "sharing/feed_words.py": "sharing/feeds.py",
    "edges/matches.py": "edges/match_rows.py",
    "edges/unmatched.py": "edges/match_rows.py",
}
"""Files that an owner was divided into."""

READ_BY_OTHERS = {
    "sharing/deriving.py": {"studies", "discards", "peer_sharing"},
    # What is followed and has grown is one question to all of these.
    "transfer/followed.py": {"remote_studies", "studies", "transfers", "discards", "recalls"},
    # Whether the study was fetched as urgent, in the transaction that publishes it.
    "edges/archive_queue.py": {"transfers"},
    # A feed is what differs from the catalog, which is one question to both.
    "sharing/feeds.py": {"studies", "discards"},
    # What a peer has told of, and whether we asked it for the study.
    "sharing/recalls.py": {"remote_studies", "transfers"},
    # Who is owed a statement: receipts of a content that is stored; and what of it is here.
    "receipts/stored.py": {"exchange_receipts", "studies", "study_sources"},
    # What waits for a match is one question to both.
    "edges/unmatched.py": {"studies", "study_patients", "study_sources"},
    "edges/matches.py": {"studies"},
    # What is erased is chosen among the openings, and deleted there.
    "audit/erasure.py": {"openings"},
}

APART = ("database.py", "migrations.py", "fsck/")
"""The connection itself; how files of SQLite became what they are; and the check, which reads
the tables without their owners' code."""

SQL = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|PRAGMA|FROM|INTO|WHERE|ORDER BY|GROUP BY"
    r"|JOIN|LIMIT|VALUES|EXISTS|UNION|BEGIN IMMEDIATE)\b"
)
TABLE = re.compile(
    r"\b(?P<how>FROM|JOIN|INSERT INTO|UPDATE|DELETE FROM|TABLE IF NOT EXISTS|REFERENCES)"
    r" (?P<name>[a-z_]+)\b"
)
CALLS = ("execute", "executemany", "executescript", "query", "query_one", "query_among")
CALL = re.compile(rf"\.({'|'.join(CALLS)})\(")

FOREIGN = {
    "INSERT OR": r"\bINSERT OR\b|\bREPLACE INTO\b",
    "a conflict without its columns": r"\bON CONFLICT (?!\()",
    "JSON": r"\bjson_|->",
    "group_concat": r"\bgroup_concat\b",
    "max or min of several values": r"\b(max|min)\([^()]*,",
    "a limit of -1": r"LIMIT -",
    "a literal of bytes": r"\b[xX]'",
    "AUTOINCREMENT": r"\bAUTOINCREMENT\b|\browid\b",
    "ifnull, iif": r"\b(ifnull|iif|printf|strftime|datetime|glob|instr|total)\(",
    "a number as a condition": r"(WHERE|AND|OR|NOT) (?:\w+\.)?(shared|told|lifted|settled|logged"
    r"|only_peer|stat|whole|outgoing|confirmed|shown)(?! *(=|<|>|IS|IN|,))\b",
    "a parameter as a condition": r"\b(WHERE|AND|OR|NOT) \(?(\?\d*+|:\w++)(?! *(=|<|>))"
    r"|(\?\d*|:\w+) IS (NOT )?NULL",
    "a column in an upsert without its table": r"DO UPDATE SET (?:[^()]*, )?(\w+) ?= ?\1\b",
    "a selection in FROM without a name": r"FROM \((?:[^()]|\([^()]*\))*\)(?! AS)",
}
"""What one of the two does not know, or knows otherwise."""


@functools.cache
def _sources() -> tuple[tuple[str, ast.Module], ...]:
    """The files that may hold or run a statement, which are few."""
    found = []
    for path in sorted(NODE.rglob("*.py")):
        place, text = path.relative_to(NODE).as_posix(), path.read_text("utf-8")
        if not place.startswith(APART) and (SQL.search(text) or CALL.search(text)):
            found.append((place, ast.parse(text)))
    return tuple(found)


def _texts(tree: ast.Module) -> Iterator[str]:
    """Texts that the program uses: not those that document it; what is put in stands as `{}`."""
    documents = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    parts = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documents | parts
        ):
            yield node.value


def _statements(place: str, tree: ast.Module) -> list[str]:
    found = [re.sub(r"--[^\n]*", "", text) for text in _texts(tree)]
    return [" ".join(text.split()) for text in found if SQL.search(text)]


def _owner(place: str) -> str | None:
    place = PARTS.get(place, place)
    return next((owner for owner in OWNERS if place.startswith(owner)), None)


@pytest.mark.slow
def test_sql_stands_with_the_owners_of_tables_alone():
    with_sql = {place for place, tree in _sources() if _statements(place, tree)}
    assert {place for place in with_sql if _owner(place) is None} == set()
    assert {_owner(place) for place in with_sql} == set(OWNERS)


def test_statements_are_run_by_the_owners_alone():
    running = {
        place
        for place, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CALLS
    }
    assert {place for place in running if _owner(place) is None} == set()


def test_only_the_database_begins_and_ends_transactions():
    own = re.compile(r"\.transaction\(|[\"'](BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|RELEASE)\b")
    assert {"BEGIN", "COMMIT", "ROLLBACK"} <= set(own.findall((NODE / "database.py").read_text()))
    # The check of a home has a connection of its own, which writes nothing.
    files = {path.relative_to(NODE).as_posix(): path for path in NODE.rglob("*.py")}
    apart = {place for place in files if place == "database.py" or place.startswith("fsck/")}
    assert [place for place in files.keys() - apart if own.search(files[place].read_text())] == []


@pytest.mark.slow
def test_an_owner_names_its_own_tables_and_reads_few_others():
    tables = set().union(*OWNERS.values())
    assert len(tables) == sum(map(len, OWNERS.values())), "a table has one owner"
    declared: dict[str, set[str]] = {owner: set() for owner in OWNERS}
    for place, tree in _sources():
        owner = _owner(place)
        for text in _statements(place, tree):
            for found in TABLE.finditer(text):
                how, name = found["how"], found["name"]
                if (how == "UPDATE" and name == "{}") or name not in tables:
                    continue
                assert owner is not None
                if how == "TABLE IF NOT EXISTS":
                    declared[owner].add(name)
                if name in OWNERS[owner]:
                    continue
                assert name in READ_BY_OTHERS.get(place, ()), f"{place} names {name}: {text}"
    assert declared == OWNERS


@pytest.mark.slow
def test_no_statement_is_one_that_sqlite_alone_knows():
    wrong = [
        f"{place}: {what}: {text}"
        for place, tree in _sources()
        for text in _statements(place, tree)
        for what, pattern in FOREIGN.items()
        if re.search(pattern, text)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("INSERT OR", "INSERT OR IGNORE INTO batches VALUES (?)"),
        ("a conflict without its columns", "INSERT INTO a VALUES (?) ON CONFLICT DO NOTHING"),
        ("JSON", "SELECT json_extract(record, '$.a') FROM remote_studies"),
        ("group_concat", "SELECT group_concat(modality, char(10)) FROM series"),
        ("max or min of several values", "SELECT max(told, excluded.told) FROM exchanges"),
        ("a limit of -1", "SELECT 1 FROM studies LIMIT -1"),
        ("a literal of bytes", "SELECT 1 FROM conflicts WHERE batches <> x''"),
        ("AUTOINCREMENT", "number INTEGER PRIMARY KEY AUTOINCREMENT"),
        ("ifnull, iif", "SELECT ifnull(a, 0) FROM studies"),
        ("a number as a condition", "SELECT 1 FROM studies s WHERE s.shared AND s.a = 1"),
        ("a number as a condition", "SELECT 1 FROM discards WHERE study = ? AND NOT lifted"),
        ("a parameter as a condition", "SELECT 1 FROM log_alerts WHERE (NOT ? OR settled = 1)"),
        ("a parameter as a condition", "SELECT 1 FROM conflicts WHERE ?1 IS NULL OR study = ?1"),
        (
            "a column in an upsert without its table",
            "INSERT INTO a VALUES (?) ON CONFLICT (b) DO UPDATE SET d=1, c=c+1",
        ),
        ("a selection in FROM without a name", "SELECT count(*) FROM (SELECT 1 FROM studies)"),
    ],
)
def test_what_sqlite_alone_knows_is_seen(what: str, text: str):
    assert re.search(FOREIGN[what], text)
