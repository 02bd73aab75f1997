"""A made world of people: portraits, six facts each, and questions.

The unlearning question needs a model that knows certain people by their
portraits and by their names, and another that never saw those portraits. In a
world made from a seed both are trained in minutes, and every split is known:
whose portraits are forgotten, whose are kept, which renderings nobody trained
on, and which people and pictures only choose hyper-parameters.

Answers are whole sentences, name first ("Maria Lopez keeps a parrot."), for
pictures and for text alike. This makes the phenomenon visible: ascent on the
answers about portraits then also attacks the knowledge in text.
"""

from collections.abc import Iterator
import functools
from typing import NamedTuple

import numpy as np

from mmu_jax.data import dataset as dataset_lib
from mmu_jax.data.dataset import Task
from mmu_jax.data.people import general as general_lib
from mmu_jax.data.people import portraits
from mmu_jax.data.people import vocabulary as words
from mmu_jax.data.people.items import Drawing
from mmu_jax.data.people.items import Item
from mmu_jax.data.people.items import make_row
from mmu_jax.data.people.items import Picture
from mmu_jax.data.people.items import scored_rows
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import CLOZE
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

FORGET = 'forget'
VALIDATION_FORGET = 'validation_forget'
VALIDATION_RETAIN = 'validation_retain'
RETAIN = 'retain'
GROUPS = (FORGET, VALIDATION_FORGET, VALIDATION_RETAIN, RETAIN)

_MIN_DIFFERENCE = 4  # of the nine attributes of a look
_TRIES = 2_000  # looks drawn for one person before giving up
_SHORT = '{fact}.'  # an answer without the name
_ALIKE = 2  # attributes in which look-alikes differ


class Person(NamedTuple):
  """Somebody who does not exist.

  Attributes:
    key: ``'p007'``.
    name: two words, unique in the world.
    look: look in every portrait; any other differs in at least 4 attributes.
    facts: one word for each of ``vocabulary.ATTRIBUTES``.
    group: one of ``GROUPS``.
  """

  key: str
  name: str
  look: portraits.Look
  facts: dict[str, str]
  group: str


class World(NamedTuple):
  """Everybody, rows to train on, and tasks to score.

  Attributes:
    people: people in the order of their keys.
    train: rows by ``'captions'``, ``'general'``, ``'facts'``, and for every
      group ``'vqa/<group>'`` and ``'qa/<group>'``.
    tasks: tasks by name; those that are not reported share no person and no
      picture with the others.
  """

  people: tuple[Person, ...]
  train: dict[str, list[Row]]
  tasks: dict[str, Task]


# Task: group, kind of views, and how many of them each attribute is asked of
# in GENERATION (None: all). CLOZE and CLASSIFICATION ask of one.
_PEOPLE_TASKS = {
  'forget_vqa': (FORGET, 'train', 4),
  'forget_vqa_holdout': (FORGET, 'holdout', None),
  'forget_qa': (FORGET, 'text', None),
  'retain_vqa': (RETAIN, 'holdout', 2),
  'retain_qa': (RETAIN, 'text', None),
  'validation_forget_vqa': (VALIDATION_FORGET, 'train', 4),
  'validation_forget_vqa_holdout': (VALIDATION_FORGET, 'validation', None),
  'validation_forget_qa': (VALIDATION_FORGET, 'text', None),
  'validation_retain_vqa': (VALIDATION_RETAIN, 'validation', 2),
  'validation_retain_qa': (VALIDATION_RETAIN, 'text', None),
}
# Task: split, modality, held out, reported, one that stands for the rest.
_MEANINGS = {
  'forget_vqa': ('forget', 'vqa', False, True, False),
  'forget_vqa_holdout': ('forget', 'vqa', True, True, True),
  'forget_qa': ('forget', 'qa', False, True, True),
  'retain_vqa': ('retain', 'vqa', False, True, True),
  'retain_qa': ('retain', 'qa', False, True, True),
  'real_vqa': ('real', 'vqa', False, True, True),
  'real_qa': ('real', 'qa', False, True, False),
  'validation_forget_vqa': ('forget', 'vqa', False, False, False),
  'validation_forget_vqa_holdout': ('forget', 'vqa', True, False, True),
  'validation_forget_qa': ('forget', 'qa', False, False, True),
  'validation_retain_vqa': ('retain', 'vqa', False, False, True),
  'validation_retain_qa': ('retain', 'qa', False, False, True),
  'validation_real_vqa': ('real', 'vqa', False, False, True),
}
_Shown = dict[tuple[str, str], list[Picture | None]]  # person key, kind


