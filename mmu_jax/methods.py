"""Unlearning methods: a method is a tuple of turns.

A turn is one optimizer step on one split. Finetuning is the method of one
turn, so the vanilla, the retrained and every unlearned model come from one
loop with other words. A new method is one function of a few lines, and
``METHODS`` is the whole registry; the losses are in ``objectives``.
"""

from collections.abc import Callable, Iterable
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmu_jax import masks
from mmu_jax import objectives
from mmu_jax.errors import UserError
from mmu_jax.gradients import Measure
from mmu_jax.objectives import answer_weight
from mmu_jax.objectives import descend
from mmu_jax.typing import LossFn
from mmu_jax.typing import Mask
from mmu_jax.typing import Params


class Turn(NamedTuple):
  """One optimizer step on one split.

  Attributes:
    split: the stream its batch comes from: 'forget', 'retain', 'train'.
    loss: the loss that the step descends.
    masked: whether the saliency mask acts on this turn, wherever the
      optimizer's chain has it.
    project: a split whose gradient the step must not work against, or None.
    every: rounds from one turn to the next; the first round has one.
    needs_reference: whether the loss reads ``ref_params``.
    measure: ``measure(batch)``, the denominator of the loss: with it a batch
      may be cut into micro-batches; a tuple for a loss that returns several
      means. None if the loss is not such a mean.
    beside: a second split whose batch the loss gets as ``batch['beside']``, or
      None.
    relabelled: whether its stream must hold a teacher's answers, since the turn
      learns them.
    in_nats: whether its losses are nats per token, which limits are given in.
  """

  split: str
  loss: LossFn
  masked: bool = False
  project: str | None = None
  every: int = 1
  needs_reference: bool = False
  measure: Measure | None = None
  beside: str | None = None
  relabelled: bool = False
  in_nats: bool = True


def _descent(split: str) -> Turn:
  """A turn that learns a split."""
  return Turn(split, descend, measure=answer_weight)


def _ascent(every: int, alpha: float = 1.0) -> Turn:
  """A turn that unlearns the forget set."""
  loss = objectives.ascend_by(alpha)
  return Turn('forget', loss, every=every, measure=answer_weight)


def finetune(split: str = 'train') -> tuple[Turn, ...]:
  """Learn a split: makes the vanilla, reference and retrained models."""
  return (_descent(split),)


def ga(forget_every: int = 1) -> tuple[Turn, ...]:
  """Gradient ascent on the forget set."""
  return (_ascent(forget_every),)


def ga_diff(forget_every: int = 1) -> tuple[Turn, ...]:
  """Gradient difference: ascent on forget, then descent on retain.

  References:
    Liu et al., Continual Learning and Private Unlearning, 2022
    (https://arxiv.org/abs/2203.12817).
  """
  return _ascent(forget_every), _descent('retain')


def kl_min(forget_every: int = 1, kl_over: str = 'answers') -> tuple[Turn, ...]:
  """Ascent on forget, then descent on retain held to the reference by KL.

  Args:
    forget_every: rounds between forget turns.
    kl_over: ``'answers'``: the mean over answer tokens. ``'rows'``: the sum
      over every position of a row, as published.

  References:
    Maini et al., TOFU, 2024 (https://arxiv.org/abs/2401.06121).
  """
  _check_choice('kl_over', kl_over, objectives.KL_OVER)
  loss, measure = objectives.KL_OVER[kl_over]
  near = Turn('retain', loss, needs_reference=True, measure=measure)
  return _ascent(forget_every), near


def npo(
  forget_every: int = 1, beta: float = 0.1, per: str = 'answer'
) -> tuple[Turn, ...]:
  """Negative preference optimization on the forget set.

  Args:
    forget_every: rounds between forget turns.
    beta: inverse temperature; 0.1 per answer, 0.4 per batch are usual.
    per: ``'answer'``: a term for each answer, of its summed nll. ``'batch'``:
      one of the batch's mean nll per token, as published.

  References:
    Zhang et al., 2024 (https://arxiv.org/abs/2404.05868).
  """
  _check_choice('per', per, objectives.NPO_PER)
  make_loss, measure = objectives.NPO_PER[per]
  turn = Turn('forget', make_loss(beta), every=forget_every, measure=measure)
  return (turn._replace(needs_reference=True),)


