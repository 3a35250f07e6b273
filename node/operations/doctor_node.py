"""What `radmesh doctor` finds at the node itself: disk, clock, log, and who is told of it."""

import os
from collections.abc import Iterator

from node.alerts import FULL_BYTES, standing
from node.images.store import RESERVE_BYTES
from node.notices.subjects import SUBJECTS
from node.operations.base import Call
from node.operations.cosigned import counted, newest_cosigned
from node.operations.cosigned import witnesses as counting
from node.operations.findings import ENDING_SECONDS, Finding, finding
from node.phrases import count, duration, moment, size

SET_BACK_SECONDS = 2
COSIGNED_SECONDS = 24 * 3600
"""Witnesses that have cosigned nothing for so long are named."""

_ELSEWHERE = {"card", "certificate", "disk", "door", "forward", "in-doubt", "log"}
"""Subjects that a check of its own says more about."""


def disk(call: Call) -> Iterator[Finding]:
    """Room, and whether the folders of the home can be written."""
    node = call.node
    if call.serving is None:
        yield finding("the node", "wrong", "it does not run", "start it with `radmesh serve`")
    free = node.free_bytes()
    if free < RESERVE_BYTES:
        what = "nothing can be logged" if free < FULL_BYTES else "no study is received or ingested"
        yield finding("disk", "wrong", f"{size(free)} are free: {what}", "make room")
    else:
        yield finding("disk", "fine", f"{size(free)} are free")
    home = node.home
    for path in (home.path, home.store_path, home.incoming_path, home.arrivals_path):
        if path.is_dir() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            yield finding(
                "disk", "wrong", f"the folder {path} cannot be read and written",
                "it must belong to the user of the node, with mode 0700",
            )  # fmt: skip


def clock(call: Call) -> Iterator[Finding]:
    """Whether the clock of the machine was set back; other facilities show whether it is right."""
    now = call.node.clock
    back = now.now() - now.now_ms() / 1000
    if back > SET_BACK_SECONDS:
        yield finding(
            "clock", "wrong", f"it was set back by {duration(back)} while the node runs",
            "keep it right by NTP; rights end by the later time",
        )  # fmt: skip
    else:
        yield finding("clock", "fine", f"it is {moment(now.now_ms() / 1000)}")


def log(call: Call) -> Iterator[Finding]:
    """Whether our log takes entries, and our card."""
    node = call.node
    doubt, failure = node.audit.halt.reason, node.audit.failure
    if doubt is not None:
        yield finding("log", "wrong", doubt.message, "see docs/operations.md section 12")
    elif failure is not None:
        yield finding("log", "wrong", f"it takes no entry: {failure.message}", "look at the disk")
    else:
        yield finding("log", "fine", count(node.audit.size, "entry", "entries"))
    for alert in node.witness_store.alerts(open_only=True):
        if alert.facility != node.card.facility_key:
            yield finding(
                f"facility {node.petname(alert.facility)}", "wrong",
                "its log contradicts what it had signed", "see `radmesh audit forks`",
            )  # fmt: skip
    left, end = node.card.expires - node.clock.now(), moment(node.card.expires)
    if left <= ENDING_SECONDS:
        ends = "has ended" if left <= 0 else "ends"
        yield finding("our card", "wrong", f"it {ends} {end}", "`radmesh card renew`")
    else:
        yield finding("our card", "fine", f"it ends {end}")


def witnesses(call: Call) -> Iterator[Finding]:
    """Whether our log is cosigned by as many as it should be, and lately."""
    node = call.node
    needed, there = node.settings.audit.witness_quorum, counting(node)
    if not there:
        state, todo = ("wrong" if needed else "note"), "`radmesh trust grant NAME witness` there"
        yield finding("witnesses", state, "no facility has the grant to cosign our log", todo)
        return
    newest = newest_cosigned(node)
    if newest is None:
        state = "wrong" if needed else "note"
        yield finding(
            "witnesses", state, "no checkpoint of our log is cosigned by enough of them yet",
            "`radmesh audit witness` says who lacks",
        )  # fmt: skip
        return
    last = max((time for _, time in newest.lines.values()), default=0)
    late = node.clock.now() - last
    behind = node.audit.size - newest.size
    text = (
        f"{newest.size} of {count(node.audit.size, 'entry', 'entries')} cosigned by "
        f"{count(counted(node, newest), 'witness', 'witnesses')}, {duration(max(0, late))} ago"
    )
    if behind and late > COSIGNED_SECONDS:
        yield finding("witnesses", "wrong", text, "`radmesh audit witness` says who lacks")
    else:
        yield finding("witnesses", "fine", text)


def forwarding(call: Call) -> Iterator[Finding]:
    """Whether the log reaches its collector."""
    if call.serving is None or call.serving.forwarder is None:
        return
    told, size_ = call.serving.forwarder.describe(), call.node.audit.size
    about = f"collector {told['address']}"
    text = f"it has {told['delivered']} of {count(size_, 'entry', 'entries')}"
    if told["last_error"]:
        yield finding(
            about, "wrong", f"{text}: {told['last_error']}", "it is tried again by itself"
        )
    else:
        yield finding(about, "fine", text)


def notices(call: Call) -> Iterator[Finding]:
    """Whether mail and webhook take what they are told."""
    if call.serving is None:
        return
    if call.serving.notices is None:
        yield finding(
            "notices", "note", "nobody is told by mail or webhook when something is wrong",
            "see docs/operations.md section 18",
        )  # fmt: skip
        return
    for one in call.serving.notices.describe():
        about = f"{one['kind']} by {one['place']}"
        if one["last_error"]:
            waiting = count(one["unsent"], "notice waits", "notices wait")
            text = f"{waiting}: {one['last_error']}"
            yield finding(about, "wrong", text, "mend it, then `radmesh doctor --send-test`")
        else:
            yield finding(about, "fine", f"{count(one['sent'], 'notice')} sent since the start")


def at_work(call: Call) -> Iterator[Finding]:
    """What stands by the table of subjects, and no other check says."""
    for alert in standing(call.node, call.serving):
        subject = SUBJECTS[alert.subject]
        if subject.name not in _ELSEWHERE:
            state = "wrong" if subject.is_fault else "note"
            # Most alerts name the command themselves.
            todo = "" if "`radmesh" in alert.text else subject.todo
            yield finding(subject.name, state, alert.text, todo)
