"""What a peer is told of a study by default: no patient, no free text."""

from pathlib import Path

import trio
from sight_made import SightMade
from studies_made import make_study

from node.app import Node
from node.home import Home
from node.operations import OPERATIONS, Call
from protocol import messages
from protocol.feed import NO_EPOCH
from protocol.messages import Announcement

PEER = b"p" * 32


def test_an_announcement_names_no_patient_and_no_description(tmp_path: Path) -> None:
    study = make_study(tmp_path / "in", 2, rows=8)
    with Node.open(Home.create(tmp_path / "home", name="North")) as node:
        parameters = {"paths": [str(tmp_path / "in")]}
        trio.run(OPERATIONS["ingest"].answer, Call(node), parameters)
        row = node.catalog.study(study)
        assert row is not None
        assert "MARKER" in row.patient_id
        assert "Marker" in row.patient_name
        assert row.description == "MADE FOR A TEST"
        node.feeds.sight = SightMade({PEER})
        node.feeds.peer_changed(PEER)
        pending = node.feeds.pending(PEER, NO_EPOCH, 0)
    sent = messages.encode(
        Announcement(
            recipient=PEER,
            epoch=pending.epoch,
            reset=pending.reset,
            cursor=pending.cursor,
            time=0,
            records=pending.records,
        )
    )
    assert study.encode() in sent
    assert [word for word in (b"MARKER", b"MADE FOR") if word in sent.upper()] == []
