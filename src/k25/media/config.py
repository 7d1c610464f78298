"""How media become patches: the released processor's settings, and the limits that guard against hostile input.

The settings are the key `media_proc_cfg` of a checkpoint's `preprocessor_config.json`. Defaults are the released ones;
small models may use others, so nothing else in this package repeats a number found here.
"""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from k25.errors import InputError

TIMESTAMP_MODES = ("hh:mm:ss.fff", "mm:ss.fff", "mm:ss")
FILE_NAME = "preprocessor_config.json"
_RELEASED_CONFIG_TYPE = "media_proc.processors.moonvit.MoonViTMediaProcessorConfig"


@dataclass(frozen=True)
class MediaConfig:
    """Settings of the released media processor, in its own names.

    Patch limits count patches, `patch_size` is pixels, `sample_fps` is frames per second. `None` means no limit, except
    for `in_patch_limit_each_frame`, where it means `in_patch_limit`.
    """

    in_patch_limit: int = 16384
    patch_size: int = 14
    merge_kernel_size: int = 2
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    patch_limit_on_one_side: int = 512
    in_patch_limit_each_frame: int | None = 4096
    in_patch_limit_video: int | None = None
    sample_fps: float = 2.0
    max_num_frames_each_video: int | None = None
    temporal_merge_kernel_size: int = 4
    timestamp_mode: str = "hh:mm:ss.fff"

    def __post_init__(self) -> None:
        for name in ("in_patch_limit", "patch_size", "merge_kernel_size", "temporal_merge_kernel_size"):
            _check(name, getattr(self, name), _is_positive_int, "a positive whole number")
        for name in ("in_patch_limit_each_frame", "in_patch_limit_video", "max_num_frames_each_video"):
            value = getattr(self, name)
            _check(name, value, lambda v: v is None or _is_positive_int(v), "a positive whole number or null")
        side, merge = self.patch_limit_on_one_side, self.merge_kernel_size
        _check(
            "patch_limit_on_one_side",
            side,
            lambda v: _is_positive_int(v) and v % merge == 0,
            f"a positive multiple of merge_kernel_size ({merge})",
        )
        _check("image_mean", self.image_mean, lambda v: _are_numbers(v), "three numbers")
        _check("image_std", self.image_std, lambda v: _are_numbers(v) and min(v) > 0, "three positive numbers")
        _check("sample_fps", self.sample_fps, lambda v: _is_number(v) and v > 0, "a positive number")
        modes = ", ".join(TIMESTAMP_MODES)
        _check("timestamp_mode", self.timestamp_mode, lambda v: v in TIMESTAMP_MODES, f"one of {modes}")

    @property
    def factor(self) -> int:
        """Pixels on a side of one token's square; padded sizes are multiples of it."""
        return self.patch_size * self.merge_kernel_size

    @property
    def frame_patch_limit(self) -> int:
        """Patch limit of one video frame before any limit on the whole video."""
        return self.in_patch_limit if self.in_patch_limit_each_frame is None else self.in_patch_limit_each_frame

    @classmethod
    def for_context(cls, tokens: int, patch_size: int, merge_kernel_size: int) -> "MediaConfig":
        """Settings for a small model: a picture takes up to a sixteenth of the context, a frame a quarter of that."""
        return cls(
            in_patch_limit=tokens // 4,
            in_patch_limit_each_frame=tokens // 16,
            patch_size=patch_size,
            merge_kernel_size=merge_kernel_size,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str = "media_proc_cfg") -> "MediaConfig":
        """Settings from the mapping `media_proc_cfg`; `name` appears in errors.

        Raises:
            InputError: a key is unknown or missing its type, or names a behaviour that does not exist here.
        """
        values = dict(values)
        if values.pop("config_type", _RELEASED_CONFIG_TYPE) != _RELEASED_CONFIG_TYPE:
            raise InputError(f"{name}: config_type must be {_RELEASED_CONFIG_TYPE}")
        if values.pop("fixed_output_tokens", None) is not None:
            # A fixed count would disagree with the number of features that the vision tower returns.
            raise InputError(f"{name}: fixed_output_tokens must be null")
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "remove it"
                raise InputError(f"{name}: unknown key {key!r}; {hint}")
        for key in ("image_mean", "image_std"):
            if isinstance(values.get(key), list):
                values[key] = tuple(values[key])
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> "MediaConfig":
        """Settings from a `preprocessor_config.json`, or from the checkpoint folder that holds one.

        Raises:
            InputError: the file cannot be read, is no JSON object, or lacks or misspells `media_proc_cfg`.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give a {FILE_NAME} or its folder") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not valid JSON ({error}); give a {FILE_NAME}") from None
        if not isinstance(content, dict) or not isinstance(content.get("media_proc_cfg"), dict):
            raise InputError(f"{path}: has no object media_proc_cfg; give the {FILE_NAME} of a K2.5 checkpoint")
        return cls.from_dict(cast(dict[str, Any], content["media_proc_cfg"]), f"{path}: media_proc_cfg")

    def save(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` into a checkpoint folder."""
        content = {"media_proc_cfg": {"config_type": _RELEASED_CONFIG_TYPE, **asdict(self)}}
        (Path(folder) / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class MediaLimits:
    """What is refused before it can cost much memory or time.

    `max_bytes` bounds a file, data URL or download; its default is the official API's request limit. `max_pixels`
    bounds a decoded picture or video frame. `max_patches` bounds the output of one call; its default fills a context
    of 262,144 tokens with four-frame video chunks (2,352 bytes per patch at patch size 14, so up to 9.2 GiB).
    """

    max_bytes: int = 100_000_000
    max_pixels: int = 89_478_485
    max_patches: int = 4_194_304


def _check(name: str, value: Any, holds: Any, meaning: str) -> None:
    if not holds(value):
        raise InputError(f"{name} must be {meaning}, not {value!r}")


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) == 3 and all(_is_number(value) for value in values)
