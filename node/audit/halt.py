"""A stop for the audit log: while it has a reason, the log takes no entry."""

from node.errors import NodeError


class Halt:
    """The reason why the log takes no entry; nothing that needs an entry can then happen.

    Attributes:
        reason: raised by every append; None when all is well. A revocation of the log key
            is logged in spite of it, since it can end the reason.
    """

    def __init__(self) -> None:
        self.reason: NodeError | None = None

    def require_none(self) -> None:
        """Raise the reason, if there is one.

        Raises:
            NodeError: the reason.
        """
        reason = self.reason
        if reason is not None:
            # Each thread raises its own error: a shared one would mix their tracebacks.
            raise NodeError(reason.message, hint=reason.hint, code=reason.code)