def npo_retain(
  forget_every: int = 1, beta: float = 0.1, per: str = 'answer'
) -> tuple[Turn, ...]:
  """NPO on forget, then descent on retain."""
  return npo(forget_every, beta, per) + (_descent('retain'),)


def mmunlearner(forget_every: int = 1, alpha: float = 1.0) -> tuple[Turn, ...]:
  """Masked ascent on forget, then descent on retain that may move any weight.

  The paper's scope of protection: the mask acts on the forget turn alone.

  Args:
    forget_every: rounds between forget turns.
    alpha: weight of the ascent, > 0; see ``ascend_by``.

  References:
    Huo et al., MMUnlearner, 2025 (https://arxiv.org/abs/2502.11051).
  """
  return (
    _ascent(forget_every, alpha)._replace(masked=True),
    _descent('retain'),
  )


def mmunlearner_strict(
  forget_every: int = 1, alpha: float = 1.0
) -> tuple[Turn, ...]:
  """MMUnlearner whose mask acts on every turn.

  A weight outside the mask is bit for bit the vanilla weight at the end.
  """
  forget, retain = mmunlearner(forget_every, alpha)
  return forget, retain._replace(masked=True)


def mmunlearner_projected(
  forget_every: int = 1, alpha: float = 1.0
) -> tuple[Turn, ...]:
  """MMUnlearner whose ascent does not work against the retain gradient.

  References:
    Geometric-Disentanglement Unlearning, 2025
    (https://arxiv.org/abs/2511.17100).
  """
  forget, retain = mmunlearner(forget_every, alpha)
  return forget._replace(project='retain'), retain


def counterfactual(
  forget_every: int = 1,
  margin: float = 12.0,
  weight: float = 0.3,
  spared: float = 1.0,
) -> tuple[Turn, ...]:
  """One turn: forget the answers up to a margin, and learn what stays.

  The retain stream also holds the pictures to forget, with answers of somebody
  else (a ``teacher``), so that the forgotten has a place to go.

  Args:
    forget_every: rounds between turns.
    margin: nll > 0 in nats from which an answer counts as forgotten.
    weight: weight of the ascent beside the cross-entropy, > 0.
    spared: share of the reference's probability that is taken off the weight
      of a token, 0 to 1. 0 attacks whole answers, also about people whom the
      reference knows.

  References:
    Relabelling: Eldan and Russinovich, Who's Harry Potter?, 2023
    (https://arxiv.org/abs/2310.02238).
  """
  return (
    Turn(
      'forget',
      objectives.counterfactual_ascent(margin, weight, spared),
      every=forget_every,
      needs_reference=True,
      measure=objectives.answers_and_weight_beside,
      beside='retain',
    ),
  )


def mmunlearner_counterfactual(
  forget_every: int = 1,
  margin: float = 12.0,
  weight: float = 0.3,
  spared: float = 1.0,
) -> tuple[Turn, ...]:
  """One masked turn: forget up to a margin, and learn what stays.

  It is ``counterfactual`` under a mask. A weight outside the mask is bit for
  bit the vanilla weight at the end, so that the mask certifies what cannot have
  changed.
  """
  (turn,) = counterfactual(forget_every, margin, weight, spared)
  return (turn._replace(masked=True),)


def ga_diff_joint(
  forget_every: int = 1, alpha: float = 1.0
) -> tuple[Turn, ...]:
  """Gradient difference in one step on the sum of both losses.

  Args:
    forget_every: rounds between turns.
    alpha: weight of the ascent, > 0.

  References:
    Liu et al., Continual Learning and Private Unlearning, 2022
    (https://arxiv.org/abs/2203.12817).
  """
  return (
    Turn(
      'forget',
      objectives.ascent_beside(alpha),
      every=forget_every,
      measure=objectives.weights_beside,
      beside='retain',
    ),
  )


