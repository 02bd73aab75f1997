"""The synthetic world: what is in no two splits, and what every row keeps."""

import collections
import hashlib
import re

import numpy as np
import pytest

from mmu_jax.data import row as row_lib
from mmu_jax.data.encoding import processing
from mmu_jax.data.people import items
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib

SMALL = dict(
  num_people=14,
  num_forget=2,
  num_validation_forget=2,
  num_validation_retain=3,
  train_views=3,
  holdout_views=2,
  validation_views=2,
  num_captioned=24,
  num_faces=40,
  num_shapes=40,
)


@pytest.fixture(scope='module')
def world():
  return world_lib.make_world(0, **SMALL)


@pytest.fixture(scope='module')
def processor():
  return vocabulary.make_processor()


def _splits(world):
  return world.train | {
    f'task {name}': t.rows for name, t in world.tasks.items()
  }


def _rows(world):
  return [row for rows in _splits(world).values() for row in rows]


def _hash(row):
  return hashlib.sha256(np.asarray(row.picture.image).tobytes()).hexdigest()


def _pictures(rows):
  return {_hash(row) for row in rows if row.picture is not None}


def _text(row, processor, answered=True):
  content = [{'type': 'text', 'text': row.question}]
  if row.picture is not None:
    content = [{'type': 'image'}, *content]
  chat = [{'role': 'user', 'content': content}]
  if answered:
    answer = [{'type': 'text', 'text': row.answer}]
    chat.append({'role': 'assistant', 'content': answer})
  return processor.tokenizer.apply_chat_template(
    chat, tokenize=False, add_generation_prompt=not answered
  )


def _same(row, other):
  pair = row._replace(picture=None) == other._replace(picture=None)
  pixels = [np.asarray(p.image) for p in (*row.pictures, *other.pictures)]
  return pair and (not pixels or np.array_equal(*pixels))


def test_a_picture_is_drawn_when_it_is_used_and_the_same_each_time(world):
  picture = world.train['general'][0].picture.image
  assert picture.shape == np.asarray(picture).shape == (48, 48, 3)
  drawn = []
  made = items.Drawing(lambda: drawn.append(1) or np.ones((48, 48, 3)))
  assert not drawn
  assert np.asarray(made).sum() == np.asarray(made).sum() == 48 * 48 * 3
  assert len(drawn) == 1


def test_one_seed_gives_one_world_and_another_seed_another(world):
  again = world_lib.make_world(0, **SMALL)
  assert again.people == world.people
  for name, rows in _splits(world).items():
    others = _splits(again)[name]
    assert len(rows) == len(others)
    assert all(map(_same, rows, others)), name
  other = world_lib.make_world(1, **SMALL)
  assert {p.name for p in other.people} != {p.name for p in world.people}
  assert not _pictures(_rows(other)) & _pictures(_rows(world))


def test_the_counts_of_one_thing_leave_the_others_as_they_were(world):
  changed = dict(num_people=20, train_views=2, num_captioned=8, num_faces=20)
  other = world_lib.make_world(0, **SMALL | changed)
  for mine, its in zip(world.people, other.people):
    assert mine[:4] == its[:4]  # all but the group
  mine = {row.picture.key: row for row in _rows(world) if row.picture_key}
  its = {row.picture.key: row for row in _rows(other) if row.picture_key}
  shared = mine.keys() & its.keys()
  assert {key.split('/')[0] for key in shared} >= {'caption', 'face', 'shapes'}
  assert all(_hash(mine[key]) == _hash(its[key]) for key in shared)


def test_forgetting_more_people_keeps_the_earlier_ones_and_validation():
  few = world_lib._make_people(0, 14, 2, 2, 3)
  more = world_lib._make_people(0, 14, 4, 2, 3)
  group = lambda made, name: {p.key for p in made if p.group == name}
  assert group(few, 'forget') < group(more, 'forget')
  for name in ('validation_forget', 'validation_retain'):
    assert group(few, name) == group(more, name)


def test_groups_have_the_sizes_that_were_asked_for(world):
  sizes = collections.Counter(person.group for person in world.people)
  assert sizes == dict(
    forget=2, validation_forget=2, validation_retain=3, retain=7
  )


@pytest.mark.parametrize('seed', [0, 1])
def test_people_differ_in_name_and_in_four_attributes_of_their_looks(seed):
  made = world_lib._make_people(seed, 80, 6, 6, 12)
  assert len({person.name for person in made}) == 80
  looks = np.array([person.look for person in made])
  differing = (looks[:, None] != looks[None]).sum(-1)
  assert differing[np.triu_indices(80, 1)].min() >= 4


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_a_look_alike_differs_from_one_who_stays_in_two_attributes(seed):
  before = world_lib._make_people(seed, 60, 6, 6, 12)
  after = world_lib._make_alike(seed, before)
  looks = np.array([person.look for person in after])
  differing = (looks[:, None] != looks[None]).sum(-1)
  assert differing[np.triu_indices(60, 1)].min() == 2
  kept = [i for i, person in enumerate(after) if person.group == 'retain']
  partners = []
  for i, (old, new) in enumerate(zip(before, after)):
    if new.group == 'forget':
      near = [j for j in kept if differing[i, j] == 2]
      assert near and new.look[-1] == after[near[0]].look[-1]
      partners += near[:1]
    else:
      assert new == old
  assert len(set(partners)) == 6  # six different people


