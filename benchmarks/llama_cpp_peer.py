"""llama.cpp as a peer of the engine, through llama-cpp-python's low-level batch functions.

Several sequences go in one `llama_batch`, each with a stream of its own in the cache. Settings are llama.cpp's defaults
but for the number of threads, which is torch's.
"""

import copy
import importlib
import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gguf_export import write_gguf
from k25.model import K25Model, Segments, StreamKeys

# Largest typical difference of a token's logits, as a share of their deviation: a wrong export makes it about 1.
# llama.cpp rounds activations to bf16 before it multiplies by bf16 weights, and to eight bits before 4-bit ones, and
# random routers turn some of that into other experts.
TOLERANCES = {"bf16": 0.08, "int4": 0.25}

# llama.cpp rounds the room of a sequence to whole steps.
CONTEXT_STEP = 256


def missing() -> list[str]:
    """Packages that the comparison needs and that are not installed."""
    packages = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}
    return [package for module, package in packages.items() if importlib.util.find_spec(module) is None]


class LlamaCpp:
    """Sequences of equal length in one llama.cpp context."""

    def __init__(self, library: ModuleType, model: Any, sequences: int, length: int) -> None:
        self._library, self._sequences = library, sequences
        settings = library.llama_context_default_params()
        settings.n_seq_max = sequences
        settings.n_ctx = sequences * math.ceil(length / CONTEXT_STEP) * CONTEXT_STEP
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        self._context = library.llama_init_from_model(model, settings)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context for {sequences} sequences of {length} tokens")
        self._batch = library.llama_batch_init(settings.n_batch, 0, 1)
        self._vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))

    def close(self) -> None:
        """Free the context."""
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)

    def logits(self, prompts: NDArray[np.int32], new_tokens: int) -> Iterator[NDArray[np.float32]]:
        """Greedy decode of prompts (S, L): logits (S, vocabulary) per new token, valid until the next."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), False)
        tokens, start = prompts, 0
        for _ in range(new_tokens):
            scores = self._step(tokens, start)
            yield scores
            start += tokens.shape[1]
            tokens = scores.argmax(1).astype(np.int32)[:, None]

    def _step(self, tokens: NDArray[np.int32], start: int) -> NDArray[np.float32]:
        batch, (sequences, length) = self._batch, tokens.shape
        batch.n_tokens = count = tokens.size
        positions = np.tile(np.arange(start, start + length, dtype=np.int32), sequences)
        for array, values in (
            (batch.token, tokens.ravel()),
            (batch.pos, positions),
            (batch.n_seq_id, 1),
            (batch.logits, positions == start + length - 1),
        ):
            np.ctypeslib.as_array(array, (count,))[:] = values
        for index in range(count):
            batch.seq_id[index][0] = index // length
        status = self._library.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._context), (sequences, self._vocabulary))


class LlamaCppModel:
    """A text model in llama.cpp, by way of a GGUF file in `folder`."""

    def __init__(self, model: K25Model, folder: Path) -> None:
        self._library = importlib.import_module("llama_cpp")
        self._silence = self._library.llama_log_callback(lambda *_: None)
        self._library.llama_log_set(self._silence, None)
        path = folder / "model.gguf"
        write_gguf(model, path)
        self._library.llama_backend_init()
        self._model = self._library.llama_model_load_from_file(
            str(path).encode(), self._library.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError("llama.cpp does not load the exported model")

    @contextmanager
    def context(self, sequences: int, length: int) -> Iterator[LlamaCpp]:
        """Room for `sequences` of `length` tokens each."""
        context = LlamaCpp(self._library, self._model, sequences, length)
        try:
            yield context
        finally:
            context.close()

    def close(self) -> None:
        """Free the weights."""
        self._library.llama_model_free(self._model)


@torch.inference_mode()
def require_agreement(kind: str, model: K25Model, peer: LlamaCppModel) -> None:
    """Raise AssertionError if llama.cpp does not compute what our network computes in float32 from the same weights.

    4 sequences of 64 tokens get 16 new ones each. Ours goes in one pass over what llama.cpp chose, so that a difference
    does not grow from token to token. Of the 64 root mean square differences the median counts: random routers have
    near ties, and a token that meets one goes to another expert.
    """
    sequences, length, new_tokens = 4, 64, 16
    prompts = torch.randint(model.config.bos_token_id, (sequences, length), generator=torch.Generator().manual_seed(2))
    with peer.context(sequences, length + new_tokens) as context:
        steps = [torch.from_numpy(scores.copy()) for scores in context.logits(prompts.int().numpy(), new_tokens)]
    theirs = torch.stack(steps, dim=1)
    tokens = torch.cat((prompts, theirs.argmax(-1)[:, :-1]), dim=1)
    segments = Segments.from_lengths([tokens.shape[1]] * sequences)
    exact = copy.deepcopy(model).float()
    hidden = exact(tokens.flatten(), segments.positions(), StreamKeys(segments)).hidden_TD
    ours = exact.logits(hidden.unflatten(0, (sequences, -1))[:, length - 1 :])
    differences = (theirs - ours).square().mean(dim=-1).sqrt() / ours.std()
    difference = float(differences.median())
    if not difference <= TOLERANCES[kind]:
        raise AssertionError(f"llama.cpp's logits differ by {difference:.3f} of their deviation in {kind}")
