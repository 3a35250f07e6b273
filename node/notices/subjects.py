"""The table of subjects: what an operator may have to know, and how others are told of it.

`node.alerts` finds what stands now and says it in a sentence for `radmesh status`, which may name a
study. Mail and webhook leave the node: they have the sentence of the table instead, with numbers
alone. `radmesh doctor`, the metrics and docs/operations.md section 18 are made from the same rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SEVERITIES = ("note", "warning", "alarm")
"""What may wait for a working day; what should be looked at today; what stops the node's work or
asks for a person now."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One row.

    Attributes:
        name: a word for it, as in the webhook and as a label of metrics.
        severity: one of `SEVERITIES`.
        goes_out: whether it is told by mail and webhook.
        is_fault: whether something is broken, and does not just wait for a person.
        source: the entry of the log or the standing state that it comes from.
        one: the sentence for others, of one of it; names nobody and no study.
        many: the same of several, behind their number; "" where there is never more than one.
        todo: what to do.
    """

    name: str
    severity: str
    goes_out: bool
    source: str
    one: str
    many: str = ""
    todo: str
    is_fault: bool = True

    def outside(self, number: int) -> str:
        """The sentence for others, of so many of it."""
        return self.one if number <= 1 or not self.many else f"{number} {self.many}"


@dataclass(frozen=True)
class Alert:
    """Something of a subject that stands now.

    Attributes:
        subject: name of its subject.
        text: the sentence for the people of this node.
        keys: what of the subject it is: numbers or words on one line, without patient data.
            Another key is something new, which is told again.
        entries: gives the indices of the log's entries that keys come from.
    """

    subject: str
    text: str
    keys: tuple[str, ...] = ("",)
    entries: Callable[[Sequence[str]], list[int]] = lambda keys: []


_SUBJECTS = (
    Subject(
        name="in-doubt",
        severity="alarm",
        goes_out=True,
        source="state: our log is halted",
        one="the audit log of the node is in doubt: nothing is disclosed or logged",
        todo="`radmesh status` says why; see docs/operations.md section 12",
    ),
    Subject(
        name="log",
        severity="alarm",
        goes_out=True,
        source="state: the last write to the log failed",
        one="nothing can be logged, so nothing is announced, sent, received or ingested",
        todo="look at the disk of the home",
    ),
    Subject(
        name="disk",
        severity="alarm",
        goes_out=True,
        source="state: free space of the home's disk",
        one="the disk of the node is full or nearly full: no study is received or ingested",
        todo="make room; `radmesh status` says how much there is",
    ),
    Subject(
        name="quota",
        severity="alarm",
        goes_out=True,
        source="state: the quota for studies is used up, and none may be removed",
        one="the quota for studies is used up, and no more images are taken in",
        todo="see `radmesh keeping`",
    ),
    Subject(
        name="break-glass",
        severity="alarm",
        goes_out=True,
        source="entry `emergency-begun`, until it is reviewed",
        one="an emergency access took place; a person has to review it",
        many="emergency accesses took place; a person has to review each",
        todo="`radmesh review` shows it, and takes the review",
        is_fault=False,
    ),
    Subject(
        name="approval",
        severity="warning",
        goes_out=True,
        source="entry `approval-asked`, until a person has answered",
        one="a request waits for approval",
        many="requests wait for approval",
        todo="see `radmesh requests`",
        is_fault=False,
    ),
    Subject(
        name="forward",
        severity="warning",
        goes_out=True,
        source="state: the collector, or an archive here, has taken nothing for an hour",
        one="forwarding has failed for an hour; what is not taken is kept and sent later",
        todo="`radmesh status` says why; look at the other side",
    ),
    Subject(
        name="card",
        severity="warning",
        goes_out=True,
        source="state: 90, 30, 7 days before our card ends, and when it has ended",
        one="the card of the facility ends soon or has ended: no peer connects after that",
        todo="`radmesh card renew`",
    ),
    Subject(
        name="certificate",
        severity="warning",
        goes_out=True,
        source="state: 30, 7 days before a certificate of the settings ends, and when it has ended",
        one="a TLS certificate of the node ends soon or has ended",
        todo="`radmesh doctor` names it; get a new one, and start the node again",
    ),
    Subject(
        name="unwritten",
        severity="alarm",
        goes_out=False,
        source="state: an end that counts is not on the disk yet",
        one="an end that counts already is not written yet",
        todo="make room on the disk",
    ),
    Subject(
        name="contested",
        severity="alarm",
        goes_out=False,
        source="entry `key-contested`",
        one="two facilities claim one key",
        todo="call both; see docs/operations.md section 15",
    ),
    Subject(
        name="two-persons",
        severity="warning",
        goes_out=False,
        source="entry `two-person-rule`, by the owner of the node alone",
        one="the owner of the node has ended a two-person rule",
        todo="if that was not agreed, look into the log",
        is_fault=False,
    ),
    Subject(
        name="proposal",
        severity="warning",
        goes_out=False,
        source="entry `proposed`, until it is confirmed",
        one="an act waits for a second person",
        many="acts wait for a second person",
        todo="see `radmesh proposals`",
        is_fault=False,
    ),
    Subject(
        name="offer",
        severity="note",
        goes_out=False,
        source="entry `offer-heard`, until a person has answered",
        one="an offer of a facility waits for a person",
        many="offers of facilities wait for a person",
        todo="see `radmesh offers`",
        is_fault=False,
    ),
    Subject(
        name="door",
        severity="warning",
        goes_out=False,
        source="state: a study that came in by a door is not offered",
        one="a study that came in to be offered is not",
        todo="see `radmesh doctor`",
    ),
    Subject(
        name="to-check",
        severity="note",
        goes_out=False,
        source="state: studies that a person must look at first",
        one="studies have to be looked at before they are shared",
        todo="see `radmesh studies --to-check`",
        is_fault=False,
    ),
    Subject(
        name="recalled",
        severity="warning",
        goes_out=False,
        source="entry `recalled`, until it is settled",
        one="a study was recalled by its source",
        todo="see `radmesh recalls list`",
        is_fault=False,
    ),
    Subject(
        name="grown",
        severity="note",
        goes_out=False,
        source="state: what has grown at its source and was not taken",
        one="a study has grown at its source",
        todo="see `radmesh status`",
        is_fault=False,
    ),
    Subject(
        name="peer",
        severity="note",
        goes_out=False,
        source="state: what a peer announced, or what it was granted, cannot be used",
        one="what a facility announces or was granted cannot be used",
        todo="see `radmesh status`",
        is_fault=False,
    ),
    Subject(
        name="arrivals",
        severity="warning",
        goes_out=False,
        source="state: images that arrived cannot be packed",
        one="images that arrived cannot be packed",
        todo="see `radmesh status`",
    ),
    Subject(
        name="announce",
        severity="warning",
        goes_out=False,
        source="state: a study is not announced to a peer for now",
        one="a study is not announced to a facility for now",
        todo="see `radmesh status`",
    ),
)

SUBJECTS: Mapping[str, Subject] = {one.name: one for one in _SUBJECTS}


def document() -> str:
    """The table of docs/operations.md section 18."""
    lines = [
        "| subject | severity | mail, webhook | comes from | what to do |",
        "|---|---|---|---|---|",
    ]
    for one in SUBJECTS.values():
        told = f'yes: "{one.one}"' if one.goes_out else "no"
        lines.append(f"| `{one.name}` | {one.severity} | {told} | {one.source} | {one.todo} |")
    return "\n".join(lines)
