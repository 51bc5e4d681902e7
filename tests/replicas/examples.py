"""What `examples/replicas` says is something that its readers accept: Kubernetes' and compose's YAML, HAProxy, and the
gateway its configurations."""

import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

import machines

FOLDER = Path(__file__).resolve().parents[2] / "examples/replicas"


def story(run, options, folder):
    try:
        import yaml
    except ImportError as error:
        raise run.LeftOut("there is no reader of YAML: `make deps-wider` installs one") from error
    vault_key = subprocess.run([options.palisade, "vault", "key"], capture_output=True, text=True, check=True).stdout.strip()
    authority = folder / "authority.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=authority",
         "-days", "2", "-keyout", str(folder / "authority.key"), "-out", str(authority)], capture_output=True, check=True)
    values = {"vault-key": vault_key, "db-password": secrets.token_hex(32), "admin-token": secrets.token_hex(32),
              "db-ca.pem": authority.read_text()}

    def checks(name, text, mounted_at):
        """What `palisade check` says of a configuration whose secrets are where it looks for them."""
        own = folder / name
        own.mkdir()
        for key, value in values.items():
            (own / key).write_text(value + "\n")
            (own / key).chmod(0o600)
        assert mounted_at in text, f"{name} reads no secret in {mounted_at}"
        text = text.replace(mounted_at, str(own)).replace("/var/lib/palisade", str(own / "data"))
        (own / "config.toml").write_text(text)
        done = subprocess.run(
            [options.palisade, "check", "--config", str(own / "config.toml")], capture_output=True, text=True,
            env={**os.environ, "PALISADE_ADMIN_TOKEN": values["admin-token"]})
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    gateways = [name for name, service in compose["services"].items() if str(service.get("image", "")).startswith("palisade:")]
    assert len(gateways) == 3, gateways
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), service
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (FOLDER / source).is_file() if source.startswith("./") else source in compose["volumes"], mount
    text = (FOLDER / "config.toml").read_text()
    assert compose["networks"]["inside"]["ipam"]["config"][0]["subnet"] in text, "the balancer is not believed"
    checks("compose", text, "/run/secrets")

    # Names of other containers are known only among them.
    balancer = re.sub(r"(server \w+) \w+:8080", r"\1 127.0.0.1:8080", (FOLDER / "haproxy.cfg").read_text())
    assert all(f"server {name} " in balancer for name in gateways), balancer
    (folder / "haproxy.cfg").write_text(balancer)
    haproxy = shutil.which("haproxy", path=machines.environment()["PATH"])
    assert haproxy, "haproxy is not installed: `make deps-wider` says how"
    done = subprocess.run([haproxy, "-c", "-f", str(folder / "haproxy.cfg")], capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr

    objects = {thing["kind"]: thing for thing in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}
    assert set(objects) == {"Secret", "ConfigMap", "Deployment", "Service", "PodDisruptionBudget"}, list(objects)
    assert set(objects["Secret"]["stringData"]) == set(values), objects["Secret"]
    config = objects["ConfigMap"]["data"]["config.toml"]
    said = checks("kubernetes", config, "/run/secrets/palisade")
    assert "sslmode" not in said, said
    pod = objects["Deployment"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    for selector in (objects["Deployment"]["spec"]["selector"]["matchLabels"], objects["Service"]["spec"]["selector"],
                     objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= pod["metadata"]["labels"].items(), selector
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f'health = "0.0.0.0:{ports["health"]}"' in config and f':{ports["http"]}"]' in config, ports
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports, probe
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["spec"]["volumes"]}
    spans = dict(re.findall(r'^(shutdown_\w+) = "(\d+)s"', config, re.M))
    stop = int(spans["shutdown_delay"]) + int(spans["shutdown_grace"])
    assert stop < pod["spec"]["terminationGracePeriodSeconds"], "the pod is killed before it has stopped"
