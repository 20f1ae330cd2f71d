"""--data takes an address: the run records it, and a resume on another machine fetches the photos there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from maskcls.errors import CallError
from maskcls.storage.mirror import fetched
from tests.conftest import DemoFaces
from tests.maskcls.storage.test_mirror import put
from tests.s3 import S3
from tune.runs.folder import SearchRun
from tune.runs.record import DataRecord, SearchRecord
from tune.runs.session import check_data, note_files, prepared
from tune.search.options import SearchOptions

ADDRESS = "s3://bucket/faces?region=eu-central-1"


def test_an_address_is_recorded_as_it_was_given() -> None:
    given = SearchOptions.model_validate({"space": "freezing", "data": ADDRESS})
    assert given.to_record()["data"] == ADDRESS == given.to_config()["data"]
    assert SearchOptions.recorded(SearchRecord(call=given.to_record())).data == given.data
    assert given.ships
    assert not SearchOptions.model_validate({"space": "freezing"}).ships
    with pytest.raises(CallError, match="--data has a key in its address"):
        SearchOptions.model_validate({"space": "freezing", "data": "s3://KEY:SECRET@bucket/faces"})


def test_a_resume_on_another_machine_takes_the_photos_up_from_its_own_cache(
    s3: S3, tmp_path: Path, demo_faces: DemoFaces
) -> None:
    from maskcls.storage.store import Store

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
