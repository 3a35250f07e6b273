"""Pairing by a code: the window that we show, the node that we call, and who may be accepted.

Knows nothing of terminals. The exchange itself is `protocol/pairing.py`, who may try a code
`node/sharing/pairing_window.py`. Nothing is trusted before a person here has accepted; a code is in
no entry, no log line and no error.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from keys.card import Card, check_card
from keys.errors import KeysError
from keys.fingerprint import matches
from keys.identity import KeyPair
from keys.pake import Role
from keys.spoken_code import new_code
from keys.trust import Peer
from node.blocking import in_thread
from node.clock import LOOK_SECONDS, Clock
from node.errors import ExitCode, NodeError
from node.network.pairing_line import Door, LineLost, PairingLine
from node.sharing.pairing_window import Visit, Window
from node.sharing.peers import Peers, Terms
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Event as Entry
from protocol.pairing import Answered, Confirmed, Event, Met, PairingExchange, WrongCode
from protocol.pairing_messages import PairStatement

log = logging.getLogger("radmesh.pairing")

E = TypeVar("E")

BUSY_SECONDS = 60.0
"""How long we call again a node that shows a code and has no place for us now."""

AGAIN_SECONDS = 1.5
"""Between two such calls, at first; longer than the pause of an address."""

LAST_WORDS_SECONDS = 2.0
"""Longest wait to write the end of a window, and to tell the other side that we stop."""


@dataclass(frozen=True)
class Asked:
    """What a facility asks the other one for; only shown there."""

    grants: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()


@dataclass
class Meeting:
    """The facility at the other end, once the code is confirmed and its card is here.

    Attributes:
        met: its card, and what it asks for.
        session: the name of the run, 32 bytes.
        tries: how many wrong confirmations there were before.
        ours: whether a person here has accepted; None while nobody has decided.
        theirs: the same of the other side; None also when it can no longer be heard.
        is_lost: whether it can no longer be heard.
        peer: the facility as it is trusted now, if it is.
    """

    met: Met
    session: bytes
    tries: int
    ours: bool | None = None
    theirs: bool | None = None
    is_lost: bool = False
    is_deciding: bool = False
    peer: Peer | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def is_open(self) -> bool:
        """Whether nobody here has decided yet."""
        return self.ours is None and not self.is_deciding

    def wake(self) -> None:
        """Something has changed."""
        before, self.changed = self.changed, trio.Event()
        before.set()


@dataclass(frozen=True)
class Stage:
    """How far a pairing is; reported at each change.

    Attributes:
        window: the window that we show; None at the side that calls.
        meeting: whom we met; None before.
    """

    window: Window | None = None
    meeting: Meeting | None = None


Report = Callable[[Stage], None]
"""Takes each stage; does not block."""


class Pairings:
    """At most one pairing at a time, shown or called.

    Args:
        peers: who is trusted.
        card: gives our newest card.
        key: gives our node key.
        append: writes one audit entry durably.
        call: connects to a node at a multiaddr to pair.
        clock: tells when the window ends.

    Attributes:
        door: for the network, which brings the callers.
    """

    def __init__(
        self,
        *,
        peers: Peers,
        card: Callable[[], Card],
        key: Callable[[], KeyPair],
        append: Callable[[Entry], int],
        call: Callable[[str], Awaitable[PairingLine]],
        clock: Clock,
    ) -> None:
        self._peers = peers
        self._card = card
        self._key = key
        self._append = append
        self._call = call
        self._clock = clock
        self._is_busy = False
        self._shown: _Shown | None = None
        self._meeting: Meeting | None = None
        self.door = Door(self.is_open, self.serve)

    # --- the side that shows the code -------------------------------------------------

    def is_open(self) -> bool:
        """Whether somebody may come and try the code that is shown."""
        return self._shown is not None and not self._why_closed(self._shown)

    def _why_closed(self, shown: "_Shown") -> str:
        return "failed" if shown.error else shown.window.why_closed(self._clock.now())

    async def show(self, asked: Asked, report: Report) -> Meeting:
        """Show a new code until somebody has confirmed it, and until both have decided.

        Cancellation closes the window.

        Raises:
            NodeError: another pairing is under way, the window has ended, the log cannot be
                written, or the facility that has the code is refused.
        """
        with self._alone():
            seconds = limits.PAIRING_WINDOW_SECONDS
            entry = Entry(type="pairing-opened", actor="operator", details={"seconds": seconds})
            await in_thread(self._append, entry)
            shown = self._shown = _Shown(Window(new_code(), self._clock.now()), asked)
            why = "stopped"
            try:
                try:
                    talk = await self._confirmed(shown, report)
                finally:
                    why = self._why_closed(shown) or why
                    self._shown = None
                    await self._log_closed(shown, why)
                if talk is None:
                    raise _ended(why)
                return await self._meet(talk, shown.window.tries, report, "")
            finally:
                shown.is_over.set()

    async def _confirmed(self, shown: "_Shown", report: Report) -> "_Talk | None":
        """Wait until a caller has the code; None when the window has ended before."""
        while not self._why_closed(shown):
            report(Stage(window=shown.window))
            with trio.move_on_after(LOOK_SECONDS):
                await shown.changed.wait()
            shown.changed = trio.Event()
        if shown.error is not None:
            raise shown.error
        return shown.talk

    async def _log_closed(self, shown: "_Shown", why: str) -> None:
        details: dict[str, str | int | bool] = {"why": why, "tries": shown.window.tries}
        if shown.talk is not None:
            details["sid"] = shown.talk.exchange.session.hex()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_SECONDS):
            await in_thread(self._append, Entry(type="pairing-closed", details=details))

    async def serve(self, line: PairingLine) -> None:
        """Talk to a caller; used by the network."""
        shown = self._shown
        if shown is None or self._why_closed(shown):
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope() as scope:
            visit = shown.window.enter(line.host, self._clock.running(), scope.cancel)
            if visit is None:
                return
            try:
                await self._let_try(shown, visit, line)
            except (LineLost, RemoteProtocolError, trio.TooSlowError) as error:
                log.debug("a caller who wanted to pair is gone: %s", type(error).__name__)
            except NodeError as error:
                # A try that cannot be logged must not be followed by more.
                shown.error = error
            except Exception as error:
                log.warning("a caller who wanted to pair was lost: %s", type(error).__name__)
            finally:
                shown.window.leave(visit)
                shown.changed.set()

    async def _let_try(self, shown: "_Shown", visit: Visit, line: PairingLine) -> None:
        window = shown.window
        exchange = PairingExchange(
            Role.RESPONDER, window.code, self._statement(shown.asked), self._key()
        )
        # What comes after the end is not read: it is no try, and it confirms nothing.
        talk = _Talk(line, exchange, lambda: self._shown is shown and not self._why_closed(shown))
        try:
            await talk.until(Confirmed)
        except WrongCode:
            window.was_wrong(visit)
            shown.changed.set()
            await in_thread(self._append, _wrong_entry(visit.host, window.tries, "shown"))
            return
        window.confirm(visit)
        talk.may_go_on = lambda: True
        shown.talk = talk
        shown.changed.set()
        await shown.is_over.wait()

    # --- the side that types the code --------------------------------------------------

    async def call(
        self, address: str, code: str, asked: Asked, fingerprint: str, report: Report
    ) -> Meeting:
        """Pair with the node at an address that shows this code, until both have decided.

        Args:
            address: its multiaddr.
            code: the digits, whose check digit is right.
            asked: what we ask for.
            fingerprint: that its facility must have; "" if not known.
            report: takes the stages.

        Raises:
            NodeError: another pairing is under way, no code is shown there, the code is another
                one, or the facility that has the code is refused.
        """
        with self._alone():
            report(Stage())
            talk = await self._try_there(address, code, asked)
            try:
                return await self._meet(talk, 0, report, fingerprint)
            finally:
                talk.line.close()

    async def _try_there(self, address: str, code: str, asked: Asked) -> "_Talk":
        deadline, pause = trio.current_time() + BUSY_SECONDS, AGAIN_SECONDS
        while True:
            line = await self._call(address)
            exchange = PairingExchange(Role.INITIATOR, code, self._statement(asked), self._key())
            talk = _Talk(line, exchange, lambda: True)
            try:
                await talk.until(Confirmed)
                return talk
            except BaseException as error:
                line.close()
                if not isinstance(error, LineLost | RemoteProtocolError | trio.TooSlowError):
                    raise
                if exchange.has_guessed:
                    # Who is there may have used our confirmation for one guess; a second one is
                    # for a person to allow.
                    await in_thread(self._append, _wrong_entry(line.host, 1, "typed"))
                    raise _not_confirmed(address) from None
                if isinstance(error, RemoteProtocolError):
                    raise NodeError(
                        f"the node at {address} does not pair as it should: {error}",
                        hint="both sides need releases that can pair with each other",
                        code=ExitCode.INTEGRITY,
                    ) from None
            if trio.current_time() + pause > deadline:
                raise NodeError(
                    f"the node at {address} shows a code and has no place for us",
                    hint="others try it now, or three codes from this address were wrong: ask the "
                    "other admin to start again, or let them call you",
                    code=ExitCode.BUSY,
                )
            await trio.sleep(pause)
            pause = min(2 * pause, BUSY_SECONDS / 4)

    # --- both -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._is_busy:
            raise NodeError(
                "a pairing is under way already on this node",
                hint="end it with Ctrl-C where it runs",
                code=ExitCode.BUSY,
            )
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _statement(self, asked: Asked) -> PairStatement:
        return PairStatement(
            card=self._card().encoded, grants=asked.grants, purposes=asked.purposes
        )

    async def _meet(self, talk: "_Talk", tries: int, report: Report, fingerprint: str) -> Meeting:
        """Learn who has the code, and wait until both sides have decided."""
        try:
            met = await talk.until(Met)
            # Our proof, if the other side's came first.
            await talk.flush()
        except (LineLost, RemoteProtocolError, trio.TooSlowError) as error:
            why = f": {error}" if isinstance(error, RemoteProtocolError) else ""
            raise NodeError(
                f"the connection broke after the code was confirmed{why}; nothing was changed",
                hint="begin again; the code that was used is dead",
                code=ExitCode.UNREACHABLE,
            ) from None
        meeting = Meeting(met, talk.exchange.session, tries)
        refusal = self._why_not(met.card, fingerprint)
        if refusal is not None:
            await self._decline(meeting, talk, "refused")
            raise refusal
        self._meeting = meeting
        is_late = False
        try:
            with trio.move_on_after(limits.PAIRING_DECIDE_SECONDS) as waited:
                await self._decide(meeting, talk, report)
            is_late = waited.cancelled_caught and meeting.is_open
        finally:
            self._meeting = None
            if meeting.is_open:
                await self._decline(meeting, talk, "time" if is_late else "stopped")
        if is_late:
            raise NodeError(
                f"nobody accepted {met.card.name} in time; nothing was changed",
                hint="begin again with a new code",
                code=ExitCode.FAILED,
            )
        return meeting

    async def _decide(self, meeting: Meeting, talk: "_Talk", report: Report) -> None:
        """Wait for both answers, and pass ours on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hear, meeting, talk)
            while meeting.ours is None:
                report(Stage(meeting=meeting))
                await meeting.changed.wait()
            if meeting.ours:
                await talk.answer(True)
                while meeting.theirs is None and not meeting.is_lost:
                    report(Stage(meeting=meeting))
                    await meeting.changed.wait()
            else:
                await talk.answer(False)
            nursery.cancel_scope.cancel()

    def _why_not(self, card: Card, fingerprint: str) -> NodeError | None:
        """Why no person may accept a facility."""
        if card.facility_key == self._card().facility_key:
            return NodeError(
                "this is our own card: the code was typed at a node of this same facility",
                hint="type it at the node of the other facility",
                code=ExitCode.REFUSED,
            )
        if fingerprint and not matches(card.facility_key, fingerprint):
            return NodeError(
                f"the facility there is {card.name} with the fingerprint {card.fingerprint}, "
                "which is not the one of the QR code",
                hint="nothing was changed; ask the other admin by phone which one is right",
                code=ExitCode.INTEGRITY,
            )
        try:
            check_card(card, self._clock.now())
        except KeysError as error:
            return NodeError(
                f"the card is refused: {error}",
                hint="the other admin renews the card, and both begin again",
                code=ExitCode.INTEGRITY,
            )
        known = self._peers.store.namesake(card)
        if known is not None:
            return NodeError(
                f"{card.name} has another facility key than {known.petname}, which is trusted "
                "here; nothing was changed",
                hint="if that facility has made a new home, revoke the old one first (`radmesh "
                "trust revoke`); if it is another facility, add its card with a petname "
                "(`radmesh trust add`)",
                code=ExitCode.REFUSED,
            )
        return None

    async def _decline(self, meeting: Meeting, talk: "_Talk", why: str) -> None:
        """Tell the log and the other side that nobody here accepts."""
        meeting.ours = False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_SECONDS):
            await in_thread(self._append, _declined(meeting, why))
            await talk.answer(False)

    async def accept(self, grants: Sequence[str], petname: str, terms: Terms) -> Peer:
        """Trust the facility that waits to be accepted, on these terms.

        Raises:
            NodeError: none waits, it has stopped, or it cannot be trusted so; in the last case it
                goes on waiting.
        """
        meeting = self._waiting()
        if meeting.theirs is False:
            raise NodeError(
                f"{meeting.met.card.name} has stopped; nothing was changed",
                hint="begin again with a new code, when both want to",
                code=ExitCode.REFUSED,
            )
        how: dict[str, str | int | bool] = {
            "method": "code",
            "tries": meeting.tries,
            "sid": meeting.session.hex(),
        }
        card, terms = meeting.met.card, Terms(terms.purposes, terms.expires, how)
        meeting.is_deciding = True
        try:
            meeting.peer = await in_thread(
                self._peers.add,
                card.encoded,
                card.fingerprint,
                grants,
                petname,
                self._clock.now(),
                terms,
            )
            meeting.ours = True
        finally:
            meeting.is_deciding = False
            meeting.wake()
        return meeting.peer

    async def decline(self) -> None:
        """Do not trust the facility that waits to be accepted.

        Raises:
            NodeError: none waits.
        """
        meeting = self._waiting()
        meeting.is_deciding = True
        try:
            await in_thread(self._append, _declined(meeting, "declined"))
        finally:
            # Nobody is trusted because the disk is full.
            meeting.is_deciding, meeting.ours = False, False
            meeting.wake()

    def _waiting(self) -> Meeting:
        meeting = self._meeting
        if meeting is None or not meeting.is_open:
            raise NodeError(
                "no facility waits to be accepted",
                hint="begin a pairing with `radmesh pair`",
                code=ExitCode.NOT_FOUND,
            )
        return meeting