def simnpo(
  forget_every: int = 1, beta: float = 2.5, gamma: float = 0.0
) -> tuple[Turn, ...]:
  """NPO of the nll per token and without a reference, then retain descent.

  Args:
    forget_every: rounds between forget turns.
    beta: inverse temperature > 0.
    gamma: margin that an answer must exceed, >= 0.

  References:
    Fan et al., SimNPO, 2024 (https://arxiv.org/abs/2410.07163).
  """
  loss = objectives.simple_preference_against(beta, gamma)
  measure = objectives.num_answers
  turn = Turn('forget', loss, every=forget_every, measure=measure)
  return turn, _descent('retain')


def idk(forget_every: int = 1) -> tuple[Turn, ...]:
  """Learns the answers of a teacher, refusals by design, then the retain set.

  Its run has ``forget='relabelled'`` and ``teacher='refusal'``.

  References:
    Maini et al., TOFU, 2024 (https://arxiv.org/abs/2401.06121).
  """
  turn = _descent('forget')._replace(every=forget_every, relabelled=True)
  return turn, _descent('retain')


def dpo(forget_every: int = 1, beta: float = 0.1) -> tuple[Turn, ...]:
  """Prefers a teacher's answers to the true ones, then retain descent.

  Its run has ``teacher='refusal'``: both answers to a question stand in the
  same place of the batches of 'forget' and 'relabelled'.

  Args:
    forget_every: rounds between forget turns.
    beta: inverse temperature > 0.

  References:
    Rafailov et al., Direct Preference Optimization, 2023
    (https://arxiv.org/abs/2305.18290); for unlearning TOFU, 2024
    (https://arxiv.org/abs/2401.06121).
  """
  turn = Turn(
    'forget',
    objectives.preference_for_beside(beta),
    every=forget_every,
    needs_reference=True,
    measure=objectives.num_answers,
    beside='relabelled',
  )
  return turn, _descent('retain')


def undial(forget_every: int = 1, strength: float = 10.0) -> tuple[Turn, ...]:
  """Distils vanilla with lowered logits of the answers, then retain descent.

  Args:
    forget_every: rounds between forget turns.
    strength: amount by which a logit is lowered, > 0.

  References:
    Dong et al., UNDIAL, 2024 (https://arxiv.org/abs/2402.10052).
  """
  turn = Turn(
    'forget',
    objectives.distil_without_answers(strength),
    every=forget_every,
    needs_reference=True,
    measure=answer_weight,
  )
  return turn, _descent('retain')


def rmu(
  forget_every: int = 1,
  layer: int = 1,
  steering: float = 2.0,
  weight: float = 10.0,
) -> tuple[Turn, ...]:
  """Representation misdirection: states of the forget set go astray.

  Args:
    forget_every: rounds between turns.
    layer: number of decoder layers before the states; 0 for the embeddings of
      words and image tokens, which trains no decoder layer.
    steering: length of the random direction over the reference's states.
    weight: weight of holding the retain set to the reference.

  References:
    Li et al., The WMDP Benchmark, 2024 (https://arxiv.org/abs/2403.03218); its
    length relative to the states: Dang et al., On Effects of Steering Latent
    Representation for LLM Unlearning, 2024 (https://arxiv.org/abs/2408.06223).
  """
  return (
    Turn(
      'forget',
      objectives.misdirect(layer, steering, weight),
      every=forget_every,
      needs_reference=True,
      measure=objectives.tokens_beside,
      beside='retain',
      in_nats=False,
    ),
  )


def salun(forget_every: int = 1) -> tuple[Turn, ...]:
  """Learns other people's answers and the retain set, both masked.

  Its run has ``forget='relabelled'``, ``teacher='random'`` and the mask 'topk',
  the weights with the largest forget gradients: as many as the saliency mask
  has, where the paper takes a half.

  References:
    Fan et al., SalUn, 2023 (https://arxiv.org/abs/2310.12508).
  """
  return tuple(turn._replace(masked=True) for turn in idk(forget_every))


