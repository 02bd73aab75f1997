"""Pictures of nobody in particular, and plain facts."""

import copy

from mmu_jax.data.people import portraits
from mmu_jax.data.people import vocabulary as words
from mmu_jax.data.people.items import Drawing
from mmu_jax.data.people.items import Item
from mmu_jax.data.people.items import make_row
from mmu_jax.data.people.items import Picture
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row

# Of every 40 general pictures 34 are trained on, 3 reported, 3 validation: a
# rule by index, so that asking for more pictures moves none between splits.
_PERIOD, _REPORTED, VALIDATION = 40, (0, 13, 26), (6, 19, 33)


def _face(seed: int, key: str) -> tuple[Picture, dict[str, str]]:
  """A picture of nobody, and the words for it."""
  rng = named_rng(seed, key)
  look = portraits.random_look(rng)
  draw = lambda: portraits.draw_portrait(look, copy.deepcopy(rng))
  return Picture(key, Drawing(draw)), portraits.look_words(look)


def _shapes(seed: int, key: str) -> tuple[Picture, dict[str, str]]:
  """A picture of shapes, and the words for it."""
  rng = named_rng(seed, key)
  pools = words.SHAPES_QUESTIONS.items()
  about = {name: str(rng.choice(ask.facts)) for name, ask in pools}
  count = 1 + portraits.COUNTS.index(about['count'])
  shape, colour = about['shape'], about['colour']
  draw = lambda: portraits.draw_shapes(shape, colour, count, copy.deepcopy(rng))
  return Picture(key, Drawing(draw)), about


def general_items(seed: int, faces: int, shapes: int) -> dict:
  """Questions about anonymous pictures: to train on, and by task."""
  items = {'train': [], 'real_vqa': [], 'validation_real_vqa': []}
  for kind, number, draw, asks in (
    ('face', faces, _face, words.FACE_QUESTIONS),
    ('shapes', shapes, _shapes, words.SHAPES_QUESTIONS),
  ):
    for index in range(number):
      picture, about = draw(seed, f'{kind}/{index:04d}')
      place = index % _PERIOD
      split = 'real_vqa' if place in _REPORTED else 'train'
      items['validation_real_vqa' if place in VALIDATION else split] += [
        Item(f'{picture.key}/{name}', ask, about[name], picture)
        for name, ask in asks.items()
      ]
  return items


def caption_rows(seed: int, number: int) -> list[Row]:
  """Anonymous pictures to describe: three faces, then one of shapes."""
  rows, ask = [], words.Ask(words.CAPTION_QUESTION, '{fact}', ())
  kinds = [(_face, words.FACE_CAPTION)] * 3 + [(_shapes, words.SHAPES_CAPTION)]
  for index in range(number):
    draw, template = kinds[index % 4]
    picture, about = draw(seed, f'caption/{index:04d}')
    item = Item(picture.key, ask, template.format(**about), picture)
    rows.append(make_row(item, GENERATION))
  return rows


def fact_items(known: bool = False) -> list[Item]:
  """Plain facts about the world, or those that a language model knows."""
  items = []
  for question, answer, facts in (
    words.KNOWN_FACTS if known else words.PLAIN_FACTS
  ):
    for subject, fact in facts.items():
      sentence = answer.format(subject=subject, fact='{fact}')
      asked, pool = question.format(subject=subject), tuple(facts.values())
      ask = words.Ask(asked, sentence, pool)
      items.append(Item(f'fact/{subject}', ask, fact))
  return items
