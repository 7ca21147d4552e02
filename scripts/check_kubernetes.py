"""Runs a server against a real control plane of Kubernetes on this machine: etcd,
kube-apiserver with RBAC, and kube-controller-manager with the controllers of Jobs, service
accounts and the garbage collection. The server uses the service account of
deploy/kubernetes/finetuner.yaml, which is applied as it is, so its role must suffice.

There is no scheduler, no kubelet and no container: the script takes their place. It binds each pod
to a node, starts the container's command with its environment as its user, without
capabilities, in namespaces with a read-only root file system and the pod's volumes,
writes the pod's status, and sends SIGTERM and SIGKILL when the pod is deleted. Images,
resource limits, the network of pods, and scheduling are not tested. It injects these faults:

    node            the node of training runs dies with its pods, and returns after a minute
    head            etcd, kube-apiserver and kube-controller-manager are killed and started again
    server          the server is killed and started again
    stopped_server  the server is stopped in order and started again
    away            kube-apiserver hangs (2 minutes, see --away)
    pending         pods wait for longer than a lease (see --pending)
    stopped_job     somebody deletes the Jobs
    preempt         somebody deletes the pods, as a preemption or a drained node does
    cancel          runs are deleted, while one trains and while one waits
    two             two servers share the cluster, and one of them is killed
    example         no fault: the program text_to_image, unchanged, must have the same losses and
                    metrics on threads, on child processes and on Kubernetes (only if named)

Each run must end once, with losses identical to those of a run in a child process. At the
end no Job, pod or Secret of a run may be left.

Only Kubernetes 1.20.2 was tried. These commands build it on Debian 12, whose
source package has all dependencies:

    apt-get install etcd-server golang-go; apt-get source --download-only kubernetes   # needs deb-src
    export GOPATH=/tmp/go GO111MODULE=off CGO_ENABLED=0; mkdir -p /tmp/go/src/k8s.io/kubernetes
    tar xf kubernetes_1.20*.orig.tar.gz -C /tmp/go/src/k8s.io/kubernetes --strip-components 1
    cd /tmp/go/src/k8s.io/kubernetes
    go run ./vendor/k8s.io/kube-openapi/cmd/openapi-gen -O zz_generated.openapi -r /dev/null
        -h hack/boilerplate/boilerplate.generatego.txt -p k8s.io/kubernetes/pkg/generated/openapi
        -i $(grep -Rl --include=*.go +k8s:openapi-gen= pkg vendor/k8s.io/*/pkg vendor/k8s.io/*/config
             vendor/k8s.io/api | grep -v sample | xargs dirname | sort -u | sed s,^,k8s.io/kubernetes/, | paste -sd,)
    mkdir /tmp/kube; go build -o /tmp/kube/ ./cmd/kube-apiserver ./cmd/kube-controller-manager

This kube-apiserver calls itself v0.0.0-master, and names the commit of 1.20.2.

    cargo build -p finetuner-server --features kubernetes
    python scripts/check_kubernetes.py --kube-apiserver PATH --kube-controller-manager PATH
        [--etcd PATH] [--quick] [--fault node] [--runs 1] [--rounds 1]
        --binary target/debug/finetuner-server

The script needs root, kubectl and openssl.
"""

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

from cluster_check import ROOT, main
from cluster_server import Failure, Namespace, children, wait_for

LABEL, NAMESPACE = "finetuner/server", "finetuner"
OURS = f"?labelSelector={LABEL}"
ANNOTATIONS = {"finetuner/run", "finetuner/user", "finetuner/experiment"}
NODE = "node-1"
# Seconds until a node that died is back.
RETURNS_AFTER = 60
KEEP_ENDED = 30
# Starts a container's command: $1 is the pod's folder, $2 the program.
CONTAINER = """
set -e
mount -t tmpfs none /mnt
touch /mnt/finetuner-server
mount --bind "$2" /mnt/finetuner-server
mount -t tmpfs none /run
mkdir /run/finetuner
mount --bind "$1/start" /run/finetuner
mount --bind "$1/temporary" /tmp
mount -o remount,bind,ro /
cd /
shift 2
exec env -i PATH=/mnt:/usr/bin:/bin "$@"
"""


