"""Machines of a cluster are lost, join late, are cut off: the search goes on, and no number of it changes.

The searches are those of `tests.cluster.searches`.
"""

from __future__ import annotations

import random
import shutil
import time

import pytest

from tests.cluster.conftest import RayCluster, begun
from tests.cluster.machines import wait_until
from tests.cluster.searches import Search, again, hosts, ids, is_whole
from tests.tune.searches import reported

SEED_OF_TIMES = 0


# Not among the slow ones, though it is the longest of `make test`: nothing else there loses a machine.
def test_a_worker_node_that_dies_in_training_costs_one_epoch_at_most(alert_cluster: RayCluster) -> None:
    worker = alert_cluster.join("one")
    search = Search(alert_cluster, "broken", trials=1, epochs=8, sleep_s=0.3)
    search.wait_for(3)
    worker.power_off()
    alert_cluster.join("two")
    search.finish()
    assert is_whole(search, trials=1)
    assert again(search) <= 1
    assert hosts(search.run) == {"one", "two"}


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("kills", "files_are_lost"), [(10, False), (10, True)])
def test_worker_nodes_that_die_ten_times(alert_cluster: RayCluster, kills: int, files_are_lost: bool) -> None:
    """With its files a trial goes on after its last epoch; without them it begins again, with the same numbers."""
    worker, trials, epochs = alert_cluster.join("worker-0"), 3, 30
    whole = Search(alert_cluster, "unbroken", trials=trials, epochs=epochs)
    whole.finish()
    broken = Search(alert_cluster, "broken", trials=trials, epochs=epochs, sleep_s=0.3)
    times = random.Random(SEED_OF_TIMES)
    computed_in_turn = [(trial, epoch) for trial in ids(whole) for epoch in whole.epochs(trial)]
    for number, (trial, epoch) in enumerate(sorted(times.sample(computed_in_turn[:-2], kills)), start=1):
        broken.wait_for(epoch, trial)
        time.sleep(times.uniform(0, 0.3))
        worker.power_off()
        if files_are_lost:
            shutil.rmtree(broken.run.trial(trial))
        worker = alert_cluster.join(f"worker-{number}")
    broken.finish()
    assert reported(broken.run) == reported(whole.run)
    assert again(broken) <= kills, "no kill cost more than the epoch that it fell into"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_late_joiner_gets_work_and_one_that_leaves_with_notice_hands_it_on(cluster: RayCluster) -> None:
    """SIGTERM to a node's raylet is what `ray stop` sends there, and what clouds and schedulers send before they take a
    machine away."""
    early = cluster.join("early")
    broken = Search(cluster, "broken", trials=6, epochs=8, sleep_s=1.0, parallel=2)
    broken.wait_for(2)
    cluster.join("late")
    wait_until(lambda: hosts(broken.run) == {"early", "late"}, "the late one has begun a trial")
    for raylet in early.processes("raylet"):
        raylet.terminate()
    broken.finish()
    assert is_whole(broken, trials=6)
    assert again(broken) <= 1


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [5, 30, 120])
def test_a_worker_that_is_cut_off_and_comes_back(cluster: RayCluster, seconds: int) -> None:
    """After 5 s its trial goes on as if nothing had been. After 30 s Ray gives the node up, which then ends itself: a
    new one gets the trial. After 120 s the old one, which sees the run's folder all the time, has ended, too."""
    worker = cluster.join("worker")
    whole = Search(cluster, "unbroken", trials=2, epochs=20)
    whole.finish()
    broken = Search(cluster, "broken", trials=2, epochs=20, sleep_s=0.5)
    broken.wait_for(5)
    worker.cut()
    time.sleep(seconds)
    worker.heal()
    if seconds > 5:
        cluster.join("spare")
    broken.finish()
    assert reported(broken.run) == reported(whole.run)
    assert again(broken) <= 1
    assert hosts(broken.run) == ({"worker"} if seconds == 5 else {"worker", "spare"})


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_head_that_dies_with_its_driver_is_replaced_by_another(cluster: RayCluster) -> None:
    """The same command on the new head goes on with the run, whose folder both see."""
    worker = cluster.join("worker")
    lost = Search(cluster, "broken", trials=2, epochs=20, sleep_s=0.3)
    lost.wait_for(6)
    cluster.head.power_off()
    worker.power_off()
    new = begun(cluster.lan.machine("new-head"), cluster.lan)
    new.join("new-worker")
    whole = Search(new, "unbroken", trials=2, epochs=20)
    whole.finish()
    broken = Search(new, "broken", trials=2, epochs=20, sleep_s=0.3)
    broken.finish()
    assert reported(broken.run) == reported(whole.run)
    assert again(broken) <= 1


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_searches_at_once_leave_each_other_alone(cluster: RayCluster) -> None:
    cluster.join("worker", cpus=2)
    whole = Search(cluster, "unbroken", trials=3, epochs=6)
    whole.finish()
    both = [Search(cluster, name, trials=3, epochs=6, sleep_s=0.2) for name in ("one", "two")]
    for each in both:
        each.finish()
        assert reported(each.run) == reported(whole.run)
        assert again(each) == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_node_that_is_drained_hands_its_trial_on_within_the_notice(cluster: RayCluster) -> None:
    """`ray drain-node` is how autoscalers announce that a spot machine will be taken away. No epoch is lost, because
    the trial leaves between two."""
    workers = {name: cluster.join(name) for name in ("one", "two")}
    broken = Search(cluster, "broken", trials=2, epochs=30, sleep_s=1.0)
    broken.wait_for(2)
    (at_work,) = hosts(broken.run)
    leaving = workers[at_work]
    (raylet,) = leaving.processes("raylet")
    node_id = next(word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--node_id="))
    why = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot")
    drain = ("ray", "drain-node", "--address", cluster.address, "--node-id", node_id, *why)
    drained = cluster.head.run(*drain, "--deadline-remaining-seconds", 30)
    assert drained.returncode == 0, drained.stdout + drained.stderr
    said = broken.finish()
    assert f"Node {leaving.address} is to leave the cluster: other nodes go on with its trials." in said
    assert is_whole(broken, trials=2)
    assert again(broken) == 0
    assert hosts(broken.run) == {"one", "two"}
