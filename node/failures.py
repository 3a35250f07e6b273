"""Errors on their way to a person: out of exception groups, in words, and as JSON."""

import os
import traceback
from pathlib import Path
from typing import Any

from node.errors import ExitCode, NodeError

HTTP_STATUS = {
    ExitCode.OK: 200,
    ExitCode.FAILED: 500,
    ExitCode.USAGE: 400,
    ExitCode.NO_HOME: 500,
    ExitCode.BUSY: 503,
    ExitCode.NOT_FOUND: 404,
    ExitCode.REFUSED: 403,
    ExitCode.UNREACHABLE: 502,
    ExitCode.INTEGRITY: 409,
    ExitCode.PARTLY: 500,
    ExitCode.DISK: 507,
    ExitCode.WAITING: 202,
    ExitCode.PASSPHRASE: 409,
    ExitCode.INTERRUPTED: 503,
}
"""The status of an answer, by the exit code of its error; docs/operations.md section 14."""


def single_node_error(error: BaseException) -> NodeError | None:
    """The NodeError that an exception is or contains; None when there is none.

    A nursery wraps the exceptions of its tasks in groups.
    """
    if isinstance(error, NodeError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            found = single_node_error(inner)
            if found is not None:
                return found
    return None


def describe_error(error: NodeError) -> dict[str, Any]:
    """An error as JSON."""
    return {"message": error.message, "hint": error.hint, "code": int(error.code)}


def error_from(described: Any) -> NodeError:
    """An error from its JSON; an unknown code becomes the general one."""
    try:
        code = ExitCode(described["code"])
    except ValueError:
        code = ExitCode.FAILED
    return NodeError(described["message"], hint=described["hint"], code=code)


def describe_unexpected(error: BaseException) -> str:
    """The type and place of an exception, as in `KeyError in catalog.py:12`; without its text,
    which may name a patient."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    trace = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(trace[-1].filename).name}:{trace[-1].lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


def os_reason(error: OSError) -> str:
    """The reason in words; trio's error for all addresses has the single errors as its cause."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    told = cause if isinstance(cause, OSError) else error
    return (os.strerror(told.errno).lower() if told.errno else told.strerror) or str(error)
