"""What two real nodes tell each other that they may do."""

from pathlib import Path

import pytest
from facilities import two_facilities, wait_until


@pytest.mark.slow
@pytest.mark.integration
def test_each_side_sees_what_the_other_lets_it_do(tmp_path: Path) -> None:
    with two_facilities(tmp_path) as (north, south):

        def mine() -> list[str]:
            [one] = south.call("trust.mine", peer=north.name)["peers"]
            return [rule["rule"] for rule in one["rules"]]

        wait_until(lambda: mine() == ["allow fetch", "allow see shows=exam"], what="told")
        north.cli("trust", "rule", "add", south.name, "deny", "see", "patient=4711")
        north.cli("trust", "rule", "add", south.name, "allow", "send", "until=2099-12-31")
        wait_until(lambda: "allow send" in mine(), what="told of the change")
        north.call("trust.revoke", peer=south.name, grants=["fetch"])
        wait_until(lambda: "allow fetch" not in mine(), what="told of the cut")
        shown = south.cli("trust", "mine").stdout
        assert "North General trusts us since" in shown
        assert "allow send, until" in shown
        assert "4711" not in south.cli("trust", "mine", "--json").stdout
        # Both logs have the digest of each.
        told = [entry["details"] for entry in north.entries("grants-told")]
        assert [entry["details"] for entry in south.entries("grants-heard")] == told
        assert len(told) == 3
        assert "it allows nothing" in north.cli("trust", "mine", south.name).stdout
        # A restart says nothing new.
        south.stop()
        south.start()
        wait_until(lambda: south.peer(north)["connected"], what="connection")
        assert len(north.entries("grants-told")) == 3
        south.check_log(tmp_path)
        south.call("trust.revoke", peer=north.name)
        assert south.call("trust.mine")["peers"] == []
