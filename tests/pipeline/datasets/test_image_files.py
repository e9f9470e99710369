"""What is read as an image: a regular file below the data set's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mma.pipeline.datasets.image_files import read_image_file


def test_a_relative_folder_is_the_one_below_the_working_folder_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for week in ("monday", "tuesday"):
        (tmp_path / week / "photos").mkdir(parents=True)
        (tmp_path / week / "photos/0.jpg").write_text(week)
        monkeypatch.chdir(tmp_path / week)
        assert read_image_file(Path("photos"), "0.jpg") == week.encode()


def test_a_link_that_leaves_the_folder_is_followed_on_request_only(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere.jpg").write_bytes(b"bytes")
    (tmp_path / "photos/0.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(PermissionError, match="leaves the data set's folder"):
        read_image_file(tmp_path / "photos", "0.jpg")
    assert read_image_file(tmp_path / "photos", "0.jpg", follow_links=True) == b"bytes"
