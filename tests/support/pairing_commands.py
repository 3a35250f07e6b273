"""`radmesh pair` as two people run it, one at each node."""

import re
import subprocess
from types import TracebackType

from facilities import RADMESH, Facility, wait_until

CODE = re.compile(r"^    ((?:[0-9]{3} ){3}[0-9]{2})$", re.MULTILINE)
PLACE = re.compile(r"radmesh pair (\S+)`")


class PairCommand:
    """A running `radmesh pair`, whose standard input is a pipe."""

    def __init__(self, facility: Facility, *words: str) -> None:
        self._file = facility.errors.with_suffix(".pair")
        with self._file.open("wb") as out:
            self.process = subprocess.Popen(
                [*RADMESH, "--home", str(facility.home.path), "pair", *words],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "PairCommand":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    @property
    def screen(self) -> str:
        """All that it has printed."""
        return self._file.read_text()

    def sees(self, text: str) -> None:
        """Wait until it has printed something."""
        wait_until(lambda: text in self.screen, what=f"{text!r} in {self.screen}")

    def types(self, line: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def shown(self) -> tuple[str, str]:
        """Address and code that are on the screen."""
        wait_until(lambda: CODE.search(self.screen), what=f"a code in {self.screen}")
        code, place = CODE.search(self.screen), PLACE.search(self.screen)
        assert code is not None
        assert place is not None
        return place[1], code[1]

    def ends(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout=20)
