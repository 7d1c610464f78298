"""Experts that the engine chose, recorded in rollouts and replayed in training."""

import asyncio
import copy

import numpy as np
import pytest
import torch
from rl_builders import Letters, rl_recipe, train

from k25.agent import ModelTurn
from k25.engine import Engine, choices_to_json
from k25.errors import InputError
from k25.evaluation import Policy
from k25.rl import Example, Role, RolloutManager, samples_of
from k25.rl.advantages import lessons
from k25.rl.learner import PolicyLearner
from k25.rl.packing import pack_samples
from k25.rl.policy_engine import engine_config
from k25.rl.prompts import Prompts
from k25.train.parallel.expert_parallel import mixtures
from k25.train.start import build_start

LAYERS, K = 3, 2


class TwoTurns(Letters):
    """Says something, hears something, says something else."""

    name = "two-turns"

    async def rollout(self, example, scope):
        trajectory = await scope.run(example.messages)
        heard = {"role": "user", "content": "And now another word, please."}
        more = Example(example.key, (*trajectory.messages, heard), example.gold)
        return await super().rollout(more, scope)


def recipe(**changes):
    text = {
        "hidden_size": 32,
        "num_hidden_layers": LAYERS + 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "n_routed_experts": 16,
        "num_experts_per_tok": K,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    }
    rollouts = {"concurrency": 8, "cache_tokens": 8192}
    settings = {"model": {"text": text}, "sampling": {"max_tokens": 24}, "rollouts": rollouts}
    return rl_recipe(**(settings | changes))


def rolled(model, start, of, environment):
    """A packed stream of one step's rollouts by `model`, with the engine's choices."""

    async def groups():
        async with Engine(model, engine_config(of, record_experts=True)) as engine:
            policy = Policy(engine, start.tokenizer, None)
            clients = {"policy": Role(policy, of.sampling.form, of.sampling.parameters())}
            async with RolloutManager(clients, concurrency=8) as manager:
                return [group async for group in manager.groups(Prompts(of, [(environment, 1.0)]).of_step(0))]

    (batch,) = pack_samples(lessons(asyncio.run(groups())).samples, [environment.name], 0, 100_000)
    return batch


@pytest.fixture(scope="module")
def played():
    """A network in float32 with livelier experts than training starts from, and a stream that it has rolled out."""
    of = recipe()
    start = build_start(of)
    with torch.no_grad():
        for mixture in mixtures(start.model.decoder):
            mixture.router.weight.mul_(5)
            mixture.experts.down.mul_(3)
        start.model.decoder.head.weight.mul_(4)
    return of, start, rolled(copy.deepcopy(start.model).requires_grad_(False), start, of, TwoTurns())


def learnt(model, batch, of, choices):
    """What a backward pass over the stream measures; gradients stay with the model."""
    learner = PolicyLearner(model, of.objective, measure_logits=False, expert_choices=choices)
    measured = learner(batch)
    measured.loss.backward()
    return measured


def mean_mismatch(measured, batch):
    return measured.sums["mismatch_sum"].item() / batch.target_tokens


def test_every_token_but_the_last_of_a_stream_has_its_choice(played):
    _, _, batch = played
    last = batch.boundaries_S[1:].long() - 1
    known = (batch.experts_TMK >= 0).all(2).all(1)
    assert batch.experts_TMK.shape == (len(batch.tokens_T), LAYERS, K)
    assert not known[last].any()
    assert known.sum() == len(known) - len(last)
    assert known[batch.loss_weights_T > 0].all()


