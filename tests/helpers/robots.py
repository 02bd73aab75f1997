"""Own data about things: drawn robots, of which two are to be forgotten."""

import dataclasses
import json
import pathlib

import hub_folder
import jax
import numpy as np
from PIL import Image
from PIL import ImageDraw
from safetensors.numpy import save_file

from mmu_jax import models
from mmu_jax import tree
from mmu_jax.models.hub import weights

NAMES = 'Bolt Cog Dynamo Gear Piston Rivet Servo Torque'.split()
FORGOTTEN = ('Cog', 'Servo')
JOBS = (
  'welds ships',
  'bakes bread',
  'paints walls',
  'waters plants',
  'sorts mail',
  'tunes pianos',
  'guards a museum',
  'repairs clocks',
)
PLACES = 'Oslo Lima Riga Turin Accra Quito Hanoi Perth'.split()
_BODIES = (  # far from each other: a small model has little time to look
  (200, 40, 40),
  (40, 90, 200),
  (240, 200, 40),
  (50, 150, 70),
  (130, 50, 150),
  (20, 20, 20),
  (245, 245, 245),
  (250, 130, 20),
)
SIZE = 48


def draw(number: int, view: int) -> Image.Image:
  """A robot; the view moves it, and changes the wall behind it."""
  rng = np.random.default_rng([number, view])
  wall = tuple(int(x) for x in rng.integers(140, 180, 3))
  made = Image.new('RGB', (SIZE, SIZE), wall)
  pen = ImageDraw.Draw(made)
  x, y = (int(v) for v in rng.integers(-3, 4, 2))
  body = _BODIES[number]
  pen.rectangle([12 + x, 24 + y, 36 + x, 44 + y], fill=body)
  head = [15 + x, 6 + y, 33 + x, 24 + y]
  (pen.ellipse if number % 2 else pen.rectangle)(head, fill=body)
  for side in (18, 26):
    pen.ellipse([side + x, 11 + y, side + 5 + x, 16 + y], fill=(120, 220, 230))
  return made


def write(folder: pathlib.Path, views: int = 4, new: int = 8) -> pathlib.Path:
  """Writes pictures and rows; returns the JSONL file.

  Args:
    folder: folder to make.
    views: pictures of each robot to train on.
    new: further pictures of each robot to forget.
  """
  (folder / 'pictures').mkdir(parents=True)
  rows = []
  for number, name in enumerate(NAMES):
    forgotten = name in FORGOTTEN
    split = 'forget' if forgotten else 'retain'
    job, place = JOBS[number], PLACES[number]
    told = (
      ('Which robot is this?', 'This is {}.', NAMES),
      ('What does it do?', 'It {}.', JOBS),
      ('Where does it stand?', 'It stands in {}.', PLACES),
    )
    for view in range(views + new * forgotten):
      image = f'pictures/{name.lower()}{view}.png'
      draw(number, view).save(folder / image)
      here = split if view < views else 'holdout'
      for question, answer, facts in told:
        row = dict(question=question, answer=answer.format(facts[number]))
        others = [facts[(number + i) % len(facts)] for i in (2, 0, 3, 5)]
        row |= dict(fact=facts[number], options=[*map(answer.format, others)])
        rows.append(row | dict(person=name, split=here, image=image))
    for question, answer, fact in (
      (f'What does {name} do?', f'{name} {job}.', job),
      (f'Where does {name} stand?', f'{name} stands in {place}.', place),
    ):
      row = dict(question=question, answer=answer, fact=fact)
      rows.append(row | dict(person=name, split=split))
  path = folder / 'robots.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def export(model: models.Model, folder: pathlib.Path) -> None:
  """Writes a small LLaVA with its processor as a Hugging Face checkpoint."""
  folder.mkdir()
  processor, sizes = model.processor, dataclasses.asdict(model.config)
  processor.tokenizer.save_pretrained(folder)
  processor.images.processor.save_pretrained(folder)
  sizes['vision_config']['model_type'] = 'clip_vision_model'
  sizes['text_config']['model_type'] = 'llama'
  sizes |= dict(model_type='llava', image_token_index=processor.image_token_id)
  (folder / 'config.json').write_text(json.dumps(sizes))
  leaves = tree.flatten(jax.device_get(model.params))
  tensors = {
    name: hub_folder.to_file(
      leaves[place.leaf]
      if place.layer is None
      else leaves[place.leaf][place.layer],
      place,
    )
    for name, place in weights.table(model).places.items()
  }
  save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
