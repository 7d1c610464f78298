"""Everything that is done to a learner before training, in order: placement, recomputation, precision and sharding."""

from k25.train.learner import Learner
from k25.train.parallel.ranks import Ranks
from k25.train.recipe import Recipe


def parallelise(learner: Learner, recipe: Recipe, ranks: Ranks) -> Learner:
    """The same learner, ready for this rank."""
    return learner.to(ranks.device)