def test_at_zero_updates_replay_changes_nothing(played):
    of, start, batch = played
    plain, replayed = copy.deepcopy(start.model), copy.deepcopy(start.model)
    one, other = (learnt(model, batch, of, choices) for model, choices in ((plain, "record"), (replayed, "replay")))
    assert one.sums["experts_differ"] == other.sums["experts_differ"] == 0
    torch.testing.assert_close(one.loss, other.loss, rtol=0, atol=1e-5)
    for (name, expected), found in zip(plain.named_parameters(), replayed.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_changed_router_is_given_the_recorded_experts_and_still_learns(played):
    of, start, batch = played
    model = copy.deepcopy(start.model)
    used = []

    def watched(dispatch):
        def watch(x_TD, weights_TK, experts_TK, run):
            used.append((x_TD.detach(), weights_TK.detach(), experts_TK))
            return dispatch(x_TD, weights_TK, experts_TK, run)

        return watch

    torch.manual_seed(0)
    for mixture in mixtures(model.decoder):
        mixture.router.weight.data.add_(torch.randn_like(mixture.router.weight))
        mixture.dispatch = watched(mixture.dispatch)
    measured = learnt(model, batch, of, "replay")
    known = (batch.experts_TMK >= 0).all(2).all(1)
    assert measured.sums["experts_differ"] > 0.5 * batch.target_tokens
    factor = model.config.text.routed_scaling_factor
    for layer, (mixture, (x_TD, weights_TK, experts_TK)) in enumerate(zip(mixtures(model.decoder), used, strict=True)):
        assert torch.equal(experts_TK[known], batch.experts_TMK[known, layer].long())
        assert (experts_TK >= 0).all()
        scores_TK = (x_TD @ mixture.router.weight.detach().T).sigmoid().gather(1, experts_TK)
        torch.testing.assert_close(weights_TK, scores_TK / scores_TK.sum(1, keepdim=True) * factor)
        assert mixture.router.weight.grad.abs().sum() > 0


def test_with_replay_a_bfloat16_engine_and_a_float32_trainer_differ_less(played):
    of, start, _ = played
    rounded = copy.deepcopy(start.model).requires_grad_(False).to(torch.bfloat16)
    many = recipe(prompts_per_step=8, sampling={"max_tokens": 64})
    batch = rolled(rounded, start, many, Letters())
    # The same weights: what is left is the arithmetic, and the choices that it turns.
    trained = copy.deepcopy(rounded).float().requires_grad_(True)
    plain, replayed = (learnt(trained, batch, of, choices) for choices in ("record", "replay"))
    assert plain.sums["experts_differ"] > 0.002 * batch.target_tokens
    assert mean_mismatch(replayed, batch) < 0.6 * mean_mismatch(plain, batch)


def test_a_stream_of_several_turns_keeps_the_first_recording_of_every_token():
    def turn(prompt, output, mark):
        choices = np.full((len(prompt) + len(output) - 1, LAYERS, K), mark, np.int16)
        tokens = {"prompt": prompt, "output": output, "logprobs": [-1.0] * len(output), "versions": [0] * len(output)}
        return ModelTurn(tokens=tokens | ({} if mark is None else {"experts": choices_to_json(choices)}))

    grown = [turn([1, 2], [3, 4], 5), turn([1, 2, 3, 4, 6], [7], 8)]
    (sample,) = samples_of(grown)
    assert [span.experts[:, 0, 0].tolist() for span in sample.spans] == [[5, 5], [5, 8], [8], [-1]]
    (sample,) = samples_of(
        [*grown[:1], ModelTurn(tokens={key: grown[1].tokens[key] for key in grown[1].tokens if key != "experts"})]
    )
    assert [span.experts[:, 0, 0].tolist() for span in sample.spans] == [[5, 5], [5, -1], [-1], [-1]]


def test_a_run_reports_how_many_choices_differ_only_where_it_knows_them(tmp_path):
    rollouts = {"concurrency": 8, "cache_tokens": 4096, "precision": "bfloat16"}
    for choices in ("off", "record", "replay"):
        of = rl_recipe(steps=2, rollouts=rollouts | {"expert_choices": choices})
        records = train(of, tmp_path / choices)
        assert all(("experts_differ" in record) == (choices != "off") for record in records)
        assert all(0 <= record.get("experts_differ", 0) <= 1 for record in records)


def test_rollouts_that_were_cut_keep_the_choices_of_every_piece(tmp_path):
    of = rl_recipe(
        steps=3, rollouts={"concurrency": 8, "cache_tokens": 4096, "token_budget": 4, "expert_choices": "replay"}
    )
    assert all("experts_differ" in record for record in train(of, tmp_path / "run"))


def test_choices_of_servers_are_not_promised():
    of = {"expert_choices": "replay", "concurrency": 8, "cache_tokens": 4096}
    with pytest.raises(InputError, match="servers do not tell"):
        rl_recipe(rollouts=of, engines={"policy": ["http://127.0.0.1:1"]})
