"""A run's study is copied into a team's PostgreSQL as its trials end, and a server that is gone stops no search."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from maskcls.errors import CallError, RunError
from tests.tune.made_run import made_run
from tune.runs.study import open_study, trials_of
from tune.search.options import SearchOptions
from tune.search.tracking.study_copy import TRIAL, StudyCopy, opened

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Server:
    """A PostgreSQL of its own, on a free port of loopback, whose only user needs no password."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, PROGRAMS[-1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        if os.geteuid() == 0:  # which PostgreSQL refuses to be
            shutil.chown(folder, "postgres")
        self._call("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -F"
        self._call("pg_ctl", "start", "-D", "data", "-w", "-l", "log", "-o", options)

    def stop(self) -> None:
        self._call("pg_ctl", "stop", "-D", "data", "-m", "immediate")

    def _call(self, program: str, *words: str) -> None:
        command, is_root = [str(self.programs / program), *words], os.geteuid() == 0
        user, groups = ("postgres", ()) if is_root else (None, None)
        quiet = subprocess.DEVNULL
        subprocess.run(command, cwd=self.folder, check=True, stdout=quiet, timeout=60, user=user, extra_groups=groups)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("psycopg")
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed")
    folder = tmp_path_factory.mktemp("postgres")
    for parent in list(folder.parents)[:3]:  # pytest's folders are root's alone
        parent.chmod(0o755)
    server = Server(folder)
    yield server
    server.stop()


def on_disk(run: object) -> dict[str, tuple[object, ...]]:
    return {f"{one.number:04d}": content(one) for one in trials_of(run)}  # type: ignore[arg-type]


def content(trial: optuna.trial.FrozenTrial) -> tuple[object, ...]:
    attrs = {name: value for name, value in trial.user_attrs.items() if name != TRIAL}
    return trial.state, trial.value, trial.params, trial.intermediate_values, attrs


def in_server(url: str, name: str) -> dict[str, tuple[object, ...]]:
    study = optuna.load_study(study_name=name, storage=opened(url))
    return {one.user_attrs[TRIAL]: content(one) for one in study.get_trials()}


@pytest.mark.soak
def test_trials_are_copied_once_with_all_that_the_journal_has(postgres: Server, tmp_path: Path) -> None:
    run = made_run(tmp_path, 8, name="copied")
    copy = StudyCopy(postgres.url, run)
    copy.on_trial_complete(0, [], None)  # type: ignore[arg-type]
    copy.close()
    assert in_server(postgres.url, "copied") == on_disk(run)
    study = open_study(run)
    study.tell(study.ask(), 0.25)
    StudyCopy(postgres.url, run).close()
    assert in_server(postgres.url, "copied") == on_disk(run)
    assert len(in_server(postgres.url, "copied")) == 9


@pytest.mark.soak
def test_another_runs_study_of_the_same_name_is_left_alone(postgres: Server, tmp_path: Path) -> None:
    first, second = made_run(tmp_path / "a", 2, name="same"), made_run(tmp_path / "b", 2, name="same")
    first.write_record(first.record().changed(created="2026-01-01"))
    StudyCopy(postgres.url, first).close()
    second.write_record(second.record().changed(created="2026-01-02"))
    with pytest.raises(RunError, match="has a study 'same' of another run. Choose another --name."):
        StudyCopy(postgres.url, second)


@pytest.mark.soak
def test_a_server_that_goes_away_is_said_and_made_good(
    postgres: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path, 3, name="gone")
    copy = StudyCopy(postgres.url, run)
    postgres.stop()
    try:
        copy.close()
        assert "A resume copies what lacks." in capsys.readouterr().err
    finally:
        postgres.start()
    StudyCopy(postgres.url, run).close()
    assert in_server(postgres.url, "gone") == on_disk(run)


def test_nobody_at_the_address_is_one_message() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(
        RunError, match=r"--study-storage postgresql://me@127\.0\.0\.1:1/db cannot be opened: .*refused"
    ):
        opened("postgresql://me@127.0.0.1:1/db")


def test_any_database_that_optuna_takes_has_it(tmp_path: Path) -> None:
    url, run = f"sqlite:///{tmp_path}/studies.db", made_run(tmp_path, 4, name="copied")
    StudyCopy(url, run).close()
    assert in_server(url, "copied") == on_disk(run)


def test_a_password_is_not_taken_from_the_command_line() -> None:
    with pytest.raises(CallError, match="--study-storage has a password in its address"):
        SearchOptions.model_validate({"space": "freezing", "study_storage": "postgresql://me:secret@host/db"})
    with pytest.raises(CallError, match="--study-storage expects an address such as postgresql://host/database, but"):
        SearchOptions.model_validate({"space": "freezing", "study_storage": "studies.db"})
