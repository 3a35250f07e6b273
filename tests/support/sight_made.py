"""A `Sight` whose answers the test sets."""

from collections.abc import Iterable, Iterator

from node.catalog.catalog import StudyRow
from node.sharing.policy import Sight


class SightMade(Sight):
    """The peers that may see, and the studies hidden from a peer (facility key, UID)."""

    def __init__(self, seeing: Iterable[bytes] = ()) -> None:
        self.seeing = set(seeing)
        self.hidden: set[tuple[bytes, str]] = set()

    def peers(self) -> frozenset[bytes]:
        return frozenset(self.seeing)

    def may_see_each(self, facility_key: bytes, studies: Iterable[StudyRow]) -> Iterator[bool]:
        for study in studies:
            hidden = (facility_key, study.study_uid) in self.hidden
            yield facility_key in self.seeing and study.state == "shared" and not hidden

    def tells_apart(self, facility_key: bytes) -> bool:
        return any(key == facility_key for key, _ in self.hidden)