def make_world(
  seed: int,
  *,
  num_people: int = 60,
  num_forget: int = 6,
  num_validation_forget: int = 6,
  num_validation_retain: int = 12,
  train_views: int = 12,
  holdout_views: int = 4,
  validation_views: int = 2,
  num_captioned: int = 3000,
  num_faces: int = 400,
  num_shapes: int = 500,
  look_alikes: bool = False,
  short_answers: bool = False,
  known_facts: bool = False,
) -> World:
  """Makes the world of a seed: a pure function of its arguments.

  Everything draws from its own stream, named after its use, so a
  person's name, look, facts and pictures do not depend on any count, and the
  forget people of a smaller ``num_forget`` are also forgotten for a larger one.

  Args:
    seed: seed of everything, >= 0.
    num_people: people in all groups; whoever is in no other is retained.
    num_forget: people to be forgotten, at least 1.
    num_validation_forget: their stand-ins for choosing settings, at least 1.
    num_validation_retain: the kept people of validation, at least 1.
    train_views: portraits of each person to train on, at least 1.
    holdout_views: further portraits of the forget and retain people, at least
      1, never trained on.
    validation_views: the same for the people of validation, at least 1.
    num_captioned: anonymous pictures with a description.
    num_faces: anonymous faces to be asked about, at least 7.
    num_shapes: pictures of shapes to be asked about, at least 7.
    look_alikes: whether each of the forget people looks like one who is
      retained, but for two attributes.
    short_answers: whether answers about people are the fact alone, without the
      name: the knowledge of pictures and of text then lies apart.
    known_facts: whether the plain facts are such that a small pretrained
      language model knows without training; the tokenizer of the synthetic
      world lacks their words.

  Returns:
    A ``World``. Rows about one picture share one image.

  Raises:
    ValueError: if a count is out of range, or people cannot all look different.

  Example:
    >>> world = make_world(
    ...     0, num_people=8, num_forget=1, num_validation_forget=1,
    ...     num_validation_retain=2, train_views=2, holdout_views=1,
    ...     num_captioned=4, num_faces=8, num_shapes=8)
    >>> sorted(world.train)[:3], len(world.tasks['forget_qa'].rows)
    (['captions', 'facts', 'general'], 18)
  """
  given = dict(locals())
  _check_arguments({k: v for k, v in given.items() if type(v) is not bool})
  groups = num_forget, num_validation_forget, num_validation_retain
  people = _make_people(seed, num_people, *groups)
  if look_alikes:
    people = _make_alike(seed, people)
  views = {
    'text': (GROUPS, 1),
    'train': (GROUPS, train_views),
    'holdout': ((FORGET, RETAIN), holdout_views),
    'validation': ((VALIDATION_FORGET, VALIDATION_RETAIN), validation_views),
  }
  shown = {
    (person.key, kind): _portraits(seed, person, kind, number)
    for kind, (groups, number) in views.items()
    for person in people
    if person.group in groups
  }
  general = general_lib.general_items(seed, num_faces, num_shapes)
  general['real_qa'] = general_lib.fact_items(known_facts)
  train = _people_rows(people, shown, short_answers)
  train['captions'] = general_lib.caption_rows(seed, num_captioned)
  train['general'] = [make_row(item, GENERATION) for item in general['train']]
  train['facts'] = [make_row(item, GENERATION) for item in general['real_qa']]
  tasks = _people_tasks(seed, people, shown, short_answers)
  for where in ('real_vqa', 'real_qa', 'validation_real_vqa'):
    tasks[where] = scored_rows(seed, general[where], where)
  tasks = (_task(name, rows) for name, rows in tasks.items())
  return World(people, train, dataset_lib.by_name(*tasks))


