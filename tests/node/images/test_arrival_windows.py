"""How long arrivals wait is read from the settings, by source."""

import pytest

from node.config import read_settings
from node.errors import ExitCode, NodeError
from node.images.arrival_groups import Windows
from node.images.arrival_windows import windows_by

SETTINGS = """
[arrivals."*"]
longest_seconds = 300
[arrivals.dimse]
quiet_seconds = 700
[arrivals."dimse:CT 1"]
quiet_seconds = 5
longest_seconds = 60
"""


def read(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return read_settings(path).arrivals


def test_the_nearest_entry_counts(tmp_path):
    of = windows_by(read(tmp_path, SETTINGS))
    assert of("dimse:CT 1") == Windows(5, 60)
    assert of("dimse:CT2") == of("dimse") == Windows(700, 700)
    assert of("watch:cd") == Windows(30, 300)
    assert windows_by({})("dimse") == Windows(30, 600)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arrivals = 3", "must be tables"),
        ("[arrivals]\ndimse = 3", "no table"),
        ("[arrivals.dimse]\nquiet = 3", "no table"),
        ("[arrivals.dimse]\nquiet_seconds = 0", "from 1 to 3600"),
        ("[arrivals.dimse]\nquiet_seconds = 1.5", "from 1 to 3600"),
        ("[arrivals.dimse]\nlongest_seconds = 86401", "from 1 to 86400"),
        ("[arrivals.dimse]\nquiet_seconds = 9\nlongest_seconds = 8", "below its quiet"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, said):
    with pytest.raises(NodeError, match=said) as caught:
        read(tmp_path, text)
    assert caught.value.code is ExitCode.USAGE
    assert "arrivals in" in caught.value.message
