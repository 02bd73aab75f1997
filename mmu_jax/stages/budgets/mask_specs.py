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

import ml_collections

from mmu_jax import inputs
from mmu_jax.errors import UserError
from mmu_jax.saliency import FORGET
from mmu_jax.stages.budgets import drawing
from mmu_jax.workdir import seals

Config = ml_collections.ConfigDict
# The built-in masks and how they differ from config.saliency.
MASKS: dict[str, dict[str, Any]] = {
  'saliency': {},
  'literal': {'normalize': False},
  'topk': {'kind': 'topk', 'of': 'saliency'},
  'random': {'kind': 'random', 'of': 'saliency'},
}


class Importance(NamedTuple):
  """Whose importance for which loss, and its folder.

  Attributes:
    split: 'forget', or the name of a preserve set.
    parts: parts of its batches, from the config.
    loss: name of the loss, see ``importances.LOSSES``.
    teacher: teacher of the split 'relabelled' of its parts; '' for none.
    retain: stream with the people whom the teacher may name.
    drawn: splits to forget, and of the people whom the teacher may name.
    own: whether it is of ``config.saliency`` itself, so that ``split`` is its
      folder; another one's name ends in a hash of its settings.
  """

  split: str
  parts: Any
  loss: str = 'answers'
  teacher: str = ''
  retain: str = ''
  drawn: tuple[tuple[str, ...], ...] = ()
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


def check_masks(config: Config) -> None:
  """Raises ValueError unless every mask of a config can be made.

  A name is not a built-in one; a control has nothing but its kind and the mask
  that it is like; a teacher and the split 'relabelled' go together.
  """
  streams = config.unlearn.streams
  for name, mask in config.get('masks', {}).items():
    place = f'config.masks.{inputs.check_name(name, "mask")}'
    kind, of = mask.get('kind', 'saliency'), mask.get('of', 'saliency')
    if name in MASKS:
      raise UserError(f'{place} has the name of a built-in mask. Rename it.')
    if kind == 'saliency' and 'of' in mask:
      raise UserError(
        f'{place}.of={of} is for the kinds random and topk. Leave it out, or '
        f'set {place}.kind.'
      )
    if kind != 'saliency':
      more = sorted({*mask} - {'kind', 'of'})
      if more:
        raise UserError(
          f'{place} is as dense as the mask {of!r} and has its settings, so '
          f'{more[0]!r} would do nothing. Leave it out, or set it there.'
        )
      spec(config, name)
      continue
    forget = mask.get('forget', config.saliency.forget)
    teacher, retain = mask.get('teacher', ''), mask.get('retain', '')
    if bool(teacher) != any(map(drawing.is_relabelled, forget)):
      raise UserError(
        f'{place} has teacher={teacher!r}: a mask whose forget importance '
        "draws 'relabelled' has one, and others have none."
      )
    if teacher and retain not in streams:
      raise UserError(
        f'{place}.retain is the stream with the people whom the teacher may '
        f'name, one of {", ".join(streams)}; got {retain!r}.'
      )


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
  of = made.setdefault('of', 'saliency')
  kind = {**MASKS, **own}.get(of, {}).get('kind', 'saliency')
  if kind != 'saliency':
    raise UserError(
      f'the mask {name!r} is as dense as a mask of the kind saliency, and '
      f'config.masks.{name}.of={of} is of the kind {kind}.'
    )
  like = spec(config, of)
  return like | {'kind': made['kind'], 'of': made['of']}


def claim_of(config: Config, name: str) -> dict[str, Any]:
  """Returns the settings of a mask beside ``config.saliency``, for claims.

  Args:
    config: the whole config.
    name: name of the mask; '' for none.
  """
  if not name or name in MASKS:
    return {}
  made = spec(config, name)
  used = importances(config, made).values()
  return {'mask': made, 'drawn': [which.drawn for which in used]}


def importances(
  config: Config, made: Mapping[str, Any]
) -> dict[str, Importance]:
  """Returns the importances that a mask is made from, by their set.

  Args:
    config: the whole config.
    made: settings of the mask, from ``spec``.
  """
  own = _sets(config, config.saliency.to_dict())
  return {
    name: found._replace(own=found == own.get(name))
    for name, found in _sets(config, made).items()
  }


def _sets(config: Config, saliency: Mapping[str, Any]) -> dict[str, Importance]:
  """The forget set, and every preserve set that protects a component."""
  loss = saliency.get('preserve_loss', 'answers')
  teacher: tuple[Any, ...] = ()
  if saliency.get('teacher'):
    streams = config.unlearn.streams
    splits = lambda name: tuple(
      sorted({split for part in streams[name] for split in part['splits']})
    )
    drawn = splits('forget'), splits(saliency['retain'])
    teacher = saliency['teacher'], saliency['retain'], drawn
  used = {name for sets in saliency['protects'].values() for name in sets}
  kept = {k: p for k, p in saliency['preserve'].items() if k in used}
  return {
    FORGET: Importance(FORGET, saliency['forget'], 'answers', *teacher),
    **{name: Importance(name, parts, loss) for name, parts in kept.items()},
  }
