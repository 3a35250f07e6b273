"""The state table against Table 9-10 of PS3.8, for both sides: written down anew."""

import pytest
from acceptors_made import Talk, reached
from pdus_made import ABORT, ACCEPT, REJECT, RELEASE_RP, RELEASE_RQ, echo, p_data, pdu, pdv
from pdus_made import usual_request as request

from edges.dimse.states import TABLE, Action, Event, State

STATES = {
    "Sta1": State.CLOSED,
    "Sta2": State.AWAITING_REQUEST,
    "Sta3": State.DECIDING,
    "Sta5": State.AWAITING_ANSWER,
    "Sta6": State.ESTABLISHED,
    "Sta7": State.AWAITING_RELEASE,
    "Sta8": State.RELEASING,
    "Sta11": State.COLLIDED,
    "Sta13": State.AWAITING_CLOSE,
}

# Rows of Table 9-10: event; then action and next state in the states of the head line.
STANDARD = """
                  Sta2        Sta3        Sta5        Sta6        Sta7        Sta8        Sta11       Sta13
ACCEPTED          AA-1 Sta13  AA-8 Sta13  AE-3 Sta6   AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-6 Sta13
REJECTED          AA-1 Sta13  AA-8 Sta13  AE-4 Sta1   AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-6 Sta13
REQUEST           AE-6 Sta3   AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-7 Sta13
WE_ACCEPT         -    -      AE-7 Sta6   -    -      -    -      -    -      -    -      -    -      -    -
WE_REJECT         -    -      AE-8 Sta13  -    -      -    -      -    -      -    -      -    -      -    -
WE_SEND           -    -      -    -      -    -      DT-1 Sta6   -    -      AR-7 Sta8   -    -      -    -
DATA              AA-1 Sta13  AA-8 Sta13  AA-8 Sta13  DT-2 Sta6   AR-6 Sta7   AA-8 Sta13  AA-8 Sta13  AA-6 Sta13
WE_ASK_RELEASE    -    -      -    -      -    -      AR-1 Sta7   -    -      -    -      -    -      -    -
RELEASE_RQ        AA-1 Sta13  AA-8 Sta13  AA-8 Sta13  AR-2 Sta8   AR-8 Sta11  AA-8 Sta13  AA-8 Sta13  AA-6 Sta13
RELEASE_RP        AA-1 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AR-3 Sta1   AA-8 Sta13  AR-3 Sta1   AA-6 Sta13
WE_RELEASE        -    -      -    -      -    -      -    -      -    -      AR-4 Sta13  -    -      -    -
WE_ABORT          *    Sta13  AA-1 Sta13  AA-1 Sta13  AA-1 Sta13  AA-1 Sta13  AA-1 Sta13  AA-1 Sta13  -    -
ABORT             AA-2 Sta1   AA-3 Sta1   AA-3 Sta1   AA-3 Sta1   AA-3 Sta1   AA-3 Sta1   AA-3 Sta1   AA-2 Sta1
CLOSED            AA-5 Sta1   AA-4 Sta1   AA-4 Sta1   AA-4 Sta1   AA-4 Sta1   AA-4 Sta1   AA-4 Sta1   AR-5 Sta1
TIME_OVER         AA-2 Sta1   -    -      -    -      -    -      -    -      -    -      -    -      AA-2 Sta1
INVALID           AA-1 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-8 Sta13  AA-7 Sta13
"""  # noqa: E501
# * The standard has no user in Sta2; a node that stops may end what it has not been asked for.
# AR-8 leads a requestor to Sta9, and AR-9, the answer at once, to Sta11.

OURS = {
    "AE-3": Action.TELL_ACCEPTED,
    "AE-4": Action.TELL_REJECTED,
    "AE-6": Action.DECIDE,
    "AE-7": Action.SEND_ACCEPT,
    "AE-8": Action.SEND_REJECT,
    "DT-1": Action.SEND_DATA,
    "DT-2": Action.TAKE_DATA,
    "AR-1": Action.SEND_RELEASE_RQ,
    "AR-2": Action.TELL_RELEASE,
    "AR-3": Action.TELL_RELEASED,
    "AR-4": Action.SEND_RELEASE_RP,
    "AR-5": Action.NOTHING,
    "AR-6": Action.TAKE_DATA,
    "AR-7": Action.SEND_DATA,
    "AR-8": Action.SEND_RELEASE_RP,
    "AA-1": Action.SEND_ABORT,
    "AA-2": Action.CLOSE,
    "AA-3": Action.TELL_ABORT,
    "AA-4": Action.TELL_CLOSED,
    "AA-5": Action.NOTHING,
    "AA-6": Action.NOTHING,
    "AA-7": Action.SEND_ABORT,
    "AA-8": Action.SEND_PROVIDER_ABORT,
    "*": Action.SEND_ABORT,
}


