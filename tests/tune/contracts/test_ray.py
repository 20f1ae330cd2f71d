"""What the search takes for granted of Ray and its searchers, a test a fact.

So a release that changes one fails here, by name. Each docstring says who leans on the fact, and what to do where it
does not hold any more. Checked with ray 2.60.
"""

from __future__ import annotations

import inspect
import ipaddress
import stat
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
import pytest
import ray
from optuna.trial import TrialState as OptunaState
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tests.tune.contracts import contract_run
from tests.tune.contracts.contract_run import EPOCHS, PARALLEL, Events
from tune.runs import cluster
from tune.search.searcher import StudySearch

CONTINUE, STOP, PAUSE = TrialScheduler.CONTINUE, TrialScheduler.STOP, TrialScheduler.PAUSE
# Ray's searchers, without a cluster


def test_a_searcher_knows_its_metric_and_leaves_the_space_to_others() -> None:
    """Leans: StudySearch, which gives its base metric and mode, and overrides all else that Ray calls in a search
    (`contract_run`).

    If it fails: see what Ray asks of a searcher before the first suggestion.
    """
    searcher = Searcher(metric="f1", mode="max")
    assert (searcher.metric, searcher.mode) == ("f1", "max")
    assert not searcher.set_search_properties("f1", "max", {}), "the space is not Ray's to set"
    assert isinstance(Searcher.FINISHED, str)
    called = {"suggest", "on_trial_result", "on_trial_complete", "save"}
    assert called <= set(vars(contract_run.Search)), "and the run below shows that these are enough"
    assert called <= set(vars(StudySearch))


