"""Checkpoints go to transformers' own implementation and come back, number for number."""

import shutil

import pytest
import torch
from checkpoint_made_here import TINY, assert_same_weights, random_model, text_only, with_text
from safetensors.torch import save_file
from transformers import AutoConfig, DeepseekV3ForCausalLM, Kimi_K25ForConditionalGeneration

from k25.checkpoint import load_model, save_model
from k25.model import YarnScaling

YARN = YarnScaling(factor=4.0, original_max_position_embeddings=64)
CONFIGS = {
    "image and text": TINY,
    "image and text, yarn": with_text(rope_scaling=YARN, max_position_embeddings=256),
    "image and text, single query projection": with_text(q_lora_rank=None),
    "text only": text_only(),
    "text only, single query projection, yarn": text_only(q_lora_rank=None, rope_scaling=YARN),
}


def loaded_by_transformers(config, folder, dtype=torch.float32):
    kind = Kimi_K25ForConditionalGeneration if config.vision else DeepseekV3ForCausalLM
    model, report = kind.from_pretrained(folder, output_loading_info=True, dtype=dtype)
    assert not any(report.values()), report
    return model


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request):
    return request.param


@pytest.fixture
def ours(config):
    return random_model(config)


@pytest.fixture
def theirs(config, ours, tmp_path):
    save_model(ours, tmp_path / "ours", max_shard_bytes=200_000)
    return loaded_by_transformers(config, tmp_path / "ours")


def test_transformers_finds_every_tensor_we_write_and_no_other(theirs):
    assert sum(tensor.numel() for tensor in theirs.parameters()) > 0


def test_transformers_reads_the_sizes_and_rotary_settings_we_write(config, ours, tmp_path):
    save_model(ours, tmp_path / "ours")
    read = AutoConfig.from_pretrained(tmp_path / "ours")
    text = read.text_config if config.vision else read
    assert text.rope_parameters["rope_theta"] == config.text.rope_theta
    assert text.rope_parameters["rope_type"] == ("yarn" if config.text.rope_scaling else "default")
    assert text.routed_scaling_factor == config.text.routed_scaling_factor
    assert text.n_group == text.topk_group == 1
    if config.vision:
        assert read.image_token_id == config.media_placeholder_token_id
        assert read.vision_config.hidden_size == config.vision.hidden_size
        assert read.tie_word_embeddings is False


def test_the_state_of_a_transformers_model_loads(config, ours, theirs, tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    theirs.config.save_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, folder / "model.safetensors")
    assert_same_weights(ours, load_model(folder))


def test_what_transformers_saves_loads(config, ours, theirs, tmp_path):
    if config.vision and config.text.q_lora_rank is None:
        pytest.skip("transformers 5.23 saves the text query projection of such a model under a vision name, re-ordered")
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_model(tmp_path / "theirs")
    assert loaded.config.text == config.text
    assert loaded.config.vision == config.vision
    assert_same_weights(ours, loaded)


def test_what_transformers_saves_wrongly_is_refused_not_misread(tmp_path):
    """Transformers 5.23 takes `self_attn.q_proj` for the vision tower's when it saves."""
    save_model(random_model(with_text(q_lora_rank=None)), tmp_path / "ours")
    loaded_by_transformers(with_text(q_lora_rank=None), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match="self_wqkv"):
        load_model(tmp_path / "theirs")


def test_bfloat16_survives_both_ways(tmp_path):
    ours = random_model(TINY, torch.bfloat16)
    save_model(ours, tmp_path / "ours")
    theirs = loaded_by_transformers(TINY, tmp_path / "ours", "auto")
    assert theirs.dtype == torch.bfloat16
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    shutil.rmtree(tmp_path / "ours")
    loaded = load_model(tmp_path / "theirs", dtype=torch.bfloat16)
    for name, tensor in ours.state_dict().items():
        if not name.endswith("selection_bias"):  # transformers keeps these in the model's dtype
            assert torch.equal(tensor, loaded.state_dict()[name]), name