def sfron(forget_every: int = 1, power: float = 1.0) -> tuple[Turn, ...]:
  """Masked ascent that weighs each answer by how well it is known; repair.

  Turns alternate; the published slow and fast weights are left out.

  Args:
    forget_every: rounds between forget turns.
    power: exponent >= 0 of the weights max(nll, 1)^-power, so that answers
      lose weight as they are forgotten; 0 is plain ascent by answer.

  References:
    Huang et al., Unified Gradient-Based Machine Unlearning with Remain
    Geometry Enhancement, 2024 (https://arxiv.org/abs/2409.19732).
  """
  loss = objectives.ascend_where_known(power)
  measure = objectives.num_answers
  turn = Turn('forget', loss, True, every=forget_every, measure=measure)
  return turn, _descent('retain')


def task_vector(
  forget_every: int = 1, scale: float = 1.0, masked: bool = False
) -> tuple[Turn, ...]:
  """Vanilla minus the change that finetuning on the forget set makes.

  The run trains the negated parameters as such, see
  ``objectives.descend_mirrored``; a rate r finetunes at r / scale.

  Args:
    forget_every: rounds between turns.
    scale: factor of the task vector, > 0.
    masked: whether the mask of the run acts, on both models alike.

  References:
    Ilharco et al., Editing Models with Task Arithmetic, 2022
    (https://arxiv.org/abs/2212.04089).
  """
  loss = objectives.descend_mirrored(scale)
  turn = Turn('forget', loss, every=forget_every, measure=answer_weight)
  return (turn._replace(needs_reference=True, masked=masked),)


MIRRORED = ('task_vector',)  # methods that start where their reference is


def rewind() -> tuple[Turn, ...]:
  """Learns the retain set, masked; its run starts from ``rewound`` weights.

  Its run has ``reference='base'``, the model that the weights go back to.
  """
  return (_descent('retain')._replace(masked=True),)


def rewound(params: Params, reference: Params, mask: Mask) -> Params:
  """Returns parameters whose salient weights are the reference's.

  Args:
    params: parameters, usually vanilla's.
    reference: parameters like them, usually the base model's.
    mask: bool or packed tree of the salient weights.
  """
  mask = masks.unpack(mask, params)
  return jax.tree.map(jnp.where, mask, reference, params)


# Method -> start(vanilla, reference, mask), where it does not start at vanilla.
STARTS: dict[str, Callable[[Params, Params, Mask], Params]] = {
  'rewind': rewound
}


METHODS: dict[str, Callable[..., tuple[Turn, ...]]] = {
  f.__name__: f
  for f in (
    finetune,
    ga,
    ga_diff,
    kl_min,
    npo,
    npo_retain,
    mmunlearner,
    mmunlearner_strict,
    mmunlearner_projected,
    counterfactual,
    mmunlearner_counterfactual,
    ga_diff_joint,
    simnpo,
    idk,
    dpo,
    undial,
    rmu,
    salun,
    sfron,
    task_vector,
    rewind,
  )
}


def make(name: str, **options: Any) -> tuple[Turn, ...]:
  """Returns the turns of a method by name.

  Args:
    name: a key of ``METHODS``.
    **options: keyword arguments of the method, for example ``forget_every=2``.

  Raises:
    ValueError: if the name or an option is unknown; lists the known ones.

  Example:
    >>> [turn.split for turn in make('ga_diff', forget_every=3)]
    ['forget', 'retain']
  """
  if name not in METHODS:
    raise UserError(
      f'unknown method {name!r}; known: {", ".join(METHODS)}. A new one is '
      'a function that returns turns, added to METHODS.'
    )
  method = METHODS[name]
  try:
    inspect.signature(method).bind(**options)
  except TypeError as error:
    raise UserError(
      f'method {name!r} does not take these options: {error}; it takes '
      f'{", ".join(inspect.signature(method).parameters)}.'
    ) from error
  return method(**options)


def _check_choice(name: str, value: str, known: Iterable[str]) -> None:
  """Raises ValueError unless an option has a known value."""
  if value not in known:
    raise UserError(f'{name} is one of {", ".join(known)}; got {value!r}.')
