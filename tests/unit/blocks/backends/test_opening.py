"""From a URL and options to a backend: what is meant, and what is refused before anybody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.blocks.backends import check_place, open_backend
from holdfast.blocks.backends.opening import expanded
from holdfast.blocks.backends.posix import PosixBackend
from holdfast.errors import EXIT_USAGE, UsageError


@pytest.mark.parametrize(
    "url",
    ["s3://bucket", "s3://bucket/a/b", "gs://bucket/x", "az://container/x", "abfss://c@account/x", "file:///folder/x"],
)
def test_places_that_there_are(url: str) -> None:
    if "@" not in url:
        assert check_place(url) == check_place(url + "/") == url
    else:
        with pytest.raises(UsageError):
            check_place(url)  # before the @ might stand a secret


@pytest.mark.parametrize(
    "url", ["", "bucket", "/folder", "s3:bucket", "s3:///x", "http://host/x", "file://host/x", "file:x"]
)
def test_places_that_there_are_not(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_place(url)
    assert caught.value.exit_code == EXIT_USAGE
    assert "s3://bucket/prefix" in str(caught.value.expected)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket", "s3://bucket?secret=1", "s3://bucket#secret"])
def test_secrets_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_place(url)
    assert "secret" not in str(caught.value).replace("store_options", "")


def test_a_folder_with_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "packs of ½ a year %41"
    folder.mkdir()
    backend = open_backend(folder.as_uri(), {})
    assert isinstance(backend, PosixBackend)
    assert backend.url == folder.as_uri()
    assert list(backend.packs()) == []


def test_variables_are_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_A", "one")
    monkeypatch.delenv("HOLDFAST_TEST_B", raising=False)
    assert (
        expanded("key", "$HOLDFAST_TEST_A-${HOLDFAST_TEST_A}two $$HOLDFAST_TEST_A $") == "one-onetwo $HOLDFAST_TEST_A $"
    )
    with pytest.raises(UsageError) as caught:
        expanded("secret_access_key", "${HOLDFAST_TEST_B}")
    assert "secret_access_key" in str(caught.value.place)
    assert caught.value.expected == "$HOLDFAST_TEST_B"
