"""What an association is asked for with, and what of it is accepted; annexes D of PS3.7, PS3.8."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial

from edges.dimse import limits

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

IMPLEMENTATION_CLASS_UID = "2.25.245409276063410093170246823021386870857"
IMPLEMENTATION_VERSION = "RADMESH"
"""Who we are in an association and in the head of a file; the same for every release."""

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

_LAST_CHOICES = (EXPLICIT, DEFLATED, IMPLICIT, BIG_ENDIAN)
"""What a sender can make out of anything else that it can read, the best first."""


class Result(IntEnum):
    """Results of a presentation context, PS3.8 section 9.3.3.2."""

    ACCEPTED = 0
    USER_REJECTION = 1
    NO_REASON = 2
    NO_ABSTRACT_SYNTAX = 3
    NO_TRANSFER_SYNTAX = 4


@dataclass(frozen=True, slots=True)
class Proposed:
    """One presentation context of a request."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ.

    Attributes:
        calling, called: AE titles without padding.
        application_context: UID.
        contexts: what is proposed.
        most: bytes of a P-DATA-TF that the sender takes; 0 for any number.
        roles: by SOP Class UID, whether the sender proposes to be SCU and SCP.
        operations: how many operations it may invoke at once, 0 for any number; None if it does
            not say, which means one.
        implementation: implementation class UID and version name, for people.
        user: user name of a User Identity, "" for none; it proves nothing.
    """

    calling: str
    called: str
    application_context: str = APPLICATION_CONTEXT
    contexts: tuple[Proposed, ...]
    most: int
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    operations: int | None = None
    implementation: tuple[str, str] = ("", "")
    user: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """One presentation context of an answer.

    Attributes:
        context_id: of the context.
        abstract_syntax: of the context.
        transfer_syntax: the one that counts; one of those proposed if it is not accepted.
        result: whether it is accepted, or why not.
    """

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    result: Result


@dataclass(frozen=True, kw_only=True)
class AssociateAnswer:
    """What an A-ASSOCIATE-AC says, beside what it repeats of the request.

    Attributes:
        contexts: what became of each that was proposed.
        operations: how many the requestor may invoke at once; None means one.
        roles: by SOP Class UID, whether the requestor may be SCU and SCP.
        most: bytes of a P-DATA-TF that the acceptor takes; 0 for any number.
        implementation: as in a request.
    """

    contexts: tuple[Accepted, ...]
    operations: int | None
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    most: int = limits.PDU_BYTES
    implementation: tuple[str, str] = (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION)


def choose(
    proposed: Sequence[str], supported: Callable[[str], bool], *, to_give: bool = False
) -> str | None:
    """The transfer syntax with which a sender most likely need not convert; None for none.

    A compressed one is chosen before a native one, since who proposes it with others has such
    data; then Explicit VR before Implicit VR, which loses the VRs of private elements; and big
    endian, for which pixels are swapped, only where it is alone.

    Args:
        proposed: what is proposed.
        supported: whether it is supported.
        to_give: whether images will go to who proposes; most of what there is, is native then.
    """
    found = [one for one in proposed if supported(one)]
    compressed = [one for one in found if one not in _LAST_CHOICES]
    native = [one for one in _LAST_CHOICES if one in found]
    chosen = [*native, *compressed] if to_give else [*compressed, *native]
    return next(iter(chosen), None)


def answer(
    request: AssociateRequest,
    supported: Callable[[str, str], bool],
    roles: Callable[[str], tuple[bool, bool]] = lambda sop_class: (True, False),
) -> AssociateAnswer:
    """What is accepted of a request.

    Args:
        request: the request.
        supported: whether a SOP class (abstract syntax) is supported in a transfer syntax.
        roles: in which roles, SCU and SCP, the sender may be for a SOP class.
    """
    agreed = {}
    # A role for what is not proposed says nothing, and an answer has room for 128 of them.
    for sop_class in {one.abstract_syntax: None for one in request.contexts}:
        if sop_class not in request.roles:
            continue
        as_scu, as_scp = request.roles[sop_class]
        may_scu, may_scp = roles(sop_class)
        agreed[sop_class] = (as_scu and may_scu, as_scp and may_scp)
    accepted = []
    for one in request.contexts:
        chosen = choose(
            one.transfer_syntaxes,
            partial(supported, one.abstract_syntax),
            to_give=agreed.get(one.abstract_syntax) == (False, True),
        )
        result = Result.ACCEPTED
        if chosen is None:
            known = any(supported(one.abstract_syntax, each) for each in _LAST_CHOICES)
            result = Result.NO_TRANSFER_SYNTAX if known else Result.NO_ABSTRACT_SYNTAX
        syntax = chosen or next(iter(one.transfer_syntaxes), IMPLICIT)
        accepted.append(Accepted(one.context_id, one.abstract_syntax, syntax, result))
    operations = request.operations
    if operations is not None:
        operations = min(operations or limits.OPERATIONS, limits.OPERATIONS)
    return AssociateAnswer(contexts=tuple(accepted), operations=operations, roles=agreed)
