"""cortex.toml and models.toml: strict, and helpful when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.base.errors import ConfigError
from helexa.gateway.config import check_pins, load_cortex, load_models, parse_address

ROOT = Path(__file__).parents[2]


def cortex(tmp_path: Path, text: str, environ: dict[str, str] | None = None):
    path = tmp_path / "cortex.toml"
    path.write_text(text)
    path.chmod(0o640)
    return load_cortex(path, environ or {})


def models(tmp_path: Path, text: str):
    path = tmp_path / "models.toml"
    path.write_text(text)
    return load_models(path)


def neuron(endpoint: str, name: str = "a") -> str:
    return f'[[neurons]]\nname = "{name}"\nendpoint = "{endpoint}"\n'


def test_the_examples_are_what_the_code_reads() -> None:
    config = load_cortex(ROOT / "examples" / "cortex.toml", {})
    assert [neuron.name for neuron in config.neurons] == ["beast", "attic"]
    file = load_models(ROOT / "examples" / "models.toml")
    assert file.aliases["claude-*"] == "big-on-beast"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[gateway]\nlisen = "127.0.0.1:1"', "unknown key `gateway.lisen`; did you mean `listen`?"),
        ("[gatway]", "unknown key `gatway`; did you mean `gateway`?"),
        ("[gateway]\nmax_body_mb = 'a'", "`gateway.max_body_mb`: Expected `int`, got `str`"),
        ("[gateway]\nmax_body_mb = 0", "`gateway.max_body_mb` is 0; it must be at least 1"),
        ('[gateway]\nlisten = "31313"', "is not host:port"),
        ('[gateway]\ntls_cert = "a"', "go together"),
        ('[eviction]\nstrategy = "fifo"', "`eviction.strategy`: Invalid enum value 'fifo'"),
        ("[eviction]\npatience_s = -1", "must be at least 0"),
        ('[[neurons]]\nname = "a"', "missing required field `endpoint`"),
        ('[gateway]\nlisten = "a:1"\nmetrics_listen = "a:1"', "need a port each"),
        (neuron("a:1"), "must be http://host:port"),
        (neuron("http://"), "must be http://host:port"),
        (neuron("http://a:99999"), "must be http://host:port"),
        (neuron("http://[::1"), "must be http://host:port"),
        (neuron("http://a:1/v1"), "must be http://host:port"),
        (neuron("http://a:1", name=""), "`neurons[...].name` is ''; use letters"),
        (neuron("http://a:1", name="b\u00e4r"), "use letters"),
        (neuron("http://a:1") + 'token = "\u00fc"', "no header can carry"),
        (neuron("http://a:1") + neuron("http://a:1/", name="b"), "`neurons[...].endpoint`: `http://a:1` stands twice"),
        (
            '[[neurons]]\nname = "a"\nendpoint = "http://a"\n[[neurons]]\nname = "a"\nendpoint = "http://b"',
            "stands twice",
        ),
        ('[[neurons]]\nname = "a"\nendpont = "http://a"', "did you mean `endpoint`?"),
        ("[gateway", "is not valid TOML"),
    ],
)
def test_a_wrong_cortex_toml_is_refused_in_words_that_name_the_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cortex(tmp_path, text)
    assert said in caught.value.message
    assert "cortex.toml" in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[models]]\nid = ""', "is empty"),
        ('[[models]]\nid = "a/b"\n[[models]]\nid = "a/b"', "stands twice"),
        ('[[models]]\nid = "a/b"\nvram = 3', "unknown key `models[0].vram`; did you mean `vram_mb`?"),
        ('[[models]]\nid = "a/b"\nmin_devices = 0', "`models.a/b.min_devices` is 0"),
        ('[[models]]\nid = "a/b"\nvram_mb = -1', "must be at least 0"),
        ('[[models]]\nid = "a/b"\nlimit = { contxt = 3 }', "did you mean `context`?"),
        ('[[models]]\nid = "a/b"\n[aliases]\n"a/b" = "c"', "is also the id of a model"),
        ('[aliases]\nx = ""', "points at nothing"),
        ('[aliases]\nx = "y"\ny = "x"', "`aliases.x` points at `y`, an alias itself"),
        ('[[models]]\nid = "a\\nb"\nharness = "echo"', "cannot be printed"),
    ],
)
def test_a_wrong_models_toml_is_refused_in_words_that_name_the_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        models(tmp_path, text)
    assert said in caught.value.message


def test_a_model_pinned_on_a_node_that_there_is_not_is_named_with_the_nearest(tmp_path: Path) -> None:
    config = cortex(tmp_path, neuron("http://a:1", name="beast"))
    file = models(tmp_path, '[[models]]\nid = "a/b"\npinned_on = ["baest"]')
    with pytest.raises(
        ConfigError, match=r"`models\.a/b\.pinned_on`: no neuron is called `baest`; did you mean `beast`"
    ):
        check_pins(config, file, "models.toml")
    check_pins(cortex(tmp_path, neuron("http://a:1", name="baest")), file, "models.toml")


def test_a_missing_catalogue_is_loud(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_models(tmp_path / "models.toml")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    found = cortex(
        tmp_path,
        '[gateway]\nlisten = "127.0.0.1:1"',
        {"CORTEX_GATEWAY__LISTEN": "127.0.0.1:2", "CORTEX_GATEWAY__MAX_BODY_MB": "7", "CORTEX_URL": "unrelated"},
    )
    assert (found.gateway.listen, found.gateway.max_body_mb) == ("127.0.0.1:2", 7)


def test_a_file_with_secrets_must_not_be_world_readable(tmp_path: Path) -> None:
    path = tmp_path / "cortex.toml"
    path.write_text('[[neurons]]\nname = "a"\nendpoint = "http://a"\ntoken = "t"')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 0640"):
        load_cortex(path, {})
    assert load_cortex(path, {}, insecure_ok=True).neurons[0].token == "t"


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:1", ("127.0.0.1", 1)), (":80", ("0.0.0.0", 80)), ("[::1]:9", ("::1", 9))],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, "here") == address
