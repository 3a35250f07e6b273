"""Storage commitment on associations that others ask for: they ask us, or report to us."""

from edges.dimse.commands import Field
from node.edges.commitment_reports import CommitmentReports
from node.edges.commitments import Commitments
from node.edges.dimse_client import Message
from node.edges.dimse_operation import Operation


class CommitmentService:
    """Serves both roles.

    Args:
        reports: takes what others ask.
        commitments: takes reports on what we asked.
    """

    def __init__(self, reports: CommitmentReports, commitments: Commitments) -> None:
        self._reports = reports
        self._commitments = commitments

    async def serve(self, operation: Operation) -> None:
        """Carry out a request, and answer it.

        Raises:
            Lost: the association is over.
        """
        if operation.command.field == Field.N_ACTION:
            await self._reports.serve(operation)
            return
        # A report that is too long is an empty one here, and refused as none.
        message = Message(operation.context, operation.command, bytes(operation.data))
        operation.data.clear()
        await operation.answer(await self._commitments.heard(operation.caller.ae_title, message))
