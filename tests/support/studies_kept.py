"""Exports a node's studies, and compares its catalog with its store."""

import shutil
from pathlib import Path

from studies_made import contents

from node.app import Node
from node.images.export import export_study
from protocol.manifest import Manifest

STUDY = "1.2.826.0.1.3680043.8.498.41"


def exported(node: Node, folder: Path, study: str = STUDY) -> set[bytes]:
    """The files of a study as a node exports them."""
    shutil.rmtree(folder, ignore_errors=True)
    export_study(node.catalog, node.store, study, folder)
    return contents(folder)


def check_whole(node: Node) -> None:
    """Check that every batch in the catalog is stored, and that released batches are deleted."""
    claimed = set()
    for row in node.catalog.studies():
        if row.indexed_in:
            assert (row.content_root, row.encoded_bytes) == (bytes(32), 0)
            assert not node.catalog.instances(row.study_uid)
            continue
        manifest = node.catalog.manifest(row.study_uid)
        assert Manifest.decode_untrusted(manifest.encode()) == manifest
        assert row.content_root == manifest.content_root
        assert row.instance_count == len(manifest.instances)
        claimed |= {one.digest for one in manifest.batches}
    for conflict in node.catalog.conflicts():
        claimed |= set(conflict.batches)
    for digest in claimed:
        node.store.read(digest)
    assert set(node.store.digests()) == claimed
    assert {row["digest"] for row in node.database.query("SELECT digest FROM batches")} == claimed
