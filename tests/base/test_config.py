"""Strict configuration: what is wrong is named by its path, and the nearest right key is told."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.base.config import convert, load, overlay, refuse_world_readable
from helexa.base.errors import ConfigError


class Inner(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    listen: str = ""
    limit: int | None = None


class Row(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    weights: dict[str, Inner] = {}


class Shape(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    gateway: Inner = msgspec.field(default_factory=Inner)
    rows: list[Row] = []
    port: int = 1
    ratio: float = 0.5
    on: bool = False
    token: str | None = None
    free: dict[str, dict[str, object]] = {}


def write(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(text)
    return path


def problem(text: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), Shape)
    return str(caught.value.fields["problem"])


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, 'port = 7\n[gateway]\nlisten = "a"\n[[rows]]\nname = "r"\n')
    assert load(path, Shape) == Shape(port=7, gateway=Inner(listen="a"), rows=[Row(name="r")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", "unknown key `prot`; did you mean `port`?"),
        ("zzzzzz = 1", "unknown key `zzzzzz`"),
        ("[gateway]\nlisten_on = 1", "unknown key `gateway.listen_on`; did you mean `listen`?"),
        ('[[rows]]\nname = "a"\nweigths = {}', "unknown key `rows[0].weigths`; did you mean `weights`?"),
        ('[[rows]]\nname = "a"\n[rows.weights.x]\nlimitt = 1', "did you mean `limit`?"),
        ('port = "7"', "`port`: Expected `int`, got `str`"),
        ("port = 7.5", "`port`: Expected `int`, got `float`"),
        ("[[rows]]\nweights = {}", "`rows[0]`: Object missing required field `name`"),
        ("gateway = 3", "`gateway`: Expected `object`, got `int`"),
        ("port = ", "is not valid TOML"),
        ("port = 1\nport = 2", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problem(text, tmp_path)


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / name, Shape)


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(path, Shape)


@pytest.mark.parametrize(
    ("name", "text", "table"),
    [
        ("X_PORT", "9", {"port": 9}),
        ("X_RATIO", "0.25", {"ratio": 0.25}),
        ("X_ON", "true", {"on": True}),
        ("X_GATEWAY__LISTEN", "127.0.0.1:80", {"gateway": {"listen": "127.0.0.1:80"}}),
        ("X_GATEWAY__LIMIT", "5", {"gateway": {"limit": 5}}),
        ("X_TOKEN", "12345", {"token": "12345"}),
        ("X_TOKEN", "true", {"token": "true"}),
        ("X_TOKEN", '"quoted"', {"token": "quoted"}),
        ("X_FREE__LLAMA__SLOTS", "4", {"free": {"llama": {"slots": 4}}}),
        ("X_ROWS", '[{name = "a"}]', {"rows": [{"name": "a"}]}),
        ("X_OTHER", "9", {}),
        ("PORT", "9", {}),
    ],
)
def test_a_variable_lies_over_the_file(name: str, text: str, table: dict[str, object]) -> None:
    assert overlay({}, Shape, "X_", {name: text}) == table


def test_the_files_own_tables_are_left_as_they_were() -> None:
    table = {"gateway": {"listen": "a"}}
    assert overlay(table, Shape, "X_", {"X_GATEWAY__LISTEN": "b"}) == {"gateway": {"listen": "b"}}
    assert table == {"gateway": {"listen": "a"}}


def test_a_variable_through_something_that_is_no_table_is_an_error() -> None:
    with pytest.raises(ConfigError, match="`port` is not a table"):
        overlay({"port": 1}, Shape, "X_", {"X_PORT__DEEP": "1"})


def test_a_wrong_value_from_the_environment_is_named_like_any_other() -> None:
    with pytest.raises(ConfigError, match="`port`: Expected `int`"):
        convert(overlay({}, Shape, "X_", {"X_PORT": "many"}), Shape, where="x")


@given(
    st.dictionaries(st.sampled_from(["X_PORT", "X_TOKEN", "X_GATEWAY__LISTEN", "X_ROWS", "X_ON"]), st.text(max_size=12))
)
def test_no_environment_makes_anything_but_a_configuration_or_a_typed_error(environ: dict[str, str]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(convert(overlay({}, Shape, "X_", environ), Shape, where="x"), Shape)


def test_a_file_with_secrets_must_not_be_readable_by_everyone(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 0640"):
        refuse_world_readable(path, insecure_ok=False)
    refuse_world_readable(path, insecure_ok=True)
    path.chmod(0o640)
    refuse_world_readable(path, insecure_ok=False)
