"""What still needs a study: reasons for which retention leaves it here."""

from collections.abc import Callable, Iterable

from node.images.holds import Holds, WhyStays
from node.sharing.offers import Offers
from node.sharing.requests import Requests
from node.transfer.transfers import Transfers


def reasons_of(
    holds: Holds,
    transfers: Transfers,
    offers: Offers,
    requests: Requests,
    waiting: Callable[[], Iterable[str]],
) -> tuple[WhyStays, ...]:
    """What may keep a study, each as a function of its UID.

    Args:
        holds: legal holds.
        transfers: what is under way.
        offers: what is offered, to us or by us.
        requests: what peers ask for.
        waiting: gives the studies (UIDs) that came in to be offered, and are not yet.
    """

    def is_held(study: str) -> str:
        return "is under a legal hold" if holds.of(study) is not None else ""

    def is_under_way(study: str) -> str:
        return "is on its way to or from a facility" if transfers.is_moving(study) else ""

    def is_offered(study: str) -> str:
        is_open = any(one.study == study and one.is_open for one in offers.all())
        return "is offered" if is_open or study in waiting() else ""

    def is_asked_for(study: str) -> str:
        open_states = ("waiting", "approved")
        asked = (one for one in requests.all() if one.study == study)
        return "is asked for" if any(one.state in open_states for one in asked) else ""

    return is_held, is_under_way, is_offered, is_asked_for
