"""Both sides of a pairing in memory, and a line between them that a test may tamper with."""

from collections.abc import Callable

from keys.card import issue_card
from keys.identity import KeyPair
from keys.pake import Role
from protocol.errors import RemoteProtocolError
from protocol.pairing import Event, PairingExchange
from protocol.pairing_messages import PairStatement

CODE = "48291570639"
OTHER_CODE = "48291570647"
NOW = 1_800_000_000


def statement(name: str, grants: tuple[str, ...] = ("see",)) -> tuple[PairStatement, KeyPair]:
    """What a facility says of itself, and its node key."""
    keys = [KeyPair.from_seed(f"{role} of {name}".encode().ljust(32)[:32]) for role in "fnlw"]
    card = issue_card(
        keys[0],
        name=name,
        node_key=keys[1].public,
        log_key=keys[2].public,
        witness_key=keys[3].public,
        addresses=(f"/dns4/radmesh.{name.split()[0].lower()}.example/tcp/4101",),
        serial=1,
        issued=NOW,
        expires=NOW + 63_072_000,
        proving=keys[1:],
    )
    return PairStatement(card=card.encoded, grants=grants, purposes=("treatment",)), keys[1]


def counted(first: int) -> Callable[[int], bytes]:
    """Bytes that are the same in each run: `first`, `first` + 1, ... in each byte."""
    calls = iter(range(first, 256))
    return lambda count: bytes([next(calls)]) * count


def caller(code: str = CODE, name: str = "South Clinic", **more: object) -> PairingExchange:
    """The side that types the code."""
    said, key = statement(name, ("see", "fetch"))
    return PairingExchange(Role.INITIATOR, code, said, key, **more)  # type: ignore[arg-type]


def shower(code: str = CODE, name: str = "North General", **more: object) -> PairingExchange:
    """The side that shows the code."""
    said, key = statement(name)
    return PairingExchange(Role.RESPONDER, code, said, key, **more)  # type: ignore[arg-type]


Tamper = Callable[[Role, int, bytes], bytes]
"""Who sends, which of its flights, and the flight; returns what arrives."""


class Line:
    """Carries flights between two sides until both wait.

    Attributes:
        heard: the events of each side.
        failed: the error of each side that refused something.
        flights: what was sent, by side.
    """

    def __init__(
        self,
        one: PairingExchange,
        other: PairingExchange,
        tamper: Tamper = lambda _, __, flight: flight,
    ) -> None:
        self.sides = {Role.INITIATOR: one, Role.RESPONDER: other}
        self.heard: dict[Role, list[Event]] = {role: [] for role in Role}
        self.failed: dict[Role, RemoteProtocolError] = {}
        self.flights: dict[Role, list[bytes]] = {role: [] for role in Role}
        self._tamper = tamper

    def run(self) -> "Line":
        """Carry flights until nobody sends."""
        moved = True
        while moved:
            moved = False
            for role, side in self.sides.items():
                flight = side.take_outgoing()
                if not flight or role in self.failed:
                    continue
                moved = True
                self.flights[role].append(flight)
                [far] = set(Role) - {role}
                arrived = self._tamper(role, len(self.flights[role]), flight)
                if far in self.failed:
                    continue
                try:
                    self.heard[far] += self.sides[far].receive_untrusted(arrived)
                except RemoteProtocolError as error:
                    self.failed[far] = error
        return self