def test_plain_optuna_search_tells_a_stopped_trial_as_complete_with_its_early_value() -> None:
    """Leans: StudySearch is not derived from OptunaSearch, but records such a trial as pruned, and its last value, too.

    If it fails because Ray does so itself: OptunaSearch may be a base again, and StudySearch has less to do.
    """
    storage = optuna.storages.InMemoryStorage()
    search = OptunaSearch(
        space=lambda trial: {"share": trial.suggest_float("share", 0.0, 1.0)},
        metric="f1",
        mode="max",
        storage=storage,
        study_name="one",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    search.suggest("a")
    search.on_trial_result("a", {"f1": 0.3, "training_iteration": 1})
    search.on_trial_complete("a", {"f1": 0.4, "training_iteration": 2})  # all that a searcher gets of a stop
    (trial,) = optuna.load_study(study_name="one", storage=storage).trials
    assert (trial.state, trial.value) == (OptunaState.COMPLETE, 0.4)
    assert trial.intermediate_values == {1: 0.3}


# One real run of Tune


@pytest.fixture(scope="module")
def run(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Events, Path]:
    """What Ray called in a run whose trials end in different ways, and where they left their own notes."""
    folder = tmp_path_factory.mktemp("contract")
    return contract_run.run(folder), folder


@pytest.mark.soak
def test_a_suggestion_is_the_trials_config_when_the_scheduler_gets_the_trial(run: tuple[Events, Path]) -> None:
    """Leans: EpochASHA.on_trial_add and EpochMedian.on_trial_add (`trial.config["trial"]`), tune.search.progress.

    If it fails: find our trial's id where Ray has put it.
    """
    events, _ = run
    for name in contract_run.ENDINGS:
        suggested, added = events.of(name, "searcher.suggest")[0], events.of(name, "scheduler.on_trial_add")[0]
        assert added.details["config"] == {"trial": name, "recipe": {"epochs": EPOCHS}}
        assert added.details["trial_id"] == suggested.details["trial_id"], (
            "one id of Ray's, in the searcher and in the scheduler"
        )


@pytest.mark.slow
def test_no_more_trials_are_asked_for_than_may_run_at_a_time(run: tuple[Events, Path]) -> None:
    """Leans: the same seed gives the same study with --parallel 1: the sampler knows every earlier end when it is
    asked.

    If it fails: have StudySearch.suggest return None while max_concurrent_trials of its trials are open.
    """
    events, _ = run
    open_trials: set[str] = set()
    most = 0
    for event in events:
        if event.name == "searcher.suggest":
            open_trials.add(event.trial)
        if event.name == "searcher.on_trial_complete":
            open_trials.remove(event.trial)
        most = max(most, len(open_trials))
    assert most == PARALLEL


@pytest.mark.slow
def test_an_epoch_comes_to_stopper_scheduler_searcher_and_callback_in_this_order(run: tuple[Events, Path]) -> None:
    """Leans: tune.search.progress, which reads the study that the searcher has written by then.

    If it fails: Progress shows an epoch late; let it read where the searcher writes.
    """
    events, _ = run
    first = [event.name for event in events.of("full") if event.details.get("epoch") == 1]
    assert first == [
        "stopper.__call__",
        "scheduler.on_trial_result",
        "searcher.on_trial_result",
        "callback.on_trial_result",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lags", "left"])
def test_the_last_result_comes_to_the_searcher_only_as_the_trials_end(run: tuple[Events, Path], name: str) -> None:
    """Leans: StudySearch.on_trial_complete, which reports it to the study; _Stop, which leaves a trial by returning
    True; a trial ends by reporting `done` (tune.search.trainable.tell). The scheduler gets the end as well, of
    `done` and of the stopper's stop not before.

    If it fails: a trial's last epoch would be missing in the study, or the scheduler would know of epochs twice.
    """
    events, _ = run
    last = EPOCHS if name == "full" else 2
    assert [event.details["epoch"] for event in events.of(name, "searcher.on_trial_result")] == list(range(1, last))
    (end,) = events.of(name, "searcher.on_trial_complete")
    assert (end.details["result"]["epoch"], end.details["error"]) == (last, False)
    asked = [event.details["epoch"] for event in events.of(name, "scheduler.on_trial_result")]
    assert asked == list(range(1, last + 1 if name == "lags" else last))
    (last_end,) = events.of(name, "scheduler.on_trial_complete")
    assert last_end.details["epoch"] == last


@pytest.mark.slow
def test_the_study_knows_of_an_end_before_the_callback_is_called(run: tuple[Events, Path]) -> None:
    """Leans: tune.search.progress, whose on_trial_complete and on_trial_error write the leaderboard from the study.

    If it fails: the leaderboard lags by a trial; write it from the searcher.
    """
    events, _ = run
    for name in contract_run.ENDINGS:
        hook = "callback.on_trial_error" if name == "raises" else "callback.on_trial_complete"
        assert events.at("searcher.on_trial_complete", name) < events.at(hook, name)


@pytest.mark.slow
def test_the_stopper_is_given_the_config_and_whether_the_trial_is_done(run: tuple[Events, Path]) -> None:
    """Leans: tune.search.driver._Stop, which reads `result["config"]["recipe"]["epochs"]` and `result["done"]`.

    If it fails: give _Stop the epochs by StudySearch, which knows each trial's recipe.
    """
    events, _ = run
    heard = events.of("full", "stopper.__call__")
    assert [event.details["config"]["recipe"]["epochs"] for event in heard] == [EPOCHS] * EPOCHS
    assert [event.details["done"] for event in heard] == [False] * (EPOCHS - 1) + [True]
    assert sum(event.name == "stopper.stop_all" for event in events) > len(heard), "asked after every step"


@pytest.mark.slow
def test_the_scheduler_learns_of_an_error_with_its_text_before_the_searcher_does(run: tuple[Events, Path]) -> None:
    """Leans: _ReportsErrors and StudySearch.note_error (`trial.error_file`): the searcher itself gets no text.

    If it fails: the study says "Ray gave no reason."; find where the text is in time.
    """
    events, _ = run
    *_, last = events.of("raises", "scheduler.on_trial_error")
    assert "ValueError: nonsense" in last.details["text"]
    (end,) = events.of("raises", "searcher.on_trial_complete")
    assert end.details == {"result": {}, "error": True}
    assert events.index(last) < events.index(end) < events.at("callback.on_trial_error", "raises")


@pytest.mark.slow
def test_a_failure_is_retried_in_place_without_the_searcher(run: tuple[Events, Path]) -> None:
    """Leans: tune.search.driver (FailureConfig.max_failures): the same trial, the same folder;
    Progress.on_trial_recover; the scheduler gets the error, and then the trial as a new one, under the same id.

    If it fails: a worker that dies costs its trial.
    """
    events, _ = run
    hooks = ("scheduler.on_trial_add", "scheduler.on_trial_error", "callback.on_trial_recover")
    heard = [event.name for event in events.of("dies", *hooks)]
    assert heard == [
        "scheduler.on_trial_add",
        "scheduler.on_trial_error",
        "scheduler.on_trial_add",
        "callback.on_trial_recover",
    ]
    assert len({event.details["trial_id"] for event in events.of("dies", "scheduler.on_trial_add")}) == 1
    assert [event.details["error"] for event in events.of("dies", "searcher.on_trial_complete")] == [False]
    assert len(events.of("raises", "scheduler.on_trial_error")) == contract_run.MAX_FAILURES + 1


@pytest.mark.slow
def test_a_retried_trial_counts_its_iterations_from_one(run: tuple[Events, Path]) -> None:
    """Leans: tune.search.schedulers, which go by `epoch` (FIDELITY), and StudySearch.on_trial_result, which passes over
    epochs it knows.

    If it fails because Ray counts on: nothing is lost, `epoch` stays right.
    """
    events, _ = run
    heard = [
        (event.details["epoch"], event.details["training_iteration"])
        for event in events.of("dies", "searcher.on_trial_result")
    ]
    assert heard == [(1, 1), (1, 1), (2, 2)]


@pytest.mark.slow
def test_finished_ends_the_asking_and_not_what_runs(run: tuple[Events, Path]) -> None:
    """Leans: StudySearch.suggest where the search is closed, its space used up or broken.

    If it fails: the search would hang, or lose what runs.
    """
    events, _ = run
    names = [event.name for event in events]
    assert names.count("searcher.finished") == 1
    assert names.index("searcher.finished") < events.at("searcher.on_trial_complete", "last")
    (end,) = events.of("last", "searcher.on_trial_complete")
    assert end.details["result"]["epoch"] == EPOCHS
    assert names.count("searcher.suggest") == len(contract_run.ENDINGS)


@pytest.mark.slow
def test_reused_actors_keep_their_process_and_its_globals(run: tuple[Events, Path]) -> None:
    """Leans: tune.search.driver (reuse_actors=True, ten times as fast); tune.fitting.worker.run_fit sets threads again
    for each trial.

    If it fails: searches of small trials get slow; `ran` says whether the process was kept.
    """
    events, _ = run
    calm = ("lags", "left", "full", "last")
    heard = [events.of(name, "stopper.__call__")[0].details for name in calm]
    assert len({result["pid"] for result in heard}) < len(calm)
    assert max(result["ran"] for result in heard) > 1


def test_reusing_actors_has_to_be_asked_for() -> None:
    """Leans: tune.search.driver, which says so.

    If it fails: nothing to do but to know.
    """
    from ray.tune import TuneConfig

    assert not TuneConfig().reuse_actors


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lags", "left", "full"])
def test_a_trial_that_is_stopped_ends_by_system_exit_inside_report(run: tuple[Events, Path], name: str) -> None:
    """Leans: tune.search.trainable.follow: nothing may be left to do for an epoch once it is reported, `finally` runs,
    and its `except Exception` must not take the stop for an error.

    If it fails: look at what is left undone in a stopped trial: the monitor's thread, the GPU's memory.
    """
    _, folder = run
    assert (folder / f"{name}.ended").read_text() == "SystemExit"


@pytest.mark.slow
def test_ray_pickles_searcher_stopper_and_callbacks_and_saves_the_searcher_as_it_goes(run: tuple[Events, Path]) -> None:
    """Leans: __getstate__ of StudySearch, _Stop and Progress, which hold locks and a storage, and StudySearch.save,
    which writes a file.

    If one is pickled no more: its __getstate__ may go.
    """
    events, _ = run
    names = {event.name for event in events}
    assert {"searcher.__getstate__", "stopper.__getstate__", "callback.__getstate__", "searcher.save"} <= names


@pytest.mark.slow
def test_the_controller_has_what_we_patch(run: tuple[Events, Path]) -> None:
    """Leans: tune.search.actors (reuse_started, deaths_for_memory), which uses private names of Ray.

    If it fails: read how TuneController gives a trial its worker by now; see whether the patch is still needed
    (test_actors).
    """
    events, _ = run
    for patched in (TuneController._maybe_reuse_cached_actor, TuneController._maybe_cache_trial_actor):
        assert list(inspect.signature(patched).parameters) == ["self", "trial"]
    failed = inspect.signature(RayActorManager._actor_task_failed)
    assert list(failed.parameters) == ["self", "tracked_actor_task", "exception"]
    assert not issubclass(OutOfMemoryError, RayActorError), "else deaths_for_memory has nothing to do"
    (end,) = events.of("full", "scheduler.on_trial_complete")
    assert end.details["private"] == (True, False), "its worker has started, and is not being reset"


def test_ray_says_its_nodes_and_where_its_dashboard_is(ray_cluster: None) -> None:
    """Leans: tune.runs.cluster (`ray.nodes()`, and ray.init's return value, also where Ray is started already).

    If it fails: find where Ray says the address.
    """
    with cluster.connected(None) as there:
        assert there.nodes == (cluster.Node(2, 0.0),)
        host, _, port = there.dashboard.rpartition(":")
        assert host
        assert port.isdigit()
    assert ray.is_initialized(), "it was started before"


def test_the_dashboard_asks_for_a_token(ray_cluster: None) -> None:
    """Leans: tune.search.session and tune.compare.session, which tell how to print it (local_ray.place.token_command).

    If it fails: say nothing of a token, and think of who may see the dashboard.
    """
    with cluster.connected(None) as there, pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{there.dashboard}/api/v0/nodes", timeout=10)
    assert refused.value.code == 401


def test_a_ray_that_is_started_here_is_the_users_alone(ray_cluster: None) -> None:
    """Leans: tune.runs.local_ray, on a switch of Ray's (loopback.py), its temporary folder and the token's file.

    If it fails: see in Ray's services.py how a node's address is found, and which port listens beyond loopback.
    """
    listening = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a worker of Ray's may end meanwhile
            listening |= {
                (one.laddr.ip.removeprefix("::ffff:"), process.name())  # IPv4's addresses, as a port of IPv6 has them
                for one in process.net_connections("tcp")
                if one.status == psutil.CONN_LISTEN
            }
    assert {name for _, name in listening} >= {"gcs_server", "raylet"}
    assert {(ip, name) for ip, name in listening if not ipaddress.ip_address(ip).is_loopback} == set()
    private = Path(ray._private.worker.global_worker.node.get_session_dir_path()).parents[1]
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
