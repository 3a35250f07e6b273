"""The states of an association, as a table; PS3.8 section 9.2.3.

Comments have the names of states and actions of Table 9-10. It is left out that a requestor
connects first (Sta4), and that an acceptor asks for a release: ours only answers. Where both sides
ask at once, the answer is sent at once, so that Sta9 is not there either.
"""

from enum import Enum, auto


class State(Enum):
    """Where an association stands."""

    AWAITING_REQUEST = auto()  # Sta2
    DECIDING = auto()  # Sta3
    AWAITING_ANSWER = auto()  # Sta5
    ESTABLISHED = auto()  # Sta6
    AWAITING_RELEASE = auto()  # Sta7
    RELEASING = auto()  # Sta8
    COLLIDED = auto()  # Sta11
    AWAITING_CLOSE = auto()  # Sta13
    CLOSED = auto()  # Sta1


class Event(Enum):
    """What may happen to it: a PDU came, the user decides, the time is over, the line is closed."""

    REQUEST = auto()
    ACCEPTED = auto()
    REJECTED = auto()
    DATA = auto()
    RELEASE_RQ = auto()
    RELEASE_RP = auto()
    ABORT = auto()
    INVALID = auto()
    CLOSED = auto()
    TIME_OVER = auto()  # ARTIM
    WE_ACCEPT = auto()
    WE_REJECT = auto()
    WE_SEND = auto()
    WE_ASK_RELEASE = auto()
    WE_RELEASE = auto()
    WE_ABORT = auto()


class Action(Enum):
    """What is done."""

    TELL_ACCEPTED = auto()  # AE-3
    TELL_REJECTED = auto()  # AE-4
    DECIDE = auto()  # AE-6
    SEND_ACCEPT = auto()  # AE-7
    SEND_REJECT = auto()  # AE-8
    TAKE_DATA = auto()  # DT-2, AR-6
    SEND_DATA = auto()  # DT-1, AR-7
    SEND_RELEASE_RQ = auto()  # AR-1
    TELL_RELEASE = auto()  # AR-2
    TELL_RELEASED = auto()  # AR-3
    SEND_RELEASE_RP = auto()  # AR-4, AR-8 with AR-9
    SEND_ABORT = auto()  # AA-1 by the user, AA-7
    SEND_PROVIDER_ABORT = auto()  # AA-8
    TELL_ABORT = auto()  # AA-3
    TELL_CLOSED = auto()  # AA-4
    CLOSE = auto()  # AA-2
    NOTHING = auto()  # AA-5, AA-6, AR-5


_WAIT, _DECIDE, _ASK, _OPEN, _ASK_END, _RELEASE, _COLLIDED, _CLOSING, _CLOSED = State

_UNEXPECTED = (Action.SEND_PROVIDER_ABORT, _CLOSING)
_GONE = (Action.TELL_CLOSED, _CLOSED)

