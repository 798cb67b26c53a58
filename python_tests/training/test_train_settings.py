"""The training file: the examples are read, and what does not fit is named."""

from pathlib import Path

import pytest
import yaml

from ddit_ext.training.settings_file import SettingsError, read_settings

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "train").glob("*.yaml"))
MINIMAL = """
model: {path: embedded:flux}
data: {source: generated, prompts: p.txt, cache: c, height: 64, width: 64}
output: {folder: out}
"""


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_read(path):
    settings = read_settings(path)
    given = yaml.safe_load(path.read_text())
    assert settings.model.path == given["model"]["path"]
    assert settings.training.steps == given["training"]["steps"]
    assert settings.training.range_of(4) == (0.6, 1.0)
    assert (settings.data.height, settings.data.width) == (given["data"]["height"], given["data"]["width"])


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} == {
        "flux2_klein_80gb",
        "flux_dev_80gb",
        "flux_dev_8gpus",
        "qwen_image_8gpus",
        "wan_1_3b",
        "embedded_flux",
    }


def test_overrides_win_over_the_file(tmp_path):
    path = write(tmp_path, MINIMAL)
    settings = read_settings(
        path, ["training.lr=3e-4", "adapter.scales=[2]", "data.generate.steps=9", "output.trackers=[wandb]"]
    )
    assert settings.training.lr == 3e-4 and settings.adapter.scales == (2,)
    assert settings.data.generate.steps == 9 and settings.output.trackers == ("wandb",)
    assert read_settings(path).output.trackers == "auto"
    ranges = ["training.noise_range={2: [0.1, 0.9]}", "training.noise_range.4=[0.7, 1]"]
    assert read_settings(path, ranges).training.noise_range == {2: (0.1, 0.9), 4: (0.7, 1.0)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rate=1", "training.learning_rate is not a key of training"),
        ("training.step=5", r"training.step is not a key of training; did you mean 'steps'\?"),
        ("modle.path=x", r"modle is not a key of the file; did you mean 'model'\?"),
        ("training.steps=many", "training.steps must be a whole number, got 'many'"),
        ("training.steps=1.5", "training.steps must be a whole number, got 1.5"),
        ("training.steps=true", "training.steps must be a whole number, got True"),
        ("training.steps=0", "training: steps must be at least 1, got 0"),
        ("training.lr=fast", "training.lr must be a number, got 'fast'"),
        ("training.lr=-1", "training: lr must be positive, got -1.0"),
        ("training.optimizer=adam", r"training.optimizer must be one of adamw, prodigy, got 'adam'; did you mean 'adamw'"),
        ("training.betas=[0.9]", r"training.betas must be a list of 2, got 1: \[0.9\]"),
        ("training.noise_range={2: [0.9, 0.1]}", r"training: noise_range\[2\] must be \(low, high\)"),
        ("training.noise_range={8: [0.1, 0.9]}", r"must name scales of the adapter, \[2, 4\], got \[8\]"),
        ("adapter.detail_variance={8: 0.1}", r"must name scales of the adapter, \[2, 4\], got \[8\]"),
        ("training.noise_range={two: [0.1, 0.9]}", "training.noise_range must be a whole number, got 'two'"),
        ("adapter.scales=2", "adapter.scales must be a list, got 2"),
        ("adapter.scales=[1, 2]", r"adapter: scales must be distinct and above 1, got \[1, 2\]"),
        ("data.path=x", "data: path is not for source \"generated\", got 'x'"),
        ("data.source=pictures", 'data: path is needed for source "pictures"'),
        ("output.trackers=[tensorbord]", r"output.trackers\[0\] must be one of tensorboard, wandb, got 'tensorbord'"),
        ("output.sample_every=5", "output: sample_prompts is needed with sample_every"),
        ("model=flux", "model must be a section of keys, got 'flux'"),
        ("training.lr", "--set takes section.key=value, got 'training.lr'"),
        ("training.lr=[1", r"--set training.lr is not YAML"),
    ],
)  # fmt: skip
def test_an_error_names_the_key_and_what_came(tmp_path, override, message):
    with pytest.raises(SettingsError, match=message):
        read_settings(write(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {path: x}\noutput: {folder: y}\n", "data is missing"),
        (MINIMAL.replace("cache: c, ", ""), "data.cache is missing"),
        ("- model", "must hold keys and values, got"),
        ("model: [", "is not YAML"),
        (MINIMAL + "model: {path: y}\n", "the key 'model' is given twice"),
        ("", "must hold keys and values, got nothing"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message):
        read_settings(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match="config .*absent.yaml cannot be read"):
        read_settings(tmp_path / "absent.yaml")


def test_prodigy_has_one_learning_rate(tmp_path):
    path = write(tmp_path, MINIMAL)
    settings = read_settings(path, ["training.optimizer=prodigy"])
    assert settings.training.peak_lr == 1.0 and read_settings(path).training.peak_lr == 1e-3
    with pytest.raises(SettingsError, match="lr_lora is not for prodigy"):
        read_settings(path, ["training.optimizer=prodigy", "training.lr_lora=0.1"])