def cells() -> dict[tuple[State, Event], tuple[str, State]]:
    found = {}
    head, *lines = STANDARD.strip().splitlines()
    for line in lines:
        event, *words = line.split()
        for index, column in enumerate(head.split()):
            action, state = words[2 * index : 2 * index + 2]
            if action != "-":
                found[STATES[column], Event[event]] = (action, STATES[state])
    return found


CELLS = cells()


def test_the_table_is_that_of_the_standard() -> None:
    rows = [line.split()[0] for line in STANDARD.strip().splitlines()[1:]]
    assert sorted(rows) == sorted(one.name for one in Event)
    assert {where: (OURS[action], state) for where, (action, state) in CELLS.items()} == TABLE


BYTES = {
    Event.REQUEST: request(),
    Event.DATA: p_data(pdv(3, 3, echo())),
    Event.RELEASE_RQ: RELEASE_RQ,
    Event.RELEASE_RP: RELEASE_RP,
    Event.ABORT: ABORT,
}
"""What comes for an event; those with more than one form are below."""

CAME = [
    *BYTES.items(),
    (Event.ACCEPTED, ACCEPT),
    (Event.REJECTED, REJECT),
    (Event.INVALID, pdu(9, b"")),
    (Event.INVALID, pdu(0, bytes(4))),
    (Event.INVALID, b"\x04\0\xff\xff\xff\xff"),
    (Event.INVALID, b"\x05\0\0\0\0\x05"),
    (Event.CLOSED, b""),
    (Event.TIME_OVER, b""),
]

WE_ABORT = {
    # Action of the standard: source of the A-ABORT.
    "AA-1": 0,
    "AA-7": 0,
    "AA-8": 2,
}
ENDS = {"AA-1", "AA-8", "AA-3", "AA-4"}
"""Actions after which whoever acts is told that it is over."""


@pytest.mark.parametrize(
    ("state", "event", "data"),
    [(state, *came) for state in STATES.values() for came in CAME if (state, came[0]) in CELLS],
)
def test_each_cell_is_what_happens(state: State, event: Event, data: bytes) -> None:
    action, after = CELLS[state, event]
    talk = reached(state)
    talk.answers = False
    talk.decide = ""
    if event is Event.CLOSED:
        talk.close()
    elif event is Event.TIME_OVER:
        talk.time_over()
    else:
        talk.take(data)
    assert talk.side.state is after
    assert talk.side.is_closed == (after is State.CLOSED)
    assert talk.side.is_closing == (after is State.AWAITING_CLOSE)
    if action in WE_ABORT:
        assert talk.sent[:9] == b"\x07\0\0\0\0\4\0\0" + bytes((WE_ABORT[action],))
    else:
        assert talk.sent == (RELEASE_RP if action == "AR-8" else b"")
    kinds = [one[0] for one in talk.told]
    expected = {
        "AE-3": ["accepted"],
        "AE-4": ["rejected"],
        "AE-6": ["requested"],
        "AR-2": ["release"],
        "AR-3": ["released"],
        "AR-6": ["command"],
        "DT-2": ["command"],
    }
    assert kinds == (["ended"] if action in ENDS else expected.get(action, []))


REASONS = {
    # PS3.8 section 9.3.8: not recognised, unexpected, invalid parameter value.
    pdu(8, b""): 1,
    RELEASE_RP: 2,
    ACCEPT: 2,
    b"\x04\0\0\x02\0\x01": 6,
}


@pytest.mark.parametrize("data", REASONS)
def test_an_abort_of_ours_says_why(data: bytes) -> None:
    assert reached(State.ESTABLISHED).take(data).sent == b"\7\0\0\0\0\4\0\0\2" + bytes(
        (REASONS[data],)
    )


@pytest.mark.parametrize(
    ("state", "can"),
    [(one, one in (State.ESTABLISHED, State.RELEASING)) for one in State],
)
def test_messages_are_sent_in_two_states(state: State, can: bool) -> None:
    assert reached(state).side.can_send == can


@pytest.mark.parametrize("state", State)
def test_we_may_abort_in_each_state(state: State) -> None:
    talk = reached(state)
    talk.side.abort()
    is_over = state in (State.AWAITING_CLOSE, State.CLOSED)
    assert talk.flush().sent == (b"" if is_over else b"\7\0\0\0\0\4\0\0\0\0")
    assert talk.side.state is (state if is_over else State.AWAITING_CLOSE)


def test_after_its_end_nothing_more_is_told_or_sent() -> None:
    talk = Talk().take(request())
    talk.take(pdu(9, b""))
    sent = talk.sent
    talk.take(request() * 3 + pdu(9, b"") * 3 + RELEASE_RQ)
    talk.close()
    talk.told.remove(("requested", "CT1"))
    assert [one[0] for one in talk.told] == ["ended"]
    assert talk.sent == sent
