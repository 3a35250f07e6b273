"""The spool: records, marks, files that go, and what a crash leaves."""

import pytest
from arrivals_made import part10
from spools_made import opened, read, staged

from node.errors import NodeError
from node.images import spool as spool_module
from node.images.reading import FileChanged
from node.images.spool import Spool, Staged
from node.images.spool_records import HEADER_BYTES, About, Record, waiting

CONTENTS = [part10(number) for number in range(1, 6)]


def write(spool: Spool, *contents: bytes) -> list[Record]:
    records = spool.write([staged(content) for content in contents])
    assert all(isinstance(one, Record) for one in records)
    return [one for one in records if isinstance(one, Record)]


def files(path) -> list:
    return sorted((path / "arrivals").iterdir())


def test_what_was_written_is_read_back_and_found_again(tmp_path):
    spool = opened(tmp_path)
    records = write(spool, *CONTENTS)
    assert [read(spool, one) for one in records] == CONTENTS
    assert spool.totals == (5, sum(map(len, CONTENTS)))
    assert waiting(tmp_path / "arrivals") == spool.totals
    again = opened(tmp_path)
    assert again.recover() == records
    assert again.totals == spool.totals
    assert [read(again, one) for one in records] == CONTENTS


def test_instances_share_a_file_which_goes_with_the_last_of_them(tmp_path):
    spool = opened(tmp_path)
    records = write(spool, *CONTENTS[:3]) + write(spool, *CONTENTS[3:])
    assert len(files(tmp_path)) == 1
    spool.settle(records[:4])
    assert spool.totals == (1, len(CONTENTS[4]))
    assert waiting(tmp_path / "arrivals") == spool.totals
    assert opened(tmp_path).recover() == records[4:]
    spool.settle(records[4:])
    assert files(tmp_path) == []
    # The next one gets a new file.
    [record] = write(spool, CONTENTS[0])
    assert read(spool, record) == CONTENTS[0]


def test_a_file_that_has_grown_enough_gets_nothing_more_and_keeps_what_it_has(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 2000)
    spool = opened(tmp_path)
    records = [record for content in CONTENTS for record in write(spool, content * 2)]
    assert len(files(tmp_path)) == 5
    assert [read(spool, one) for one in records] == [content * 2 for content in CONTENTS]
    spool.settle(records[1:3])
    assert len(files(tmp_path)) == 3
    spool.close()
    assert opened(tmp_path).recover() != []


def test_what_is_let_go_is_forgotten_wherever_it_stands(tmp_path):
    for gone in ([4], [0], [1, 3], [3, 4], [0, 1, 2, 3, 4]):
        spool = opened(tmp_path / str(gone))
        records = write(spool, *CONTENTS)
        spool.let_go([records[index] for index in gone])
        left = [one for index, one in enumerate(records) if index not in gone]
        assert spool.totals == (len(left), sum(one.about.size for one in left))
        # What comes next may stand where they stood.
        left += write(spool, CONTENTS[1], CONTENTS[2])
        assert opened(tmp_path / str(gone)).recover() == left
        assert [read(spool, one) for one in left[-2:]] == CONTENTS[1:3]
        spool.settle(left)
        assert files(tmp_path / str(gone)) == []


def test_what_is_sent_again_and_again_takes_no_room(tmp_path):
    spool = opened(tmp_path)
    [first] = write(spool, CONTENTS[0])
    size = first.place.path.stat().st_size
    for _ in range(10):
        spool.let_go(write(spool, *CONTENTS))
        assert [path.stat().st_size for path in files(tmp_path)] == [size]
    spool.let_go([first])
    spool.close()
    assert files(tmp_path) == []


def test_a_large_one_that_is_let_go_is_deleted(tmp_path):
    spool = opened(tmp_path)
    large = spool.open_large()
    large.write(CONTENTS[0])
    one = Staged(staged(CONTENTS[0]).about, large)
    spool.flush_large(one)
    record, small = spool.write([one, staged(CONTENTS[1])])
    spool.let_go([record])
    assert files(tmp_path) == [small.place.path]
    assert spool.totals == (1, len(CONTENTS[1]))


