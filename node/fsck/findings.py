"""The kinds of findings of a check, and how each is mended."""

from dataclasses import dataclass

MENDS = {
    "database-damaged": "stop the node and restore the home from its newest backup",
    "catalog-reference": "stop the node and restore the home from its newest backup",
    "catalog-study": "stop the node and restore the home from its newest backup",
    "study-unsearchable": "stop the node and restore the home from its newest backup",
    "batch-missing": "put the file back from a backup, or ingest or fetch the study again",
    "batch-changed": "put the file back from a backup, or ingest or fetch the study again; "
    "check the disk",
    "batch-size": "stop the node and restore the home from its newest backup",
    "batch-orphaned": "no study needs it: run an ingest that was broken off again, which takes "
    "it up, or delete the file",
    "store-leftover": "start the node, which removes it",
    "store-foreign": "move it out of the home",
    "incoming-leftover": "start the node, which removes it",
    "arrivals-leftover": "start the node, which removes it",
    "arrivals-damaged": "start the node, which packs what is whole; send the rest again if it was "
    "taken, and check the disk",
    "feed-not-shared": "start the node anew, or share and withdraw the study again",
    "feed-not-allowed": "start the node anew, or give and take the grant see again",
    "feed-missing": "start the node anew, or withdraw and share the study again",
    "feed-outdated": "start the node anew, or withdraw and share the study again",
    "feed-order": "stop the node and restore the home from its newest backup",
    "followed-unknown": "leave it: it ends within a week; or fetch the study with --no-follow",
    "log-damaged": "keep the folder audit as it is, find out who changed it or whether the disk "
    "fails, then restore the newest backup",
    "log-checkpoint": "keep the folder audit as it is, find out who changed it, then restore the "
    "newest backup of card and audit",
    "log-torn": "start the node, which cuts it off, keeps it and notes it",
    "entry-missing": "find out whether an old folder audit was put back (docs/operations.md "
    "section 12); ingest or fetch the study again to have an entry",
    "evidence-missing": "restore audit/evidence.db of the newest backup; if it was erased for "
    "good, nobody can say whom these entries are about",
    "evidence-changed": "find out who changed it, then restore audit/evidence.db of the newest "
    "backup",
}
"""How each kind of finding is mended, in words for the operator."""


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: one of the keys of `MENDS`.
        where: the place: a digest, a Study Instance UID, an entry, a table.
        what: a clause for people, which names no patient.
    """

    kind: str
    where: str
    what: str

    @property
    def mend(self) -> str:
        """What the operator should do."""
        return MENDS[self.kind]


class CannotCheck(Exception):
    """A part cannot be read at all; the text is a clause for people."""


class Missing(CannotCheck):
    """The part is not there."""