class Kubernetes:
    name = "Kubernetes"
    faults = ["node", "head", "server", "stopped_server", "away", "pending", "stopped_job", "preempt", "cancel", "two"]
    environment = {}

    @staticmethod
    def add_options(parser):
        parser.add_argument("--kube-apiserver", default="kube-apiserver")
        parser.add_argument("--kube-controller-manager", default="kube-controller-manager")
        parser.add_argument("--etcd", default="etcd")

    def __init__(self, options, folder):
        for program in (options.etcd, options.kube_apiserver, options.kube_controller_manager, "kubectl", "openssl"):
            if not shutil.which(program):
                raise SystemExit(f"{program} not found; `--help` says how to get it")
        self.options, self.folder = options, folder
        self.admin = secrets.token_hex(32)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            self.port, self.etcd_port, self.peer_port, self.manager_port = (s.getsockname()[1] for s in sockets)
        self.processes, self.pods = {}, {}
        self.places, self.is_full, self.is_over = max(2, options.places), False, False
        self.lock, self.node = threading.Lock(), None

    # The control plane.

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.folder)

    def certificates(self):
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
                     "-subj", "/CN=ca", "-days", "2")
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "api.key", "-out", "api.csr",
                     "-subj", "/CN=api")
        (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        self.openssl("x509", "-req", "-in", "api.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                     "-out", "api.pem", "-days", "2", "-extfile", "names")
        self.openssl("genrsa", "-out", "accounts.key", "2048")
        self.tls = ssl.create_default_context(cafile=self.folder / "ca.pem")

    def kubeconfig(self, name, token):
        path = self.folder / f"{name}.kubeconfig"
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.folder / "ca.pem")}
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}], "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": NAMESPACE}}]}))
        return path

    def begin(self, name, *command):
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start_control_plane(self):
        at, options = self.folder, self.options
        etcd = f"http://127.0.0.1:{self.etcd_port}"
        self.begin("etcd", options.etcd, f"--data-dir={at}/etcd", f"--listen-client-urls={etcd}",
                   f"--advertise-client-urls={etcd}", f"--listen-peer-urls=http://127.0.0.1:{self.peer_port}")
        self.begin("kube-apiserver", options.kube_apiserver, f"--etcd-servers={etcd}", "--bind-address=127.0.0.1",
                   f"--secure-port={self.port}", f"--tls-cert-file={at}/api.pem",
                   f"--tls-private-key-file={at}/api.key", f"--token-auth-file={at}/tokens.csv",
                   "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
                   "--service-account-issuer=https://kubernetes.default.svc",
                   f"--service-account-key-file={at}/accounts.key",
                   f"--service-account-signing-key-file={at}/accounts.key", f"--cert-dir={at}", *self.gates)
        wait_for("kube-apiserver is ready", lambda: self.call("GET", "/readyz")[0] == 200, 120)
        self.begin("kube-controller-manager", options.kube_controller_manager, f"--kubeconfig={self.config}",
                   "--controllers=job,garbagecollector,ttl-after-finished,serviceaccount", "--leader-elect=false",
                   f"--secure-port={self.manager_port}", "--bind-address=127.0.0.1", f"--cert-dir={at}",
                   *self.gates, *self.no_port)

    def start(self):
        self.certificates()
        (self.folder / "tokens.csv").write_text(f"{self.admin},admin,1,system:masters\n")
        self.config = self.kubeconfig("admin", self.admin)
        # Before 1.21, ended Jobs are only removed with this gate.
        program = self.options.kube_controller_manager
        told = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
        needs_gate = "TTLAfterFinished=true|false (ALPHA" in told.stdout
        self.gates = ["--feature-gates=TTLAfterFinished=true"] if needs_gate else []
        # Old versions also listen on a fixed port without TLS.
        self.no_port = ["--port=0"] if "--port int" in told.stdout else []
        self.start_control_plane()
        for command in (["create", "namespace", NAMESPACE],
                        ["-n", NAMESPACE, "apply", "-f", ROOT / "deploy/kubernetes/finetuner.yaml"]):
            done = subprocess.run(["kubectl", "--kubeconfig", self.config, *command], capture_output=True, text=True)
            if done.returncode:
                raise Failure(f"kubectl: {done.stdout}{done.stderr}")
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                   "spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 86400}}
        made = self.good("POST", f"{self.core('serviceaccounts')}/finetuner/token", request)
        token = made["status"]["token"]
        self.account = self.kubeconfig("account", token)
        for path in (self.core("secrets"), self.core("configmaps"), "/api/v1/namespaces"):
            if self.call("GET", path, token=token)[0] != 403:
                raise Failure(f"the account of the server may read {path}")
        default = f"{self.core('serviceaccounts')}/default"
        wait_for("the default account exists", lambda: self.call("GET", default)[0] == 200)
        self.node = threading.Thread(target=self.be_node, daemon=True)
        self.node.start()

    def call(self, method, path, body=None, token=None, kind="application/json"):
        """Returns the status and the answer. The status is 0 if there was none."""
        headers = {"Authorization": f"Bearer {token or self.admin}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.tls) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)
        with contextlib.suppress(ValueError):
            return status, json.loads(text)
        return status, text

    def good(self, *arguments, **more):
        status, answer = self.call(*arguments, **more)
        if not 200 <= status < 300:
            raise Failure(f"{arguments[:2]}: {status} {answer}")
        return answer

    @staticmethod
    def core(kind):
        return f"/api/v1/namespaces/{NAMESPACE}/{kind}"

    JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"

    def version(self):
        told = self.good("GET", "/version")["gitVersion"]
        return f"Kubernetes {told}, no kubelet; the manifest was applied, and its account can't read Secrets"

    def settings(self):
        return f"""[launcher]
kind = "kubernetes"
[launcher.kubernetes]
image = "registry.example/finetuner-server:0.1.0"
kubeconfig = "{self.account}"
stop_grace = 20
keep_ended = {KEEP_ENDED}
environment = ["RAYON_NUM_THREADS=1"]
"""

    def stop(self):
        self.is_over = True
        if self.node:
            self.node.join()
        for pod in self.pods.values():
            self.kill(pod)
        for process in self.processes.values():
            process.kill()
            process.wait()

    # The scheduler and the kubelet.

    def be_node(self):
        while not self.is_over:
            try:
                with self.lock:
                    self.turn()
            except Failure as failure:
                with open(self.folder / "node.log", "a") as log:
                    print(time.time(), failure, file=log)
            time.sleep(0.3)

    def turn(self):
        pods = {pod["metadata"]["uid"]: pod for pod in self.good("GET", self.core("pods") + OURS)["items"]}
        for uid, pod in pods.items():
            mine = self.pods.get(uid)
            is_deleted = "deletionTimestamp" in pod["metadata"]
            phase = pod["status"].get("phase")
            if mine is None:
                if is_deleted or phase in ("Succeeded", "Failed"):
                    self.forget(pod)
                elif phase == "Running":
                    raise Failure(f"an unknown pod runs: {pod['metadata']['name']}")
                else:
                    self.schedule(uid, pod)
            elif mine["lost"] and time.time() < mine["lost"] + RETURNS_AFTER:
                continue
            elif (code := mine["process"].process.poll()) is not None:
                self.report_end(pod, code, mine)
                if is_deleted:
                    self.forget(pod)
                    del self.pods[uid]
            elif is_deleted:
                if mine["stop"] is None:
                    mine["stop"] = time.time() + pod["metadata"]["deletionGracePeriodSeconds"]
                    for pid in children(mine["process"].process.pid)[:1]:
                        os.kill(pid, signal.SIGTERM)
                elif time.time() > mine["stop"]:
                    self.kill(mine)
        for uid in [uid for uid in self.pods if uid not in pods]:
            self.kill(self.pods.pop(uid))

    @staticmethod
    def kill(mine):
        """Kills the first process of a container, and so all others."""
        # It does not end with its parent, because it has changed its user.
        for pid in children(mine["process"].process.pid)[:1]:
            os.kill(pid, signal.SIGKILL)
        mine["process"].kill()

    def forget(self, pod):
        """Removes a deleted pod, as the kubelet does after its containers have ended."""
        if "deletionTimestamp" in pod["metadata"]:
            how = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
            self.call("DELETE", f"{self.core('pods')}/{pod['metadata']['name']}", how)

    def schedule(self, uid, pod):
        name = pod["metadata"]["name"]
        if self.is_full or sum(mine["process"].process.poll() is None for mine in self.pods.values()) >= self.places:
            told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient cpu."}
            if not pod["status"].get("conditions"):
                self.report(name, {"conditions": [told]})
            return
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        self.good("POST", f"{self.core('pods')}/{name}/binding",
                  {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target})
        self.pods[uid] = {"process": self.container(pod), "lost": 0, "stop": None, "told": False}
        running = {"running": {"startedAt": self.now()}}
        self.report(name, {"phase": "Running", "startTime": self.now(), "containerStatuses": [self.status(running)]})

    def container(self, pod):
        spec, name = pod["spec"], pod["metadata"]["name"]
        [container] = spec["containers"]
        user = spec["securityContext"]["runAsUser"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        at = self.folder / "pods" / name
        for mount in container["volumeMounts"]:
            (at / mount["name"]).mkdir(parents=True)
            os.chown(at / mount["name"], 0, user)
            os.chmod(at / mount["name"], 0o2770)
        secret = volumes["start"]["secret"]
        for key, value in self.good("GET", f"{self.core('secrets')}/{secret['secretName']}")["data"].items():
            file = at / "start" / key
            file.write_bytes(base64.b64decode(value))
            os.chown(file, 0, user)
            file.chmod(secret["defaultMode"])
        variables = [f"{one['name']}={one.get('value', '')}" for one in container["env"]]
        drop = ["setpriv", f"--reuid={user}", f"--regid={spec['securityContext']['runAsGroup']}",
                f"--groups={spec['securityContext']['fsGroup']}", "--no-new-privs", "--bounding-set=-all",
                "--inh-caps=-all"]
        # --mount-proc also creates a mount namespace.
        command = [*variables, *drop, *container["command"]]
        return Namespace(["sh", "-c", CONTAINER, "sh", at, self.options.binary, *command], at / "log")

    def report_end(self, pod, code, mine):
        if mine["told"]:
            return
        code = 128 - code if code < 0 else code
        log = self.folder / "pods" / pod["metadata"]["name"] / "log"
        end = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": self.now(),
               "message": log.read_text(errors="replace")[-2000:] if code else ""}
        self.report(pod["metadata"]["name"], {
            "phase": "Failed" if code else "Succeeded", "containerStatuses": [self.status({"terminated": end})]})
        mine["told"] = True

    @staticmethod
    def now():
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    @staticmethod
    def status(state):
        return {"name": "worker", "image": "it", "imageID": "", "ready": "running" in state, "restartCount": 0,
                "state": state}

    def report(self, pod, status):
        self.good("PATCH", f"{self.core('pods')}/{pod}/status", {"status": status},
                  kind="application/strategic-merge-patch+json")

    # What the trial needs.

    def jobs(self, *states):
        pods = self.good("GET", self.core("pods") + OURS)["items"]
        pods = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        running = {pod["metadata"]["labels"]["finetuner/job"] for pod in pods}
        found = []
        for job in self.good("GET", self.JOBS + OURS)["items"]:
            name = job["metadata"]["name"]
            is_over = any(c["type"] in ("Complete", "Failed") for c in job["status"].get("conditions", ()))
            state = "ENDED" if is_over else "RUNNING" if name in running else "PENDING"
            if state in states:
                found.append(job)
        return found

    def open_jobs(self):
        return self.jobs("PENDING", "RUNNING")

    def shown(self):
        """Returns what everyone sees who may not read Secrets."""
        self.check_objects()
        paths = (self.JOBS, self.core("pods"), self.core("events"))
        return "".join(json.dumps(self.good("GET", path)) for path in paths)

    def check_objects(self):
        """Checks the labels of running Jobs and their pods, and the owner of their Secrets."""
        for job in self.jobs("RUNNING"):
            name, uid = job["metadata"]["name"], job["metadata"]["uid"]
            secret = self.good("GET", f"{self.core('secrets')}/{name}")
            [pod] = self.good("GET", f"{self.core('pods')}?labelSelector=finetuner/job={name}")["items"]
            for one in (job, pod, secret):
                labels = one["metadata"]["labels"]
                if labels["finetuner/job"] != name or labels[LABEL] != name.rsplit("-", 2)[0]:
                    raise Failure(f"other labels: {labels}")
            for one in (job, pod):
                if not ANNOTATIONS <= set(one["metadata"]["annotations"]):
                    raise Failure(f"annotations are missing: {one['metadata']}")
            if [owner["uid"] for owner in secret["metadata"].get("ownerReferences", ())] != [uid]:
                raise Failure(f"the Job does not own its Secret: {secret['metadata']}")

    def left(self):
        """Waits until Kubernetes has removed all objects of ended runs."""
        paths = [path + OURS for path in (self.JOBS, self.core("pods"), self.core("secrets"))]
        wait_for("no Job, pod or Secret is left",
                 lambda: not any(self.good("GET", path)["items"] for path in paths), KEEP_ENDED + 90)
        return "no Job, no pod, no Secret"

    def kill_nodes(self):
        with self.lock:
            for pod in self.pods.values():
                if pod["process"].process.poll() is None:
                    self.kill(pod)
                    pod["lost"] = time.time()
        return 1

    def restart_head(self, in_order=False):
        for process in self.processes.values():
            process.kill()
            process.wait()
        time.sleep(5)
        self.start_control_plane()
        return "the control plane was away for 5 s or more, and the pods continued", None

    @contextlib.contextmanager
    def away(self):
        self.processes["kube-apiserver"].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes["kube-apiserver"].send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def full(self):
        self.is_full = True
        try:
            yield
        finally:
            self.is_full = False

    def stop_jobs(self):
        for job in self.jobs("RUNNING"):
            self.good("DELETE", f"{self.JOBS}/{job['metadata']['name']}", {"propagationPolicy": "Background"})

    def preempt(self):
        for pod in self.good("GET", self.core("pods") + OURS)["items"]:
            if pod["status"].get("phase") == "Running":
                self.good("DELETE", f"{self.core('pods')}/{pod['metadata']['name']}")


if __name__ == "__main__":
    main(Kubernetes, __doc__, "server")
