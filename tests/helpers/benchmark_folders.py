"""Folders in the layouts of MLLMU-Bench and CLEAR, with drawn pictures.

People, questions and answers are invented. ``mllmu_bench(..., real=...)`` puts
the benchmark's own training text and split ids into the same layout, where
they are at hand; its pictures are drawn, and its scored questions are made of
the training text.
"""

import io
import json
import pathlib

import numpy as np
import paths
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from mmu_jax.data.people import portraits

REFERENCE = paths.REFERENCE / 'mllmu_bench'
FIRST = 'Ana Bruno Clara Dario Elif Farid Greta Hiro Ines Jonas'.split()
LAST = 'Abel Berg Conti Duarte Eriksen Fuchs Garza Holm'.split()
MIDDLE = ' Kay Lou Max Nell Otto Pia'.split(' ')
CITIES = ('Oslo', 'Lima', 'Riga', 'Turin', 'Accra', 'Quito')
PETS = ('parrot', 'rabbit', 'turtle', 'ferret', 'pony', 'lizard')
LETTERS = 'ABCD'


def name(i: int) -> str:
  """The name of the i-th person."""
  middle = f' {MIDDLE[i // 80]}' if i >= 80 else ''
  return f'{FIRST[i % 10]}{middle} {LAST[i // 10 % 8]}'


def file(
  seed: int,
  kind: str = 'JPEG',
  size: int = 48,
  *,
  look: int | None = None,
  **options,
) -> bytes:
  """Draws a portrait as the bytes of an image file.

  Pictures with one look differ as two photos of a person do: in pose, light and
  noise. Without one it is anybody's.
  """
  rng = np.random.default_rng(seed)
  of = rng if look is None else np.random.default_rng((1, look))
  drawn = portraits.draw_portrait(portraits.random_look(of), rng)
  return encoded(
    PIL.Image.fromarray(drawn).resize((size, size)), kind, **options
  )


def encoded(image: PIL.Image.Image, kind: str = 'PNG', **options) -> bytes:
  """A PIL image as the bytes of a file."""
  out = io.BytesIO()
  image.save(out, kind, **options)
  return out.getvalue()


def column(data: bytes | None, path: str = 'x.jpg'):
  """The value of an image column."""
  return None if data is None else {'bytes': data, 'path': path}


