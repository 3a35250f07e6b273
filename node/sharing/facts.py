"""What the catalog knows of a study, in the form in which a decision reads it.

Synchronous and thread-safe.
"""

import hashlib
import hmac
import itertools
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator

from keys.canonical import canonical_json
from keys.conditions import NOT_TO_PEER, Facts
from keys.rules import Rule
from node.catalog.attributes import body_parts_of_each, more_of_each, patients_of_each
from node.catalog.catalog import StudyRow
from node.catalog.rows import SHARED, WITHHELD, state_for_peers
from node.catalog.sharing import effects_for
from node.database import Database
from node.sharing.wishes import Wishes

FACTS_SCHEMA = """
-- The key under which rules keep lists of studies, patients and the like.
CREATE TABLE IF NOT EXISTS rule_key (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    key BLOB NOT NULL
) STRICT;
"""

_AT_ONCE = 500
_NAMES = {"accession_number": "accession", "referring_physician": "referring"}
"""Column to attribute of `Facts`, where they differ."""
_BLINDED_BYTES = 16


class StudyFacts:
    """Gives the facts about studies.

    Args:
        database: the node's database, opened with `FACTS_SCHEMA`.
        wishes: what the patients of a study want.
        is_held_back: see `Catalog.is_held_back`.
    """

    def __init__(
        self,
        database: Database,
        wishes: Wishes,
        *,
        is_held_back: Callable[[str, bytes], bool] = lambda study, peer: False,
    ) -> None:
        self._database = database
        self._wishes = wishes
        self._is_held_back = is_held_back
        self._key = b""
        # Before there is a rule with a list: a backup that lacked the key would have such rules, if
        # they are taken from a newer log, match nothing.
        self._read_key()

    @property
    def has_wishes(self) -> bool:
        """Whether patients want anything, so that facts differ by study for any peer."""
        return self._wishes.standing.are_any

    def blind(self, kind: str, value: str) -> str:
        """The form in which a rule keeps a value of a list, 32 hex digits.

        It is keyed, since there are few enough Patient IDs to try them all.
        """
        text = f"{kind}\0{value}".encode()
        return hmac.new(self._read_key(), text, hashlib.sha256).digest()[:_BLINDED_BYTES].hex()

    def of(self, study: StudyRow | None, peer: bytes) -> Facts | None:
        """The facts about one study for a decision about a peer (facility key)."""
        return None if study is None else next(self.of_each([study], peer))

    def of_each(self, studies: Iterable[StudyRow], peer: bytes) -> Iterator[Facts]:
        """The facts about studies, in their order."""
        rest = iter(studies)
        while some := list(itertools.islice(rest, _AT_ONCE)):
            uids = [study.study_uid for study in some]
            patients = patients_of_each(self._database, uids)
            parts = body_parts_of_each(self._database, uids)
            effects = effects_for(self._database, peer, uids)
            more = more_of_each(self._database, uids)
            for study in some:
                own = tuple(patients.get(study.study_uid, ()))
                yield Facts(
                    study_uid=study.study_uid,
                    state=self._state(study, peer, effects.get(study.study_uid, "")),
                    modalities=study.modalities or None,
                    body_parts=tuple(parts.get(study.study_uid, ())) or None,
                    study_date=study.study_date,
                    accession=study.accession_number,
                    patients=own,
                    referring=study.referring_physician,
                    institution=study.institution,
                    more=tuple(
                        (_NAMES.get(name, name), value)
                        for name, value in more.get(study.study_uid, ())
                    ),
                    consents=self._wishes.standing.consents(peer, own) if own else None,
                    objections=self._wishes.standing.objections(peer, own),
                    blind=self.blind,
                )

    def _state(self, study: StudyRow, peer: bytes, effect: str) -> str:
        """The state of a study for one peer, for which an effect of its own may hold."""
        uid = study.study_uid
        if effect == WITHHELD or self._is_held_back(uid, peer):
            return NOT_TO_PEER
        # What a person has to look at waits for single peers, too.
        if effect == SHARED and not study.to_check and not self._is_held_back(uid, b""):
            return SHARED
        return state_for_peers(study)

    def _read_key(self) -> bytes:
        if not self._key:

            def make(connection: sqlite3.Connection) -> bytes:
                connection.execute(
                    "INSERT INTO rule_key (one, key) VALUES (1, ?) ON CONFLICT (one) DO NOTHING",
                    (secrets.token_bytes(32),),
                )
                return bytes(connection.execute("SELECT key FROM rule_key").fetchone()["key"])

            self._key = self._database.transact(make)
        return self._key


def _all(facts: Facts, name: str) -> str | list[str]:
    """The value of an attribute, or all of them if the images differ."""
    more = [value for kind, value in facts.more if kind == name]
    first = str(getattr(facts, name))
    return [first, *more] if more else first


_READ: dict[str, Callable[[Facts], object]] = {
    "modality": lambda facts: list(facts.modalities or ()),
    "only-modality": lambda facts: list(facts.modalities or ()),
    "body-part": lambda facts: list(facts.body_parts or ()),
    "from": lambda facts: _all(facts, "study_date"),
    "to": lambda facts: _all(facts, "study_date"),
    "max-age": lambda facts: _all(facts, "study_date"),
    "accession": lambda facts: _all(facts, "accession"),
    "patient": lambda facts: [f"{patient}@{issuer}" for patient, issuer in facts.patients],
    "referring": lambda facts: _all(facts, "referring"),
    "institution": lambda facts: _all(facts, "institution"),
    "deidentified": lambda facts: facts.is_deidentified or False,
    "consent": lambda facts: sorted(facts.consents or ()),
}
"""The fact that each condition about a study reads."""


def facts_read(rules: Iterable[Rule], facts: Facts | None) -> str:
    """The facts that rules read of a study, as canonical JSON; "" if there are none."""
    if facts is None:
        return ""
    kinds = {kind for rule in rules for kind in rule.conditions}
    found: dict[str, object] = {kind: _READ[kind](facts) for kind in kinds & _READ.keys()}
    if facts.objections:
        found["objections"] = sorted(facts.objections)
    return canonical_json(found).decode() if found else ""