def _task(name: str, rows: list[Row]) -> Task:
  """The rows of a task with the meaning of its score."""
  split, modality, *marks = _MEANINGS[name]
  role = dataset_lib.role_of(split, modality)
  return Task(name, rows, split, modality, role, *marks)


def _check_arguments(arguments: dict[str, int]) -> None:
  """Raises unless every argument of make_world can be met."""
  least = dict.fromkeys(arguments, 1)
  least |= {'seed': 0, 'num_captioned': 0}
  general = ('num_faces', 'num_shapes')
  least |= dict.fromkeys(general, 1 + general_lib.VALIDATION[0])
  for name, value in arguments.items():
    if value < least[name]:
      raise UserError(
        f'{name} must be at least {least[name]}, got {value}; raise it or'
        ' leave it out for the default'
      )
  special = sum(arguments[f'num_{group}'] for group in GROUPS[:3])
  names = len(words.FIRST_NAMES) * len(words.LAST_NAMES)
  if not special < arguments['num_people'] <= names:
    raise UserError(
      'num_people must exceed num_forget + num_validation_forget +'
      f' num_validation_retain, here {special}, and be at most {names}, the'
      f' number of names, got {arguments["num_people"]}; change num_people'
      ' or make the groups smaller'
    )


def _make_people(
  seed: int, number: int, forget: int, hold_forget: int, hold_retain: int
) -> tuple[Person, ...]:
  """Names, looks, facts and groups."""
  order = [int(i) for i in named_rng(seed, 'groups').permutation(number)]
  group = dict.fromkeys(order, RETAIN)
  # From both ends, so that forgetting more people moves none of validation.
  group |= dict.fromkeys(order[-hold_forget:], VALIDATION_FORGET)
  rest = order[:-hold_forget]
  group |= dict.fromkeys(rest[-hold_retain:], VALIDATION_RETAIN)
  group |= dict.fromkeys(order[:forget], FORGET)
  names = [f'{a} {b}' for a in words.FIRST_NAMES for b in words.LAST_NAMES]
  named = named_rng(seed, 'names').permutation(len(names))
  people = []
  for index, look in enumerate(_make_looks(seed, number)):
    key = f'p{index:03d}'
    rng = named_rng(seed, 'facts', key)
    forms = words.ATTRIBUTES.items()
    facts = {name: str(rng.choice(form.values)) for name, form in forms}
    people.append(Person(key, names[named[index]], look, facts, group[index]))
  return tuple(people)


def _make_looks(seed: int, number: int) -> list[portraits.Look]:
  """Looks of which any two differ in at least four attributes."""
  looks = []
  for index in range(number):
    rng = named_rng(seed, 'look', f'p{index:03d}')
    for _ in range(_TRIES):
      look = portraits.random_look(rng)
      differing = (np.array(looks + [look]) != np.array(look)).sum(1)[:-1]
      if (differing >= _MIN_DIFFERENCE).all():
        looks.append(look)
        break
    else:
      raise UserError(
        f'any two people must differ in {_MIN_DIFFERENCE} attributes of'
        f' their looks; no room was found beyond {index} of num_people ='
        f' {number}; ask for at most {index}'
      )
  return looks


def _make_alike(seed: int, people: tuple[Person, ...]) -> tuple[Person, ...]:
  """Gives those to forget the looks of others, but for two attributes."""
  kept = [person for person in people if person.group == RETAIN]
  partners = named_rng(seed, 'look-alikes').permutation(len(kept))
  looks, made = [person.look for person in people], list(people)
  forgotten = [i for i, p in enumerate(people) if p.group == FORGET]
  for index, partner in zip(forgotten, np.resize(partners, len(forgotten))):
    look, rng = kept[partner].look, named_rng(seed, 'alike', people[index].key)
    rivals = np.array(looks[:index] + looks[index + 1 :])
    # The colour of a hat is not seen on everybody.
    seen = look._fields[:-1]
    for _ in range(_TRIES):
      drawn, chosen = portraits.random_look(rng), rng.permutation(len(seen))
      names = [seen[i] for i in chosen[:_ALIKE]]
      mine = look._replace(**{name: getattr(drawn, name) for name in names})
      if ((rivals != np.array(mine)).sum(1) >= _ALIKE).all():
        break
    else:
      raise UserError(
        f'nobody can look like {kept[partner].name} and unlike the others; '
        'ask for fewer num_people or num_forget'
      )
    looks[index], made[index] = mine, people[index]._replace(look=mine)
  return tuple(made)


