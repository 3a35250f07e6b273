"""Pairing by a code: the window that we show, the node that we call, and who may be accepted.

Knows nothing of terminals. The exchange itself is `protocol/pairing.py`, who may try a code
`node/sharing/pairing_window.py`. Nothing is trusted before a person here has accepted; a code is in
no entry, no log line and no error.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import trio

from keys.card import Card
from keys.identity import KeyPair
from keys.pake import Role
from keys.spoken_code import new_code
from keys.trust import Peer
from node.blocking import in_thread
from node.clock import LOOK_SECONDS, Clock
from node.errors import ExitCode, NodeError
from node.network.pairing_line import Door, LineLost, PairingLine
from node.sharing import pairing_words as words
from node.sharing.pairing_stage import Asked, Meeting, Report, Stage
from node.sharing.pairing_talk import Talk, hear_answer
from node.sharing.pairing_window import Visit, Window
from node.sharing.peers import Peers, Terms
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.log.entry import Event
from protocol.pairing import Confirmed, Met, PairingExchange, WrongCode
from protocol.pairing_messages import PairStatement

log = logging.getLogger("radmesh.pairing")

BUSY_SECONDS = 60.0
"""How long we call again a node that shows a code and has no place for us now."""

AGAIN_SECONDS = 1.5
"""Between two such calls, at first; longer than the pause of an address."""

LAST_WORDS_SECONDS = 2.0
"""Longest wait to write the end of a window, and to tell the other side that we stop."""


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
        append: Callable[[Event], int],
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
            await in_thread(self._append, words.opened())
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
                    raise words.ended(why)
                return await self._meet(talk, shown.window.tries, report, "")
            finally:
                shown.is_over.set()

    async def _confirmed(self, shown: "_Shown", report: Report) -> Talk | None:
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
        entry = words.closed(why, shown.window.tries, shown.talk)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_SECONDS):
            await in_thread(self._append, entry)

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
        talk = Talk(line, exchange, lambda: self._shown is shown and not self._why_closed(shown))
        try:
            await talk.until(Confirmed)
        except WrongCode:
            window.was_wrong(visit)
            # Whoever takes the place of this caller must not keep the try out of the log.
            with trio.CancelScope(shield=True):
                await in_thread(self._append, words.wrong(visit.host, window.tries, "shown"))
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

    async def _try_there(self, address: str, code: str, asked: Asked) -> Talk:
        deadline, pause = trio.current_time() + BUSY_SECONDS, AGAIN_SECONDS
        while True:
            line = await self._call(address)
            exchange = PairingExchange(Role.INITIATOR, code, self._statement(asked), self._key())
            talk = Talk(line, exchange, lambda: True)
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
                    await in_thread(self._append, words.wrong(line.host, 1, "typed"))
                    raise words.not_confirmed(address) from None
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

    async def _meet(self, talk: Talk, tries: int, report: Report, fingerprint: str) -> Meeting:
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
        refusal = words.why_refused(
            met.card,
            self._card().facility_key,
            fingerprint,
            self._peers.store,
            self._clock.now(),
        )
        if refusal is not None:
            await self._decline(meeting, talk, "refused")
            raise refusal
        self._meeting = meeting
        is_late = False
        try:
            with trio.move_on_after(limits.PAIRING_DECIDE_SECONDS) as waited:
                await self._decide(meeting, talk, report)
            is_late = waited.cancelled_caught
        finally:
            self._meeting = None
            await self._tell_what_is_decided(meeting, talk)
            is_late = is_late and meeting.is_open
            if meeting.is_open:
                await self._decline(meeting, talk, "time" if is_late else "stopped")
        if is_late:
            raise NodeError(
                f"nobody accepted {met.card.name} in time; nothing was changed",
                hint="begin again with a new code",
                code=ExitCode.FAILED,
            )
        return meeting

    async def _decide(self, meeting: Meeting, talk: Talk, report: Report) -> None:
        """Wait for both answers, and pass ours on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_answer, meeting, talk)
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

    async def _tell_what_is_decided(self, meeting: Meeting, talk: Talk) -> None:
        """Where a decision is being written as the wait ends, tell the other side of it."""
        if not meeting.is_deciding:
            return
        with trio.CancelScope(shield=True):
            while meeting.is_deciding:
                await meeting.changed.wait()
        if meeting.ours is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_SECONDS):
                await talk.answer(meeting.ours)

    async def _decline(self, meeting: Meeting, talk: Talk, why: str) -> None:
        """Tell the log and the other side that nobody here accepts."""
        meeting.ours = False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_SECONDS):
            await in_thread(self._append, words.declined(meeting, why))
            await talk.answer(False)

    async def accept(
        self, fingerprint: str, grants: Sequence[str], petname: str, terms: Terms
    ) -> Peer:
        """Trust the facility that waits to be accepted, on these terms.

        Args:
            fingerprint: of the facility that the person saw, who may look at an older pairing.
            grants: what it may do.
            petname: our name for it; "" takes the card's.
            terms: the purposes and the end.

        Raises:
            NodeError: none waits, or another one, it has stopped, or it cannot be trusted so; in
                the last case it goes on waiting.
        """
        meeting = self._waiting()
        if meeting.met.card.fingerprint != fingerprint:
            raise NodeError(
                f"another facility waits to be accepted now: {meeting.met.card.name} with the "
                f"fingerprint {meeting.met.card.fingerprint}",
                hint="look who it is, then accept it or not",
                code=ExitCode.REFUSED,
            )
        if meeting.theirs is False:
            raise NodeError(
                f"{meeting.met.card.name} has stopped; nothing was changed",
                hint="begin again with a new code, when both want to",
                code=ExitCode.REFUSED,
            )
        card = meeting.met.card
        meeting.is_deciding = True
        try:
            meeting.peer = await in_thread(
                self._peers.add,
                card.encoded,
                card.fingerprint,
                grants,
                petname,
                self._clock.now(),
                words.accepted(meeting, terms),
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
            await in_thread(self._append, words.declined(meeting, "declined"))
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
    talk: Talk | None = None
    error: NodeError | None = None
    changed: trio.Event = field(default_factory=trio.Event)
    is_over: trio.Event = field(default_factory=trio.Event)
