"""A `Sight` whose answers the test sets."""

from collections.abc import Iterable

from keys.grants import Facts
from node.sharing.policy import Sight


class SightMade(Sight):
    """The peers that may see, and the studies hidden from a peer (facility key, UID)."""

    def __init__(self, seeing: Iterable[bytes] = ()) -> None:
        self.seeing = set(seeing)
        self.hidden: set[tuple[bytes, str]] = set()

    def peers(self) -> frozenset[bytes]:
        return frozenset(self.seeing)

    def may_see(self, facility_key: bytes, study: Facts) -> bool:
        hidden = (facility_key, study.study_uid) in self.hidden
        return facility_key in self.seeing and study.state == "shared" and not hidden

    def tells_apart(self, facility_key: bytes) -> bool:
        return any(key == facility_key for key, _ in self.hidden)
