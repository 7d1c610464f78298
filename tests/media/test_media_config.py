"""The settings file of a checkpoint."""

import json

import pytest

from k25.errors import InputError
from k25.media import MediaConfig, MediaProcessor

RELEASED = {
    "in_patch_limit": 16384,
    "patch_size": 14,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "merge_kernel_size": 2,
    "fixed_output_tokens": None,
    "patch_limit_on_one_side": 512,
    "in_patch_limit_each_frame": 4096,
    "in_patch_limit_video": None,
    "sample_fps": 2.0,
    "max_num_frames_each_video": None,
    "temporal_merge_kernel_size": 4,
    "timestamp_mode": "hh:mm:ss.fff",
    "config_type": "media_proc.processors.moonvit.MoonViTMediaProcessorConfig",
}


def test_the_defaults_are_the_released_settings():
    assert MediaConfig.from_dict(RELEASED) == MediaConfig()


def test_a_checkpoint_folder_is_read(tmp_path):
    content = {"auto_map": {"AutoProcessor": "x.Y"}, "media_proc_cfg": RELEASED | {"patch_size": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    assert MediaProcessor.from_pretrained(tmp_path).config == MediaConfig(patch_size=8)
    assert MediaConfig.from_file(tmp_path / "preprocessor_config.json").patch_size == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_sise": 14}, "did you mean patch_size"),
        ({"colour": 1}, "unknown key 'colour'; remove it"),
        ({"patch_size": "14"}, "patch_size must be a positive whole number"),
        ({"patch_size": True}, "patch_size"),
        ({"in_patch_limit_video": 0}, "or null"),
        ({"image_std": [0.5, 0, 0.5]}, "three positive numbers"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"sample_fps": float("inf")}, "sample_fps"),
        ({"patch_limit_on_one_side": 511}, "multiple of merge_kernel_size"),
        ({"timestamp_mode": "ss"}, "timestamp_mode must be one of"),
        ({"fixed_output_tokens": 64}, "fixed_output_tokens must be null"),
        ({"config_type": "other"}, "config_type"),
    ],
)
def test_a_wrong_setting_is_named(change, message):
    with pytest.raises(InputError, match=message):
        MediaConfig.from_dict(RELEASED | change)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"media_proc_cfg": 3}', "[" * 100_000])
def test_a_file_without_settings_is_an_error(tmp_path, text):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(InputError, match="preprocessor_config"):
        MediaConfig.from_file(tmp_path)


def test_an_absent_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        MediaConfig.from_file(tmp_path / "none")
