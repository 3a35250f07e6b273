"""A plugin of pytest (`-p on_postgres`) that runs the selected tests on PostgreSQL.

It is loaded before any test, so that every import of the node's database gets the class of
`postgres.py`. Tests that read SQLite's file, or end a process that holds it, are left out.
"""

import pytest
from places import TESTS
from postgres import PostgresDatabase

import node.database

node.database.Database = PostgresDatabase  # type: ignore[misc]

_FILE = "opens SQLite's file itself"
_PROCESS = "starts another process on the home, which has SQLite"
_OF_OTHERS = "each change is a statement of a test of its owner, which runs"
_KILLED = "runs the statements of other tests of its file again, killed at each of them: minutes"

LEFT_OUT = {
    "node/audit/test_erasure": {
        "test_no_byte_of_a_transfer_is_left_in_the_database": _FILE,
        "test_no_byte_of_the_name_is_left_in_the_folder": _FILE,
        "test_power_fails_at_each_step": _FILE,
        "test_power_fails_between_deleting_and_overwriting": _FILE,
        "test_the_process_is_killed": _PROCESS,
    },
    "node/catalog/test_archive_index": {
        "test_nothing_but_a_person_widens_and_all_tables_agree": _FILE,
    },
    "node/catalog/test_catalog": {
        "test_a_study_row_has_the_columns_of_its_table": "asks SQLite for columns",
        "test_nothing_is_visible_before_commit": _FILE,
    },
    "node/sharing/test_find_answers": {
        "test_killed_at_each_step_nothing_is_told_that_is_not_logged": _PROCESS,
    },
    "node/sharing/test_contests": {
        "test_the_command_status_says_so": _PROCESS,
        "test_what_was_contested_before_this_release_is_told_at_start": _FILE,
    },
    "node/audit/test_effects": {
        "test_a_database_of_an_older_backup_follows_the_log": _FILE,
        "test_killed_between_entry_and_effect": _KILLED,
        "test_a_change_that_cannot_be_written": _OF_OTHERS,
    },
    "node/people/test_two_persons": {
        "test_killed_at_every_commit_an_act_is_done_once_or_waits": _KILLED,
        "test_whatever_people_do_trust_is_given_by_two": _KILLED,
    },
    "node/transfer/test_followed": {
        "test_it_ends_and_nothing_but_a_persons_fetch_begins_it_again": _FILE,
        "test_killed_at_every_commit_a_complete_fetch_is_followed_and_nothing_else": _FILE,
    },
    "node/witness/test_witness": {
        "test_a_kill_between_the_commit_and_the_answer_loses_the_answer_alone": _PROCESS,
    },
}
"""Tests, by file and function, and why they say nothing about PostgreSQL."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def place_of(item: pytest.Item) -> tuple[str, str]:
        file = item.path.relative_to(TESTS).with_suffix("").as_posix()
        return file, getattr(item, "originalname", item.name)

    known = {place_of(item) for item in items}
    unknown = {
        f"{file}::{name}"
        for file in {file for file, _ in known}
        for name in LEFT_OUT.get(file, {})
        if (file, name) not in known
    }
    if unknown:
        raise pytest.UsageError(f"there is no test {', '.join(sorted(unknown))}")
    left_out = [item for item in items if place_of(item)[1] in LEFT_OUT.get(place_of(item)[0], {})]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
