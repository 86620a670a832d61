"""A real Slurm of two nodes on this machine: munged, slurmctld and two slurmd, started in well under a second.

With the right to make namespaces each node has its own hostname and address (10.77.N.0/24 on a private bridge, no
way out); without, both listen on loopback ports and their names do not resolve, which the launcher must survive too.
Whoever is not root runs it as themselves, without GPUs.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from slurm_cluster import accounting

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = Path(__file__).with_name("slurm.conf")
NODES = ("node1", "node2")


class SlurmCluster:
    """`with SlurmCluster(directory) as cluster:`; `cluster.conf` is the value for SLURM_CONF.

    `with_accounting`: with slurmdbd and its database, 3 s more to start; else sacct has nothing to say.
    """

    def __init__(self, base: Path, with_accounting: bool = False) -> None:
        self.base = base
        self.accounting = with_accounting
        self.conf = base / "etc" / "slurm.conf"
        self.root = os.getuid() == 0
        self.subnet = f"10.77.{os.getpid() % 250 + 1}"
        self.tag = f"xt{os.getpid() % 100000}"
        self.namespaces = self.root and self._make_network()
        self.ports = {name: _free_port() for name in ("slurmctld", *NODES, *accounting.DAEMONS)}

    def __enter__(self) -> SlurmCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def gpus(self) -> bool:
        """True where the nodes' four A100 have devices, so that jobs are told theirs; else they are only counted."""
        return (self.base / "dev" / "gpu0").is_char_device()

    def start(self) -> None:
        """Start everything; raises where the nodes are not idle within ten seconds."""
        self.base.chmod(0o755)  # munged insists
        for name in ("state", "spool", "log", "run", "dev", "etc"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        run = self.base / "run"
        key = run / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._check(
            "munged", f"--socket={run}/munge.sock", f"--key-file={key}", f"--pid-file={run}/munged.pid",
            f"--seed-file={run}/munged.seed", f"--log-file={self.base}/log/munged.log",
        )  # fmt: skip
        if self.accounting:
            accounting.start_accounting(self.base, self.environment(), self.ports["slurmdbd"], self.ports["mariadbd"])
        self._check("slurmctld")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def start_node(self, node: str) -> None:
        """Start (again) the slurmd of one node."""
        (self.base / "spool" / node).mkdir(exist_ok=True)
        if not self.namespaces:
            self._check("slurmd", "-N", node)
            return
        # nsenter, not `ip netns exec`: that remounts /sys, and slurmd then misses its cgroups
        inside = f"hostname {node}; mount --bind '{self.base}/etc/hosts' /etc/hosts; exec slurmd -N {node}"
        space = f"--net=/run/netns/{self.tag}-{node}"
        self._check("nsenter", space, "unshare", "--uts", "--mount", "bash", "-c", inside)

    def stop_node(self, node: str) -> None:
        """Kill a node's slurmd and everything of the jobs on it, as a power cut would."""
        self._kill(self.base / "run" / f"slurmd-{node}.pid", signal.SIGKILL)
        self._signal_processes({"SLURMD_NODENAME": node}, signal.SIGKILL)

    def resume_node(self, node: str, timeout_s: float = 30.0) -> None:
        """Bring a node that was marked down back, whether its slurmd's registration or this command is first."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.command("scontrol", "update", f"nodename={node}", "state=resume", check=False)
            state = self.command("sinfo", "-h", "-n", node, "-o", "%T").split()
            if state and not any(word in state[0] for word in ("down", "drain", "unknown", "*")):
                return
            time.sleep(0.5)
        raise RuntimeError(f"{node} did not come back within {timeout_s:.0f} s: {state}")

    def signal_job(self, job: str, number: int, rank: int | None = None) -> None:
        """Send a signal to the workers of a job (of one rank), past Slurm."""
        wanted = {"SLURM_JOB_ID": job, **({"RANK": str(rank)} if rank is not None else {})}
        assert self._signal_processes(wanted, number, ranks_only=True), f"no worker of job {job}"

    def wake_job(self, job: str) -> None:
        """Let stopped workers of a job go on. Slurm may have woken them itself, and they may have ended since."""
        self._signal_processes({"SLURM_JOB_ID": job}, signal.SIGCONT, ranks_only=True)

    def _signal_processes(self, wanted: dict[str, str], number: int, ranks_only: bool = False) -> int:
        """Signal this cluster's processes with these variables; only ranks with `ranks_only`."""
        lines = [f"SLURM_CONF={self.conf}", *(f"{key}={value}" for key, value in wanted.items())]
        found = 0
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (path / "environ").read_bytes().split(b"\0")
                is_rank = any(line.startswith(b"RANK=") for line in environment)
                if all(line.encode() in environment for line in lines) and (is_rank or not ranks_only):
                    os.kill(int(path.name), number)
                    found += 1
        return found

    def wait_for_nodes(self, timeout_s: float = 10.0) -> None:
        """Until both nodes are idle."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            states = self.command("sinfo", "-h", "-N", "-p", "debug", "-t", "idle", "-o", "%N", check=False).split()
            if len(states) == len(NODES):
                return
            time.sleep(0.1)
        logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in (self.base / "log").glob("*.log"))
        raise RuntimeError(f"Slurm's nodes did not come up:\n{self.command('sinfo', '-N', '-l', check=False)}\n{logs}")

    def preempt(self) -> None:
        """A job of the highest partition wants every node, for a moment."""
        self.command("sbatch", "-p", "high", "-N2", "--exclusive", "-t", "1", "-o", "/dev/null", "--wrap=true")

    def command(self, *words: str, check: bool = True) -> str:
        """Output of a Slurm command against this cluster."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=self.environment())
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Ours, pointing at this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def stop(self) -> None:
        """Cancel all jobs, end the daemons by pid file, remove the network."""
        if self.conf.exists() and (self.base / "run" / "slurmctld.pid").exists():
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.command("scancel", f"--user={getpass.getuser()}", check=False)
                for _ in range(80):
                    if not self.command("squeue", "-h", check=False).strip():
                        break
                    time.sleep(0.1)
        for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._kill(self.base / "run" / f"{name}.pid", signal.SIGTERM)
        if self.namespaces:
            self._remove_network()

    def _check(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, env=self.environment())
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")

    def _write_configuration(self) -> None:
        self._make_gpus()
        lines = []
        for index, node in enumerate(NODES):
            address = f"{self.subnet}.{index + 11}" if self.namespaces else "127.0.0.1"
            host = "" if self.namespaces else "NodeHostname=localhost "
            lines.append(
                f"NodeName={node} {host}NodeAddr={address} Port={self.ports[node]} CPUs=8 RealMemory=16000 "
                "Gres=gpu:a100:4 State=UNKNOWN"
            )
        controller = f"{self.subnet}.1" if self.namespaces else "127.0.0.1"
        # without namespaces the daemons bind their own addresses; with them that would shut the nodes out
        bind = "" if self.namespaces else "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"
        values = {
            "@BASE@": str(self.base), "@USER@": getpass.getuser(), "@NODES@": "\n".join(lines), "@BIND@": bind,
            "@CONTROLLER@": controller, "@PORT@": str(self.ports["slurmctld"]),
        }  # fmt: skip
        values |= {"@ACCOUNTING@": "AccountingStorageType=accounting_storage/none", "@MIN_JOB_AGE@": "300"}
        if self.accounting:
            values["@MIN_JOB_AGE@"] = "2"  # the controller forgets at once what sacct remembers
            values["@ACCOUNTING@"] = accounting.SLURM_CONF.format(base=self.base, port=self.ports["slurmdbd"])
        text = CONFIGURATION.read_text()
        for name, value in values.items():
            text = text.replace(name, value)
        self.conf.write_text(text)
        (self.base / "etc" / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        line = f"AutoDetect=off\nNodeName=node[1-2] Name=gpu Type=a100 File={self.base}/dev/gpu[0-3]\n"
        (self.base / "etc" / "gres.conf").write_text(line)
        hosts = f"127.0.0.1 localhost\n{controller} {socket.gethostname()}\n"
        hosts += "".join(f"{self.subnet}.{index + 11} {node}\n" for index, node in enumerate(NODES))
        (self.base / "etc" / "hosts").write_text(hosts)

    def _make_gpus(self) -> None:
        """Four devices that pass for GPUs: only character devices do, of plain files Slurm counts the number."""
        for index in range(4):
            path = self.base / "dev" / f"gpu{index}"
            try:
                os.mknod(path, 0o20666, os.makedev(1, 3))
            except OSError:
                path.touch()

    def _make_network(self) -> bool:
        """A bridge and a namespace per node; False where this machine does not let us."""
        bridge = f"{self.tag}b"
        commands = [["ip", "link", "add", bridge, "type", "bridge"]]
        commands += [
            ["ip", "addr", "replace", f"{self.subnet}.1/24", "dev", bridge],
            ["ip", "link", "set", bridge, "up"],
        ]
        for index, node in enumerate(NODES):
            space, link = f"{self.tag}-{node}", f"{self.tag}{index}"
            commands += [
                ["ip", "netns", "add", space],
                ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space],
                ["ip", "link", "set", link, "master", bridge, "up"],
                ["ip", "-n", space, "addr", "add", f"{self.subnet}.{index + 11}/24", "dev", "eth0"],
                ["ip", "-n", space, "link", "set", "lo", "up"],
                ["ip", "-n", space, "link", "set", "eth0", "up"],
            ]
        if shutil.which("ip") is None:
            return False
        for command in commands:
            if subprocess.run(command, capture_output=True).returncode != 0:
                self._remove_network()
                return False
        return True

    def _remove_network(self) -> None:
        for node in NODES:
            subprocess.run(["ip", "netns", "del", f"{self.tag}-{node}"], capture_output=True)
        subprocess.run(["ip", "link", "del", f"{self.tag}b"], capture_output=True)

    @staticmethod
    def _kill(pid_file: Path, number: int) -> None:
        """End the daemon of a pid file, and wait for it."""
        try:
            pid = int(pid_file.read_text())
            os.kill(pid, number)
        except (OSError, ValueError):
            return
        for attempt in range(100):
            if not _alive(pid):
                return
            if attempt == 80:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def missing(with_accounting: bool = False) -> str | None:
    """Why no cluster can be started here; None when it can."""
    wanted = (*DAEMONS, *accounting.DAEMONS) if with_accounting else DAEMONS
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [name for name in wanted if shutil.which(name, path=search) is None]
    return f"Slurm's daemons are not installed: {', '.join(absent)}" if absent else None
