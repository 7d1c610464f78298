"""The objective against a loop over documents, one at a time, with torch's own cross-entropy."""

import pytest
import torch
import torch.nn.functional as F
from optimiser_builders import small_model
from training_builders import packed, random_documents

from k25.model import Segments, StreamKeys
from k25.train import learner as learner_module
from k25.train.learner import Learner

LENGTHS = [7, 30, 12, 19]


def naive_losses(model, documents):
    """Weighted loss and weight of each source, document after document, token after token."""
    losses, weights = {"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}
    for document in documents:
        tokens = torch.tensor(document.token_ids)
        segments = Segments.from_lengths([len(tokens)])
        patches = None if document.patches is None else torch.from_numpy(document.patches)
        features = None if patches is None else model.vision_features(patches, document.grids)
        hidden = model(tokens, torch.arange(len(tokens)), StreamKeys(segments), features).hidden_TD
        scores = model.logits(hidden)
        for place in range(1, len(tokens)):
            if document.is_target[place]:
                loss = F.cross_entropy(scores[place - 1], tokens[place])
                losses[document.source] = losses[document.source] + document.loss_weight * loss
                weights[document.source] += document.loss_weight
    return losses, weights


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("rows", [4096, 5])
def test_loss_and_gradients_are_those_of_a_loop_over_documents(rows, monkeypatch):
    monkeypatch.setattr(learner_module, "SCORE_ROWS", rows)
    model = small_model()
    documents = random_documents(LENGTHS, picture_in=1)
    losses, weights = naive_losses(model, documents)
    (losses["a"] + losses["b"]).backward()
    expected = gradients(model)

    measured = Learner(model, measure_logits=True)(packed(documents))
    measured.loss.backward()
    found = gradients(model)

    torch.testing.assert_close(measured.loss, losses["a"] + losses["b"])
    torch.testing.assert_close(measured.loss_R, torch.stack([losses["a"], losses["b"]]).detach())
    assert measured.weight_R.tolist() == [weights["a"], weights["b"]]
    assert "vision_tower.blocks.0.qkv.weight" in found
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-5, msg=name)


def test_every_mixture_layer_counts_each_token_once_per_chosen_expert():
    model = small_model()
    measured = Learner(model, measure_logits=False)(packed(random_documents(LENGTHS)))
    assert measured.tokens_per_expert_ME.sum(1).tolist() == [sum(LENGTHS) * 2] * 2
    assert measured.max_logits_LH is None


def test_a_stream_whose_documents_were_all_damaged_has_no_loss():
    measured = Learner(small_model(), measure_logits=True)(packed([]))
    measured.loss.backward()
    assert measured.loss.item() == 0
    assert measured.weight_R.tolist() == [0, 0]
