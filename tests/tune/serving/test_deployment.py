"""The application under Ray Serve: what its file may say, what a replica keeps to, and what its end costs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from starlette.testclient import TestClient

from maskcls.errors import CallError, RunError
from maskcls.serving.web.examples import draw_examples
from maskcls.serving.web.limits import Limits
from tests.benchmarks.load import Load, send
from tests.tune.serving.under_ray import FILE, NAME, UnderRay, ray_with_serve

pytest.importorskip("ray.serve", reason="the extra `ray-serve`")
from ray.serve.schema import ServeDeploySchema

from tune.serving import deployment

RandomBundle = Callable[[str], Path]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "args: bundle: Field required, but got {}. Known: bundle, device, engine, abstain, host"),
        ({"bundle": "runs/first/best"}, "bundle: runs/first/best given, but an absolute path expected"),
        ({"bundle": "/b", "port": 1}, "args: port: Extra inputs are not permitted, but got 1"),
        ({"bundle": "/b", "engine": "tf"}, "args: engine: Input should be 'torch', 'onnx' or 'int8', but got 'tf'"),
        ({"bundle": "/b", "abstain": 2}, "args: abstain: Input should be less than or equal to 1, but got 2"),
        ({"bundle": "/b", "limits": {"connections": 9}}, "limits: {'connections': 9} given, but of these numbers"),
        ({"bundle": "/b", "limits": {"queue": 0}}, "`queue > 0` must hold, but got 0"),
        ({"bundle": "/b", "host": "0.0.0.0"}, "--host 0.0.0.0 lets other machines in. Say who may use the service"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_before_a_replica_starts(
    args: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(deployment.AUTH, raising=False)
    with pytest.raises(CallError) as raised:
        deployment.build(args)
    assert message in str(raised.value)


def test_the_file_in_deploy_is_valid_and_its_times_fit_the_services_limits() -> None:
    content = yaml.safe_load(FILE.read_text())
    schema = ServeDeploySchema.model_validate(content)
    (application,) = schema.applications
    assert application.import_path == f"{deployment.__name__}:{deployment.build.__name__}"
    options = deployment.read_options(application.args)
    assert options.limits == Limits()
    assert options.host == schema.http_options.host
    built = deployment.build(application.args)
    (replicas,) = application.deployments
    assert replicas.name == application.name == NAME == built._bound_deployment.name
    assert replicas.max_ongoing_requests > options.limits.queue
    assert schema.http_options.request_timeout_s > options.limits.body_s + options.limits.request_s
    assert replicas.graceful_shutdown_timeout_s > options.limits.request_s


def app_of(bundle: Path, **args: Any) -> Any:
    return deployment._builder(deployment.read_options({"bundle": str(bundle), **args}))()


def test_a_replica_keeps_to_hosts_password_and_limits(
    random_bundle: RandomBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(deployment.AUTH, "ann:secret")
    monkeypatch.setenv("MASKCLS_MAX_MEGAPIXELS", "")  # which the replica sets, for its own process
    monkeypatch.setenv("MASKCLS_MAX_ASPECT", "")
    args = {"host": "0.0.0.0", "allow_host": ["faces.example"], "limits": {"body_mb": 0.02, "megapixels": 1}}
    photo = {"file": ("a.jpg", draw_examples()[0])}
    with TestClient(app_of(random_bundle("three"), **args), base_url="http://faces.example") as client:
        assert client.post("/v1/predict", files=photo).status_code == 401
        client.auth = ("ann", "secret")
        assert client.post("/v1/predict", files=photo).status_code == 200
        assert client.post("/v1/predict", files={"file": bytes(30_000)}).status_code == 413
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        assert client.get("/", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/v1/model").json()["limits"]["megapixels"] == 1
    assert os.environ["MASKCLS_MAX_MEGAPIXELS"] == "1"


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_replica_whose_probabilities_are_not_finite_is_unhealthy(
    random_bundle: RandomBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKCLS_MAX_MEGAPIXELS", "")
    monkeypatch.setenv("MASKCLS_MAX_ASPECT", "")
    replica = deployment.Replica()
    replica.app = app_of(random_bundle("three"))
    asyncio.run(replica.check_health())
    (classifier,) = replica.app._service.predictor.bundle.classifiers
    with torch.no_grad():
        next(classifier.models[0].parameters()).fill_(torch.nan)
    with pytest.raises(RunError, match="are not finite: its weights are damaged"):
        asyncio.run(replica.check_health())


class Under:
    """Clients that ask without a pause while a block runs; `load` is what they saw."""

    def __init__(self, url: str, clients: int) -> None:
        self.load: Load
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(url, clients))

    def _ask(self, url: str, clients: int) -> None:
        self.load = asyncio.run(send(url, draw_examples(), clients, lambda: not self._ended.is_set()))

    def __enter__(self) -> Under:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def replaced(service: UnderRay, before: list[int]) -> None:
    """Wait until other processes answer, as many."""
    deadline = time.monotonic() + 120
    while len(now := service.replicas()) < len(before) or set(now) >= set(before):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def served_name(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/model") as answer:
        return str(yaml.safe_load(answer)["name"])


def damaged(bundle: Path, copy: Path) -> Path:
    """A copy whose weights are cut off."""
    weights = next(shutil.copytree(bundle, copy).rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    return copy


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_new_bundles_and_a_killed_replica_cost_no_request(random_bundle: RandomBundle, tmp_path: Path) -> None:
    """Under load from eight clients, with the environment of deploy/serve.env; one of the new bundles is damaged."""
    first, second = random_bundle("three"), random_bundle("single")
    with ray_with_serve() as service:
        service.deploy(first)
        replicas = service.replicas()
        with Under(service.url, 8) as during:
            time.sleep(3)
            os.kill(replicas[0], signal.SIGKILL)
            replaced(service, replicas)
            service.deploy(second)
            service.submit(damaged(first, tmp_path / "damaged"))
            service.wait_until("DEPLOY_FAILED", "UNHEALTHY")
            time.sleep(3)
            assert served_name(service.url) == second.name
        print(f"{len(during.load.latencies_s)} requests answered, failed: {during.load.failed or 'none'}")
        assert during.load.failed == {}
