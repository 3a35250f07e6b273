"""A study that grows at its source, and what a node that follows it hears and fetches."""

import exchange_pair
import trio
from clocks_made import MadeClock
from facility_in_memory import Other, publish_study

from node.app import Node
from node.parts import announcer_of
from node.transfer.transfers import Transfer, TransferState
from protocol.feed import Subscription
from protocol.messages import Announcement, Record
from protocol.recalls import QUALITY

CLOCK = MadeClock()
NORTH, EAST = Other("North", CLOCK.now()), Other("East", CLOCK.now())
STUDY = exchange_pair.STUDY


def root(number: int) -> bytes:
    """The content of a study at a source, as it is announced for the time of this number."""
    return bytes([number]) * 32


def record(
    number: int, kind: str = "changed", *, recalls: int | None = None, indexed: int = 0
) -> Record:
    """What is announced of the study for the time of this number."""
    here = kind != "withdrawn" and not indexed
    return Record(
        sequence=number,
        kind=kind,
        study=STUDY,
        content_root=root(number) if here else bytes(32),
        series=int(here),
        instances=number if here or indexed else 0,
        bytes=number * 1000 if here else 0,
        encoded_bytes=number if here else 0,
        modalities=(),
        study_date="",
        recall=QUALITY if recalls else None,
        recalls=recalls,
        indexed=True if indexed else None,
    )


def hear(node: Node, number: int, kind: str = "changed", *, by: Other = NORTH, **more: int) -> None:
    """What a node does with an announcement of a peer."""
    own, epoch = node.keys.node.public, bytes([1]) * 16
    announcement = Announcement(
        recipient=own,
        epoch=epoch,
        reset=False,
        cursor=number,
        time=0,
        records=(record(number, kind, **more),),
    )
    announcer = announcer_of(node)
    announcer.in_keeping = node.followed.heard
    announcer._keep(by.key, announcement, Subscription(own, epoch, number))


def begun(node: Node, *, by: Other = NORTH, wanted: int = 0, follow: bool = True) -> Transfer:
    """A fetch under way; a follow-up of the content `wanted`, if that is not 0."""
    transfer = node.transfers.begin_incoming(
        STUDY, by.key, "research", only_peer=True, stat=True, follow=follow, follow_up=wanted > 0
    )
    transfer.wanted_root = root(wanted) if wanted else b""
    enter(node, transfer, TransferState.WAITING)
    return transfer


def enter(node: Node, transfer: Transfer, state: TransferState) -> None:
    """A transfer gets to a state."""
    trio.run(node.transfers.enter, transfer, state)


def completed(node: Node, transfer: Transfer, number: int, *others: Other) -> None:
    """What was fetched is here: the content of this number, also from other sources."""
    publish_study(node, instances=number)
    node.database.transact(
        lambda connection: connection.execute(
            "UPDATE studies SET origin = ?, shared = 0", (NORTH.key.hex(),)
        )
    )
    for source in (transfer.peer, *(other.key for other in others)):
        one = node.transfers.contribution(transfer, source)
        one.content_root, one.batches = root(number), 1
    enter(node, transfer, TransferState.COMPLETE)


def fetched(node: Node, number: int = 2, **more: int) -> None:
    """A person's fetch of what North announces is complete."""
    hear(node, number, **more)
    completed(node, begun(node), number)
    assert node.followed.is_followed(STUDY, NORTH.key)
    assert node.followed.news() == []
