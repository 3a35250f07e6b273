"""The unit of packaging/ under a real systemd: started, killed, set wrongly, sealed, stopped.

systemd runs as the first process of its own namespaces, over a copy of this machine's file system
that is thrown away.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

SYSTEMD = Path("/lib/systemd/systemd")
PYTHON = Path("/usr/bin/python3")

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(300)]

_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$WORK/space"
mkdir "$WORK/space/upper" "$WORK/space/work"
mount -t overlay overlay "$WORK/root" \\
    -o "lowerdir=/,upperdir=$WORK/space/upper,workdir=$WORK/space/work"
cd "$WORK/root"
rm -rf opt/radmesh; mkdir -p opt/radmesh
for package in keys protocol edges node; do
    test ! -d "$ROOT/$package" || cp -r "$ROOT/$package" opt/radmesh/
done
"$PYTHON" -m venv --without-pip opt/radmesh/.venv
packages=opt/radmesh/.venv/lib/python3.*/site-packages
cp -r "$PACKAGES"/* $packages/
rm -rf $packages/__editable__* $packages/radmesh*
echo /opt/radmesh > $(echo $packages)/radmesh.pth
cat > opt/radmesh/.venv/bin/radmesh <<'END'
#!/opt/radmesh/.venv/bin/python
import sys
from node.cli import main
sys.exit(main())
END
chmod 755 opt/radmesh/.venv/bin/radmesh
cp "$ROOT/packaging/radmesh.service" etc/systemd/system/radmesh.service
cat > etc/systemd/system/probe.service <<'END'
[Service]
Type=oneshot
ExecStart=/bin/bash /mnt/commands
END
grep -q '^radmesh:' etc/passwd || echo 'radmesh:x:977:977::/:/usr/sbin/nologin' >> etc/passwd
grep -q '^radmesh:' etc/group || echo 'radmesh:x:977:' >> etc/group
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
# RemoveIPC=yes deletes what the user has in this folder: not the space that is below it out there.
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind "$WORK/out" mnt
mkdir -p oldroot
pivot_root . oldroot
cd /
umount -l /oldroot
mount --make-rshared /
export container=other
exec /lib/systemd/systemd --system --log-target=null --unit=probe.service
"""

_COMMANDS = """
say() { echo "$@" >> /mnt/said; }
state() { say "$1" "$(systemctl show radmesh --value -p ActiveState -p Result | tr '\\n' ' ')"; }
as() { runuser -u radmesh -- /opt/radmesh/.venv/bin/radmesh --home /var/lib/radmesh/home "$@"; }
exec 2>> /mnt/errors
systemctl start systemd-journald
systemctl daemon-reload
install -d -o radmesh -g radmesh -m 0700 /var/lib/radmesh
as init --name North --listen /ip4/127.0.0.1/tcp/4191 >> /mnt/errors
systemctl start radmesh; state started
as status --alive > /dev/null; say alive $?
kill -9 "$(systemctl show radmesh --value -p MainPID)"
for _ in $(seq 100); do as status --alive > /dev/null && break; sleep 0.2; done
state killed; say restarts "$(systemctl show radmesh --value -p NRestarts)"
systemctl stop radmesh; state stopped
as audit show >> /mnt/log
cp /var/lib/radmesh/home/config.toml /tmp/config
sed -i '1i nonsense = 1' /var/lib/radmesh/home/config.toml
systemctl start radmesh; sleep 3
state wrong; say code "$(systemctl show radmesh --value -p ExecMainStatus)" \\
    "$(systemctl show radmesh --value -p NRestarts)"
cp /tmp/config /var/lib/radmesh/home/config.toml
systemctl reset-failed radmesh
echo 'correct horse battery' > /tmp/passphrase
chmod 644 /tmp/passphrase
as keys seal --new-passphrase-fd 0 < /tmp/passphrase >> /mnt/errors
systemctl start radmesh; say sealed "$(systemctl show radmesh --value -p ExecMainStatus)"
systemctl reset-failed radmesh
mkdir -p /etc/credstore.encrypted /etc/systemd/system/radmesh.service.d
systemd-creds --with-key=host --name=radmesh.passphrase encrypt /tmp/passphrase \\
    /etc/credstore.encrypted/radmesh.passphrase
cat > /etc/systemd/system/radmesh.service.d/passphrase.conf <<'END'
[Service]
LoadCredentialEncrypted=radmesh.passphrase:/etc/credstore.encrypted/radmesh.passphrase
END
systemctl daemon-reload
systemctl start radmesh; state credential
as status --alive > /dev/null; say alive $?
systemctl stop radmesh; state ended
journalctl --no-pager -u radmesh >> /mnt/journal
touch /mnt/done
"""


def _why_not() -> str:
    if os.getuid() != 0:
        return "needs root, to make namespaces"
    if not SYSTEMD.exists() or shutil.which("systemd-creds") is None:
        return "needs systemd 250 or newer (apt install systemd)"
    if shutil.which("unshare") is None:
        return "needs unshare (apt install util-linux)"
    version = subprocess.run(
        [PYTHON, "-c", "import ensurepip, sys; print(*sys.version_info[:2])"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if version.stdout.split() != [str(part) for part in sys.version_info[:2]]:
        return f"needs Debian's Python of the version of the tests at {PYTHON}, with venv"
    return ""


def _boot(directory: Path) -> Path:
    """Run the commands under systemd; the folder of what they said."""
    out = directory / "out"
    for name in ("space", "root", "out"):
        (directory / name).mkdir()
    (out / "commands").write_text(_COMMANDS)
    packages = next(Path(sys.prefix).glob("lib/python3.*/site-packages"))
    with (directory / "console").open("wb") as console:
        process = subprocess.Popen(
            ["unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--kill-child",
             "bash", "-c", _BOOT],
            env={**os.environ, "WORK": str(directory), "ROOT": str(ROOT), "PYTHON": str(PYTHON),
                 "PACKAGES": str(packages)},
            stdout=console, stderr=console, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 240
            while not (out / "done").exists() and process.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.2)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not (out / "said").exists():
        console_text = (directory / "console").read_text(errors="replace")[-500:]
        pytest.skip(f"systemd cannot be started in namespaces here: {console_text}")
    return out


def test_the_unit_as_it_is_shipped(tmp_path: Path) -> None:
    if why := _why_not():
        pytest.skip(why)
    out = _boot(tmp_path)
    told = (out / "errors").read_text()
    assert (out / "done").exists(), told
    said = [line.split() for line in (out / "said").read_text().splitlines()]
    assert said == [
        ["started", "success", "active"],
        ["alive", "0"],
        ["killed", "success", "active"],
        ["restarts", "1"],
        ["stopped", "success", "inactive"],
        # Wrong settings: exit code 2, and not tried again.
        ["wrong", "exit-code", "failed"],
        ["code", "2", "0"],
        # Sealed, and nobody there who could be asked.
        ["sealed", "12"],
        ["credential", "success", "active"],
        ["alive", "0"],
        ["ended", "success", "inactive"],
    ], told
    journal = (out / "journal").read_text()
    assert "an unknown entry: nonsense" in journal
    assert "correct horse" not in journal
    # Killed once, and stopped with its entry.
    kinds = [
        line.split()[-1] for line in (out / "log").read_text().splitlines() if " start" in line
    ]
    assert len(kinds) >= 2
    assert " stop" in (out / "log").read_text()