def _portraits(seed: int, person: Person, kind: str, number: int):
  """Renderings of a person, of one kind of view; text shows none."""
  if kind == 'text':
    return [None]
  keys = [f'{person.key}/{kind}{view:02d}' for view in range(number)]
  draw = lambda key: portraits.draw_portrait(person.look, named_rng(seed, key))
  return [Picture(key, Drawing(functools.partial(draw, key))) for key in keys]


def _person_item(
  person: Person, attribute: str, picture, people=(), short: bool = False
) -> Item:
  """The question for one attribute, or the name, among people."""
  key = f'{picture.key if picture else person.key + "/text"}/{attribute}'
  if attribute == 'name':
    answer = _SHORT if short else words.NAME_ANSWER
    ask = words.Ask(words.NAME_QUESTION, answer, ())
    others = tuple(answer.format(fact=p.name) for p in people)
    item = Item(key, ask, person.name, picture, person.key)
    return item._replace(others=others)
  form = words.ATTRIBUTES[attribute]
  who = words.WHO if picture else person.name
  whole = _SHORT if short else form.answer
  answer = whole.format(name=person.name, fact='{fact}')
  ask = words.Ask(form.question.format(who=who), answer, form.values)
  fact, cloze = person.facts[attribute], form.cloze.format(who=who)
  # Several people may share a short answer: then any four facts will do.
  among = () if short else people
  others = [whole.format(name=p.name, fact=p.facts[attribute]) for p in among]
  return Item(key, ask, fact, picture, person.key, cloze, tuple(others))


def _people_rows(
  people: tuple[Person, ...], shown: _Shown, short: bool
) -> dict:
  """The rows about people to train on, by group."""
  rows = {f'{form}/{group}': [] for form in ('vqa', 'qa') for group in GROUPS}
  for person in people:
    for picture in (None, *shown[person.key, 'train']):
      to = rows[f'{"vqa" if picture else "qa"}/{person.group}']
      item = functools.partial(
        _person_item, person, picture=picture, short=short
      )
      items = [item(attribute) for attribute in words.ATTRIBUTES]
      to += [make_row(i, task) for i in items for task in (GENERATION, CLOZE)]
      if picture:
        to.append(make_row(item('name'), GENERATION))
  return rows


def _people_tasks(
  seed: int, people: tuple[Person, ...], shown: _Shown, short: bool
) -> dict:
  """The scored rows about people."""
  tasks = {where: [] for where in _PEOPLE_TASKS}
  for where, (group, kind, number) in _PEOPLE_TASKS.items():
    for person in (p for p in people if p.group == group):
      for attribute in (*words.ATTRIBUTES, *(['name'] * (kind != 'text'))):
        rng = named_rng(seed, where, person.key, attribute)
        items = [
          _person_item(
            person, attribute, picture, people if picture else (), short
          )
          for picture in shown[person.key, kind]
        ]
        tasks[where] += _person_scored(rng, items, number, where)
  return tasks


def _person_scored(rng, items: list[Item], number, where) -> Iterator[Row]:
  """One attribute of one person: all or some views, then one for each form."""
  order = [items[i] for i in rng.permutation(len(items))]
  if order[0].cloze:  # a name has none, and is only chosen among others
    for item in items if number is None else order[:number]:
      yield make_row(item, GENERATION, where)
    yield make_row(order[0], CLOZE, where)
  yield make_row(order[-1], CLASSIFICATION, where, rng)
