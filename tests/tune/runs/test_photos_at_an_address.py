"""--data takes an address: the run records it, and a resume on another machine fetches the photos there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from maskcls.errors import CallError
from maskcls.storage.mirror import fetched
from maskcls.storage.store import Store
from tests.commands import read
from tests.conftest import DemoFaces
from tests.maskcls.storage.test_mirror import put
from tests.s3 import S3
from tune.runs.folder import SearchRun
from tune.runs.record import DataRecord, SearchRecord
from tune.runs.session import check_data, note_files, prepared
from tune.search import __main__ as search
from tune.search.options import SearchOptions

ADDRESS = "s3://bucket/faces?region=eu-central-1"


def test_an_address_is_recorded_as_it_was_given() -> None:
    given = SearchOptions.model_validate({"space": "freezing", "data": ADDRESS})
    assert given.to_record()["data"] == ADDRESS == given.to_config()["data"]
    assert SearchOptions.recorded(SearchRecord(call=given.to_record())).data == given.data
    assert given.ships
    assert not SearchOptions.model_validate({"space": "freezing"}).ships
    for name in ("data", "extra"):
        with pytest.raises(CallError, match=f"--{name} has a key in its address"):
            SearchOptions.model_validate({"space": "freezing", name: "s3://KEY:SECRET@bucket/faces"})


@pytest.mark.slow
def test_a_resume_on_another_machine_takes_the_photos_up_from_its_own_cache(
    s3: S3, tmp_path: Path, demo_faces: DemoFaces
) -> None:
    put(demo_faces(18, 1), Store(s3.address(tmp_path.name)))
    options = SearchOptions.model_validate(
        {"space": "freezing", "data": s3.address(tmp_path.name), "cache": tmp_path / "cache"}
    )
    faces = prepared(options)
    run = SearchRun.create(tmp_path, "one", SearchRecord(call=options.to_record()))
    noted = note_files(run, faces, options)
    faces.save(run.data)
    run.write_record(run.record().changed(data=DataRecord(digest=faces.digest, **noted)))

    fetched.cache_clear()
    elsewhere = options.model_copy(update={"cache": tmp_path / "cache of another machine"})
    (tmp_path / "cache").rename(tmp_path / "gone")
    check_data(run, elsewhere)
    files = pd.read_csv(run.data / "photos.csv")["file"].map(Path)
    assert all(file.is_relative_to(tmp_path / "cache of another machine") and file.exists() for file in files)


@pytest.mark.slow
def test_photos_for_training_alone_may_be_at_an_address_too(s3: S3, tmp_path: Path, demo_faces: DemoFaces) -> None:
    put(demo_faces(6, 2), Store(s3.address(f"{tmp_path.name}/extra")))
    words = ["--data", str(demo_faces(18, 1)), "--extra", s3.address(f"{tmp_path.name}/extra"), "--split-seed", "3"]
    options = read(search.main, SearchOptions.stated, *words, "--cache", tmp_path / "cache")
    assert options.ships
    assert SearchOptions.recorded(SearchRecord(call=options.to_record())).extra == options.extra
    photos = prepared(options).photos
    extra = photos.loc[photos["key"].str.startswith("extra//"), "file"].map(Path)
    assert len(extra) == 6 * 7
    assert all(file.is_relative_to(tmp_path / "cache" / "photos") for file in extra)
