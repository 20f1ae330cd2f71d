"""What a resume finds of the run's photos: moved, gone, changed or as they were."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.errors import CallError, DataError
from maskcls.stores.cache_options import CacheOptions
from tests.conftest import DemoFaces
from tests.tune.search.test_command import call, recorded_run, refused
from tune.runs.folder import SearchRun
from tune.runs.record import DataRecord
from tune.runs.session import FINGERPRINTS, check_data, note_files
from tune.search.options import SearchOptions


@dataclass
class Begun:
    """A run that has read its photos, and the copy of the drawn faces that it read them from."""

    run: SearchRun
    data: Path

    def photos(self) -> list[Path]:
        return sorted(file for file in (self.data / "train" / "images").glob("*/[!.]*"))

    def check(self, **stated: object) -> None:
        """What a resume does that states this."""
        check_data(self.run, SearchOptions.model_validate(stated).resumed(self.run))

    def refusal(self, **stated: object) -> str:
        """Of such a resume, which must leave everything in the run as it is."""
        before = {file: file.read_bytes() for file in self.run.path.rglob("*") if file.is_file()}
        with pytest.raises(DataError) as caught:
            self.check(**stated)
        assert {file: file.read_bytes() for file in self.run.path.rglob("*") if file.is_file()} == before
        return str(caught.value)

    def files(self) -> list[str]:
        """Of the run's photo table."""
        return [str(file) for file in FaceDataset.load(self.run.data, CacheOptions()).photos["file"]]


@pytest.fixture
def begun(tmp_path: Path, demo_faces: DemoFaces) -> Begun:
    data = Path(shutil.copytree(demo_faces(24, 4), tmp_path / "faces"))
    run = recorded_run(tmp_path, data=str(data))
    faces = prepare(data, cache=CacheOptions(tmp_path / "cache"))
    noted = note_files(run, faces, SearchOptions.recorded(run.record()))
    faces.save(run.data)
    run.write_record(run.record().changed(data=DataRecord(digest=faces.digest, **noted)))
    return Begun(run, data)