TABLE: dict[tuple[State, Event], tuple[Action, State]] = {
    (_WAIT, Event.REQUEST): (Action.DECIDE, _DECIDE),
    (_WAIT, Event.ACCEPTED): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.REJECTED): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.DATA): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.RELEASE_RQ): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.RELEASE_RP): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.ABORT): (Action.CLOSE, _CLOSED),
    (_WAIT, Event.INVALID): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.CLOSED): (Action.NOTHING, _CLOSED),
    (_WAIT, Event.TIME_OVER): (Action.CLOSE, _CLOSED),
    (_WAIT, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_DECIDE, Event.REQUEST): _UNEXPECTED,
    (_DECIDE, Event.ACCEPTED): _UNEXPECTED,
    (_DECIDE, Event.REJECTED): _UNEXPECTED,
    (_DECIDE, Event.DATA): _UNEXPECTED,
    (_DECIDE, Event.RELEASE_RQ): _UNEXPECTED,
    (_DECIDE, Event.RELEASE_RP): _UNEXPECTED,
    (_DECIDE, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_DECIDE, Event.INVALID): _UNEXPECTED,
    (_DECIDE, Event.CLOSED): _GONE,
    (_DECIDE, Event.WE_ACCEPT): (Action.SEND_ACCEPT, _OPEN),
    (_DECIDE, Event.WE_REJECT): (Action.SEND_REJECT, _CLOSING),
    (_DECIDE, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_ASK, Event.REQUEST): _UNEXPECTED,
    (_ASK, Event.ACCEPTED): (Action.TELL_ACCEPTED, _OPEN),
    (_ASK, Event.REJECTED): (Action.TELL_REJECTED, _CLOSED),
    (_ASK, Event.DATA): _UNEXPECTED,
    (_ASK, Event.RELEASE_RQ): _UNEXPECTED,
    (_ASK, Event.RELEASE_RP): _UNEXPECTED,
    (_ASK, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_ASK, Event.INVALID): _UNEXPECTED,
    (_ASK, Event.CLOSED): _GONE,
    (_ASK, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_OPEN, Event.REQUEST): _UNEXPECTED,
    (_OPEN, Event.ACCEPTED): _UNEXPECTED,
    (_OPEN, Event.REJECTED): _UNEXPECTED,
    (_OPEN, Event.DATA): (Action.TAKE_DATA, _OPEN),
    (_OPEN, Event.RELEASE_RQ): (Action.TELL_RELEASE, _RELEASE),
    (_OPEN, Event.RELEASE_RP): _UNEXPECTED,
    (_OPEN, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_OPEN, Event.INVALID): _UNEXPECTED,
    (_OPEN, Event.CLOSED): _GONE,
    (_OPEN, Event.WE_SEND): (Action.SEND_DATA, _OPEN),
    (_OPEN, Event.WE_ASK_RELEASE): (Action.SEND_RELEASE_RQ, _ASK_END),
    (_OPEN, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_ASK_END, Event.REQUEST): _UNEXPECTED,
    (_ASK_END, Event.ACCEPTED): _UNEXPECTED,
    (_ASK_END, Event.REJECTED): _UNEXPECTED,
    (_ASK_END, Event.DATA): (Action.TAKE_DATA, _ASK_END),
    (_ASK_END, Event.RELEASE_RQ): (Action.SEND_RELEASE_RP, _COLLIDED),
    (_ASK_END, Event.RELEASE_RP): (Action.TELL_RELEASED, _CLOSED),
    (_ASK_END, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_ASK_END, Event.INVALID): _UNEXPECTED,
    (_ASK_END, Event.CLOSED): _GONE,
    (_ASK_END, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_RELEASE, Event.REQUEST): _UNEXPECTED,
    (_RELEASE, Event.ACCEPTED): _UNEXPECTED,
    (_RELEASE, Event.REJECTED): _UNEXPECTED,
    (_RELEASE, Event.DATA): _UNEXPECTED,
    (_RELEASE, Event.RELEASE_RQ): _UNEXPECTED,
    (_RELEASE, Event.RELEASE_RP): _UNEXPECTED,
    (_RELEASE, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_RELEASE, Event.INVALID): _UNEXPECTED,
    (_RELEASE, Event.CLOSED): _GONE,
    (_RELEASE, Event.WE_SEND): (Action.SEND_DATA, _RELEASE),
    (_RELEASE, Event.WE_RELEASE): (Action.SEND_RELEASE_RP, _CLOSING),
    (_RELEASE, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_COLLIDED, Event.REQUEST): _UNEXPECTED,
    (_COLLIDED, Event.ACCEPTED): _UNEXPECTED,
    (_COLLIDED, Event.REJECTED): _UNEXPECTED,
    (_COLLIDED, Event.DATA): _UNEXPECTED,
    (_COLLIDED, Event.RELEASE_RQ): _UNEXPECTED,
    (_COLLIDED, Event.RELEASE_RP): (Action.TELL_RELEASED, _CLOSED),
    (_COLLIDED, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_COLLIDED, Event.INVALID): _UNEXPECTED,
    (_COLLIDED, Event.CLOSED): _GONE,
    (_COLLIDED, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_CLOSING, Event.REQUEST): (Action.SEND_ABORT, _CLOSING),
    (_CLOSING, Event.ACCEPTED): (Action.NOTHING, _CLOSING),
    (_CLOSING, Event.REJECTED): (Action.NOTHING, _CLOSING),
    (_CLOSING, Event.DATA): (Action.NOTHING, _CLOSING),
    (_CLOSING, Event.RELEASE_RQ): (Action.NOTHING, _CLOSING),
    (_CLOSING, Event.RELEASE_RP): (Action.NOTHING, _CLOSING),
    (_CLOSING, Event.ABORT): (Action.CLOSE, _CLOSED),
    (_CLOSING, Event.INVALID): (Action.SEND_ABORT, _CLOSING),
    (_CLOSING, Event.CLOSED): (Action.NOTHING, _CLOSED),
    (_CLOSING, Event.TIME_OVER): (Action.CLOSE, _CLOSED),
}
"""For each state, what an event has done, and the state after it.

What is not there cannot happen: it is a fault of the code that calls.
"""
