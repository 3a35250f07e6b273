"""Errors an operator sees: what happened, what to do next, and an exit code.

Texts are lower case, without a full stop, and name a study or a peer, never a
patient. The table of codes is in docs/operations.md; a test compares the two.
"""

import enum


class ExitCode(enum.IntEnum):
    """The exit codes of `radmesh`."""

    OK = 0
    FAILED = 1
    """The command ran and the answer is no: a log not sound, a check that failed."""
    USAGE = 2
    """Wrong words on the command line, or (audit verify) the verdict cannot be told."""
    NO_HOME = 3
    """The home does not exist, is damaged, or belongs to somebody else. Of `audit verify
    --since`, which needs none: sound since that entry, and lost before it."""
    BUSY = 4
    """Another process has this home, or the node must run for this and does not."""
    NOT_FOUND = 5
    """No such study, peer, transfer or file."""
    REFUSED = 6
    """A peer refused, or our own rules forbid it."""
    UNREACHABLE = 7
    """A peer cannot be reached or went away."""
    INTEGRITY = 8
    """A digest, signature, fingerprint or log does not hold."""
    PARTLY = 9
    """The work was done, but some input was put to quarantine or aside."""
    DISK = 10
    """The disk is full or cannot be written."""
    WAITING = 11
    """A person is waited for: nothing is done until another confirms it; or, of `status`, something
    waits for a decision or a review."""
    PASSPHRASE = 12
    """The keys are under a passphrase, and none or a wrong one was given."""
    INTERRUPTED = 130
    """Ctrl-C."""


class NodeError(Exception):
    """An error for a person.

    Args:
        message: what happened, to which study or peer.
        hint: what to do next, or "".
        code: exit code of the command.
    """

    def __init__(self, message: str, *, hint: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
