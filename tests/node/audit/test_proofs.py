"""Proofs from the kept tree: as those from all leaves, whatever becomes of the file."""

import os

import pytest
from logs_made import create, event, reopen

from node.audit.tree import NodeFile
from node.errors import ExitCode, NodeError
from protocol.errors import LocalProtocolError
from protocol.log import tree

COUNT = 37


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "audit"
    log = create(directory)
    log.append_many([event(number) for number in range(1, COUNT)])
    log.close()
    return directory


@pytest.fixture
def log(directory):
    log = reopen(directory)
    yield log
    log.close()


def _check_all(log):
    leaves = [tree.leaf_hash(entry) for entry in log.entries()]
    slow = tree.range_root(leaves)
    for size in range(len(leaves) + 1):
        assert log.root_at(size) == slow(0, size)
        for index in range(size):
            expected = tree.inclusion_proof(index, size, slow)
            assert log.inclusion_proof(index, size) == tuple(expected)
            expected = tree.consistency_proof(index + 1, size, slow)
            assert log.consistency_proof(index + 1, size) == tuple(expected)


def test_proofs_are_those_of_all_leaves(log):
    _check_all(log)
    log.append(event(COUNT))
    _check_all(log)


def test_the_file_holds_the_nodes_in_the_order_of_entries(directory, log):
    frontier = tree.Frontier()
    nodes = [node for entry in log.entries() for node in frontier.append(tree.leaf_hash(entry))]
    log.close()
    data = (directory / "tree").read_bytes()
    assert len(nodes) == tree.node_count(COUNT)
    assert data == b"".join(nodes)


def _remove(path):
    path.unlink()


def _shorten(path):
    os.truncate(path, path.stat().st_size // 2 + 7)


def _change(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def _lengthen(path):
    with path.open("ab") as file:
        file.write(b"\xff" * 320)


@pytest.mark.parametrize("harm", [_remove, _shorten, _change, _lengthen])
def test_a_file_harmed_between_two_runs_is_made_anew(directory, harm):
    sound = (directory / "tree").read_bytes()
    harm(directory / "tree")
    log = reopen(directory)
    _check_all(log)
    log.append(event(COUNT))
    _check_all(log)
    log.close()
    assert (directory / "tree").read_bytes().startswith(sound)


@pytest.mark.parametrize("harm", [_shorten, _change])
def test_a_file_harmed_while_the_log_is_open_is_made_anew(directory, harm):
    log = reopen(directory)
    # As if the nodes had left memory for the file long ago.
    log._nodes.restart()
    log._appender.rebuild_nodes()
    with log._nodes._lock:
        log._nodes._spill()
    harm(directory / "tree")
    _check_all(log)
    log.close()


def test_no_proof_is_given_for_an_entry_that_was_changed(directory, log):
    path = directory / "log"
    data = path.read_bytes()
    entry = list(log.entries())[3]
    path.write_bytes(data.replace(entry, entry.replace(b'"n":3', b'"n":9')))
    with pytest.raises(NodeError) as caught:
        log.inclusion_proof(3, COUNT)
    assert caught.value.code == ExitCode.INTEGRITY
    assert log.inclusion_proof(4, COUNT)


def test_sizes_that_the_log_never_had(log):
    for wrong in (-1, COUNT + 1):
        with pytest.raises(LocalProtocolError):
            log.root_at(wrong)
    for index, size in ((-1, COUNT), (COUNT, COUNT), (0, COUNT + 1)):
        with pytest.raises(LocalProtocolError):
            log.inclusion_proof(index, size)
    for old, new in ((0, COUNT), (COUNT, COUNT - 1), (1, COUNT + 1)):
        with pytest.raises(LocalProtocolError):
            log.consistency_proof(old, new)


def test_nodes_survive_a_disk_that_takes_none(tmp_path):
    nodes = NodeFile(tmp_path / "tree")
    made = [bytes([number]) * 32 for number in range(100)]
    writable, nodes._descriptor = nodes._descriptor, os.open(tmp_path / "tree", os.O_RDONLY)
    nodes.add(made)
    with nodes._lock:
        nodes._spill()
    assert [nodes.at(place) for place in range(100)] == made
    os.close(nodes._descriptor)
    nodes._descriptor = writable
    nodes.close()
    assert (tmp_path / "tree").read_bytes() == b"".join(made)