def end_changed(file: Path) -> None:
    """Other pixels in a file of the same size and time."""
    status, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-3] + bytes(255 - byte for byte in content[-3:]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_photos_as_they_were_are_taken_also_with_another_time(begun: Begun) -> None:
    before = begun.files()
    for file in begun.photos():
        os.utime(file)
    begun.check()
    assert begun.files() == before


def test_what_changed_is_named(begun: Begun) -> None:
    one, two, three = begun.photos()[8], begun.photos()[20], begun.photos()[40]
    end_changed(one)
    two.unlink()
    shutil.copyfile(three, three.with_name("more.jpg"))
    table = begun.data / "train" / "train.csv"
    rows = table.read_text().splitlines()
    person = begun.photos()[100].parent.name
    at = next(number for number, row in enumerate(rows) if row.endswith(person))
    rows[at] = rows[at].replace(",male,", ",x,").replace(",female,", ",male,").replace(",x,", ",female,")
    table.write_text("\n".join(rows) + "\n")
    said = begun.refusal()
    assert "can no longer be read as when one began, so nothing was begun." in said, "a person lacks a photo"
    begun.run.write_record(begun.run.record().changed(call={**begun.run.record().call, "skip_bad": True}))
    said = begun.refusal()
    assert f"The photos in {begun.data} are not those that one was begun with, so nothing was begun: " in said
    assert re.search(rf"1 photo has other content \({one.parent.name}/{one.stem}[^)]*\)", said), said
    assert re.search(rf"7 photos have other labels \({person}/[^)]* and 4 more\)", said), said
    assert re.search(rf"1 photo is gone \({two.parent.name}/{two.stem}[^)]*\)", said), said
    assert said.endswith(f"--new-run-from {begun.run.path}")


def test_a_folder_that_was_moved_is_taken_up_where_it_is(begun: Begun) -> None:
    elsewhere = begun.data.with_name("elsewhere")
    table = FaceDataset.load(begun.run.data, CacheOptions()).photos
    begun.data.rename(elsewhere)
    said = begun.refusal()
    assert said.startswith(f"{begun.data}, from which one read its photos, is not there, or holds none of them, so not")
    assert said.endswith(f"--resume {begun.run.path} --data NEW")
    whole = {"name": "one", "begin_or_resume": True, "space": "freezing", "epochs": 3, "set": ["head=mlp"]}
    whole |= {"weights": "none", "scale": "cpu"}
    assert SearchOptions.model_validate({**whole, "data": elsewhere}).resumed(begun.run).data == elsewhere
    with pytest.raises(CallError, match=r"--data is .*faces in the run, but was not given \(default: not set\)"):
        SearchOptions.model_validate(whole).resumed(begun.run)
    begun.check(data=elsewhere)
    after = FaceDataset.load(begun.run.data, CacheOptions()).photos
    assert all(Path(file).is_relative_to(elsewhere) for file in begun.files())
    assert after.drop(columns="file").equals(table.drop(columns="file")), "stores of decoded photos are found again"


def test_a_mount_point_without_its_disk_is_said_to_be_that(begun: Begun) -> None:
    begun.data.rename(begun.data.with_name("unmounted"))
    begun.data.mkdir()
    assert "is not there, or holds none of them" in begun.refusal()


def test_another_folder_is_not_taken_for_the_moved_one(begun: Begun, demo_faces: DemoFaces) -> None:
    other = demo_faces(24, 5)
    assert f"The photos in {other} are not those that one was begun with" in begun.refusal(data=other)
    copy = Path(shutil.copytree(begun.data, begun.data.with_name("copy")))
    end_changed(copy / begun.photos()[3].relative_to(begun.data))
    assert "so nothing was begun: 1 photo has other content (" in begun.refusal(data=copy)


def test_a_run_of_before_compares_what_it_has_and_gets_the_rest(begun: Begun) -> None:
    (begun.run.data / FINGERPRINTS).unlink()
    begun.run.write_record(begun.run.record().changed(data=DataRecord(digest="0" * 12)))
    longer = begun.photos()[5]
    content = longer.read_bytes()
    longer.write_bytes(content + b"\0")
    assert "1 photo has other content (" in begun.refusal()
    longer.write_bytes(content)
    begun.check()
    assert begun.run.record().data.files_digest is not None
    end_changed(longer)
    assert "1 photo has other content (" in begun.refusal()


def test_fingerprints_that_were_damaged_are_not_compared_with(begun: Begun) -> None:
    file = begun.run.data / FINGERPRINTS
    file.write_text(file.read_text()[:-5])
    assert f"{file} is missing or damaged" in begun.refusal()


def test_the_command_refuses_before_it_begins_anything(begun: Begun) -> None:
    end_changed(begun.photos()[0])
    before = begun.run.record_file.read_bytes()
    words = ("--resume", begun.run.path, "--trials", 4)
    assert "1 photo has other content (" in refused(1, *words)
    assert begun.run.record_file.read_bytes() == before
    assert not begun.run.journal.exists()


def test_a_new_run_has_the_options_of_the_other_and_what_is_stated(begun: Begun) -> None:
    own = SearchOptions(new_run_from="one", runs=begun.run.path.parent, trials=7, name="two")
    like = own.like(begun.run.record())
    expected = SearchOptions.recorded(begun.run.record()).model_copy(update={"trials": 7})
    assert like.to_record() == expected.to_record()
    assert (like.name, like.new_run_from, like.learn_from) == ("two", None, ())
    said = call("--new-run-from", "one", "--runs", begun.run.path.parent, "--trials", 7, "--plan")
    assert "Trials: 7" in said
    assert "head is fixed at mlp" in said
    assert "exclude each other" in refused(2, "--new-run-from", "one", "--resume", "one")
