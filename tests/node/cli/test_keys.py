"""Golden terminal sessions of `radmesh keys`."""

import json

from terminal import Terminal, north, terminal

from node.errors import ExitCode

__all__ = ["north", "terminal"]


def test_keys_are_replaced_and_shown(north: Terminal) -> None:
    north.session = ""
    north.run("keys", "rotate", "log")
    north.run("keys", "rotate", "witness", "--compromised")
    north.run("keys", "show")
    north.expect(
        """
        $ radmesh keys rotate log
        the log key was replaced by entry 1 of the log
        old  HEX
        new  HEX
        card serial 2
        next: back up the folder `keys` and the file `card`.
        $ radmesh keys rotate witness --compromised
        the witness key was replaced by entry 2 of the log
        old  HEX
        new  HEX
        card serial 3
        next: back up the folder `keys` and the file `card`.
        $ radmesh keys show
        facility  FINGERPRINT (in this home)
        node      HEX since TIME
        log       HEX from size 0 to size 1
        log       HEX from size 2
        witness   HEX since TIME until TIME
        witness   HEX since TIME
        """
    )


def test_a_log_key_is_revoked(north: Terminal) -> None:
    status = json.loads(north.run("status", "--json").out)
    pin = f"{status['log_size']}:{status['log_root']}"
    done = json.loads(north.run("keys", "revoke", "log", "--trusted", pin, "--json").out)
    assert (done["role"], done["entry"], done["since_size"]) == ("log", 1, 2)


def test_without_the_facility_key(north: Terminal) -> None:
    path = north.home / "keys" / "facility"
    offline = north.home.parent / "stick"
    path.rename(offline)
    north.session = ""
    assert north.run("keys", "rotate", "node").code == ExitCode.NOT_FOUND
    assert north.run("keys", "rotate", "node", "--facility-key", "nowhere").code == 5
    assert north.run("keys", "rotate", "node", "--facility-key", str(offline)).code == 0
    assert not path.exists()
    north.expect(
        """
        $ radmesh keys rotate node
        radmesh: error: the facility key is not in this home, and this needs it
        radmesh: hint: name its file with --facility-key; it is read once and not kept
        (exit 5)
        $ radmesh keys rotate node --facility-key nowhere
        radmesh: error: the facility key nowhere cannot be read: No such file or directory
        (exit 5)
        $ radmesh keys rotate node --facility-key DIR/stick
        the node key was replaced by entry 1 of the log
        old  HEX
        new  HEX
        card serial 2
        node PEER
        next: back up the folder `keys` and the file `card`.
        """
    )


def test_what_is_no_key(north: Terminal) -> None:
    assert north.run("keys", "rotate", "facility").code == ExitCode.USAGE
    assert north.run("keys", "revoke", "log", "--trusted", "5").code == ExitCode.USAGE
