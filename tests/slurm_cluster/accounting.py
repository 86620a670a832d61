"""Real accounting for the cluster of `cluster.py`: a private mariadbd and slurmdbd, so that sacct answers."""

from __future__ import annotations

import getpass
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

DAEMONS = ("mariadbd", "slurmdbd")  # in the order in which they start
SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={base}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={base}/log/slurmdbd.log
PidFile={base}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
SLURM_CONF = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={base}/run/munge.sock
"""
GRANTS = (
    "create database if not exists slurm_acct; create user 'slurm'@'127.0.0.1' identified by 'slurm'; "
    "create user 'slurm'@'localhost' identified by 'slurm'; grant all on slurm_acct.* to 'slurm'@'127.0.0.1'; "
    "grant all on slurm_acct.* to 'slurm'@'localhost';"
)


def start_accounting(base: Path, environment: Mapping[str, str], port: int, database_port: int) -> None:
    """Start the database and slurmdbd, and register the cluster. munged must be up; slurmctld starts after it."""
    user = getpass.getuser()
    data, run, log = base / "db", base / "run", base / "log"
    data.mkdir(exist_ok=True)
    as_user = [f"--user={user}"] if os.getuid() == 0 else []
    made = ["mariadb-install-db", "--no-defaults", *as_user, f"--datadir={data}", "--skip-test-db"]
    check([*made, "--auth-root-authentication-method=normal"], environment)
    with open(log / "mariadbd.out", "ab") as out:
        subprocess.Popen(
            [
                "mariadbd", "--no-defaults", *as_user, f"--datadir={data}", f"--socket={run}/db.sock",
                f"--pid-file={run}/mariadbd.pid", "--bind-address=127.0.0.1", f"--port={database_port}",
                "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--innodb-lock-wait-timeout=900",
                "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve",
            ],
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    asks = ["mariadb", "--no-defaults", "-u", "root", "-S", f"{run}/db.sock", "-e", GRANTS]
    until_it_works(lambda: check(asks, environment), "mariadbd")
    configuration = base / "etc" / "slurmdbd.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(SLURMDBD.format(base=base, port=port, user=user, database_port=database_port))
    check(["slurmdbd"], environment)
    until_it_works(lambda: check(["sacctmgr", "-i", "add", "cluster", "extes"], environment), "slurmdbd")


def check(words: list[str], environment: Mapping[str, str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=dict(environment))
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")


def until_it_works(attempt: Callable[[], None], what: str, timeout_s: float = 30.0) -> None:
    """Try again until `attempt` raises no RuntimeError."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            return attempt()
        except RuntimeError as error:
            if time.monotonic() > end:
                raise RuntimeError(f"{what} does not answer: {error}") from error
        time.sleep(0.1)
