"""A stop for the audit log: while there is a reason, no entry is taken."""

from node.errors import NodeError


class Halt:
    """Why the log takes no entry, so that nothing that needs one happens.

    Attributes:
        reason: what every append raises; None when all is well. A revocation of the log
            key is taken all the same: it can end the reason.
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
            # Each thread raises its own: one object would mix their tracebacks.
            raise NodeError(reason.message, hint=reason.hint, code=reason.code)