@dataclass(eq=False)
class _Shown:
    """A window, and what its callers have done."""

    window: Window
    asked: Asked
    talk: "_Talk | None" = None
    error: NodeError | None = None
    changed: trio.Event = field(default_factory=trio.Event)
    is_over: trio.Event = field(default_factory=trio.Event)


class _Talk:
    """An exchange over a line.

    Attributes:
        may_go_on: whether what came may still be read.
    """

    def __init__(
        self, line: PairingLine, exchange: PairingExchange, may_go_on: Callable[[], bool]
    ) -> None:
        self.line = line
        self.exchange = exchange
        self.may_go_on = may_go_on
        self._heard: deque[Event] = deque()

    async def until(self, kind: type[E]) -> E:
        """Go on to an event, with a bounded time for each message.

        Raises:
            LineLost: the other side has hung up, or the window has ended.
            RemoteProtocolError: it broke a rule, or has another code.
            trio.TooSlowError: it said nothing.
        """
        while True:
            with trio.fail_after(limits.PAIRING_STEP_SECONDS):
                await self.flush()
                event = await self.hear()
            if isinstance(event, kind):
                return event

    async def hear(self) -> Event:
        """The next event; sends nothing."""
        while not self._heard:
            data = await self.line.receive()
            if not self.may_go_on():
                raise LineLost
            self._heard += self.exchange.receive_untrusted(data)
        return self._heard.popleft()

    async def answer(self, accepted: bool) -> None:
        """Tell what a person here has decided, if it can be told."""
        self.exchange.answer(accepted)
        with contextlib.suppress(LineLost):
            await self.flush()

    async def flush(self) -> None:
        """Send what is to be sent.

        Raises:
            LineLost: the other side has hung up.
        """
        outgoing = self.exchange.take_outgoing()
        if outgoing:
            await self.line.send(outgoing)


