"""Runs a server against a real Slurm on this machine, with a controller and two
nodes, and injects faults:

    node            the nodes of training runs are killed with their processes
    head            slurmctld is killed and started again
    restart         slurmctld is stopped in order and started again
    server          the server is killed and started again
    stopped_server  the server is stopped in order and started again
    away            slurmctld hangs (2 minutes, see --away)
    pending         jobs wait for longer than a lease (see --pending)
    stopped_job     somebody cancels the jobs: SIGTERM
    preempt         jobs of a higher partition take the nodes
    time_limit      the jobs reach their time limit
    cancel          runs are deleted, while one trains and while one waits
    two             two servers share the cluster, and one of them is killed
    example         no fault: the program text_to_image, unchanged, must have the same losses and
                    metrics on threads, on child processes and on Slurm (only if named)

With --runs 20, twenty runs are training or waiting at each fault. Each must end once,
with losses identical to those of a run in a child process.

    apt-get install slurm-wlm munge
    python scripts/check_slurm.py [--quick] [--fault node] [--runs 1] [--places 1] [--rounds 1]
        [--binary PATH]
    cargo build --release --example text_to_image
    python scripts/check_slurm.py --fault example
        --example target/release/examples/text_to_image [--epochs 12] [--binary PATH]

The script needs root. It does not change the machine's own configuration.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

from cluster_check import main
from cluster_server import Failure, Namespace, wait_for

NODES = ["node1", "node2"]
CONFIGURATION = """
ClusterName=check
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=3,bf_interval=3
ReturnToService=2
SlurmdTimeout=10
KillWait=10
# The login shell of a job takes its time where this machine is busy.
BatchStartTimeout=120
MinJobAge=300
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cores} RealMemory=2000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cores} RealMemory=2000
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""


class Slurm:
    name = "Slurm"
    faults = ["node", "head", "restart", "server", "stopped_server", "away", "pending", "stopped_job", "preempt",
              "time_limit", "cancel", "two"]

    @staticmethod
    def add_options(parser):
        pass

    def __init__(self, options, folder):
        missing = [p for p in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(p)]
        if missing:
            raise SystemExit(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
        self.options, self.folder = options, folder / "slurm"
        # Cores of each node: as many as the runs may need, independent of this machine.
        self.cores = (options.places + 1) // 2
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self.controller = self.munge = None
        self.nodes = {}

    def start(self):
        (self.folder / "state").mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        ports = []
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                free = stack.enter_context(socket.socket())
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname(), folder=self.folder, ports=ports, cores=self.cores))
        f = self.folder
        self.munge = subprocess.Popen(
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={f}/munge.sock",
             f"--pid-file={f}/munged.pid", f"--seed-file={f}/munge.seed", f"--log-file={f}/munge.log"],
            stdout=subprocess.DEVNULL, stderr=open(f / "munged.out", "ab"), start_new_session=True)
        wait_for("munged starts", (f / "munge.sock").exists, 20)
        self.start_head()
        for node in NODES:
            self.start_node(node)
        wait_for("both nodes are idle", lambda: self.say("sinfo", "-h", "-N", "-o", "%T").split()[:2] == ["idle"] * 2, 60)

    def start_head(self):
        self.controller = subprocess.Popen(
            ["slurmctld", "-D"], env=dict(os.environ, **self.environment), stdout=subprocess.DEVNULL,
            stderr=open(self.folder / "slurmctld.out", "ab"), start_new_session=True)
        wait_for("slurmctld answers", lambda: "UP" in self.say("scontrol", "ping"), 60)

    def start_node(self, node):
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        self.nodes[node] = Namespace(["slurmd", "-D", "-N", node], self.folder / f"{node}.out", self.environment)

    def say(self, *command, check=False):
        said = subprocess.run(command, env=dict(os.environ, **self.environment), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60)
        if check and said.returncode:
            raise Failure(f"{' '.join(command)}: {said.stderr}")
        return said.stdout

    def version(self):
        return self.say("sbatch", "--version").strip()

    def settings(self):
        return f"""[launcher]
kind = "slurm"
[launcher.slurm]
program = "{self.options.binary}"
partition = "low"
logs = "{self.folder}"
folder = "{self.folder}"
"""

    def jobs(self, state="RUNNING"):
        lines = self.say("squeue", "-h", "--me", f"--states={state}", "-o", "%i %j %N").splitlines()
        return [line.split() for line in lines if line.split()[1].startswith("ft-")]

    def open_jobs(self):
        return self.jobs("PENDING,RUNNING,SUSPENDED,COMPLETING,CONFIGURING")

    def shown(self):
        """Returns everything that Slurm shows of the jobs to a user who does not own them."""
        job = self.jobs()[0][0]
        script = self.say("runuser", "-u", "nobody", "--", "scontrol", "write", "batch_script", job, "-")
        return self.say("runuser", "-u", "nobody", "--", "scontrol", "-dd", "show", "job") + script

    def kill_nodes(self):
        killed = {node for _, _, node in self.jobs()}
        for node in killed:
            self.nodes[node].kill()
        # Slurm must notice the failure before the nodes are back, as with machines that reboot.
        wait_for("slurmctld sees it", lambda: not self.jobs(), 60)
        for node in killed:
            self.start_node(node)
        return len(killed)

    def restart_head(self, in_order=False):
        before = [job for job, _, _ in self.jobs()]
        if in_order:
            self.controller.terminate()
        else:
            self.controller.kill()
        self.controller.wait()
        time.sleep(3)
        self.start_head()
        states = self.say("squeue", "-h", "--states=all", "-j", ",".join(before), "-o", "%T").split()
        counted = {state: states.count(state) for state in set(states)}
        return f"the jobs under the new slurmctld: {counted or 'forgotten'}", None

    @contextlib.contextmanager
    def away(self):
        self.controller.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.controller.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def full(self):
        fillers = [self.say("sbatch", "--parsable", "--output=/dev/null", "--partition=high", "--exclusive",
                            "--wrap=sleep 3600", check=True).strip() for _ in NODES]
        try:
            wait_for("the cluster is full", lambda: self.say(
                "squeue", "-h", "--states=RUNNING", "-j", ",".join(fillers)).count("\n") == len(NODES), 60)
            yield
        finally:
            self.say("scancel", *fillers)

    def stop_jobs(self):
        self.say("scancel", *[job for job, _, _ in self.jobs()])

    def preempt(self):
        before = {job for job, _, _ in self.jobs()}
        for node in {node for _, _, node in self.jobs()}:
            self.say("sbatch", "--output=/dev/null", "--partition=high", f"--nodelist={node}", "--exclusive",
                     "--wrap=sleep 10", check=True)
        wait_for("the jobs are preempted", lambda: not before & {job for job, _, _ in self.jobs()}, 120)

    def limit_time(self):
        for job, _, _ in self.jobs():
            self.say("scontrol", "update", f"JobId={job}", "TimeLimit=1", check=True)

    def stop(self):
        for node in self.nodes.values():
            node.kill()
        for process in (self.controller, self.munge):
            if process and process.poll() is None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main(Slurm, __doc__, "stopped_job")