def write(root, config: str, rows: list[dict], *, shards: int = 1) -> None:
  """Writes the split ``train`` of a config."""
  folder = pathlib.Path(root) / config
  folder.mkdir(parents=True, exist_ok=True)
  table = pa.Table.from_pylist(rows)
  size = -(-len(rows) // shards)
  for i in range(shards):
    part = table.slice(i * size, size)
    pq.write_table(part, folder / f'train-{i:05d}-of-{shards:05d}.parquet')


def rewrite(root, config: str, change) -> None:
  """Changes the rows of a config: ``change(rows)`` returns the new ones."""
  (path,) = (pathlib.Path(root) / config).glob('*.parquet')
  pq.write_table(
    pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path
  )


def mllmu_bench(
  root,
  *,
  people: int = 20,
  celebrities: int = 3,
  holdout_images: int = 3,
  ratio: int = 5,
  lessons: int = 4,
  train_path=None,
  real: bool = False,
  pure_text: int = 2,
) -> pathlib.Path:
  """Writes the layout of ``MLLMMU/MLLMU-Bench``.

  Args:
    root: a new folder.
    people: in ``Full_Set``, at least 1 / ratio of a hundred.
    celebrities: in ``Retain_Set``.
    holdout_images: for each person in ``Test_Set``.
    ratio: of the forget set, per cent.
    lessons: training questions for each person; 0 for all that there are.
    train_path: also writes ``MLLMMU/baseline_train_split`` there.
    real: with the training text of the benchmark: see the module.
    pure_text: classification questions of each modality.
  """
  metadata = _real_metadata(people) if real else _metadata(people)
  metadata = {k: v[: lessons or None] for k, v in metadata.items()}
  ids = list(metadata)
  forget = (
    _real_forget(ratio, ids)
    if real
    else (ids[: max(1, len(ids) * ratio // 100)])
  )
  rows = [_profile(i, person, pure_text) for i, person in enumerate(ids)]
  columns = lambda row: {k: v for k, v in row.items() if k != 'Directory'}
  write(root, 'Full_Set', rows)
  for config, wanted in (
    (f'forget_{ratio}', True),
    (f'retain_{100 - ratio}', False),
  ):
    chosen = [columns(r) for r in rows if (r['ID'] in forget) == wanted]
    write(root, config, chosen)
    if train_path is not None:
      write(
        train_path,
        config,
        [
          {'image': r['image'], 'metadata': json.dumps(metadata[r['ID']])}
          for r in chosen
        ],
      )
  write(
    root,
    'ft_Data',
    [
      {
        'image': r['image'],
        'ID': r['ID'],
        'metadata': json.dumps(metadata[r['ID']]),
      }
      for r in rows
    ],
    shards=2,
  )
  write(
    root,
    'Test_Set',
    [_holdout(i, row, holdout_images) for i, row in enumerate(rows)],
  )
  write(
    root,
    'Retain_Set',
    [
      _profile(i, f'{i + 1:03d}', pure_text, seed=10_000)
      for i in range(celebrities)
    ],
  )
  return pathlib.Path(root)


def clear(
  root,
  *,
  people: int = 20,
  images: int = 2,
  ratio: int = 5,
  texts: int = 3,
  real_rows: int = 4,
  perturbed: int = 5,
) -> pathlib.Path:
  """Writes the layout of ``therem/CLEAR``.

  Args:
    root: a new folder.
    people: authors.
    images: pictures with a caption of each author.
    ratio: of the forget set, per cent of the people.
    texts: questions of TOFU about each author.
    real_rows: of ``real_faces`` and ``real_world``.
    perturbed: wrong names, and wrong captions.
  """
  everybody = range(people)
  forgotten = range(max(1, people * ratio // 100))
  rest = range(len(forgotten), people)
  forget, retain = f'forget{ratio:02d}', f'retain{100 - ratio}'
  for config, who in (('full', everybody), (forget, forgotten), (retain, rest)):
    pictured = [_captioned(i, k) for i in who for k in range(images)]
    write(root, config, pictured)
    asked = [row for i in who for row in _tofu(i, texts)]
    whole = [
      {k: row.get(k) for k in ('image', 'caption', 'question', 'answer')}
      for row in (*pictured, *asked)
    ]
    write(root, f'{config}+tofu', whole)
  for config, who in (
    (f'{forget}_perturbed', forgotten),
    ('retain_perturbed', rest),
  ):
    write(
      root,
      config,
      [
        _perturbed(_captioned(i, k), i, people, perturbed)
        for i in who
        for k in range(images)
      ],
    )
  for config in ('real_faces', 'real_world'):
    write(root, config, [_real(config, i) for i in range(real_rows)])
  return pathlib.Path(root)


def _metadata(people):
  """Person -> training questions, invented."""
  found = {}
  for i in range(people):
    pairs = (
      (
        'What is the name of this person?',
        f'The name of this person is {name(i)}.',
      ),
      (
        'Where was this person born?',
        f'This person was born in {CITIES[i % 6]}.',
      ),
      ('What pet does this person have?', f'This person has a {PETS[i % 6]}.'),
      (
        "What is this person's annual salary?",
        f"This person's annual salary is ${40 + i},000.",
      ),
    )
    person = f'{i + 1:03d}'
    found[person] = [
      {'ID': person, 'Question': q, 'Answer': a} for q, a in pairs
    ]
  return found


def _real_metadata(people):
  """The same of the benchmark; forgotten people first, so that there are."""
  path = REFERENCE / 'full_train_text_500_profiles.json'
  forget = set(_real_forget(5))
  found = {
    profile['metadata'][0]['ID']: profile['metadata']
    for profile in json.loads(path.read_text())
  }
  order = sorted(found, key=lambda person: (person not in forget, person))
  keep = set(
    order
    if people >= len(order)
    else [*order[:2], *order[len(forget) :][: people - 2]]
  )
  return {person: found[person] for person in sorted(keep)}


def _real_forget(ratio, ids=None):
  """The ids of the benchmark's forget set, those among ``ids``."""
  path = REFERENCE / 'official_splits_oct2024.json'
  known = json.loads(path.read_text())[f'forget_{ratio}']['ids']
  return [person for person in known if ids is None or person in ids]


def _profile(i, person, number, seed=0):
  """A row of ``Full_Set``."""
  return {
    'image': column(file(seed + i, look=seed + i), f'{person}.jpg'),
    'ID': person,
    'Directory': f'data/{person}',
    'biography': json.dumps({'Name': name(i), 'Born': CITIES[i % 6]}),
    'question': 'Who is this person?',
    'answer': f'{name(i)} was born in {CITIES[i % 6]}.',
    **_scored(i, number, 'this person', name(i)),
  }


def _holdout(i, row, number):
  """A row of ``Test_Set``."""
  files = [file(5_000 + 10 * i + k, look=i) for k in range(number)]
  return {
    'ID': row['ID'],
    'images': [column(data, f'{k}.jpg') for k, data in enumerate(files)],
    **_scored(i, 2, 'the person shown', f'the artist {name(i)}'),
  }


def _scored(i, number, shown, named):
  """The three tasks about the i-th person."""
  city, pet = CITIES[i % 6], PETS[i % 6]
  written = (('Image_Textual', shown), ('Pure_Text', named))
  return {
    'Classification_Task': {
      'Image_Textual_Questions': [_choice(i, k, shown) for k in range(number)],
      'Pure_Text_Questions': [_choice(i, k, named) for k in range(number)],
    },
    'Generation_Task': [
      {
        'Question': f'In which city did the life of {who} begin?',
        'Ground_Truth': f'{name(i)} was born in {city}.',
        'Type': kind,
      }
      for kind, who in written
    ],
    'Mask_Task': [
      {
        'Question': f'{who} has a __ at home.',
        'Ground_Truth': pet,
        'Type': kind,
      }
      for kind, who in written
    ],
  }


def _choice(i, k, who):
  """A classification question; the letter of the answer goes round."""
  pool, asked = ((CITIES, 'was born in'), (PETS, 'has a'))[k % 2]
  options = [pool[(i + j) % 6] for j in range(4)]
  right = (i + k) % 4
  options[0], options[right] = options[right], options[0]
  return {
    'Question': f'What is true of {who}, question {k}: {who} {asked} ...?',
    'Options': dict(zip(LETTERS, options)),
    'Correct_Answer': LETTERS[right],
  }


def _captioned(i, k):
  """A row of CLEAR's base configs."""
  return {
    'image': column(file(100 * i + k, 'PNG', look=i), f'{i}_{k}.png'),
    'caption': f'{name(i)} walks through {CITIES[(i + k) % 6]} in scene {k}.',
    'name': name(i),
  }


def _tofu(i, number):
  """Questions in text about an author."""
  return [
    {
      'question': f'What does {name(i)} keep in house {k}?',
      'answer': f'{name(i)} keeps a {PETS[(i + k) % 6]}.',
    }
    for k in range(number)
  ]


def _perturbed(row, i, people, number):
  """The same row with wrong names and captions."""
  others = [name((i + j + 1) % max(people, 20)) for j in range(number)]
  return row | {
    'perturbed_captions': [
      row['caption'].replace(row['name'], other) for other in others
    ],
    'paraphrased_caption': f'In this scene we see {row["name"]}.',
    'perturbed_names': others,
  }


def _real(config, i):
  """A row of ``real_faces`` or ``real_world``."""
  faces = config == 'real_faces'
  pool = [name(40 + j) for j in range(6)] if faces else list(CITIES)
  question = 'Which city is this?'
  return {
    'image': column(file(7_000 + 100 * faces + i, 'PNG'), f'{i}.png'),
    'question': None if faces else question,
    'answer': pool[i % 6],
    'options': [pool[(i + j) % 6] for j in (2, 0, 1, 3)],
  }
