"""Rounds and forget turns come from the rows, and cover the forget set."""

import random

import numpy as np
import pytest

from mmu_jax import recipes
from mmu_jax.data.batches import batching
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.budgets import settle

BATCH = 4  # pictures of a batch in the recipe
PIXELS = np.zeros((1, 1, 3), np.uint8)


def _rows(split, pictures, questions=1):
  """Rows about pictures, or in text where the split is one of text."""
  return [
    Row(
      f'{split}/{i}/{j}',
      'Who?',
      'Ada',
      'Ada',
      None if split.startswith('qa') else Picture(f'{split}/{i}', PIXELS),
    )
    for i in range(pictures)
    for j in range(questions)
  ]


def _train(forget, retain, forget_text=0, retain_text=0, questions=1):
  """Rows of own data by split."""
  counts = {
    'vqa/forget': forget,
    'vqa/retain': retain,
    'qa/forget': forget_text,
    'qa/retain': retain_text,
  }
  return {k: _rows(k, n, questions) for k, n in counts.items()}


def _settle(config, train):
  return settle.settle(config, train, config.groups)


def _seen(config, train, run, split):
  """The pictures that the turns of a run on a split draw."""
  made = config.runs[run]
  parts = drawing.draw(train, config.groups, config.unlearn.streams[split])
  plans = [
    (p, batching._groups(p.rows, batching._by_picture), (0, 'x')) for p in parts
  ]
  (turn,) = [t for t in settle.turns_of(made) if t.split == split]
  return {
    row.picture_key
    for step in range(-(-made.rounds // turn.every))
    for plan in plans
    for rows in batching._draw(*plan, step)
    for row in rows
  }


@pytest.mark.parametrize('seed', range(25))
def test_every_run_sees_all_of_the_forget_set_and_an_epoch_of_the_others(seed):
  rng = random.Random(seed)
  forget, retain = rng.randint(1, 60), rng.randint(1, 300)
  train = _train(forget, retain, rng.randint(0, 9), 3, rng.randint(1, 3))
  config, epochs = recipes.load('own'), rng.randint(1, 3)
  config.unlearn.epochs = config.vanilla.epochs = epochs
  made, _ = _settle(config, train)
  batches = lambda n: -(-n // BATCH)
  assert made.vanilla.rounds == epochs * batches(forget + retain)
  for name, run in made.runs.items():
    found = settle.budget(made, name, train, made.groups)
    both = name not in ('ga', 'npo')
    longest = max(batches(forget), both * batches(retain))
    assert found.rounds == run.rounds == epochs * longest
    assert found.forget_batches == batches(forget)
    # As many passes, and less than one more round of turns between each two.
    assert found.forget_turns >= epochs * found.forget_batches
    assert found.forget_turns < 2 * epochs * found.forget_batches
    assert len(_seen(made, train, name, 'forget')) == forget
    if both:
      assert len(_seen(made, train, name, 'retain')) == retain


def test_sixty_pictures_of_which_six_are_to_be_forgotten():
  """With rounds of the old advice, 15, one of two batches was forgotten."""
  made, notes = _settle(recipes.load('own'), _train(6, 54, 2, 3))
  assert (made.vanilla.rounds, made.unlearn.rounds, notes) == (15, 14, [])
  assert made.runs.mmunlearner.options.forget_every == 7
  train = _train(6, 54)
  line = settle.in_words(made, 'mmunlearner', train, made.groups)
  assert line == (
    'mmunlearner: 14 rounds, 2 forget turns; the forget set has 2 batches'
  )
  assert settle.in_words(made, 'vanilla', {}, {}) == 'vanilla: 15 rounds'


def test_settling_again_changes_nothing_and_numbers_that_are_given_stay():
  train = _train(9, 70, 3, 4)
  config = recipes.load('own')
  config.runs.kl_min.rounds, config.runs.kl_min.options.forget_every = 40, 11
  made, _ = _settle(config, train)
  assert (made.runs.kl_min.rounds, made.vanilla.rounds) == (40, 20)
  assert made.runs.kl_min.options.forget_every == 11
  again, notes = _settle(made, train)
  assert (again.to_dict(), notes) == (made.to_dict(), [])


def test_a_paired_turn_goes_through_the_longer_of_its_two_streams():
  config = recipes.load('own')
  with config.unlocked():
    config.runs = dict(one=recipes.run('counterfactual', 1e-3))
  made, _ = _settle(config, _train(3 * BATCH, 7 * BATCH))
  assert made.runs.one.rounds == 7
  made, _ = _settle(config, _train(9 * BATCH, 7 * BATCH))
  assert made.runs.one.rounds == 9


def test_relabelled_rows_show_the_pictures_that_are_to_be_forgotten():
  """So their number is known before a teacher was asked."""
  config = recipes.load('own')
  part = recipes.part('relabelled', size=2)
  with config.unlocked():
    config.unlearn.streams.mixed = (part,)
    run = recipes.run(
      'counterfactual', 1e-3, retain='mixed', teacher='base', margin=None
    )
    config.runs = dict(one=run)
  made, _ = _settle(config, _train(3 * BATCH, 7))
  assert made.runs.one.rounds == 3 * BATCH // 2
  assert made.runs.one.options.margin is None
  # Nothing but numbers comes from them: a stream that draws them is an error.
  with pytest.raises(UserError, match="unknown split 'relabelled'"):
    drawing.draw(_train(1, 1), {}, [part])


def test_one_run_more_leaves_the_others_as_they_were():
  train, config = _train(3, 40, 50, 50), recipes.load('own')
  before, _ = _settle(config, train)
  with config.unlocked():
    config.runs.more = recipes.run('ga_diff', 1e-5, retain='retain_and_text')
  after, _ = _settle(config, train)
  assert after.unlearn == before.unlearn
  assert all(after.runs[name] == before.runs[name] for name in before.runs)


@pytest.mark.parametrize(
  'change, says',
  [
    (dict(rounds=3), 'takes 3 forget turns in 3 rounds.*has 5 batches: 2 of'),
    (dict(rounds=3), r'Set config.runs.ga_diff.rounds=5 or more; .*partial'),
    (dict(rounds=40, every=24), 'takes 2 forget turns in 40 rounds'),
    (
      dict(rounds=40, every=24),
      'Set config.runs.ga_diff.options.forget_every=8',
    ),
    (dict(rounds=40, limit=4), 'Set config.unlearn.limits.forget=5'),
  ],
)
def test_fewer_forget_turns_than_batches_are_an_error_unless_wanted(
  change, says
):
  train, config = _train(17, 50, 2, 2), recipes.load('own')
  run = config.runs.ga_diff
  run.rounds = change['rounds']
  run.options.forget_every = change.get('every', 1)
  with config.unlocked():
    config.unlearn.limits = (
      {'forget': change['limit']} if 'limit' in change else {}
    )
  with pytest.raises(UserError, match=f"run 'ga.*{says}"):
    _settle(config, train)
  config.unlearn.allow_partial_forget = True
  made, _ = _settle(config, train)
  assert settle.budget(made, 'ga_diff', train, made.groups).forget_turns < 5


def test_data_without_text_leave_out_what_rests_on_text():
  made, notes = _settle(recipes.load('own:fast'), _train(3, 9))
  assert made.base.rounds == 0 and made.vanilla.rounds == 10
  assert list(made.saliency.preserve) == ['retain_vqa']
  assert set(made.saliency.protects.values()) == {('retain_vqa',)}
  both = made.unlearn.streams.retain_and_text
  assert [part['splits'] for part in both] == [('vqa:retain',)]
  said = '\n'.join(notes)
  for place in (
    'config.base.stream',
    'base has nothing to learn',
    'config.saliency.preserve.text',
    'config.unlearn.streams.retain_and_text',
  ):
    assert place in said
  assert _settle(made, _train(3, 9)) == (made, [])


@pytest.mark.parametrize(
  'counts, says',
  [
    ((0, 9, 2, 2), r'config.saliency.forget\[0\] draws from vqa:forget'),
    ((3, 0, 2, 2), r'preserve.retain_vqa\[0\] draws from vqa:retain'),
    ((0, 0, 2, 2), r'config.vanilla.stream\[0\] draws from vqa:everybody'),
  ],
)
def test_no_pictures_to_forget_or_to_keep_is_an_error(counts, says):
  with pytest.raises(UserError, match=says):
    _settle(recipes.load('own'), _train(*counts))


def test_a_component_that_nothing_protects_any_more_is_an_error():
  config = recipes.load('own')
  config.saliency.protects.language = ('text',)
  with pytest.raises(UserError, match='config.saliency.protects.language'):
    _settle(config, _train(3, 9))


def test_vanilla_without_rounds_needs_no_rows_of_its_own():
  config = recipes.load('own')
  config.vanilla.rounds = 0
  config.vanilla.stream = (recipes.part('qa:everybody', size=4),)
  made, _ = _settle(config, _train(3, 9))
  assert made.vanilla == config.vanilla


def test_without_data_a_plan_has_one_round_of_everything():
  made, notes = settle.settle(recipes.load('own'), None, {})
  assert made.vanilla.rounds == made.runs.npo.rounds == 1 and notes == []
  assert made.runs.ga_diff.options.forget_every == 1


@pytest.mark.parametrize(
  'spec', ['people', 'mllmu_bench', 'clear:paper_exact', 'people:paper_exact']
)
def test_published_numbers_are_left_alone(spec):
  config = recipes.load(spec)
  made, _ = settle.settle(config, None, {})
  assert made.to_dict() == config.to_dict()
