"""Every field of the three TOML files, wrong in turn: the error names the file, the field and what would be right.

The fields are read off the configuration's types, so one that is added is tested from then on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from helexa.base.errors import ConfigError
from helexa.gateway.config import CortexConfig, ModelsFile, load_cortex, load_models
from helexa.neuron.config import NeuronConfig
from helexa.neuron.config import load as load_neuron
from tests.interaction.test_fleet import toml

WRONG: tuple[Any, ...] = (["a list"], 7, "a text", {"a": "table"})


@dataclass(frozen=True)
class File:
    name: str
    shape: type[msgspec.Struct]
    load: Callable[[Path], object]


FILES = (
    File("cortex.toml", CortexConfig, lambda path: load_cortex(path, {})),
    File("models.toml", ModelsFile, load_models),
    File("neuron.toml", NeuronConfig, lambda path: load_neuron(path, {})),
)


@dataclass(frozen=True)
class Spot:
    """One field: the keys that lead to its table, its name and its type. A list's first entry is the key 0."""

    way: tuple[str | int, ...]
    name: str
    kind: inspect.Type

    def __str__(self) -> str:
        """As the error calls it: `neurons[0].name`."""
        return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, (*self.way, self.name))))


def spots(shape: type[msgspec.Struct], way: tuple[str | int, ...] = ()) -> Iterator[Spot]:
    for field in msgspec.structs.fields(shape):
        kind = inspect.type_info(field.type)
        yield Spot(way, field.encode_name, kind)
        inner, step = _within(kind)
        if inner is not None:
            yield from spots(inner, (*way, field.encode_name, *step))


def _within(kind: inspect.Type) -> tuple[type[msgspec.Struct] | None, tuple[str | int, ...]]:
    """The struct that a field holds, and the key between."""
    if isinstance(kind, inspect.StructType):
        return kind.cls, ()
    if isinstance(kind, inspect.CollectionType):
        return _within(kind.item_type)[0], (0,)
    if isinstance(kind, inspect.DictType):
        return _within(kind.value_type)[0], ("hf",)
    if isinstance(kind, inspect.UnionType):
        return next((found for part in kind.types if (found := _within(part))[0]), (None, ()))
    return None, ()


def fits(kind: inspect.Type, value: object) -> bool:
    if isinstance(kind, inspect.UnionType):
        return any(fits(part, value) for part in kind.types)
    shapes: dict[type, tuple[type, ...]] = {
        list: (inspect.CollectionType,),
        int: (inspect.IntType, inspect.FloatType),
        str: (inspect.StrType,),
        dict: (inspect.DictType, inspect.StructType),
    }
    return isinstance(kind, (inspect.AnyType, *shapes[type(value)]))


def written(folder: Path, file: File, spot: Spot, name: str, value: object) -> Path:
    """The file with one key in it, and the required ones on the way to it."""
    table: Any = {name: value} | _required(_table_at(file.shape, spot.way), but=name)
    shapes = [_table_at(file.shape, spot.way[:at]) for at in range(len(spot.way))]
    for key, shape in zip(reversed(spot.way), reversed(shapes), strict=True):
        table = [table] if key == 0 else {str(key): table} | (_required(shape, but=str(key)) if shape else {})
    path = folder / file.name
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in table.items()))
    path.chmod(0o600)
    return path


def _table_at(shape: type[msgspec.Struct], way: tuple[str | int, ...]) -> type[msgspec.Struct] | None:
    """The struct at the end of the way; None where the way ends in a list or a map."""
    if not way:
        return shape
    return next((type_of for spot, type_of in _tables(shape) if spot == way), None)


def _tables(
    shape: type[msgspec.Struct], way: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], type[msgspec.Struct]]]:
    for field in msgspec.structs.fields(shape):
        inner, step = _within(inspect.type_info(field.type))
        if inner is not None:
            yield (*way, field.encode_name, *step), inner
            yield from _tables(inner, (*way, field.encode_name, *step))


def _required(shape: type[msgspec.Struct] | None, *, but: str) -> dict[str, object]:
    fields = msgspec.structs.fields(shape) if shape is not None else ()
    return {field.encode_name: "cpu" for field in fields if field.required and field.encode_name != but}


CASES = [pytest.param(file, spot, id=f"{file.name} {spot}") for file in FILES for spot in spots(file.shape)]


def refusal(file: File, path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        file.load(path)
    assert str(caught.value.fields["path"]) == str(path)
    assert str(path) in caught.value.message
    return str(caught.value.fields["problem"])


@pytest.mark.parametrize(("file", "spot"), CASES)
def test_a_value_of_the_wrong_type_is_named_with_its_place_and_the_right_type(
    tmp_path: Path, file: File, spot: Spot
) -> None:
    wrong = [value for value in WRONG if not fits(spot.kind, value)]
    assert wrong
    for value in wrong:
        said = refusal(file, written(tmp_path, file, spot, spot.name, value))
        assert spot.name in said, said
        assert re.search(r"[Ee]xpected|must|one of", said), said


def numeric(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.UnionType):
        return any(numeric(part) for part in kind.types)
    return isinstance(kind, (inspect.IntType, inspect.FloatType))


ANY_NUMBER = ("residency_priority",)
NUMBERS = [case for case in CASES if numeric(case.values[1].kind)]  # type: ignore[union-attr]


@pytest.mark.parametrize(("file", "spot"), NUMBERS)
@pytest.mark.parametrize("wrong", ["-1", "nan", "inf"])
def test_a_number_that_makes_no_sense_is_named_with_its_place(
    tmp_path: Path, file: File, spot: Spot, wrong: str
) -> None:
    path = written(tmp_path, file, spot, spot.name, 0)
    path.write_text(path.read_text().replace(f"{spot.name} = 0", f"{spot.name} = {wrong}"))
    if wrong == "-1" and spot.name in ANY_NUMBER:
        file.load(path)
        return
    said = refusal(file, path)
    assert spot.name in said, said
    assert wrong in said, said


@pytest.mark.parametrize(("file", "spot"), CASES)
def test_a_misspelled_key_is_named_with_its_place_and_the_right_spelling(
    tmp_path: Path, file: File, spot: Spot
) -> None:
    misspelled = spot.name[:-1] + "qz"
    said = refusal(file, written(tmp_path, file, spot, misspelled, 7))
    assert f"unknown key `{str(spot)[: -len(spot.name)]}{misspelled}`" in said.replace(
        "sources[...]", "sources.hf"
    ).replace("[...]", "[0]")
    assert re.search(r"did you mean `\w+`\?", said) or len(spot.name) < 5, said


@pytest.mark.parametrize(
    ("file", "spot"),
    [case for case in CASES if isinstance(case.values[1].kind, inspect.LiteralType)],  # type: ignore[union-attr]
)
def test_a_word_that_is_none_of_those_allowed_is_answered_with_all_of_them(
    tmp_path: Path, file: File, spot: Spot
) -> None:
    said = refusal(file, written(tmp_path, file, spot, spot.name, "nonsense"))
    assert isinstance(spot.kind, inspect.LiteralType)
    assert all(str(word) in said for word in spot.kind.values), said
