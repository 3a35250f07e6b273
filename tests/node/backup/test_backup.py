"""Backups: whole or not there, of a home that is in use, and homes again from them."""

import base64
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from checked_home import Made, make_home, take
from hypothesis import given
from hypothesis import strategies as st
from killed import killed_at
from studies_made import contents, make_study

from keys.keyfile import decode_key
from keys.passphrase import KEY_BYTES
from keys.sealed_files import derive_key
from node.app import Node
from node.backup import batches, layout, saving
from node.backup.restoring import Restored, find_backup, open_keys, read_keys, restore
from node.backup.saving import Saved, Seal, Stopped, save
from node.errors import ExitCode, NodeError
from node.fsck.check import check_home
from node.home import ROLES, Home
from node.images.export import export_study

SALT = bytes(16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_home(tmp_path_factory.mktemp("made"))


@pytest.fixture
def home(made: Made, tmp_path: Path) -> Made:
    return made.copied(tmp_path)


@pytest.fixture
def node(home: Made) -> Iterator[Node]:
    with Node.open(Home(home.path)) as opened:
        yield opened


def back(backup: Path, home: Path, keys: Path | None = None) -> Restored:
    files = read_keys(keys) if keys is not None else {}
    return restore(backup, home, files, now=(backup / "backup.json").stat().st_mtime)


def files(path: Path) -> dict[str, bytes]:
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in _files(path)}


def _files(path: Path) -> list[Path]:
    return [one for one in path.rglob("*") if one.is_file()]


def pool(directory: Path) -> dict[str, os.stat_result]:
    return {one.name: one.stat() for one in _files(directory / "store")}


def saved_and_restored(node: Node, home: Made, tmp_path: Path) -> tuple[Saved, Restored]:
    saved = save(node, tmp_path / "backups", None)
    return saved, back(saved.folder, tmp_path / "restored", home.path / "keys")


def test_a_restored_home_is_the_one_that_was_backed_up(
    node: Node, home: Made, tmp_path: Path
) -> None:
    saved, restored = saved_and_restored(node, home, tmp_path)
    assert saved.missing == restored.missing == restored.missing_keys == restored.findings == ()
    assert (saved.size, saved.root) == (node.audit.size, node.audit.root())
    assert (restored.size, restored.root) == (saved.size, saved.root)
    path = tmp_path / "restored"
    report = check_home(path, now=node.clock.now())
    assert report.findings == ()
    assert report.root == saved.root
    assert {one.name for one in path.iterdir()} == {
        "arrivals", "audit", "card", "config.toml", "incoming", "keys", "node.db", "quarantine",
        "store",
    }  # fmt: skip
    assert all(one.stat().st_mode & 0o777 == 0o700 for one in path.iterdir() if one.is_dir())
    with Node.open(Home(path)) as again:
        assert (again.audit.size, again.audit.root()) == (saved.size, saved.root)
        assert [one.petname for one in again.peers.store.peers] == [
            one.petname for one in node.peers.store.peers
        ]
        for study in (home.shared, home.withheld):
            for number, opened in enumerate((node, again)):
                out = tmp_path / f"{study}-{number}"
                export_study(opened.catalog, opened.store, study, out)
            assert contents(tmp_path / f"{study}-0") == contents(tmp_path / f"{study}-1")
        take(again, tmp_path / f"{study}-0")
        again.clean_up()