def test_short_answers_are_the_facts_and_leave_the_rest_as_it_was(world):
  short = world_lib.make_world(0, **SMALL, short_answers=True)
  pairs = list(zip(_rows(short), _rows(world), strict=True))
  assert len(pairs) > 500
  for row, long in pairs:
    assert (row.question, row.fact) == (long.question, long.fact)
    if row.person:
      assert row.answer == f'{row.fact}.' and len(set(row.options)) in (0, 4)
    else:
      assert row.answer == long.answer


def test_known_facts_are_other_facts_and_leave_the_rest_as_it_was(world):
  known = world_lib.make_world(0, **SMALL, known_facts=True)
  asked = lambda w: [row.question for row in w.tasks['real_qa'].rows]
  assert asked(known) != asked(world) and len(asked(known)) == 48
  assert all(len(set(row.options)) in (0, 4) for row in _rows(known))
  others = lambda w: [
    (row.key, row.question, row.answer, row.options)
    for row in _rows(w)
    if not row.key.startswith('fact/')
  ]
  assert others(known) == others(world)
  # Nobody lives in one of the capitals: to know people is another matter.
  cities = vocabulary.ATTRIBUTES['city'].values
  assert not {row.fact for row in known.tasks['real_qa'].rows} & {*cities}


def test_too_many_people_to_look_different_is_a_clear_error(monkeypatch):
  monkeypatch.setattr(world_lib, '_MIN_DIFFERENCE', 9)
  with pytest.raises(ValueError, match='differ in 9 attributes .* at most 3'):
    world_lib._make_looks(0, 14)


def test_training_holdout_and_validation_pictures_are_disjoint(world):
  trained = _pictures(row for rows in world.train.values() for row in rows)
  for name in (
    'forget_vqa_holdout',
    'retain_vqa',
    'real_vqa',
    'validation_retain_vqa',
    'validation_forget_vqa_holdout',
    'validation_real_vqa',
  ):
    scored = _pictures(world.tasks[name].rows)
    assert scored and not scored & trained, name
  for name in ('forget_vqa', 'validation_forget_vqa'):
    assert _pictures(world.tasks[name].rows) <= trained


def test_validation_shares_no_person_and_no_picture_with_what_is_reported(
  world,
):
  reported, validation = [], []
  for task in world.tasks.values():
    (reported if task.reported else validation).extend(task.rows)
  assert not _pictures(reported) & _pictures(validation)
  who = lambda rows: {row.person for row in rows} - {None}
  assert not who(reported) & who(validation)


def test_splits_and_tasks_ask_only_of_their_group(world):
  group = {person.key: person.group for person in world.people}
  for name, rows in world.train.items():
    asked = {group.get(row.person) for row in rows}
    assert asked == ({name.split('/')[1]} if '/' in name else {None}), name
  for name, task in world.tasks.items():
    asked = {group.get(row.person) for row in task.rows}
    expected = re.sub('_v?qa.*', '', name)
    assert asked == ({expected} if 'real' not in name else {None}), name


def test_forget_portraits_are_trained_on_in_no_other_split(world):
  portraits = _pictures(world.train['vqa/forget'])
  assert len(portraits) == 2 * 3
  for name, rows in world.train.items():
    if name != 'vqa/forget':
      assert not portraits & _pictures(rows), name


def test_keys_are_unique_and_name_the_picture(world):
  rows = _rows(world)
  assert len({row.key for row in rows}) == len(rows)
  arrays = {}
  for row in rows:
    if row.picture is not None:
      assert row.key.startswith(row.picture.key)
      assert arrays.setdefault(row.picture.key, row.picture) is row.picture
  assert len({_hash(row) for row in rows if row.picture is not None}) == len(
    arrays
  )


def test_choices_hold_the_answer_once_among_four(world):
  places = collections.Counter()
  for row in _rows(world):
    if row.task == row_lib.CLASSIFICATION:
      assert len(row.options) == len(set(row.options)) == 4
      assert row.options.count(row.answer) == 1
      places[row.options.index(row.answer)] += 1
    else:
      assert row.options == ()
  shares = np.array([places[i] for i in range(4)]) / places.total()
  np.testing.assert_allclose(shares, 0.25, atol=0.08)


def test_choices_about_a_portrait_are_true_of_four_different_people(world):
  names = {person.name for person in world.people}
  for task in ('forget_vqa_holdout', 'retain_vqa'):
    for row in world.tasks[task].rows:
      if row.task == row_lib.CLASSIFICATION:
        about = {n for n in names for o in row.options if n in o}
        assert len(about) == 4, row.options


