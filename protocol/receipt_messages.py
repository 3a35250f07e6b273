"""The messages of `/radmesh/audit/1` about receipts (docs/protocol-audit.md sections 3 and 5).

What they carry is signed, so these messages are not.
"""

from dataclasses import dataclass
from typing import ClassVar

from protocol.fields import binary, octets
from protocol.messages import Message


@dataclass(frozen=True, kw_only=True)
class PresentReceipt(Message):
    """The recipient of a finished transfer asks its source for the countersignature.

    `body` and `signature` are as in the message `receipt`. The answer is
    `countersignature`, the same one each time.
    """

    TYPE: ClassVar[str] = "present-receipt"
    body: bytes = binary(4096)
    signature: bytes = octets(64)


@dataclass(frozen=True, kw_only=True)
class AskReceipt(Message):
    """The source of a broken transfer asks its recipient whether the study arrived.

    The answer is `receipt`, or a refusal NOT_AVAILABLE if the study did not arrive.
    """

    TYPE: ClassVar[str] = "ask-receipt"
    transfer: bytes = octets(16)


@dataclass(frozen=True, kw_only=True)
class PresentStored(Message):
    """The recipient of a study tells its source that its archive has it.

    `body` and `signature` are a statement of `protocol.stored`. The answer is `stored-noted`,
    each time.
    """

    TYPE: ClassVar[str] = "present-stored"
    body: bytes = binary(4096)
    signature: bytes = octets(64)


@dataclass(frozen=True, kw_only=True)
class StoredNoted(Message):
    """The source has the statement in its log, or had one of that transfer."""

    TYPE: ClassVar[str] = "stored-noted"
