"""Which masks a job has: the built-in ones, and those of ``config.masks``.

A mask has the settings of ``config.saliency``, some of them changed::

  config.masks = dict(
    of_the_turn=dict(forget=(part('relabelled', size=2),), teacher='others',
                     retain='mixed', preserve_loss='margin', density=0.3),
    of_the_turn_random=dict(kind='random', of='of_the_turn'),
  )

Masks with the same batches and loss share their importances.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmu_jax import inputs
from mmu_jax.errors import UserError
from mmu_jax.saliency import FORGET
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import MASKS
from mmu_jax.workdir import seals


class Importance(NamedTuple):
  """Whose importance for which loss, and its folder.

  Attributes:
    split: 'forget', or the name of a preserve set.
    parts: parts of its batches, from the config.
    loss: name of the loss, see ``importances.LOSSES``.
    teacher: teacher of the split 'relabelled' of its parts; '' for none.
    retain: stream with the people whom the teacher may name.
    own: whether it is of ``config.saliency`` itself, so that ``split`` is its
      folder; another one's name ends in a hash of its settings.
  """

  split: str
  parts: Any
  loss: str = 'answers'
  teacher: str = ''
  retain: str = ''
  own: bool = True

  @property
  def folder(self) -> str:
    """Name of its folder in ``importance/``."""
    name = inputs.check_name(self.split, 'split')
    if self.own:
      return name
    return f'{name}-{seals.hash_json(self.settings)[:8]}'

  @property
  def settings(self) -> dict[str, Any]:
    """All that it depends on, beside vanilla, batches and granularity."""
    made = self._asdict()
    del made['own']
    return made | {'parts': [dict(part) for part in self.parts]}


def known_masks(config: Config) -> list[str]:
  """Returns the names of all masks of a config, the built-in ones first."""
  return [*MASKS, *config.get('masks', {})]


def spec(config: Config, name: str) -> dict[str, Any]:
  """Returns the settings of a mask.

  Args:
    config: the whole config.
    name: 'saliency', 'literal', 'topk', 'random', or a key of ``config.masks``.

  Returns:
    The fields of ``config.saliency``, with ``kind`` and, for a control, the
    name of the mask that it is like as ``of``.

  Raises:
    ValueError: if the name is unknown, or a control is like a control.

  Example:
    >>> from mmu_jax import recipes
    >>> config = recipes.load('people')
    >>> spec(config, 'random')['of'], spec(config, 'literal')['normalize']
    ('saliency', False)
  """
  own = config.get('masks', {})
  if name not in known_masks(config):
    raise UserError(
      f'unknown mask {name!r}; known: {", ".join(known_masks(config))}.'
    )
  changes = own[name].to_dict() if name in own else MASKS[name]
  made = config.saliency.to_dict() | {'kind': 'saliency'} | changes
  if 'preserve' in changes:
    made['preserve'] = config.saliency.preserve.to_dict() | changes['preserve']
  if made['kind'] == 'saliency':
    return made
  like = spec(config, made.setdefault('of', 'saliency'))
  if like['kind'] != 'saliency':
    raise UserError(
      f'the mask {name!r} is as dense as a mask of the kind saliency, and '
      f'config.masks.{name}.of={made["of"]} is of the kind {like["kind"]}.'
    )
  return like | {'kind': made['kind'], 'of': made['of']}


def claim_of(config: Config, name: str) -> dict[str, Any]:
  """Returns the settings of a mask beside ``config.saliency``, for claims.

  Args:
    config: the whole config.
    name: name of the mask; '' for none.
  """
  own = name and name not in MASKS
  return {'mask': spec(config, name)} if own else {}


def importances(
  config: Config, made: Mapping[str, Any]
) -> dict[str, Importance]:
  """Returns the importances that a mask is made from, by their set.

  Args:
    config: the whole config.
    made: settings of the mask, from ``spec``.
  """
  own = _sets(config.saliency.to_dict())
  return {
    name: found._replace(own=found == own.get(name))
    for name, found in _sets(made).items()
  }


def _sets(saliency: Mapping[str, Any]) -> dict[str, Importance]:
  """The forget set, and every preserve set that protects a component."""
  loss = saliency.get('preserve_loss', 'answers')
  teacher = saliency.get('teacher', ''), saliency.get('retain', '')
  used = {name for sets in saliency['protects'].values() for name in sets}
  kept = {k: p for k, p in saliency['preserve'].items() if k in used}
  return {
    FORGET: Importance(FORGET, saliency['forget'], 'answers', *teacher),
    **{name: Importance(name, parts, loss) for name, parts in kept.items()},
  }