def test_answers_are_sentences_that_hold_the_name_and_the_fact(world):
  names = {person.key: person.name for person in world.people}
  facts = {person.key: person.facts for person in world.people}
  for row in _rows(world):
    assert row.fact in row.answer
    if row.person:
      assert names[row.person] in row.answer
      assert row.fact in (names[row.person], *facts[row.person].values())
      if row.picture is not None:
        assert names[row.person] not in row.question
    if not row.key.startswith('caption'):
      assert row.answer.endswith('.')


def test_row_counts_follow_from_the_arguments(world):
  count = lambda rows: collections.Counter(row.task for row in rows)
  train = world.train
  tasks = {name: task.rows for name, task in world.tasks.items()}
  assert len(train['vqa/forget']) == 2 * 3 * (6 + 6 + 1)
  assert len(train['qa/retain']) == 7 * 6 * 2
  assert len(train['captions']) == 24
  assert len(train['general']) == 34 * 4 + 34 * 3
  assert len(train['facts']) == 24
  assert count(tasks['forget_vqa']) == dict(
    generation=2 * 3 * 6, cloze=2 * 6, classification=2 * 7
  )
  assert count(tasks['retain_vqa']) == dict(
    generation=7 * 6 * 2, cloze=7 * 6, classification=7 * 7
  )
  assert set(count(tasks['forget_qa']).values()) == {2 * 6}
  assert count(tasks['real_vqa']) == count(tasks['validation_real_vqa'])


def test_descriptions_of_faces_have_one_length(world):
  lengths = {
    len(row.answer.split())
    for row in world.train['captions']
    if 'face' in row.answer
  }
  assert lengths == {15}


def test_no_text_of_any_world_has_an_unknown_token(world, processor):
  tokenizer = processor.tokenizer
  for each in (world, world_lib.make_world(7, **SMALL | dict(num_people=40))):
    rows = _rows(each)
    texts = {_text(row, processor) for row in rows}
    texts |= {option for row in rows for option in row.options}
    texts |= {person.name for person in world_lib._make_people(7, 300, 1, 1, 1)}
    for ids in tokenizer(sorted(texts))['input_ids']:
      assert tokenizer.unk_token_id not in ids


def test_decoding_gives_the_text_back(world, processor):
  tokenizer = processor.tokenizer
  rows = _rows(world)
  texts = sorted({text for row in rows for text in (row.answer, row.question)})
  for text, ids in zip(texts, tokenizer(texts)['input_ids']):
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_offsets_find_the_answer_in_the_chat(world, processor):
  tokenizer = processor.tokenizer
  rows = [rows[0] for rows in _splits(world).values()]
  assert {row.picture is None for row in rows} == {True, False}
  for row in rows:
    text = _text(row, processor)
    prompt = _text(row, processor, answered=False)
    assert text == f'{prompt} {row.answer}'
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = np.array(encoded['offset_mapping'])
    answer = spans[:, 1] > len(prompt)
    begin, end = spans[answer][0][0], spans[answer][-1][1]
    assert text[begin:end].strip() == row.answer
    ids = np.array(encoded['input_ids'])
    bare = tokenizer(row.answer, add_special_tokens=False)['input_ids']
    assert ids[answer].tolist() == bare
    asked = tokenizer(prompt)['input_ids']
    assert ids[~answer].tolist() == asked


def test_the_chat_is_llavas(processor):
  image = np.zeros((48, 48, 3), np.uint8)
  picture = row_lib.Picture('p', image)
  row = row_lib.Row('k', 'Describe the picture.', 'red clothes', 'red', picture)
  assert _text(row, processor) == (
    'USER: <image>\nDescribe the picture. ASSISTANT: red clothes'
  )
  row = row._replace(picture=None)
  assert _text(row, processor, answered=False) == (
    'USER: Describe the picture. ASSISTANT:'
  )


def test_the_processor_counts_sixteen_image_tokens(world, processor):
  row = world.train['vqa/forget'][0]
  tokens = processing.encode(row, processor).tokens
  assert (tokens == processor.image_token_id).sum() == 16
  pixels = processor.images.encode(row.picture.image).pixel_values
  assert pixels.shape == (3, 48, 48)
  # CLIP's own mean and standard deviation, red channel, no resampling.
  red = (np.asarray(row.picture.image)[..., 0] / 255 - 0.48145466) / 0.26862954
  np.testing.assert_allclose(pixels[0], red, atol=1e-4)


@pytest.mark.parametrize(
  'argument, value, message',
  [
    ('num_people', 7, 'must exceed .* here 7, .* got 7'),
    ('num_people', 1601, 'at most 1600'),
    ('num_forget', 0, 'num_forget must be at least 1, got 0'),
    ('num_faces', 6, 'num_faces must be at least 7, got 6'),
    ('train_views', -1, 'train_views must be at least 1, got -1'),
  ],
)
def test_a_count_out_of_range_is_a_clear_error(argument, value, message):
  with pytest.raises(ValueError, match=message):
    world_lib.make_world(0, **SMALL | {argument: value})