async def _hear(meeting: Meeting, talk: _Talk) -> None:
    """Note what the other side says about us."""
    try:
        event = await talk.hear()
        if isinstance(event, Answered):
            meeting.theirs = event.accepted
    except (LineLost, RemoteProtocolError):
        meeting.is_lost = True
    meeting.wake()


# --- entries and sentences ------------------------------------------------------------------


def _wrong_entry(host: str, tries: int, side: str) -> Entry:
    details: dict[str, str | int | bool] = {"address": host, "tries": tries, "side": side}
    return Entry(type="pairing-failed", outcome="failed", details=details)


def _declined(meeting: Meeting, why: str) -> Entry:
    return Entry(
        type="pairing-declined",
        actor="node" if why in ("refused", "time") else "operator",
        peer=meeting.met.card.facility_key,
        outcome="refused",
        details={"why": why, "sid": meeting.session.hex()},
    )


def _ended(why: str) -> NodeError:
    if why == "tries":
        return NodeError(
            f"the code was tried wrongly {limits.PAIRING_TRIES} times and is dead",
            hint="somebody guesses: see `radmesh audit show --type pairing-failed`. Let the other "
            "side show the code, or use card files (`radmesh trust add`)",
            code=ExitCode.REFUSED,
        )
    return NodeError(
        "nobody typed the code in time",
        hint="begin again with a new code, when the other admin is on the phone",
        code=ExitCode.FAILED,
    )


def _not_confirmed(address: str) -> NodeError:
    return NodeError(
        f"the node at {address} did not confirm the code; nothing was changed",
        hint="have the code read out again and compare each digit; if it is right, somebody may be "
        "between the two nodes",
        code=ExitCode.INTEGRITY,
    )
