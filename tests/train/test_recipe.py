"""Recipes: every wrong key, value and name is one line that says where and what instead."""

from pathlib import Path

import pytest
import tomli_w
from training_builders import recipe, table

from k25.errors import InputError
from k25.rl.recipe import load_rl_recipe
from k25.train.recipe import load_recipe, parse_recipe, read_toml
from k25.train.start import model_config
from k25.train.tokenizer_recipe import load_tokenizer_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("stps=3", "stps", "steps"),
        ("optimizer.muon_rl=1e-3", "optimizer.muon_rl", "muon_lr"),
        ("schedule.warm_up=3", "schedule.warm_up", "warmup"),
        ("step.max_gradient=1", "step.max_gradient", "max_gradient_norm"),
        ("model.start=1", "model.start", "start_from"),
        ("parallel.experts=1", "parallel.experts", "expert"),
        ("checkpoint.evry=1", "checkpoint.evry", "every"),
        ("monitor.sample=1", "monitor.sample", "samples"),
        ("data.sequence_token=64", "data.sequence_token", "sequence_tokens"),
        ("data.sources.sums.wieght=1", "data.sources.sums.wieght", "weight"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(override, key, nearest):
    with pytest.raises(InputError) as error:
        recipe(override)
    assert f"tiny.toml: {key}: unknown key; did you mean" in str(error.value)
    assert nearest in str(error.value).partition("did you mean")[2]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("steps=many", "steps"),
        ("steps=0", "steps"),
        ("streams_per_step=1.5", "streams_per_step"),
        ("precision=float16", "precision"),
        ("stage=rl", "stage"),
        ("optimizer.muon_lr=-1", "optimizer.muon_lr"),
        ("optimizer.momentum=1", "optimizer.momentum"),
        ("optimizer.muon_lr=nan", "optimizer.muon_lr"),
        ("model.trained=['eyes']", "model.trained.0"),
        ("schedule.floor=2", "schedule.floor"),
        ("data.sequence_tokens=-1", "data.sequence_tokens"),
        ("data.sources.sums.kind=video", "data.sources.sums"),
        ("data.sources.sums.weight=[[5, 1], [3, 1]]", "data.sources.sums.weight"),
        ("data=1", "data"),
        ("model=1", "model"),
    ],
)
def test_a_wrong_value_is_named(override, key):
    with pytest.raises(InputError) as error:
        recipe(override)
    assert str(error.value).startswith(f"tiny.toml: {key}")
    assert "\n" not in str(error.value)


def test_a_schedule_of_no_length_is_refused():
    with pytest.raises(InputError, match=r"tiny.toml: schedule: warmup, stable and decay are all 0"):
        recipe(schedule={})


def test_a_missing_table_is_named():
    without = table()
    del without["schedule"]
    with pytest.raises(InputError, match=r"tiny.toml: schedule: Field required"):
        parse_recipe(without, (), "tiny.toml")


@pytest.mark.parametrize("override", ["steps", "=3", ""])
def test_an_override_without_key_or_value_says_how_to_write_it(override):
    with pytest.raises(InputError, match=r"write it as key.key=value"):
        recipe(override)


def test_an_override_below_a_value_is_refused():
    with pytest.raises(InputError, match=r"'steps.count=3': steps is a value, not a table"):
        recipe("steps.count=3")


def test_overrides_are_toml_values_and_bare_words_strings():
    changed = recipe(
        "optimizer.muon_lr=5e-4",
        "steps=1_000",
        "precision=bfloat16",
        'model.trained=["projector"]',
        "parallel.decoupled_encoder=true",
        "data.sources.sums.weight=[[0, 1.0], [100, 0.5]]",
        'description="a=b"',
    )
    assert changed.optimizer.muon_lr == 5e-4
    assert changed.steps == 1000
    assert changed.precision == "bfloat16"
    assert changed.model.trained == ("projector",)
    assert changed.parallel.decoupled_encoder
    assert changed.data.sources["sums"].weight == ((0, 1.0), (100, 0.5))
    assert changed.description == "a=b"


def test_later_overrides_win():
    assert recipe("steps=3", "steps=4").steps == 4


def test_what_can_be_switched_off_is_switched_off_by_the_word_off():
    off = recipe("optimizer.qk_clip_tau=off", "step.spike_factor=off", "step.max_gradient_norm=off")
    assert off.optimizer.qk_clip_tau is None
    assert off.step.spike_factor is None
    assert off.step.max_gradient_norm is None


def test_the_resolved_recipe_reads_back_as_the_same_recipe(tmp_path):
    resolved = recipe("optimizer.qk_clip_tau=off", "step.spike_factor=off", "data.sources.sums.weight=[[0, 1], [9, 2]]")
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(resolved.table()))
    assert load_recipe(str(path)) == resolved
    assert read_toml(path)["optimizer"]["qk_clip_tau"] == "off"


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(InputError, match=r"there is no recipe 'nano/joit'; did you mean nano/joint\?"):
        load_recipe("nano/joit")


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("steps = = 3")
    with pytest.raises(InputError, match=r"mine.toml: is not valid TOML"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.preset=nani", "there is no preset 'nani'"),
        ("model.text.hiden_size=64", "model.text.hiden_size: unknown key; did you mean hidden_size?"),
        ("model.text.hidden_size=wide", "model.text.hidden_size: Input should be a valid integer"),
        ("model.text.rope_scaling={factr=4.0}", "model.text.rope_scaling.factr: unknown key; did you mean factor?"),
        ("model.vision.patch=14", "model.vision.patch: unknown key; did you mean patch_size?"),
        ("model.start_from=nowhere/at/all", "nowhere/at/all"),
    ],
)
def test_an_impossible_network_is_named(override, message):
    with pytest.raises(InputError) as error:
        model_config(recipe(override).model)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_changes_to_a_vision_tower_that_is_not_there_are_refused():
    with pytest.raises(InputError, match=r"model.vision: moonlight-16b-a3b has no vision tower"):
        model_config(recipe("model.preset=moonlight-16b-a3b", "model.text={}").model)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_that_comes_with_k25_is_valid(path):
    name = f"{path.parent.name}/{path.stem}"
    stage = read_toml(path).get("stage")
    if stage is None:
        assert load_tokenizer_recipe(name).vocabulary_size > 0
        return
    found = load_rl_recipe(name) if stage == "rl" else load_recipe(name)
    if path.stem.removesuffix("-32k").removesuffix("-256k") in ("vision", "joint", "long-context", "sft", "rl"):
        assert path.stem.startswith(found.stage)
    assert found.description
    assert found.schedule.unit == "tokens" or found.schedule.total == found.steps
