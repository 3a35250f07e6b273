"""A `Sight` whose answers the test sets."""

from collections.abc import Iterable, Iterator

from keys.rules import EXAM
from node.catalog.catalog import StudyRow
from node.sharing.policy import Sight


class SightMade(Sight):
    """The peers that may see, and the studies hidden from a peer (facility key, UID)."""

    def __init__(self, seeing: Iterable[bytes] = ()) -> None:
        self.seeing = set(seeing)
        self.hidden: set[tuple[bytes, str]] = set()

    def peers(self) -> frozenset[bytes]:
        return frozenset(self.seeing)

    def shows_each(self, facility_key: bytes, studies: Iterable[StudyRow]) -> Iterator[str]:
        for study in studies:
            hidden = (facility_key, study.study_uid) in self.hidden
            sees = facility_key in self.seeing and study.state == "shared" and not hidden
            yield EXAM if sees else ""

    def shows_alike(self, facility_key: bytes) -> str:
        return EXAM if facility_key in self.seeing else ""

    def tells_apart(self, facility_key: bytes) -> bool:
        return any(key == facility_key for key, _ in self.hidden)
