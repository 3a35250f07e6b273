"""Roles as a table over all operations, and what people of each kind are told."""

import functools
import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.api.server import application
from node.app import Node
from node.callers import SERVICE, Caller
from node.errors import ExitCode, NodeError
from node.home import Home
from node.operations import OPERATIONS, TABLE, Operation
from node.operations.people import numbers_of
from node.operations.permission import UNLISTED, permitted, unlisted_roles
from node.people.persons import PERSON_ROLES

LOOK, SEND, APPROVE, EMERGENCY, ADMIN, AUDIT = PERSON_ROLES
ANY = set(PERSON_ROLES)

MAY: dict[str, set[str]] = {
    "card.own": ANY,
    "trust.add": {ADMIN},
    "trust.list": ANY,
    "trust.show": ANY,
    "trust.grant": {ADMIN},
    "trust.revoke": {ADMIN},
    "trust.rename": {ADMIN},
    "trust.address": {ADMIN},
    "status": ANY,
    "notices.test": {ADMIN},
    "pair.show": {ADMIN},
    "pair.call": {ADMIN},
    "pair.accept": {ADMIN},
    "pair.decline": {ADMIN},
    "sharing.list": {LOOK, ADMIN},
    "sharing.add": {ADMIN},
    "sharing.remove": {ADMIN},
    "sharing.try": {ADMIN},
    "sharing.change": {SEND, ADMIN},
    "send": {SEND},
    "offers": {LOOK, SEND, APPROVE},
    "offer.accept": {SEND, APPROVE},
    "offer.decline": {SEND, APPROVE},
    "offer.end": {SEND, APPROVE, ADMIN},
    "archive": {LOOK, SEND, ADMIN},
    "archive.send": {SEND, ADMIN},
    "archive.retry": {SEND, ADMIN},
    "archive.retrieve": {SEND, ADMIN},
    "archive.drop": {SEND, ADMIN},
    "rules.add": {ADMIN},
    "rules.remove": {ADMIN},
    "rules.list": {LOOK, ADMIN},
    "rules.try": {ADMIN},
    "trust.explain": {ADMIN},
    "trust.who": {LOOK, ADMIN},
    "trust.mine": {LOOK, ADMIN},
    "objection.add": {ADMIN},
    "objection.end": {ADMIN},
    "objection.list": {ADMIN},
    "consent.add": {ADMIN},
    "consent.end": {ADMIN},
    "consent.list": {ADMIN},
    "requests": {LOOK, APPROVE, ADMIN},
    "approve": {APPROVE},
    "deny": {APPROVE, ADMIN},
    "emergency": {EMERGENCY},
    "emergencies": {LOOK, AUDIT, ADMIN},
    "review": {AUDIT, ADMIN},
    "match.list": {LOOK, SEND, ADMIN},
    "match.set": {SEND, ADMIN},
    "match.undo": {SEND, ADMIN},
    "ingest": set(),
    "export": set(),
    "disc.look": set(),
    "disc.write": set(),
    "manifest": set(),
    "studies": {LOOK},
    "find": {SEND},
    "share": {SEND},
    "withdraw": {SEND, ADMIN},
    "arrive": set(),
    "discard": {ADMIN},
    "hold.place": {ADMIN},
    "hold.lift": {ADMIN},
    "hold.list": {LOOK, ADMIN},
    "keeping": {LOOK, ADMIN},
    "quarantine.list": {LOOK, ADMIN},
    "quarantine.take": {ADMIN},
    "quarantine.drop": {ADMIN},
    "recalls.list": {LOOK, ADMIN},
    "recalls.settle": {ADMIN},
    "fetch": {SEND},
    "transfers": {LOOK, SEND},
    "transfer.cancel": {SEND, ADMIN},
    "audit.show": {AUDIT},
    "audit.export": set(),
    "audit.report": set(),
    "audit.send": set(),
    "audit.erase": set(),
    "audit.receipts": set(),
    "audit.cosigned": set(),
    "audit.pending": {AUDIT},
    "audit.reconcile": {AUDIT},
    "audit.reconcile-files": set(),
    "keys.show": ANY,
    "keys.rotate": set(),
    "keys.revoke": set(),
    "keys.seal": set(),
    "keys.unseal": set(),
    "keys.export-facility": set(),
    "keys.import-facility": set(),
    "keys.shares": set(),
    "card.renew": set(),
    "audit.prove": set(),
    "audit.witness": {AUDIT, ADMIN},
    "audit.policy": {AUDIT, ADMIN},
    "audit.forks": set(),
    "audit.settle": {ADMIN},
    "backup": set(),
    "retention": set(),
    "doctor": {LOOK, ADMIN},
    "people.list": ANY,
    "people.add": {ADMIN},
    "people.role": {ADMIN},
    "people.remove": {ADMIN},
    "people.rule": {ADMIN},
    "proposals": {APPROVE, ADMIN},
    "confirm": {APPROVE, ADMIN},
    "decline": {APPROVE, ADMIN},
}
"""Which of the roles is enough, written down again: a changed row has to be changed twice."""

