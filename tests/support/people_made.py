"""People of a node in a test: a list of them, and what each asks over the API without a socket."""

import functools
import json
from typing import Any

import trio

from node.api.server import application
from node.app import Node
from node.callers import SERVICE, Caller

PEOPLE = {
    "anna": ("admin", "look"),
    "bert": ("approve",),
    "carl": ("look", "send"),
    "dora": ("admin",),
}
"""Each is the user NAME1."""


def list_people(node: Node, *names: str) -> None:
    """Put people into the list; all of them unless some are named."""
    for name in names or PEOPLE:
        node.persons.add(name, [f"{name}1"], PEOPLE[name], f"Dr. {name.title()}")


def as_person(name: str) -> Caller:
    """The caller whom the people's socket would find; "owner" is the service."""
    return SERVICE if name == "owner" else Caller("person", f"{name}1")


async def post(node: Node, caller: Caller, operation: str, given: dict[str, Any]) -> dict[str, Any]:
    """Ask the API as ASGI has it; the last line of the answer."""
    sent: list[Any] = []
    parts = iter([{"type": "http.request", "body": json.dumps(given).encode()}])

    async def receive() -> Any:
        try:
            return next(parts)
        except StopIteration:
            await trio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": f"/v1/{operation}", "headers": []}
    await application(node, None, caller)(scope, receive, send)
    body = b"".join(one.get("body", b"") for one in sent)
    answer: dict[str, Any] = json.loads(body.splitlines()[-1])
    return answer


def ask(node: Node, name: str, operation: str, /, **given: Any) -> dict[str, Any]:
    """What the node answers to a person, or to "owner": `{"result": ...}` or `{"error": ...}`."""
    return trio.run(functools.partial(post, node, as_person(name), operation, given))


def proposed(answer: dict[str, Any]) -> int:
    """The number of the proposal that an answer is."""
    number: int = answer["result"]["waits_for_second"]["number"]
    return number
