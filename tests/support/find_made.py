"""Questions of a facility that is only keys, to a node without its network."""

import contextlib
import functools
import sqlite3
from typing import Any

import blake3
import catalogs_made
import trio
import trio.testing
from clocks_made import jumps_when_idle
from facility_in_memory import Other
from streams_made import stream_pair

from node import parts
from node.app import Node
from node.catalog.catalog import LOCAL
from node.dicom.headers import InstanceHeader, StudyAttributes
from node.network.messaging import MessageStream
from node.network.network import StreamLost
from node.sharing.find_answers import FindAnswers
from protocol import messages
from protocol.find_messages import Find, FindRefused, Found, check_found_untrusted
from protocol.messages import Message, Signed

ANNA = {"name": "Müller^Anna", "birth_date": "19700131", "sex": "F"}
NUMBER = {"patient_id": "P1", "issuer": "NORTH"}
KNOWN: dict[str, type[Message]] = {Signed.TYPE: Signed, FindRefused.TYPE: FindRefused}


def publish(node: Node, number: int, *, shared: bool = True, **patient: str) -> str:
    """A study of Anna, or of whom these attributes say; its UID."""
    base = catalogs_made.header(number)
    named = {
        "patient_name": "Müller^Anna", "patient_birth_date": "19700131", "patient_sex": "F",
        "patient_id": "P1", "patient_id_issuer": "NORTH", **patient,
    }  # fmt: skip
    fields = {name: getattr(base.study, name) for name in StudyAttributes.__slots__}
    header = InstanceHeader(
        study=StudyAttributes(**{**fields, **named}),
        series=base.series,
        sop_instance_uid=base.sop_instance_uid,
        sop_class_uid=base.sop_class_uid,
        transfer_syntax_uid=base.transfer_syntax_uid,
        number=1,
        rows=1,
        columns=1,
        frames=1,
    )
    made = catalogs_made.manifest(number, 1)
    node.catalog.publish(made, {0: header}, origin=LOCAL, shared=shared)
    return made.study_instance_uid


def publish_many(node: Node, numbers: range) -> None:
    """Many studies of Anna, in one transaction."""

    def work(connection: sqlite3.Connection) -> None:
        for number in numbers:
            publish(node, number)

    node.database.transact(work)


def question(node: Node, **changes: Any) -> Find:
    """A question for Anna's number, with these changes."""
    values: dict[str, Any] = {
        "find": bytes(range(16)), "source": node.keys.node.public, "purpose": "treatment",
        "person": "", "time": node.clock.now_ms(),
    }  # fmt: skip
    named = NUMBER if not {*NUMBER, *ANNA} & changes.keys() else {}
    return Find(**{**values, **named, **changes})


class Asked:
    """What came of a question: the answer, and how long it took by trio's clock."""

    def __init__(self, answer: Message | None, seconds: float) -> None:
        self.answer, self.seconds = answer, seconds

    @property
    def studies(self) -> list[str]:
        """The studies of an answer."""
        assert isinstance(self.answer, Found), self.answer
        return [record.study for record in self.answer.records]

    @property
    def refused(self) -> tuple[int, int]:
        """Code and wait of a refusal."""
        assert isinstance(self.answer, FindRefused), self.answer
        return self.answer.code, self.answer.wait


def ask(node: Node, other: Other, find: Find, answers: FindAnswers | None = None) -> Asked:
    """What the node answers this facility, checked as an asker checks it."""
    return send(node, other, messages.sign(find, other.node), find, answers)


def send(
    node: Node,
    other: Other,
    message: Message,
    find: Find | None = None,
    answers: FindAnswers | None = None,
) -> Asked:
    """What the node answers to this message, whatever it is."""
    clock = trio.testing.MockClock()
    with jumps_when_idle(clock):
        return trio.run(functools.partial(_send, node, other, message, find, answers), clock=clock)


async def _send(
    node: Node, other: Other, message: Message, find: Find | None, answers: FindAnswers | None
) -> Asked:
    ours, theirs = stream_pair(node.keys.node.public, other.node.public)
    channel = MessageStream(theirs)
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon((answers or parts.find_answers_of(node)).serve, ours)
        await channel.send(message)
        answer: Message | None = None
        with contextlib.suppress(StreamLost):
            answer = await channel.receive_untrusted(KNOWN)
        seconds = trio.current_time() - began
        nursery.cancel_scope.cancel()
    if isinstance(answer, Signed) and find is not None:
        assert isinstance(message, Signed)
        found = messages.open_signed_untrusted(answer, Found, node.keys.node.public)
        check_found_untrusted(
            found,
            find=find.find,
            recipient=other.node.public,
            question=blake3.blake3(message.body).digest(),
        )
        return Asked(found, seconds)
    return Asked(answer, seconds)
