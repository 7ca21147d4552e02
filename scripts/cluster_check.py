"""The common part of check_ray.py, check_slurm.py and check_kubernetes.py: faults, and the
check that each run ended once, with losses identical to those of a run in a child process."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path

from cluster_server import BATCH, LEASE, ClusterServer, Failure, read, wait_for
from kill_server import PAIRS

ROOT = Path(__file__).resolve().parent.parent
# Time within which the server must notice a worker's death.
NOTICED_WITHIN = 30


class Trial:
    """A cluster, a server, and the losses of an undisturbed run."""

    def __init__(self, cluster, options, folder):
        self.cluster, self.options, self.folder = cluster, options, folder
        self.rows, self.failed, self.number = [], False, 0

    def row(self, what, seconds, told):
        self.rows.append((what, seconds, told))
        print(f"{what:<24} {seconds:6.1f} s   {told}", flush=True)

    def note(self, line):
        """Appends a line about a run to the log of all runs."""
        if self.options.log:
            with open(self.options.log, "a") as log:
                print(self.cluster.name, line, file=log)

    def server(self, name="server", launcher=None):
        server = ClusterServer(self.folder / name, self.options.binary, launcher or self.cluster.settings(),
                               self.cluster.environment, self.options.runs + 6)
        server.prepare()
        return server

    def reference(self):
        """Returns the losses of a run in a child process."""
        begun = time.monotonic()
        server = self.server("processes", '[launcher]\nkind = "processes"')
        try:
            server.submit("reference", self.options.epochs)
            server.wait_for_end(["reference"])
            expected = server.losses("reference")
            server.verify("reference", expected)
        finally:
            server.stop()
        if len(expected) != self.options.epochs * PAIRS // BATCH:
            raise Failure(f"{len(expected)} steps")
        self.row("processes, undisturbed", time.monotonic() - begun, f"{len(expected)} steps")
        return expected

    def run(self):
        cluster = self.cluster
        try:
            begun = time.monotonic()
            cluster.start()
            self.row(f"{cluster.name} starts", time.monotonic() - begun, cluster.version())
            self.expected = self.reference()
            server = self.server()
            try:
                for _ in range(self.options.rounds):
                    for kind in self.options.faults:
                        self.fault(kind, server)
                left = wait_for("no job is left", lambda: not cluster.open_jobs(), 90) and "none"
                self.row("jobs left", 0, left)
                if hasattr(cluster, "left"):
                    self.row("objects left", 0, cluster.left())
            finally:
                server.stop()
            self.row("check", 0, server.check())
        finally:
            cluster.stop()
        return not self.failed

    def fault(self, kind, server):
        self.number += 1
        runs = [f"{kind}-{self.number}-{n}" for n in range(self.options.runs)]
        begun = time.monotonic()
        try:
            told = getattr(self, f"fault_{kind}")(server, runs)
        except Failure as failure:
            self.failed, told = True, f"FAILED: {failure}"
            # Clean up, so that this round does not disturb the next one.
            for run in runs:
                try:
                    server.call("DELETE", f"/api/v1/experiments/e/runs/{run}")
                except SystemExit:
                    pass
        self.row(kind, time.monotonic() - begun, told)

    def submit(self, server, runs):
        for run in runs:
            server.submit(run, self.options.epochs)

    def begin(self, server, runs):
        """Submits runs and waits until they train. Returns what the server has
        acknowledged of those that have not ended."""
        return self.begin_all([(server, runs)])[0]

    def begin_all(self, groups):
        count = sum(len(runs) for _, runs in groups)
        places = self.options.places
        if count == 1:
            [(server, runs)] = groups
            self.submit(server, runs)
            return [server.wait_for_training(runs, 1, 3)]
        # All runs are submitted before any starts. Otherwise the first could end before the last begins.
        with self.cluster.full():
            # One after the other: Slurm takes the jobs in this order.
            for together in zip_longest(*[[(server, run) for run in runs] for server, runs in groups]):
                for server, run in filter(None, together):
                    server.submit(run, self.options.epochs)
            wait_for("all jobs wait", lambda: len(self.cluster.open_jobs()) == count, 180)
        each = [min(len(runs), places if len(groups) == 1 else 1) for _, runs in groups]
        return [server.wait_for_training(runs, n, 1) for (server, runs), n in zip(groups, each)]

    def end(self, server, runs, acknowledged=None, killed=None, resumed=False):
        """Waits for runs and checks that each finished, once. `killed` is the time at which
        their workers died. `resumed`: the fault ends workers, so runs that had not
        finished by then resume from a checkpoint."""
        server.wait_for_end(runs)
        lost = resumptions = hit = 0
        noticed = []
        for run in runs:
            known = (acknowledged or {}).get(run, ())
            losses, resumes = server.verify(run, self.expected, known)
            line = f"{run}: ended once, {len(known)} steps acknowledged before the fault and kept, " \
                   f"{losses} lost, {resumes} resumed"
            if killed is not None and (after := server.noticed(run, killed)) is not None:
                noticed.append(after)
                line += f", noticed after {after:.1f} s"
            self.note(line)
            hit += bool(resumes or losses)
            lost, resumptions = lost + losses, resumptions + resumes
        if noticed and max(noticed) > NOTICED_WITHIN:
            raise Failure(f"noticed after {max(noticed):.1f} s")
        if resumed and not hit:
            raise Failure(f"the fault came too late:\n{server.log_of(runs[0])}")
        told = f"{len(runs)} runs ended once: {lost} lost, {resumptions} resumed"
        if acknowledged is not None and len(runs) > 1:
            trained = sum(bool(losses) for losses in acknowledged.values())
            told += f", {trained} trained and {len(acknowledged) - trained} waited at the fault"
        if resumed and hit < len(runs):
            told += f", {hit} hit"
        if noticed:
            told += f", noticed after {min(noticed):.0f} to {max(noticed):.0f} s"
        return told

    def fault_none(self, server, runs):
        """No fault: checks that nothing that others can see contains a token."""
        self.begin(server, runs)
        arguments = [read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
        shown = self.cluster.shown() + "".join(arguments)
        if re.search("ft_[0-9a-f]{64}", shown):
            raise Failure(f"others see a token: {shown}")
        if runs[0] not in shown:
            raise Failure(f"the names of runs are not shown: {shown}")
        return f"{self.end(server, runs)}; no token in {len(shown)} bytes that others see"

    def fault_node(self, server, runs):
        """Kills all nodes with jobs, with their processes."""
        known = self.begin(server, runs)
        killed = time.time()
        nodes = self.cluster.kill_nodes()
        return f"{self.end(server, runs, known, killed, resumed=True)}; {nodes} nodes killed"

    def fault_head(self, server, runs):
        """Kills the engine's head and starts it again."""
        known = self.begin(server, runs)
        told, killed = self.cluster.restart_head()
        return f"{self.end(server, runs, known, killed)}; {told}"

    def fault_restart(self, server, runs):
        """Stops the engine's controller in order and starts it again."""
        known = self.begin(server, runs)
        told, _ = self.cluster.restart_head(in_order=True)
        return f"{self.end(server, runs, known)}; {told}"

    def fault_server(self, server, runs):
        """Kills the server and starts it again after a while."""
        known = self.begin(server, runs)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        time.sleep(3)
        server.start()
        return self.end(server, runs, known)

    def fault_stopped_server(self, server, runs):
        """Tells the server to stop, and starts it again."""
        known = self.begin(server, runs)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
        server.start()
        return self.end(server, runs, known)

    def fault_away(self, server, runs):
        """The engine does not answer while runs train and others are submitted."""
        known = self.begin(server, runs)
        later = [f"{run}-later" for run in runs[:max(1, len(runs) // 5)]]
        with self.cluster.away():
            self.submit(server, later)
            wait_for("/readyz tells it", lambda: b"has not answered" in server.call("GET", "/readyz"), 60)
            time.sleep(self.options.away)
            if any(server.losses(run) for run in later):
                raise Failure("a run began although the engine did not answer")
        told = self.end(server, runs, known)
        return f"{told}; submitted meanwhile: {self.end(server, later)}; {self.options.away:g} s away"

    def fault_pending(self, server, runs):
        """Jobs wait because others fill the cluster."""
        with self.cluster.full():
            self.submit(server, runs)
            words = [wait_for("the status says where the run waits", lambda run=run: self.waits(server, run), 120)
                     for run in runs]
            time.sleep(self.options.pending)
            if any(server.has_ended(run) or server.losses(run) for run in runs):
                raise Failure("a run did not wait")
        return f"{self.end(server, runs)}; {self.options.pending:g} s, status: {words[0]}"

    @staticmethod
    def waits(server, run):
        told = json.dumps(server.status(run))
        found = re.search(r"waiting in [^\"]*queue, (?:job|Unschedulable:) [^\"]*", told)
        return found and found.group()

    def fault_stopped_job(self, server, runs):
        """Somebody stops the jobs with the engine's own commands."""
        known = self.begin(server, runs)
        self.cluster.stop_jobs()
        return self.end(server, runs, known, resumed=True)

    def fault_preempt(self, server, runs):
        """The engine needs the machines for more urgent jobs."""
        known = self.begin(server, runs)
        self.cluster.preempt()
        return self.end(server, runs, known, resumed=True)

    def fault_time_limit(self, server, runs):
        """The jobs reach their time limit."""
        known = self.begin(server, runs)
        self.cluster.limit_time()
        return self.end(server, runs, known, resumed=True)

    def fault_cancel(self, server, runs):
        """Deletes a run while it trains, and another while it waits."""
        self.begin(server, runs)
        for run in runs:
            server.call("DELETE", f"/api/v1/experiments/e/runs/{run}")
        wait_for("the jobs end", lambda: not self.cluster.open_jobs(), 90)
        with self.cluster.full():
            waiting = [f"{run}-waits" for run in runs]
            self.submit(server, waiting)
            for run in waiting:
                wait_for("it waits", lambda run=run: self.waits(server, run), 120)
                server.call("DELETE", f"/api/v1/experiments/e/runs/{run}")
        wait_for("the jobs that waited end", lambda: not self.cluster.open_jobs(), 120)
        return f"{2 * len(runs)} jobs ended"

    def fault_two(self, server, runs):
        """Two servers have runs on one cluster, and one of them is killed for a while."""
        other = self.server(f"other-{self.number}")
        half = (len(runs) + 1) // 2
        ours, theirs = runs[:half], runs[half:] or runs
        try:
            known, others = self.begin_all([(server, ours), (other, theirs)])
            other.process.send_signal(signal.SIGKILL)
            other.process.wait()
            time.sleep(2)
            other.start()
            told = self.end(server, ours, known)
            return f"{told}; other server, killed: {self.end(other, theirs, others)}"
        finally:
            other.stop()

    def fault_example(self, server, runs):
        """Runs the program text_to_image, unchanged, on each launcher."""
        wait_for("no job is left", lambda: not self.cluster.open_jobs(), 90)
        launchers = {kind: f'[launcher]\nkind = "{kind}"' for kind in ("threads", "processes")}
        launchers[self.cluster.name] = self.cluster.settings()
        curves = {kind: self.example(kind, launcher) for kind, launcher in launchers.items()}
        expected = curves["threads"]
        for kind, points in curves.items():
            if points != expected:
                differ = next(pair for pair in zip_longest(points, expected) if pair[0] != pair[1])
                raise Failure(f"{kind} has other values than threads, the first difference is {differ}")
        losses = [p[name] for p in expected for name in ("loss", "train_loss", "val_loss") if p.get(name) is not None]
        metrics = sum(len(p.get("metrics", ())) for p in expected)
        if not losses or not metrics:
            raise Failure(f"{len(losses)} losses and {metrics} metrics")
        return f"{len(losses)} losses and {metrics} metrics are the same to the bit on {', '.join(curves)}; " \
               f"the last loss is {losses[-1]!r}"

    def example(self, kind, launcher):
        """Runs the program against a new server. Returns the curves of its run."""
        server = self.server(f"example-{self.number}-{kind}", launcher)
        output, seen = server.folder / "example.log", []
        try:
            # The command is the same for each server, and these are its only variables.
            program = subprocess.Popen(
                [self.options.example, "--epochs", str(self.options.epochs)], cwd=server.folder,
                env={"JINA_FINETUNER_REGISTRY": server.local_url, "JINA_AUTH_TOKEN": server.token},
                stdin=subprocess.DEVNULL, stdout=open(output, "wb"), stderr=subprocess.STDOUT)

            def has_ended():
                seen.extend(self.cluster.jobs("RUNNING"))
                return program.poll() is not None
            try:
                wait_for(f"the program ends: {output}", has_ended, 1800)
            finally:
                program.kill()
                program.wait()
            if program.returncode:
                raise Failure(f"{kind}: the program failed: {read(output)[-1500:]}")
            if bool(seen) != (kind == self.cluster.name):
                raise Failure(f"{kind}: {'a' if seen else 'no'} job ran on {self.cluster.name}")
            runs = server.all_curves()
            if len(runs) != 1:
                raise Failure(f"{kind}: the server has {len(runs)} runs, not one")
            return runs[0]
        finally:
            server.stop()


def main(cluster_type, description, quick):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, help="finetuner-server; built in debug mode by default")
    parser.add_argument("--quick", action="store_true", help=f"one run without a fault, and one with `{quick}`")
    parser.add_argument("--fault", dest="faults", choices=["none", "example", *cluster_type.faults], action="append",
                        help="all by default, except `example`")
    parser.add_argument("--rounds", type=int, default=1, help="of each fault")
    parser.add_argument("--runs", type=int, default=1, help="number of runs that are submitted before each fault")
    parser.add_argument("--places", type=int, help="number of runs that the cluster can run at once; all by default")
    parser.add_argument("--epochs", type=int, default=12, help="of each run")
    parser.add_argument("--away", type=float, default=120, help="seconds for which the engine does not answer")
    parser.add_argument("--pending", type=float, default=LEASE + 5, help="seconds for which jobs wait")
    parser.add_argument("--example", type=Path, help="the compiled program text_to_image, for `--fault example`")
    parser.add_argument("--log", type=Path, help="file for a line about each run")
    parser.add_argument("--keep", action="store_true", help="keep all logs, and print their folder")
    cluster_type.add_options(parser)
    options = parser.parse_args()
    if "example" in (options.faults or ()):
        if not options.example or not options.example.is_file():
            parser.error("`--fault example` needs the compiled program: --example PATH")
        options.example = options.example.resolve()
    if os.geteuid() != 0:
        raise SystemExit("the script needs root, for nodes in separate namespaces")
    options.places = options.places or options.runs
    options.faults = ["none", quick] if options.quick else options.faults or ["none", *cluster_type.faults]
    if options.binary is None:
        subprocess.run(["cargo", "build", "-p", "finetuner-server", "--bins"], check=True, cwd=ROOT)
        options.binary = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/finetuner-server"
    options.binary = options.binary.resolve()
    folder = Path(tempfile.mkdtemp(prefix="finetuner-cluster-"))
    # Another user must be able to find the cluster's configuration.
    folder.chmod(0o711)
    begun = time.monotonic()
    good = False
    try:
        trial = Trial(cluster_type(options, folder), options, folder)
        good = trial.run()
        print(f"{len(trial.rows)} rows in {time.monotonic() - begun:.0f} s: {'all good' if good else 'FAILED'}")
    finally:
        if options.keep or not good:
            print(f"The logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if good else 1)
