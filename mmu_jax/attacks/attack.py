"""The table of attacks; it imports nothing, so that ``--help`` is quick.

An attack ``x`` is a function ``x(job, model, folder)`` in
``mmu_jax/attacks/x.py`` that returns rows::

  {'case': 'one picture', 'metric': 'exact', 'value': 0.5, 'n': 144, 'step': 2}

``value`` is a finite number, ``n`` the number of questions or pictures behind
it, and ``step`` a step of a curve; None for a score without one. Its settings
are ``config.attacks.x``, with defaults in ``recipes.parts.attacks`` and ranges
in ``settings.attacking``.
"""

import importlib
import pathlib
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]


class Attack(NamedTuple):
  """An attack on a finished model.

  Attributes:
    name: word after ``mmu attack``.
    title: sentence on its doing, without a full stop.
    reading: sentences for a reader of the report who has never seen it.
    asks: whether answers are decoded, so that settings of the evaluation
      matter to the result.
  """

  name: str
  title: str
  reading: str
  asks: bool = False

  def spec(self, config: Any) -> Any:
    """Returns its settings, also of a config that was made without them."""
    from mmu_jax.recipes import parts

    found = config.get('attacks', {}).get(self.name, {})
    spec = type(config)(parts.attacks()[self.name])
    with spec.unlocked():
      for field, value in found.items():
        spec[field] = value
    return spec

  def settings(self, config: Any) -> dict[str, Any]:
    """Returns all that its result depends on, beside world and model."""
    made = self.spec(config).to_dict()
    made.pop('models')
    if self.asks:
      length = config.evaluation.max_new_tokens
      penalty = config.evaluation.get('repetition_penalty', 0.0)
      made |= dict(max_new_tokens=length, repetition_penalty=penalty)
    return made

  def run(self, job: Any, model: str, folder: pathlib.Path) -> Rows:
    """Attacks a model.

    Args:
      job: the job, whose mesh is set.
      model: name of the model.
      folder: folder of the result, also for parts that are done, see
        ``stage.keep_part``.
    """
    module = importlib.import_module(f'mmu_jax.attacks.{self.name}')
    return getattr(module, self.name)(job, model, folder)


ATTACKS = {
  attack.name: attack
  for attack in (
    Attack(
      'relearn',
      'finetune for a few steps and see how fast the forgotten comes back',
      'The model is trained again for a few steps, on a few pictures of those '
      'to forget, and asked about other pictures of them. A model that never '
      'knew them learns slowly (the retrained one); one that only hides '
      'them has them back at once, so its curve is far above. "Exact" is the '
      'share of answers that are right word for word, "nll" says how unlikely '
      'the true answer is (nats), and "area" is the mean distance between the '
      "curve and that model's. In exact answers 0 is as slow as retrained, "
      'above .1 something is left, and far below 0 the model resists more than '
      'one without any memory of them. Look at all draws of pictures: one '
      'alone is no evidence.',
    ),
    Attack(
      'transfer',
      'finetune on text and ask about pictures, and the other way round',
      'The model is finetuned for a few steps on text about those to forget, '
      'or on a picture of each, and asked about other pictures of them and in '
      'text. Where text alone brings pictures back, the way from a face '
      'to its facts was blocked and not removed: read "text to pictures" '
      'beside the retrained model. "Nats" say how unlikely the true answer is.',
    ),
    Attack(
      'membership',
      'tell pictures of the training from others by likelihoods',
      'For each picture to forget the model is asked how likely it finds the '
      'true answers, and the same for pictures that it never saw: new ones of '
      'the same people, and of strangers. The number (AUC) is how often the '
      'picture of the training comes first. .5 tells nothing; well above it '
      'the pictures are remembered; well below they were made unlikely, which '
      'gives them away as much. The retrained model shows what is normal.',
    ),
    Attack(
      'quantize',
      'round the weights to coarse formats and score again',
      'All matrices are rounded to fewer bits, and the questions asked again. '
      'Scores to forget that rise show answers that were only hidden by small '
      'changes. Scores to keep that fall show that the format itself is too '
      'coarse; then nothing follows from the others.',
    ),
    Attack(
      'prompts',
      'ask in other words, after other turns, and with changed pictures',
      'The same facts are asked for in other ways, none of which gives the '
      'answer away; the number is the share of answers that hold the fact. '
      'An answer that comes back against "clean" was hidden from one wording '
      'or picture only. "Named", "leading" and "after text" name the person, '
      'whom the model may know in text: compare them with the same words '
      'beside the picture of a "stranger". Questions to retain say which '
      'changes a model can bear at all.',
      asks=True,
    ),
    Attack(
      'probe',
      'look for the identity in the features of each layer',
      'A linear classifier learns to name the people from the features of '
      'their pictures at each layer, and is tested on new pictures. People '
      'look different, so it is far above chance on any model. From one '
      'picture of each it does better on a model that knows the people: more '
      'than on the retrained model is knowledge that is still inside, '
      'whatever the model says. "Own output" is where the true answer stands '
      'among the answers of everybody: the mean rank, 1 for the likeliest, '
      'and the exposure, log2 of their number less log2 of the rank; guessing '
      'gives about 1.4 bits.',
    ),
  )
}
