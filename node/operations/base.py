"""What an operation is, and the reading of its parameters."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from node.app import Node
from node.errors import ExitCode, NodeError

if TYPE_CHECKING:
    from node.serving import Serving

Result = dict[str, Any]
Report = Callable[[dict[str, Any]], None]
"""Takes a progress event; does not block."""


@dataclass(frozen=True)
class Operation:
    """One thing that a node can be asked to do.

    Attributes:
        run: the work; raises NodeError.
        needs_network: whether the node must be serving.
        without_log_key: whether it can be done on a home whose log key is lost.
    """

    run: Callable[[Node, dict[str, Any], Report], Awaitable[Result]]
    needs_network: bool = False
    without_log_key: bool = False


def text(parameters: dict[str, Any], name: str, default: str | None = None) -> str:
    """A text parameter.

    Raises:
        NodeError: it is missing or no text.
    """
    value = parameters.get(name, default)
    if not isinstance(value, str):
        raise NodeError(f"the parameter {name} must be a text", code=ExitCode.USAGE)
    return value


def texts(parameters: dict[str, Any], name: str) -> list[str]:
    """A parameter that is a list of texts; empty when it is missing.

    Raises:
        NodeError: it is something else.
    """
    value = parameters.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise NodeError(f"the parameter {name} must be a list of texts", code=ExitCode.USAGE)
    return value


def require_serving(node: Node) -> "Serving":
    """The node's network parts.

    Raises:
        NodeError: the node does not serve.
    """
    if node.serving_parts is None:
        raise NodeError(
            "the node of this home is not running",
            hint="start it with `radmesh serve`",
            code=ExitCode.BUSY,
        )
    running: Serving = node.serving_parts
    return running
