"""What the parts of one command share: the home, and whether JSON is wanted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node import phrases
from node.cli import output, passphrases
from node.errors import ExitCode, NodeError

if TYPE_CHECKING:
    from node.home import Home

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Session:
    """One run of `radmesh`."""

    home_path: Path = field(default_factory=Path)
    socket_path: Path | None = None
    passphrase_fd: int | None = None
    as_json: bool = False
    _home: "Home | None" = None

    def home(self) -> "Home":
        """The home that the command is about; it asks for the passphrase of its keys once."""
        from node.home import Home

        if self._home is None:
            self._home = Home(self.home_path, ask=lambda: passphrases.of_home(self.passphrase_fd))
        return self._home

    def require_home(self) -> None:
        """Raise NodeError unless the home was made; a person with a socket needs none."""
        if self.socket_path is None:
            self.home().require()

    def call(
        self,
        operation: str,
        parameters: dict[str, Any] | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        *,
        listed: str = "",
    ) -> dict[str, Any]:
        """Run an operation in the running node or on the home, see `node.api.client.call`.

        Raises:
            NodeError: it failed; or a rule has it wait for a second person, which is its code.
        """
        from node.api.client import call, call_people

        if self.socket_path is not None:
            found = call_people(
                self.socket_path, operation, parameters or {}, on_progress, listed=listed
            )
        else:
            found = call(
                self.home(), operation, parameters or {}, on_progress, output.note, listed=listed
            )
        if "waits_for_second" in found:
            raise _waits(found["waits_for_second"])
        return found


def _waits(proposed: dict[str, Any]) -> NodeError:
    number = proposed["number"]
    return NodeError(
        f"nothing is done yet: this waits for a second person, as proposal {number}",
        hint=f"another person with the role approve or admin runs `radmesh confirm {number}`; it "
        f"ends {phrases.moment(proposed['until'] // 1000)} otherwise",
        code=ExitCode.WAITING,
    )


pass_session = click.make_pass_decorator(Session)


def json_option(function: F) -> F:
    """Give a command `--json`: the result as one JSON object, errors too."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.ensure_object(Session).as_json = value

    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="Print one JSON object.",
    )(function)
