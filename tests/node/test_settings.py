"""The table of settings: the file of a new home, the document and the errors follow from it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from node import config, setting_rows
from node.config import Settings, read_settings, template
from node.errors import ExitCode, NodeError
from node.reports.collector import Collector
from node.setting import Setting
from node.setting_rows import SETTINGS, TABLES, rows_of
from node.setting_texts import document
from node.sharing.budgets import read_overrides
from node.transfer import bandwidth

CHECKED = [row for row in SETTINGS if row.kind != "own"]


def _read(directory: Path, text: str) -> Settings:
    path = directory / "config.toml"
    path.write_text(text)
    return read_settings(path)


def _written(row: Setting, value: str) -> str:
    """A file with this one entry, and what its table needs besides."""
    title = f"{TABLES[row.table]}\n" if row.table else ""
    others = ""
    if row.table == "audit.syslog":
        needed = {"address": '"logs:1"', "ca": '"ca.pem"', "certificate": '"c.pem"'}
        others = "".join(f"{name} = {one}\n" for name, one in needed.items() if name != row.key)
    if row.table == "mail" and row.key in ("user", "password"):
        others = 'user = "x"\n' if row.key == "password" else 'password = "x"\n'
    if row.name == "dimse.tls_listen":
        others = 'certificate = "c.pem"\nkey = "c.key"\nca = "ca.pem"\n'
    if row.table == "dicomweb" and row.key != "origins":
        needed = {"certificate": '"c.pem"', "key": '"c.key"'}
        others = "".join(f"{name} = {one}\n" for name, one in needed.items() if name != row.key)
    return f"{title}{others}{row.key} = {value}\n"


def test_the_document_has_the_table_as_it_is_made_from_the_code() -> None:
    assert document() in (ROOT / "docs/operations.md").read_text()


def test_the_file_of_a_new_home_says_what_counts_without_it(tmp_path: Path) -> None:
    assert _read(tmp_path, template(config.DEFAULT_LISTEN, ())) == _read(tmp_path, "") == Settings()


def test_the_file_of_a_new_home_names_each_setting_and_its_examples_can_be_taken(
    tmp_path: Path,
) -> None:
    text = template((), ("/dns4/radmesh.example/tcp/1",))
    examples = re.sub(r"^# (\[|[a-z_]+ = |\"[^\"]+\" = )", r"\1", text, flags=re.MULTILINE)
    found = tomllib.loads(examples)
    assert found["addresses"] == ["/dns4/radmesh.example/tcp/1"]
    for row in SETTINGS:
        table: Any = found
        for name in filter(None, row.table.split(".")):
            table = table[name]
        if row.table == "limits":
            assert table == {"South Clinic": {"request": [72000, 2000]}}
        elif row.table == "arrivals":
            assert table == {"command:nightly": {"quiet_seconds": 30, "longest_seconds": 600}}
        elif row.table in (
            "dimse.callers",
            "dimse.doors",
            "dicomweb.callers",
            "folders",
            "archives",
            "worklists",
            "identity.peers",
        ):
            [one] = table.values()
            assert row.key in one
        elif row.key.startswith('"'):
            assert len(table) == 1
        else:
            assert row.key in (table[0] if isinstance(table, list) else table)
    # An archive takes images by C-STORE or by STOW-RS: the example is of the one, and shows both.
    settings = _read(tmp_path, re.sub(r"^(stow|token) = .*$", "", examples, flags=re.MULTILINE))
    assert settings.archives["PACS"].port == 104
    assert settings.people.group == "radiology"
    assert isinstance(settings.audit.syslog, Collector)
    assert settings.bandwidth[0].mbit_per_second == 50
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize("row", CHECKED, ids=lambda row: row.name)
def test_each_setting_takes_its_kind_and_refuses_others_by_name(
    tmp_path: Path, row: Setting
) -> None:
    good = {
        "number": [f"{row.least}", f"{row.most}"],
        "text": ['"x"'],
        "texts": ["[]", '["x"]'],
        "places": ["[]", '["10.1.2.3:11112", "[::1]:1"]'],
        "flag": ["true", "false"],
        "choice": [f'"{choice}"' for choice in row.choices],
        "permissions": ['"0640"', '"600"'],
        "path": ['"/x"', '""'],
        "local": ['""', '"127.0.0.1:9464"', '"[::1]:1"'],
        "url": ['""'],
        "relay": ['""'],
        "address": ['"a.b@hospital.example"', '""'],
        "addresses": ["[]", '["a@b", "c@d.example"]'],
        "uid": ['"1.2.3"', '""'],
    }[row.kind]
    if row.name == "dicomweb.origins":
        good = ["[]", '["https://viewer.example"]']
    bad = {
        "number": [f"{(row.least or 0) - 1}", f"{(row.most or 0) + 1}", "true", "1.0", '"1"'],
        "text": ["1", "[]", "true"],
        "texts": ['"x"', "[1]", "1"],
        "places": ['"10.1.2.3:1"', '["x"]', '["10.1.2.3"]', '["a:1"]', '["10.1.2.3:65536"]'],
        "flag": ["1", '"true"', "[]"],
        "choice": ['"other"', "1"],
        "permissions": ['"0777"', '"x"', "0"],
        "path": ['"x"', "1"],
        "local": ['"0.0.0.0:9464"', '"10.1.2.3:9464"', '"localhost:1"', '"127.0.0.1"', "9464"],
        "url": ['"http://x/"', '"https://"', '"https://a@b/"', '"https://x/ y"', '"https://x:y"'],
        "relay": ['"a b"', '"a:0"', '"a:65536"', '"a:x"', '"a\\r\\nb:25"', "25"],
        "address": ['"x"', '"a@b c"', '"a@b\\nX: y"', '"a@b,c@d"', '"<a@b>"', "1"],
        "addresses": ['"a@b"', '["a@b\\r\\nTo: c@d"]', '["x"]', f"{['a@b'] * 21}"],
        "uid": ['"north"', '"1..2"', "1"],
    }[row.kind]
    for value in good:
        _read(tmp_path, _written(row, value))
    for value in bad:
        with pytest.raises(NodeError) as caught:
            _read(tmp_path, _written(row, value))
        assert caught.value.message == f"{row.name} in {tmp_path / 'config.toml'} must be " + (
            row.expected
        )
        assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize("table", ["", "audit", "audit.syslog", "people"])
def test_an_entry_that_nobody_knows_is_named(tmp_path: Path, table: str) -> None:
    title = f"{TABLES[table]}\n" if table else ""
    with pytest.raises(NodeError, match="an unknown entry: nonsense") as caught:
        _read(tmp_path, f"{title}nonsense = 1\n")
    assert caught.value.hint
    assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize("table", ["audit", "people", "limits", "bandwidth"])
def test_what_must_be_a_table_says_how_it_is_written(tmp_path: Path, table: str) -> None:
    with pytest.raises(NodeError, match=r"table.* written \[") as caught:
        _read(tmp_path, f"{table} = 1\n")
    assert caught.value.code is ExitCode.USAGE


def test_rows_of_tables_with_a_reader_of_their_own_are_what_it_reads() -> None:
    assert set(rows_of("bandwidth")) == bandwidth._ENTRIES
    row = setting_rows.rows_of("bandwidth")["mbit_per_second"]
    for value in (row.least, row.most):
        bandwidth.read_rule({"peer": "*", "mbit_per_second": value})
    assert read_overrides({"South": {"request": [1, 1]}})


def test_names_are_there_once_and_their_tables_are_known() -> None:
    assert len({row.name for row in SETTINGS}) == len(SETTINGS)
    assert {row.table for row in SETTINGS} == {"", *TABLES}
    assert all(row.sentence and not row.sentence.endswith(".") for row in SETTINGS)
