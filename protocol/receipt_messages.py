"""The messages of `/radmesh/audit/1` on receipts that are missing (docs/protocol-audit.md).

A receipt is signed as such, so nothing is signed here as a message.
"""

from dataclasses import dataclass
from typing import ClassVar

from protocol.fields import binary, octets
from protocol.messages import Message


@dataclass(frozen=True, kw_only=True)
class PresentReceipt(Message):
    """The recipient of a transfer that is over asks its source for the countersignature.

    `body` and `signature` are those of the message `receipt`. Answered by
    `countersignature`, the same one however often it is asked for.
    """

    TYPE: ClassVar[str] = "present-receipt"
    body: bytes = binary(4096)
    signature: bytes = octets(64)


@dataclass(frozen=True, kw_only=True)
class AskReceipt(Message):
    """The source of a transfer that broke off asks its recipient whether it has the study.

    Answered by `receipt`, or refused with NOT_AVAILABLE: it did not arrive.
    """

    TYPE: ClassVar[str] = "ask-receipt"
    transfer: bytes = octets(16)
