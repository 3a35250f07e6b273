"""The messages of `/radmesh/audit/1` about missing receipts (docs/protocol-audit.md).

The receipts themselves are signed, so these messages are not.
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
