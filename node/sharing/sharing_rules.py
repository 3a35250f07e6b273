"""The sharing rules of this node: what new studies become. Every change is audited.

They stand in the database, not in `config.toml`: a change counts at once and for all that comes
after it, and its entry is written before it has an effect. Synchronous and thread-safe.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Sequence

from keys.canonical import canonical_json
from keys.rules import BadRule
from keys.sharing import (
    FROM_PEER,
    SHARING_RULES,
    SOURCE,
    SharingRule,
    read_sharing_rule,
    rules_digest,
)
from keys.trust import Peer
from node.audit.effects import Effects
from node.catalog.sharing import received_from
from node.database import Database
from node.errors import ExitCode, NodeError
from protocol.log.entry import Event

SHARING_RULES_SCHEMA = """
CREATE TABLE IF NOT EXISTS sharing_rules (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    made INTEGER NOT NULL,              -- how many there ever were
    rules TEXT NOT NULL                 -- keys.sharing.SharingRule as JSON, a list
) STRICT;
"""


class SharingRules:
    """The rules.

    Args:
        database: opened with `SHARING_RULES_SCHEMA`.
        effects: ties entries to their effects.
        find_peer: the peer with a petname or fingerprint; raises NodeError.
        blind: see `keys.conditions.Facts`.
    """

    def __init__(
        self,
        database: Database,
        effects: Effects,
        find_peer: Callable[[str], Peer],
        blind: Callable[[str, str], str],
    ) -> None:
        self._database = database
        self._effects = effects
        self._find_peer = find_peer
        self._blind = blind
        self._lock = threading.Lock()
        self._read: tuple[str, tuple[SharingRule, ...]] = ("", ())

    def all(self) -> tuple[SharingRule, ...]:
        """The rules, in the order in which they were made; in the transaction at hand.

        Raises:
            NodeError: the database cannot be read, or holds no rules that can be read.
        """
        return self._stored()[1]

    def add(self, words: Sequence[str]) -> SharingRule:
        """Add a rule; returns it.

        Args:
            words: the rule, see `keys.sharing.read_sharing_rule`; a source `peer:NAME` names a
                trusted facility.

        Raises:
            NodeError: it cannot be read, there are too many, or the disk is full.
        """
        with self._lock:
            made, rules = self._stored()
            if len(rules) >= SHARING_RULES:
                raise NodeError(
                    f"there are {SHARING_RULES} sharing rules, and no more are kept",
                    hint="remove one with `radmesh sharing remove`",
                    code=ExitCode.REFUSED,
                )
            rule = self.read(words, made + 1)
            self._change("sharing-rule-added", rule, made + 1, (*rules, rule))
            return rule

    def remove(self, number: int) -> SharingRule:
        """Remove a rule; returns it.

        Raises:
            NodeError: there is no such rule, or the disk is full.
        """
        with self._lock:
            made, rules = self._stored()
            rule = next((one for one in rules if one.number == number), None)
            if rule is None:
                raise NodeError(
                    f"there is no sharing rule {number}",
                    hint="see `radmesh sharing list`",
                    code=ExitCode.NOT_FOUND,
                )
            left = tuple(one for one in rules if one.number != number)
            self._change("sharing-rule-removed", rule, made, left)
            return rule

    def read(self, words: Sequence[str], number: int = 0) -> SharingRule:
        """The rule that a person wrote; nothing is changed.

        Raises:
            NodeError: it cannot be read, or names a peer that is unknown here.
        """
        try:
            return read_sharing_rule(
                [self._with_fingerprints(word) for word in words], number, blind=self._blind
            )
        except BadRule as error:
            raise NodeError(
                str(error),
                hint="write it as `share source=dimse:CT* modality=CT,MR max-age=5y`; see"
                " `radmesh sharing add --help`",
                code=ExitCode.USAGE,
            ) from error

    def _with_fingerprints(self, word: str) -> str:
        """The same word with facilities in the form in which the source of a fetch has them."""
        name, equals, text = word.partition("=")
        if name != SOURCE:
            return word
        values = [self.source(one.strip()) for one in text.split(",")]
        return f"{name}{equals}{','.join(values)}"

    def source(self, value: str) -> str:
        """A source that a person wrote, as the catalog has it: facilities by their fingerprints.

        Raises:
            NodeError: it names a peer that is unknown here.
        """
        edge, _, name = value.partition(":")
        if edge != FROM_PEER or not name or "*" in name:
            return value
        return received_from(self._find_peer(name).fingerprint)

    def _stored(self) -> tuple[int, tuple[SharingRule, ...]]:
        row = self._database.query_one("SELECT made, rules FROM sharing_rules WHERE one = 1")
        if row is None:
            return 0, ()
        text, rules = self._read
        if text != row["rules"]:
            try:
                rules = tuple(SharingRule.from_fields(one) for one in json.loads(row["rules"]))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise NodeError(
                    "the sharing rules in the database are damaged, so nothing is taken in",
                    hint="restore the home from a backup",
                    code=ExitCode.INTEGRITY,
                ) from None
            self._read = (row["rules"], rules)
        return int(row["made"]), rules

    def _change(
        self, kind: str, rule: SharingRule, made: int, rules: tuple[SharingRule, ...]
    ) -> None:
        text = json.dumps([one.to_fields() for one in rules])
        event = Event(
            type=kind,
            actor="operator",
            details={
                "number": rule.number,
                # The rule itself, so that each decision can be made again from the log.
                "rule": canonical_json(rule.to_fields()).decode(),
                "sharing_rules": rules_digest(rules),
            },
        )

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO sharing_rules (one, made, rules) VALUES (1, ?, ?)"
                " ON CONFLICT (one) DO UPDATE SET made = excluded.made, rules = excluded.rules",
                (made, text),
            )

        self._effects.after_entry(event, keep)
