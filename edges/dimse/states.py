"""The states of an association at the side that accepts it, as a table; PS3.8 section 9.2.3.

Comments have the names of states and actions of Table 9-10. The states of a requestor are not
there, nor a release that the acceptor asks for: we only answer.
"""

from enum import Enum, auto


class State(Enum):
    """Where an association stands."""

    AWAITING_REQUEST = auto()  # Sta2
    DECIDING = auto()  # Sta3
    ESTABLISHED = auto()  # Sta6
    RELEASING = auto()  # Sta8
    AWAITING_CLOSE = auto()  # Sta13
    CLOSED = auto()  # Sta1


class Event(Enum):
    """What may happen to it: a PDU came, the user decides, the time is over, the line is closed."""

    REQUEST = auto()
    ANSWER = auto()  # A-ASSOCIATE-AC or -RJ
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
    WE_RELEASE = auto()
    WE_ABORT = auto()


class Action(Enum):
    """What is done."""

    DECIDE = auto()  # AE-6
    SEND_ACCEPT = auto()  # AE-7
    SEND_REJECT = auto()  # AE-8
    TAKE_DATA = auto()  # DT-2
    SEND_DATA = auto()  # DT-1, AR-7
    TELL_RELEASE = auto()  # AR-2
    SEND_RELEASE_RP = auto()  # AR-4
    SEND_ABORT = auto()  # AA-1 by the user, AA-7
    SEND_PROVIDER_ABORT = auto()  # AA-8
    TELL_ABORT = auto()  # AA-3
    TELL_CLOSED = auto()  # AA-4
    CLOSE = auto()  # AA-2
    NOTHING = auto()  # AA-5, AA-6, AR-5


_WAIT, _DECIDE, _OPEN, _RELEASE, _CLOSING, _CLOSED = State

_UNEXPECTED = (Action.SEND_PROVIDER_ABORT, _CLOSING)
_GONE = (Action.TELL_CLOSED, _CLOSED)

TABLE: dict[tuple[State, Event], tuple[Action, State]] = {
    (_WAIT, Event.REQUEST): (Action.DECIDE, _DECIDE),
    (_WAIT, Event.ANSWER): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.DATA): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.RELEASE_RQ): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.RELEASE_RP): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.ABORT): (Action.CLOSE, _CLOSED),
    (_WAIT, Event.INVALID): (Action.SEND_ABORT, _CLOSING),
    (_WAIT, Event.CLOSED): (Action.NOTHING, _CLOSED),
    (_WAIT, Event.TIME_OVER): (Action.CLOSE, _CLOSED),
    (_WAIT, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_DECIDE, Event.REQUEST): _UNEXPECTED,
    (_DECIDE, Event.ANSWER): _UNEXPECTED,
    (_DECIDE, Event.DATA): _UNEXPECTED,
    (_DECIDE, Event.RELEASE_RQ): _UNEXPECTED,
    (_DECIDE, Event.RELEASE_RP): _UNEXPECTED,
    (_DECIDE, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_DECIDE, Event.INVALID): _UNEXPECTED,
    (_DECIDE, Event.CLOSED): _GONE,
    (_DECIDE, Event.WE_ACCEPT): (Action.SEND_ACCEPT, _OPEN),
    (_DECIDE, Event.WE_REJECT): (Action.SEND_REJECT, _CLOSING),
    (_DECIDE, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_OPEN, Event.REQUEST): _UNEXPECTED,
    (_OPEN, Event.ANSWER): _UNEXPECTED,
    (_OPEN, Event.DATA): (Action.TAKE_DATA, _OPEN),
    (_OPEN, Event.RELEASE_RQ): (Action.TELL_RELEASE, _RELEASE),
    (_OPEN, Event.RELEASE_RP): _UNEXPECTED,
    (_OPEN, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_OPEN, Event.INVALID): _UNEXPECTED,
    (_OPEN, Event.CLOSED): _GONE,
    (_OPEN, Event.WE_SEND): (Action.SEND_DATA, _OPEN),
    (_OPEN, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_RELEASE, Event.REQUEST): _UNEXPECTED,
    (_RELEASE, Event.ANSWER): _UNEXPECTED,
    (_RELEASE, Event.DATA): _UNEXPECTED,
    (_RELEASE, Event.RELEASE_RQ): _UNEXPECTED,
    (_RELEASE, Event.RELEASE_RP): _UNEXPECTED,
    (_RELEASE, Event.ABORT): (Action.TELL_ABORT, _CLOSED),
    (_RELEASE, Event.INVALID): _UNEXPECTED,
    (_RELEASE, Event.CLOSED): _GONE,
    (_RELEASE, Event.WE_SEND): (Action.SEND_DATA, _RELEASE),
    (_RELEASE, Event.WE_RELEASE): (Action.SEND_RELEASE_RP, _CLOSING),
    (_RELEASE, Event.WE_ABORT): (Action.SEND_ABORT, _CLOSING),
    (_CLOSING, Event.REQUEST): (Action.SEND_ABORT, _CLOSING),
    (_CLOSING, Event.ANSWER): (Action.NOTHING, _CLOSING),
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
