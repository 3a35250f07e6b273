"""Other users of this machine, for tests that run as root."""

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user too")

OTHER, SECOND, OUTSIDER = "daemon", "bin", "nobody"
OTHERS_GROUP = "games"

CLIENT = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
body = sys.argv[3].encode()
connection.sendall(b"POST /v1/%b HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n"
    b"content-length: %d\\r\\n\\r\\n%b" % (sys.argv[2].encode(), len(body), body))
answer = b""
while b"\\r\\n0\\r\\n\\r\\n" not in answer and b"error" not in answer:
    received = connection.recv(65536)
    if not received:
        break
    answer += received
sys.stdout.buffer.write(answer)
"""


def as_user(
    user: str, groups: list[str], at: Path, operation: str, **parameters: Any
) -> subprocess.CompletedProcess[bytes]:
    """Ask over a socket as another user of this machine."""
    words = ["/usr/bin/env", "python3", "-I", "-c", CLIENT, str(at), operation]
    return subprocess.run(
        [*words, json.dumps(parameters)],
        capture_output=True,
        timeout=60,
        cwd="/",
        user=user,
        group=pwd.getpwnam(user).pw_gid,
        extra_groups=groups,
    )


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can enter."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
