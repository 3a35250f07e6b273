"""A source recalls what it discarded as wrong: who fetched it is alerted until it is settled."""

from collections.abc import Iterator
from pathlib import Path

import exchange_pair
import pytest
import trio
from facility_in_memory import Other, entries, publish_study
from hypothesis import given, settings
from hypothesis import strategies as st

from node.alerts import alerts_of
from node.app import Node
from node.clock import SYSTEM_CLOCK
from node.errors import ExitCode, NodeError
from node.home import Home
from node.parts import announcer_of
from node.transfer.transfers import TransferState
from protocol.feed import Subscription
from protocol.messages import Announcement, Record, decode_untrusted, encode
from protocol.recalls import PATIENT_SAFETY, QUALITY, RETENTION, WRONG_WORKLIST

NORTH = Other("North", SYSTEM_CLOCK.now())
STUDY = exchange_pair.STUDY


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node.open(Home.create(tmp_path / "south", name="South")) as node:
        NORTH.pair(node)
        yield node


def record(sequence: int, kind: str, *, recall: str | None = None, recalls: int | None = None):
    here = kind != "withdrawn"
    return Record(
        sequence=sequence,
        kind=kind,
        study=STUDY,
        content_root=bytes([sequence]) * 32 if here else bytes(32),
        series=int(here),
        instances=int(here),
        bytes=int(here),
        encoded_bytes=int(here),
        modalities=(),
        study_date="",
        recall=recall,
        recalls=recalls,
    )


def hear(node: Node, *records: Record, reset: bool = False) -> None:
    """What the node does with an announcement of North."""
    own = node.keys.node.public
    epoch = bytes([1]) * 16
    announcement = Announcement(
        recipient=own,
        epoch=epoch,
        reset=reset,
        cursor=records[-1].sequence,
        time=0,
        records=records,
    )
    read = decode_untrusted(encode(announcement))
    assert read == announcement
    announcer_of(node)._keep(NORTH.key, read, Subscription(own, epoch, announcement.cursor))


def fetched(node: Node) -> None:
    """The study is here, from North."""
    publish_study(node)
    node.database.transact(
        lambda connection: connection.execute(
            "UPDATE studies SET origin = ?, shared = 0", (NORTH.key.hex(),)
        )
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (WRONG_WORKLIST, "wrong patient"),
        (PATIENT_SAFETY, "patient safety"),
        (QUALITY, "quality"),
        ("113999", "code 113999"),
    ],
)
def test_a_recall_is_an_alert_until_it_is_settled(node: Node, code: str, words: str) -> None:
    hear(node, record(1, "available"))
    fetched(node)
    assert alerts_of(node, None) == []
    hear(node, record(2, "withdrawn", recall=code, recalls=1))
    [alert] = alerts_of(node, None)
    assert f"study {STUDY} was recalled by North: {words};" in alert
    [entry] = entries(node, "recalled")
    assert entry["peer"] == NORTH.key.hex()
    assert entry["details"]["code"] == code
    assert STUDY not in str(entry)
    assert node.catalog.study(STUDY) is not None, "a peer deletes nothing here"
    with pytest.raises(NodeError) as caught:
        node.recalls.settle("1.2.3", None)
    assert caught.value.code is ExitCode.NOT_FOUND
    node.recalls.settle(STUDY[:-1], NORTH.key)
    assert alerts_of(node, None) == []
    assert len(entries(node, "recall-settled")) == 1
    # A feed that is told anew tells nothing new.
    hear(node, record(1, "withdrawn", recall=code, recalls=1), reset=True)
    assert alerts_of(node, None) == []
    # Another recall does.
    hear(node, record(2, "withdrawn", recall=code, recalls=2))
    assert len(alerts_of(node, None)) == 1
    assert len(entries(node, "recalled")) == 2


def test_recalls_of_one_study_are_one_entry_until_it_is_settled(node: Node) -> None:
    """A peer cannot fill the log with recalls."""
    fetched(node)
    for count in range(1, 6):
        hear(node, record(count, "withdrawn", recall=QUALITY, recalls=count))
    assert len(entries(node, "recalled")) == 1
    assert len(alerts_of(node, None)) == 1


def test_a_part_that_was_recalled_is_told(node: Node) -> None:
    hear(node, record(1, "available"))
    fetched(node)
    hear(node, record(2, "changed", recall=QUALITY, recalls=1))
    [alert] = alerts_of(node, None)
    assert f"something of study {STUDY} was recalled by North: quality" in alert


def test_what_was_recalled_before_it_was_fetched_is_no_alert(node: Node) -> None:
    hear(node, record(1, "available"))
    hear(node, record(2, "changed", recall=QUALITY, recalls=1))
    fetched(node)
    hear(node, record(3, "changed", recall=QUALITY, recalls=1))
    assert alerts_of(node, None) == []
    hear(node, record(4, "changed", recall=QUALITY, recalls=2))
    assert len(alerts_of(node, None)) == 1


@pytest.mark.parametrize("one", [("withdrawn", RETENTION, 0), ("withdrawn", None, None)])
def test_what_is_no_recall_is_no_alert(node: Node, one: tuple[str, str | None, int | None]) -> None:
    fetched(node)
    hear(node, record(1, one[0], recall=one[1], recalls=one[2]))
    assert alerts_of(node, None) == []
    assert entries(node, "recalled") == []


def test_nobody_recalls_what_never_came_from_it(node: Node) -> None:
    publish_study(node)
    hear(node, record(1, "withdrawn", recall=PATIENT_SAFETY, recalls=1))
    assert alerts_of(node, None) == []
    assert entries(node, "recalled") == []


def test_a_recall_while_the_study_is_on_its_way(node: Node) -> None:
    transfer = node.transfers.begin_incoming(
        STUDY, NORTH.key, "treatment", only_peer=True, stat=False
    )
    trio.run(node.transfers.enter, transfer, TransferState.VERIFYING)
    hear(node, record(1, "withdrawn", recall=PATIENT_SAFETY, recalls=1))
    assert len(alerts_of(node, None)) == 1


def test_what_is_erased_is_linked_to_no_entry_by_its_recall(node: Node) -> None:
    hear(node, record(1, "available"))
    fetched(node)
    hear(node, record(2, "withdrawn", recall=QUALITY, recalls=1))
    node.forget([STUDY])
    assert node.recalls.all()[0].told > 0, "an alert stays"
    node.recalls.settle(STUDY, None)
    node.forget([STUDY])
    assert node.recalls.all()[0].told == 0
    hear(node, record(3, "withdrawn", recall=QUALITY, recalls=1))
    assert alerts_of(node, None) == []


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=8
    )
)
def test_every_increase_is_told_once(
    counts: list[tuple[int, bool, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is told anew or withdrawn, an alert stands from an increase until it is settled."""
    path = tmp_path_factory.mktemp("south")
    with Node.open(Home.create(path / "south", name="South")) as node:
        NORTH.pair(node)
        fetched(node)
        known, waiting, total = 0, False, 0
        for sequence, (more, is_withdrawn, settles) in enumerate(counts, 1):
            total += more
            kind = "withdrawn" if is_withdrawn else "changed"
            hear(
                node,
                record(sequence, kind, recall=QUALITY, recalls=total),
                reset=sequence % 3 == 0,
            )
            waiting = waiting or total > known
            known = max(known, total)
            assert bool(alerts_of(node, None)) is waiting
            if settles and waiting:
                node.recalls.settle(STUDY, None)
                waiting = False