def test_the_work_beside_a_flush_begins_when_all_is_written(tmp_path):
    spool, seen = opened(tmp_path), []
    write(spool, CONTENTS[0])
    [path] = files(tmp_path)
    spool.write(
        [staged(CONTENTS[1])], meanwhile=lambda: seen.append((path.stat().st_size, spool.totals))
    )
    size = 2 * HEADER_BYTES + len(CONTENTS[0]) + len(CONTENTS[1])
    assert seen == [(size, (1, len(CONTENTS[0])))]


def test_a_large_one_is_written_as_it_comes(tmp_path):
    spool = opened(tmp_path)
    large = spool.open_large()
    for content in CONTENTS:
        large.write(content)
    whole = b"".join(CONTENTS)
    one = Staged(staged(whole).about, large)
    spool.flush_large(one)
    [record, small] = spool.write([one, staged(CONTENTS[0])])
    assert isinstance(record, Record)
    assert isinstance(small, Record)
    assert read(spool, record) == whole
    assert len(files(tmp_path)) == 2
    assert set(opened(tmp_path).recover()) == {record, small}
    spool.settle([record])
    assert files(tmp_path) == [small.place.path]


def test_what_was_not_finished_goes_at_the_next_start(tmp_path):
    spool = opened(tmp_path)
    spool.open_large().write(b"half")
    [record] = write(spool, CONTENTS[0])
    assert opened(tmp_path).recover() == [record]
    assert files(tmp_path) == [record.place.path]


@pytest.mark.parametrize("left", [10, HEADER_BYTES, HEADER_BYTES + 10])
def test_a_torn_end_is_left_out_and_all_before_it_is_found(tmp_path, left):
    spool = opened(tmp_path)
    records = write(spool, *CONTENTS[:3])
    last = records[2].place
    with last.path.open("r+b") as file:
        file.truncate(last.offset + left)
    assert opened(tmp_path).recover() == records[:2]


def test_a_file_of_which_nothing_is_whole_goes(tmp_path):
    spool = opened(tmp_path)
    [record] = write(spool, CONTENTS[0])
    with record.place.path.open("r+b") as file:
        file.truncate(HEADER_BYTES + 10)
    assert opened(tmp_path).recover() == []
    assert files(tmp_path) == []


def test_a_damaged_one_is_left_out_and_those_behind_it_are_found(tmp_path, caplog):
    spool = opened(tmp_path)
    records = write(spool, *CONTENTS)
    damage(records[1])
    assert opened(tmp_path).recover() == [records[0], *records[2:]]
    assert "is not whole" in caplog.text
    with pytest.raises(FileChanged):
        read(spool, records[1])


def damage(record: Record) -> None:
    with record.place.path.open("r+b") as file:
        file.seek(record.place.offset + HEADER_BYTES + 100)
        file.write(b"\xff\xfe")


def test_a_header_that_was_changed_ends_its_file(tmp_path):
    spool = opened(tmp_path)
    records = write(spool, *CONTENTS[:3])
    content = bytearray(records[1].place.path.read_bytes())
    content[records[1].place.offset + 20] ^= 1
    records[1].place.path.write_bytes(content)
    assert opened(tmp_path).recover() == records[:1]


def test_the_order_in_which_they_came_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 1)
    spool = opened(tmp_path)
    records = []
    for number, content in enumerate(CONTENTS):
        about = staged(content).about
        late = About(about.size, about.digest, about.source, False, about.time_ms + number)
        records += spool.write([Staged(late, content)])
    assert opened(tmp_path).recover() == records


def test_one_for_which_there_is_no_room_is_refused_and_the_others_are_taken(tmp_path):
    def require_free(size: int) -> None:
        if size > 20_000:
            raise NodeError("the disk is full")

    spool = Spool(tmp_path / "arrivals", require_free)
    first, second, third = spool.write(
        [staged(CONTENTS[0]), staged(bytes(20_000)), staged(CONTENTS[1])]
    )
    assert isinstance(second, NodeError)
    assert [read(spool, one) for one in (first, third)] == CONTENTS[:2]
    assert opened(tmp_path).recover() == [first, third]


def test_in_a_home_of_an_earlier_release_nothing_waits(tmp_path):
    assert waiting(tmp_path / "arrivals") == (0, 0)
    assert opened(tmp_path).recover() == []


def test_nobody_else_can_read_it(tmp_path):
    spool = opened(tmp_path)
    write(spool, CONTENTS[0])
    large = spool.open_large()
    assert (tmp_path / "arrivals").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in files(tmp_path))
    large.drop()