USER = "someone"
ASKING = Caller("person", USER)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with one person for each set of roles that a test wants."""
    with Node.open(Home.create(tmp_path_factory.mktemp("n") / "home", name="North")) as opened:
        yield opened


def _as(node: Node, roles: set[str]) -> Caller:
    """A user who is a person with these roles; made when there is none."""
    name = "p-" + ("-".join(sorted(role[:2] for role in roles)) or "none")
    if node.persons.of_user(name) is None:
        node.persons.add(name, [name], roles or {LOOK}, "")
        if not roles:
            node.persons.change(name, [], [LOOK])
    return Caller("person", name)


def _may(node: Node, caller: Caller, operation: Operation[Any]) -> bool:
    try:
        permitted(node, caller, operation)
    except NodeError as error:
        refused = error
    else:
        return True
    assert refused.code is ExitCode.REFUSED
    assert refused.hint
    return False


def test_the_table_is_whole() -> None:
    assert set(MAY) == set(OPERATIONS)
    for operation in TABLE:
        assert set(operation.roles) <= ANY
        assert operation.local_only or operation.roles, f"{operation.name} names no role"


@pytest.mark.parametrize("role", [*PERSON_ROLES, "none"])
@pytest.mark.parametrize("operation", TABLE, ids=lambda one: one.name)
def test_each_operation_with_each_role(node: Node, operation: Operation[Any], role: str) -> None:
    caller = _as(node, {role} - {"none"})
    assert _may(node, caller, operation) is (role in MAY[operation.name])
    assert permitted(node, SERVICE, operation) == SERVICE, "the owner may do everything"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(TABLE),
    st.sets(st.sampled_from(PERSON_ROLES)),
    st.sets(st.sampled_from(PERSON_ROLES)),
)
def test_more_roles_never_allow_less(
    node: Node, operation: Operation[Any], few: set[str], more: set[str]
) -> None:
    with_few = _may(node, _as(node, few), operation)
    with_more = _may(node, _as(node, few | more), operation)
    assert with_more >= with_few
    # And nothing comes of a combination that none of its roles allows.
    assert with_more is any(_may(node, _as(node, {role}), operation) for role in few | more)


def test_a_person_acts_in_the_role_that_the_operation_needs(node: Node) -> None:
    asked = _as(node, {LOOK, ADMIN})
    assert permitted(node, asked, OPERATIONS["studies"]).role == LOOK
    found = permitted(node, asked, OPERATIONS["trust.grant"])
    assert (found.name, found.role) == (asked.name, ADMIN)
    assert found.person == node.persons.find(asked.name).id


# --- who is not in the list -------------------------------------------------------------


@pytest.mark.parametrize("setting", UNLISTED)
@pytest.mark.parametrize("operation", TABLE, ids=lambda one: one.name)
def test_each_operation_for_who_is_not_in_the_list(
    node: Node, monkeypatch: pytest.MonkeyPatch, operation: Operation[Any], setting: str
) -> None:
    people = node.settings.people.__class__(unlisted=setting)
    monkeypatch.setattr(node, "settings", node.settings.__class__(people=people))
    allowed = {"nothing": set(), "look": {LOOK}, "all": ANY - {APPROVE, EMERGENCY}}[setting]
    of_the_list = operation.name.startswith("people.") and operation.name != "people.list"
    of_two = operation.name in ("proposals", "confirm", "decline", "review")
    wanted = bool(MAY[operation.name] & allowed) and not of_the_list and not of_two
    assert _may(node, ASKING, operation) is wanted
    if wanted:
        assert permitted(node, ASKING, operation) == ASKING, "no name but that of the user"


def test_without_the_setting_a_new_home_allows_nothing(node: Node) -> None:
    assert unlisted_roles(node) == frozenset()


def test_a_home_from_before_the_list_goes_on_until_somebody_is_in_it(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", name="North")
    with Node.open(home) as node:
        node.database.transact(
            lambda connection: connection.execute("INSERT INTO people_before (one) VALUES (1)")
        )
        assert unlisted_roles(node) == UNLISTED["all"]
        assert _may(node, ASKING, OPERATIONS["trust.grant"])
        node.persons.add("anna", ["anna1"], [LOOK], "")
        assert unlisted_roles(node) == frozenset()
        assert not _may(node, ASKING, OPERATIONS["status"])
    with home.config_path.open("a") as written:
        written.write('\n[people]\nunlisted = "look"\n')
    with Node.open(home) as node:
        assert unlisted_roles(node) == {LOOK}


# --- over the API -----------------------------------------------------------------------


async def _post(node: Node, caller: Caller, operation: str, given: dict[str, Any]) -> Any:
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
    return sent[0]["status"], json.loads(body.splitlines()[-1])


def _ask(node: Node, caller: Caller, operation: str, **given: Any) -> Any:
    return trio.run(functools.partial(_post, node, caller, operation, given))


def test_a_role_counts_from_the_next_request_on_and_a_refusal_changes_nothing(
    tmp_path: Path,
) -> None:
    with Node.open(Home.create(tmp_path / "home", name="North")) as node:
        user = next(one.pw_name for one in pwd.getpwall() if one.pw_uid != os.getuid())
        asked = {"name": "anna", "users": [user], "roles": [LOOK], "display": "Dr. A"}
        assert "result" in _ask(node, SERVICE, "people.add", **asked)[1]
        anna = Caller("person", user)
        assert _ask(node, anna, "people.list")[1]["result"]["people"][0]["display"] == "Dr. A"
        size = node.audit.size
        status, answer = _ask(node, anna, "people.role", name="anna", give=[ADMIN])
        assert status == 403
        assert answer["error"]["message"] == "people.role is not for you: it needs the role admin"
        assert node.audit.size == size
        _ask(node, SERVICE, "people.role", name="anna", give=[ADMIN])
        _ask(node, anna, "people.role", name="anna", give=[AUDIT])
        entries = _ask(node, anna, "audit.show")[1]["result"]["entries"]
        assert [one["value"] for one in entries[-1]["opened"]] == [
            f"anna^^^look,admin,audit^^^Dr. A^^^{user}",
            "anna^^^admin^^^Dr. A",
        ]
        _ask(node, anna, "people.role", name="anna", take=[ADMIN])
        status, _ = _ask(node, anna, "people.role", name="anna", give=[ADMIN])
        assert status == 403
        _ask(node, SERVICE, "people.remove", name="anna")
        status, answer = _ask(node, anna, "status")
        assert status == 403
        assert "your user is not in the list of people" in answer["error"]["message"]


def test_roles_are_given_or_taken_and_users_are_of_this_machine(node: Node) -> None:
    for given_ in ({}, {"give": [LOOK], "take": [SEND]}):
        _, answer = _ask(node, SERVICE, "people.role", name="x", **given_)
        assert answer["error"]["code"] == ExitCode.USAGE
    with pytest.raises(NodeError, match="there is no user 'no-such-user'"):
        numbers_of(("no-such-user",))
    with pytest.raises(NodeError, match="is its owner, not a person"):
        numbers_of((pwd.getpwuid(os.getuid()).pw_name,))
    others = [one for one in pwd.getpwall() if one.pw_uid != os.getuid()]
    users = ("#4000000001", others[0].pw_name)
    assert numbers_of(users) == [4_000_000_001, others[0].pw_uid]