def test_nobody_else_can_read_a_backup(node: Node, tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    saved = save(node, directory, None)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert saved.folder.stat().st_mode & 0o777 == 0o700
    assert {one.stat().st_mode & 0o077 for one in _files(saved.folder)} == {0}


def test_a_second_backup_takes_what_is_new_and_the_first_stays(
    node: Node, home: Made, tmp_path: Path
) -> None:
    directory = tmp_path / "backups"
    first = save(node, directory, None)
    assert first.new_batches == first.batches
    before, content = pool(directory), files(first.folder)
    take(node, Path(make_study(tmp_path / "new", 2, rows=32) and tmp_path / "new"))
    second = save(node, directory, None)
    assert second.new_batches == second.batches - first.batches > 0
    after = pool(directory)
    assert {name: after[name] for name in before} == before
    assert files(first.folder) == content
    assert find_backup(directory) == second.folder != first.folder
    assert find_backup(first.folder) == first.folder
    for saved, studies in ((first, 2), (second, 3)):
        restored = back(saved.folder, tmp_path / saved.folder.name, home.path / "keys")
        assert restored.missing == ()
        with Node.open(Home(tmp_path / saved.folder.name)) as again:
            assert again.catalog.study_count() == studies


def test_backups_of_one_second_have_names_of_their_own(node: Node, tmp_path: Path) -> None:
    made = [save(node, tmp_path / "backups", None).folder for _ in range(11)]
    assert layout.backups_in(tmp_path / "backups") == made


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_batches_are_copied_where_they_cannot_be_linked(
    node: Node, home: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def link(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", link)
    first, *others = home.batches(home.shared) + home.batches(home.withheld)
    first.write_bytes(b"damaged")
    saved = save(node, tmp_path / "backups", None)
    assert saved.missing == (first.name,)
    assert pool(tmp_path / "backups").keys() == {one.name for one in others}
    assert all(one.stat().st_nlink == 1 for one in others)
    # It comes with the next one, once it is whole again.
    shutil.copy(home.batches(home.withheld)[0], first)
    assert save(node, tmp_path / "backups", None).missing == (first.name,)


def test_on_one_disk_they_are_linked(node: Node, home: Made, tmp_path: Path) -> None:
    saved, _ = saved_and_restored(node, home, tmp_path)
    assert saved.new_batches
    assert all(one.stat().st_nlink == 2 for one in home.batches(home.shared))
    # Not with the restored home: one disk must not take both.
    assert {one.st_nlink for one in pool(tmp_path / "restored").values()} == {1}


def test_a_disk_that_fails_is_told_and_leaves_no_backup(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(NodeError, match="disk is full") as caught:
        save(node, tmp_path / "backups", None)
    assert caught.value.code is ExitCode.DISK
    assert {one.name for one in (tmp_path / "backups").iterdir()} == {"store"}


def test_a_batch_that_was_discarded_meanwhile_is_not_missed(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = saving.copy_database, []

    def copy(path: Path, target: Path) -> None:
        real(path, target)
        calls.append(target)
        if len(calls) == 1:
            Made(target.parent, "", "", b"", target).sql(
                "INSERT INTO batches VALUES (?, 5, 5, 0)", bytes(32)
            )

    monkeypatch.setattr(saving, "copy_database", copy)
    assert save(node, tmp_path / "backups", None).missing == ()


def test_one_that_was_stopped_is_none(node: Node, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        save(node, tmp_path / "backups", None, cancelled=lambda: True)
    with pytest.raises(NodeError) as caught:
        find_backup(tmp_path / "backups")
    assert caught.value.code is ExitCode.NOT_FOUND


def test_progress_is_told_to_the_end(node: Node, tmp_path: Path) -> None:
    told: list[saving.Saving] = []
    saved = save(node, tmp_path / "backups", None, told.append)
    assert told[-1].bytes == told[-1].bytes_total == saved.batch_bytes
    assert [one.bytes for one in told] == sorted(one.bytes for one in told)


@pytest.mark.slow
def test_a_backup_that_was_killed_looks_like_none(home: Made, tmp_path: Path) -> None:
    """At each name and each flush; what is there afterwards is whole, and the next one works."""
    step, whole = 0, 0
    while True:
        directory = tmp_path / f"backups{step}"
        killed = killed_at(
            step,
            lambda: Node.open(Home(home.path)),
            lambda node, path=directory: save(node, path, None),
        )
        try:
            backup = find_backup(directory)
        except NodeError:
            pass
        else:
            whole += 1
            assert back(backup, tmp_path / f"home{step}", home.path / "keys").missing == ()
        if not killed:
            break
        if step % 5 == 0:
            with Node.open(Home(home.path)) as node:
                again = save(node, directory, None)
            assert not [one for one in directory.iterdir() if one.name.startswith(".")]
            assert back(again.folder, tmp_path / f"again{step}").missing == ()
        step += 1
    assert step > 25
    # Killed behind its name (a flush), and not at all.
    assert whole == 2


@pytest.mark.slow
def test_a_restore_that_was_killed_is_no_home(node: Node, home: Made, tmp_path: Path) -> None:
    saved = save(node, tmp_path / "backups", None)
    step = 0
    while True:
        path = tmp_path / f"home{step}"
        killed = killed_at(
            step, lambda: None, lambda _, path=path: back(saved.folder, path, home.path / "keys")
        )
        if Home(path).exists:
            Node.open(Home(path)).close()
        else:
            assert back(saved.folder, path, home.path / "keys").missing == ()
            Node.open(Home(path)).close()
        if not killed:
            break
        step += 7
    assert step > 25


# --- keys -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seal() -> Seal:
    return Seal(derive_key("four words are enough", SALT), SALT)


def test_keys_are_left_out_unless_they_are_asked_for(
    node: Node, home: Made, tmp_path: Path
) -> None:
    saved = save(node, tmp_path / "backups", None)
    seeds = [decode_key(role, (home.path / "keys" / role).read_bytes()).seed for role in ROLES]
    for content in files(tmp_path / "backups").values():
        for seed in seeds:
            assert seed not in content
            assert base64.b64encode(seed) not in content
            assert seed.hex().encode() not in content
    restored = back(saved.folder, tmp_path / "restored")
    assert restored.missing_keys == ROLES
    with pytest.raises(NodeError, match="key is missing"):
        Node.open(Home(tmp_path / "restored"))
    for role in ROLES:
        shutil.copy(home.path / "keys" / role, tmp_path / "restored" / "keys" / role)
    Node.open(Home(tmp_path / "restored")).close()


@pytest.mark.slow
def test_keys_come_back_with_their_passphrase_alone(
    node: Node, home: Made, tmp_path: Path, seal: Seal
) -> None:
    saved = save(node, tmp_path / "backups", seal)
    seeds = [decode_key(role, (home.path / "keys" / role).read_bytes()).seed for role in ROLES]
    assert not [
        name
        for name, content in files(tmp_path / "backups").items()
        if any(base64.b64encode(seed) in content or seed in content for seed in seeds)
    ]
    with pytest.raises(NodeError) as caught:
        open_keys(saved.folder, "four words are not enough")
    assert caught.value.code is ExitCode.INTEGRITY
    keys = open_keys(saved.folder, "four words are enough")
    assert keys == read_keys(home.path / "keys")
    restored = restore(saved.folder, tmp_path / "restored", keys, now=node.clock.now())
    assert restored.missing_keys == ()
    assert {one.stat().st_mode & 0o777 for one in (tmp_path / "restored" / "keys").iterdir()} == {
        0o600
    }
    Node.open(Home(tmp_path / "restored")).close()


def test_an_offline_facility_key_is_not_missed_by_the_node(
    node: Node, home: Made, tmp_path: Path
) -> None:
    (home.path / "keys" / "facility").unlink()
    saved = save(node, tmp_path / "backups", Seal(bytes(KEY_BYTES), SALT))
    restored = back(saved.folder, tmp_path / "restored", home.path / "keys")
    assert restored.missing_keys == ("facility",)
    Node.open(Home(tmp_path / "restored")).close()


def test_the_keys_of_another_home_are_refused(node: Node, tmp_path: Path) -> None:
    other = Home.create(tmp_path / "other", name="Other")
    saved = save(node, tmp_path / "backups", None)
    with pytest.raises(NodeError, match="not the one that the card") as caught:
        back(saved.folder, tmp_path / "restored", other.keys_path)
    assert caught.value.code is ExitCode.INTEGRITY
    assert not (tmp_path / "restored").exists()


def test_a_change_of_keys_is_in_a_backup_whole_or_not_at_all(
    node: Node, home: Made, tmp_path: Path
) -> None:
    """Card, keys and log of a backup are of one moment."""
    from node.rotation import Request

    facility = node.keys.facility
    assert facility is not None
    before = save(node, tmp_path / "backups", None)
    shutil.copytree(home.path / "keys", tmp_path / "old-keys")
    node.rotator.change(Request(role="log", facility=facility))
    after = save(node, tmp_path / "backups", None)
    for number, (saved, keys) in enumerate(
        ((before, tmp_path / "old-keys"), (after, home.path / "keys"))
    ):
        back(saved.folder, tmp_path / f"home{number}", keys)
        Node.open(Home(tmp_path / f"home{number}")).close()


def test_a_change_of_keys_that_is_not_finished_is_no_moment_for_a_backup(
    node: Node, tmp_path: Path
) -> None:
    node.home.rotation_path.mkdir()
    with pytest.raises(NodeError, match="change of keys"):
        save(node, tmp_path / "backups", None)
    node.home.rotation_path.rmdir()
    assert save(node, tmp_path / "backups", None).missing == ()


# --- damage ------------------------------------------------------------------------------


def test_each_file_of_a_backup_that_was_changed_or_lost_is_told(node: Node, tmp_path: Path) -> None:
    saved = save(node, tmp_path / "backups", None)
    for name in files(saved.folder):
        for lost in (False, True):
            path = tmp_path / f"{name.replace('/', '-')}-{lost}"
            shutil.copytree(tmp_path / "backups", path)
            backup = path / saved.folder.name
            if lost:
                (backup / name).unlink()
            else:
                content = bytearray((backup / name).read_bytes())
                content[len(content) // 3] ^= 1
                (backup / name).write_bytes(content)
            with pytest.raises(NodeError) as caught:
                restore(find_backup(backup), path / "home", {}, now=node.clock.now())
            assert caught.value.code in (ExitCode.INTEGRITY, ExitCode.NOT_FOUND, ExitCode.USAGE)
            assert not (path / "home").exists()


def test_a_log_that_was_changed_with_its_digest_is_told(node: Node, tmp_path: Path) -> None:
    """Whoever can write to the backup disk can write its record too."""
    saved = save(node, tmp_path / "backups", None)
    log = saved.folder / "audit" / "log"
    log.write_bytes(log.read_bytes()[:-1] + b"x")
    record = saved.folder / "backup.json"
    value = json.loads(record.read_text())
    value["files"]["audit/log"] = layout.digest_of(log)
    record.write_text(json.dumps(value))
    with pytest.raises(NodeError, match=r"damaged: .* entries were signed") as caught:
        back(saved.folder, tmp_path / "restored")
    assert caught.value.code is ExitCode.INTEGRITY


@pytest.mark.parametrize("how", ["lost", "changed"])
def test_what_is_missing_from_the_pool_is_named_with_its_studies(
    node: Node, home: Made, tmp_path: Path, how: str
) -> None:
    saved = save(node, tmp_path / "backups", None)
    name = home.batches(home.withheld)[0].name
    path = tmp_path / "backups" / "store" / name[:2] / name
    path.unlink()
    if how == "changed":
        path.write_bytes(b"something else")
    restored = back(saved.folder, tmp_path / "restored", home.path / "keys")
    assert restored.missing == (name,)
    assert restored.studies == (home.withheld,)
    assert restored.findings == ()
    found = check_home(tmp_path / "restored", now=node.clock.now()).findings
    assert [(one.kind, one.where) for one in found] == [("batch-missing", name)]


def test_a_path_of_a_record_leads_nowhere_else(node: Node, tmp_path: Path) -> None:
    saved = save(node, tmp_path / "backups", None)
    record = saved.folder / "backup.json"
    whole = json.loads(record.read_text())
    for name in ("../card", "/etc/passwd", "audit/../../x", "keys/node", "", "audit/", ".x"):
        record.write_text(json.dumps({**whole, "files": {**whole["files"], name: "00" * 32}}))
        with pytest.raises(NodeError, match="is damaged"):
            layout.read_record_untrusted(record)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.mark.slow
@given(
    st.binary(max_size=50)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(dict.fromkeys(layout.Record.__dataclass_fields__, JSON)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_garbage_for_a_record_is_told(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "backup.json"
    path.write_bytes(data)
    with pytest.raises(NodeError):
        layout.read_record_untrusted(path)


# --- where it may go ----------------------------------------------------------------------


def test_a_folder_of_something_else_is_left_alone(node: Node, home: Made, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me")
    for directory, said in (
        (tmp_path / "mine", "something else"),
        (tmp_path / "file", "cannot be written"),
        (home.path / "backups", "in the home itself"),
        (home.path, "in the home itself"),
        (Path("relative"), "absolute"),
    ):
        with pytest.raises(NodeError, match=said):
            save(node, directory, None)
    assert files(tmp_path / "mine") == {"notes.txt": b"keep me"}
    assert not (home.path / "backups").exists()


def test_two_facilities_do_not_share_a_folder(node: Node, tmp_path: Path) -> None:
    save(node, tmp_path / "backups", None)
    with Node.open(Home.create(tmp_path / "other", name="Other")) as other:
        with pytest.raises(NodeError, match="another facility"):
            save(other, tmp_path / "backups", None)


def test_a_disk_with_lost_and_found_will_do(node: Node, tmp_path: Path) -> None:
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    assert save(node, tmp_path / "disk", None).missing == ()


def test_a_home_that_is_there_is_never_restored_over(
    node: Node, home: Made, tmp_path: Path
) -> None:
    saved = save(node, tmp_path / "backups", None)
    with pytest.raises(NodeError, match="not empty"):
        back(saved.folder, home.path)
    assert (home.path / "keys" / "facility").exists()


def test_two_at_once_do_not_meet(node: Node, tmp_path: Path) -> None:
    def second(_: object) -> None:
        with pytest.raises(NodeError, match="another backup"):
            save(node, tmp_path / "backups", None)

    assert save(node, tmp_path / "backups", None, second).missing == ()


def test_leftovers_in_the_pool_are_swept(tmp_path: Path) -> None:
    (tmp_path / "store" / "tmp").mkdir(parents=True)
    (tmp_path / "store" / "tmp" / "half").write_bytes(b"x")
    batches.Batches(tmp_path / "from", tmp_path / "store", link=True).finish()
    assert _files(tmp_path) == []
