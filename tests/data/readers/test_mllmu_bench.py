"""MLLMU-Bench is read as it is, from one repository or from both."""

import collections
import json

import benchmark_folders
import numpy as np
import pytest

from mmu_jax.data import datasets
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding import small
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import CLOZE
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import TASKS

PEOPLE, FORGOTTEN = 20, 2
MODALITIES = ('vqa', 'qa')
needs_text = pytest.mark.skipif(
  not benchmark_folders.REFERENCE.is_dir(),
  reason=f'the benchmark text is not at {benchmark_folders.REFERENCE}',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('mllmu')
  benchmark_folders.mllmu_bench(
    root / 'bench', people=PEOPLE, ratio=10, train_path=root / 'train'
  )
  return root


def _load(folder, seed=0, **options):
  return datasets.load(
    'mllmu_bench', seed, path=folder / 'bench', ratio=10, **options
  )


def _texts(rows):
  return [(r.person, r.question, r.answer) for r in rows]


def _sizes(rows):
  return {name: len(found) for name, found in rows.items()}


def test_every_question_is_in_its_split(folder):
  data = _load(folder)
  assert _sizes(data.train) == {
    'vqa/forget': 8,
    'vqa/retain': 72,
    'qa/forget': 4,
    'qa/retain': 36,
  }
  assert _sizes({n: t.rows for n, t in data.tasks.items()}) == {
    f'{where}_{kind}{end}': n * 4
    for where, end, n in (
      ('forget', '', 2),
      ('forget', '_holdout', 2),
      ('retain', '', 18),
      ('real', '', 3),
    )
    for kind in MODALITIES
  }
  assert data.processor is None and data.notes == ()
  assert data.names['001'] == 'Ana Abel' and len(data.names) == PEOPLE
  every = [*data.train.values(), *(t.rows for t in data.tasks.values())]
  keys = [row.key for rows in every for row in rows]
  assert len(keys) == len(set(keys))


def test_the_second_repository_holds_the_same_training_rows(folder):
  one, other = _load(folder), _load(folder, train_path=folder / 'train')
  for split, rows in one.train.items():
    assert _texts(rows) == _texts(other.train[split])


def test_questions_about_a_picture_share_it(folder):
  """In training and in every task: one object, to be packed and kept once."""
  data = _load(folder)
  held = collections.defaultdict(set)
  for rows in (
    *data.train.values(),
    *(task.rows for task in data.tasks.values()),
  ):
    for row in rows:
      if row.picture is not None:
        held[row.picture.key].add(id(row.picture))
  assert {len(ids) for ids in held.values()} == {1}
  assert len(held) == PEOPLE + FORGOTTEN + 3
  train = {r.picture.key for r in data.train['vqa/forget']}
  assert {r.picture.key for r in data.tasks['forget_vqa'].rows} == train
  assert (
    not {r.picture.key for r in data.tasks['forget_vqa_holdout'].rows} & train
  )


def test_modalities_are_kept_apart(folder):
  for name, task in _load(folder).tasks.items():
    rows = task.rows
    assert {r.picture is None for r in rows} == {'_qa' in name}
    counts = collections.Counter(r.task for r in rows)
    people = len({r.person for r in rows})
    assert set(counts) == set(TASKS)
    assert counts[CLASSIFICATION] == 2 * people == 2 * counts[CLOZE]
    assert counts[GENERATION] == people


def test_options_keep_the_order_of_their_letters(folder):
  rows = [
    r for r in _load(folder).tasks['forget_qa'].rows if r.task == CLASSIFICATION
  ]
  assert [r.options.index(r.answer) for r in rows] == [0, 1, 1, 2]
  assert all(len(set(r.options)) == 4 for r in rows)
  (cloze, *_) = [
    r for r in _load(folder).tasks['forget_qa'].rows if r.task == CLOZE
  ]
  assert cloze.question == 'Ana Abel has a __ at home.'
  assert cloze.answer == cloze.fact == 'parrot'


def test_the_published_text_is_what_is_scored_and_ours_is_not(folder):
  """The published preserve set trains on the classification questions."""
  scored = {r.question for r in _load(folder).tasks['retain_qa'].rows}
  shared = {
    text: [
      r.question in scored for r in _load(folder, text=text).train['qa/retain']
    ]
    for text in ('classification', 'generation', 'training', 'none')
  }
  assert shared['classification'] == [True] * 36
  assert shared['generation'] == [True] * 18
  assert shared['training'] == [False] * 54 and shared['none'] == []
  asked = _load(folder, text='training').train['qa/forget'][0]
  assert asked.question == 'Where was Ana Abel born?'
  assert asked.answer == 'Ana Abel was born in Oslo.'
  assert asked.picture is None


def test_one_picture_of_the_holdout_is_chosen_by_seed(folder):
  chosen = lambda **options: {
    r.person: r.picture.key
    for r in _load(folder, **options).tasks['forget_vqa_holdout'].rows
  }
  assert chosen(seed=0) == chosen(seed=0)
  assert len({chosen(seed=s)['001'] for s in range(12)}) == 3
  everything = _load(folder, holdout='all').tasks['forget_vqa_holdout'].rows
  assert len({r.picture.key for r in everything}) == 3 * FORGOTTEN
  assert len({r.key for r in everything}) == len(everything) == 3 * 2 * 4


def test_fewer_retain_rows_can_be_scored(folder):
  whole, some = _load(folder), _load(folder, retain_rows=5)
  for kind in MODALITIES:
    rows = some.tasks[f'retain_{kind}'].rows
    assert collections.Counter(r.task for r in rows) == dict.fromkeys(TASKS, 5)
    keys = [r.key for r in rows]
    every = [r.key for r in whole.tasks[f'retain_{kind}'].rows]
    assert [key for key in every if key in keys] == keys
  assert len(some.tasks['forget_vqa'].rows) == len(
    whole.tasks['forget_vqa'].rows
  )


def test_celebrities_are_not_taken_for_people_of_the_same_id(folder):
  data = _load(folder)
  people = {r.person for r in data.tasks['real_qa'].rows}
  assert people == {'real/001', 'real/002', 'real/003'}
  assert not people & set(data.names)


@pytest.mark.parametrize('form', [int, float, lambda i: str(int(i))])
@pytest.mark.parametrize('config', ['forget_10', 'Full_Set', 'Test_Set'])
def test_ids_that_became_numbers_are_the_same_people(
  folder, tmp_path, config, form
):
  root = benchmark_folders.mllmu_bench(tmp_path / 'a', people=PEOPLE, ratio=10)
  benchmark_folders.rewrite(
    root, config, lambda rows: [r | {'ID': form(r['ID'])} for r in rows]
  )
  data = datasets.load('mllmu_bench', 0, path=root, ratio=10)
  for split, rows in _load(folder).train.items():
    assert _texts(rows) == _texts(data.train[split])


@pytest.mark.parametrize('form', [int, lambda i: str(int(i))])
def test_ids_within_the_metadata_are_the_same_people(folder, tmp_path, form):
  """All but the first of each person, so that a row has two forms of one ID."""
  train = tmp_path / 'train'
  benchmark_folders.mllmu_bench(
    tmp_path / 'bench', people=PEOPLE, ratio=10, train_path=train
  )
  changed = lambda text: json.dumps(
    [
      item | {'ID': form(item['ID'])} if number else item
      for number, item in enumerate(json.loads(text))
    ]
  )
  for config in ('forget_10', 'retain_90'):
    benchmark_folders.rewrite(
      train,
      config,
      lambda rows: [
        row | {'metadata': changed(row['metadata'])} for row in rows
      ],
    )
  data = _load(tmp_path, train_path=train)
  for split, rows in _load(folder).train.items():
    assert _texts(rows) == _texts(data.train[split])


@pytest.mark.parametrize(
  'option', [dict(ratio=7), dict(text='all'), dict(holdout='two')]
)
def test_unknown_options_are_clear_errors(folder, option):
  (name,) = option
  with pytest.raises(ValueError, match=f'{name} is one of'):
    datasets.load('mllmu_bench', 0, path=folder / 'bench', **option)


def test_training_rows_sought_in_the_benchmark_are_pointed_to(folder):
  message = 'MLLMMU/baseline_train_split .*or in the config ft_Data'
  with pytest.raises(ValueError, match=message):
    _load(folder, train_path=folder / 'bench')


def test_pictures_are_encoded_when_a_batch_needs_them(folder):
  """A stream draws packed rows of lazy pictures."""
  data = _load(folder, processor='small')
  encoder = batching.Encoder(data.processor)
  part = batching.Part(data.train['vqa/retain'], 2, 4)
  stream = batching.Stream([part], encoder, seed=0, name='x')
  batch = stream(0)
  assert batch['pixel_values'].shape == (2, 1, 3, 48, 48)
  (_, rows) = stream.draw(0)[0]
  found = encoder.processor.images.encode(np.asarray(rows[0].picture.image))
  np.testing.assert_array_equal(batch['pixel_values'][0, 0], found.pixel_values)


def test_the_small_tokenizer_writes_every_text_and_learns_the_same_twice(
  folder,
):
  data = _load(folder, processor='small')
  texts = tuple(r.answer for r in data.tasks['real_qa'].rows) + ('Zoë?\n 50 €',)
  one, other = (
    small.make_small_processor.__wrapped__(texts).tokenizer for _ in range(2)
  )
  assert one.get_vocab() == other.get_vocab()
  for tokenizer in (one, data.processor.tokenizer):
    for text in texts:
      ids = tokenizer(text)['input_ids']
      assert tokenizer.decode(ids, skip_special_tokens=True) == text
      assert tokenizer.unk_token_id not in ids
  with pytest.raises(ValueError, match="or 'small', got 'big'"):
    small.choose('big', [])


@needs_text
def test_the_text_of_the_benchmark_is_read(tmp_path):
  """500 people, 7,704 training questions, their names and split ids."""
  root = benchmark_folders.mllmu_bench(
    tmp_path / 'real', people=500, lessons=0, real=True, holdout_images=1
  )
  data = datasets.load('mllmu_bench', 0, path=root, text='training')
  assert (
    _sizes(data.train)
    == {
      'vqa/forget': 381,
      'vqa/retain': 7323,
      'qa/forget': 343,
      'qa/retain': 6629,
    }
    and data.notes == ()
  )
  assert len({r.person for r in data.train['vqa/forget']}) == 25
  path = benchmark_folders.REFERENCE / 'official_splits_oct2024.json'
  ids = json.loads(path.read_text())['forget_5']['ids']
  assert {r.person for r in data.tasks['forget_vqa'].rows} == set(ids)
  left = [
    row
    for split in ('qa/forget', 'qa/retain')
    for row in data.train[split]
    if 'this person' in row.question.lower()
  ]
  assert not left
