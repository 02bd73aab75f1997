"""The loop: what it refuses, what it writes, and that a kill is harmless."""

import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import syncing
import toy

from mmu_jax import checkpoint
from mmu_jax import errors
from mmu_jax import methods
from mmu_jax import objectives
from mmu_jax import workdir
from mmu_jax.distributed import preemption
from mmu_jax.training import loop
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib
from mmu_jax.workdir import seals

pytestmark = pytest.mark.usefixtures('quick_compile')
ROOT = pathlib.Path(__file__).parents[2]


class _Stream:
  """Random batches by step; remembers the steps that were asked for."""

  def __init__(self, seed, poisoned=None):
    self.seed, self.poisoned, self.asked = seed, poisoned, []

  def __call__(self, step):
    self.asked.append(step)
    batch = toy.batch(1000 * self.seed + step, rows=2)
    if step == self.poisoned:
      batch['pixel_values'][1] = np.nan
    return batch

  def keys(self, step):
    return [f'row-{self.seed}-{step}-{b}' for b in range(2)]


def _plan(turns=None, **changes):
  """A plan that works, with changes."""
  plan = loop.Plan(
    turns=methods.ga_diff() if turns is None else turns,
    streams={'forget': _Stream(1), 'retain': _Stream(2)},
    rates=dict.fromkeys(('forget', 'retain'), lambda _: 1e-2),
    rounds=6,
    forward=toy.forward,
    tx=optimizer.build('sgd'),  # compiles fast
  )
  return plan._replace(**changes)


def _fit(plan, params, folder, **options):
  """Runs a plan from a copy of parameters."""
  start = lambda: jax.tree.map(jnp.array, params)
  return loop.fit(plan, params, start, folder, **options)


def _rows(folder):
  """The log; when its rows were written stands apart."""
  rows = _rows_of(folder / 'metrics.jsonl')
  times = _rows_of(folder / 'timing.jsonl')
  # What was done again was written again.
  assert len(times) >= len(rows) and not any('time' in row for row in rows)
  assert all(row['time'] > 1.6e9 for row in times)
  return rows


def _bytes(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def _compiled(*_):
  raise AssertionError('the model was traced')


def test_rates_are_known_before_the_first_step(tmp_path):
  """Else the host waits, for a rate is computed behind the running step."""
  plan, asked = _plan(rounds=4), []

  def rate(round_):
    asked.append((round_, len(plan.streams['forget'].asked)))
    return 0.01 * (1 + round_)

  params = toy.params(3)
  _fit(plan._replace(rates=dict(plan.rates, forget=rate)), params, tmp_path)
  assert asked == [(i, 0) for i in range(4)]


def test_a_round_is_looked_at_while_the_next_one_runs(tmp_path, monkeypatch):
  """The host waits for a round just begun where the log is due alone."""
  made, events = [], []
  take, get = step_lib.take_turn, jax.device_get

  def taken(*args, **kwargs):
    state, values = take(*args, **kwargs)
    events.append(('take', len(made)))
    made.append(values)
    return state, values

  def got(tree):
    events.extend(('read', i) for i, x in enumerate(made) if x is tree)
    return get(tree)

  monkeypatch.setattr(step_lib, 'take_turn', taken)
  monkeypatch.setattr(jax, 'device_get', got)
  plan = _plan(methods.ga())
  _fit(plan, toy.params(3), tmp_path, log_every=3)
  first = {i: events.index(('read', i)) for i in range(plan.rounds)}
  waits = [i for i in first if ('take', i + 1) not in events[: first[i]]]
  assert waits == [2, 5]


@pytest.mark.parametrize(
  'plan, message',
  [
    (
      _plan(methods.mmunlearner(), forward=_compiled),
      "the turn on 'forget' is masked, and no mask is given.*saliency",
    ),
    (
      _plan(methods.npo(), forward=_compiled),
      "'forget' needs reference parameters.*Pass ref_params",
    ),
    (
      _plan(streams={'retain': _Stream(2)}, forward=_compiled),
      r"draws from 'forget', but the streams are \['retain'\]",
    ),
    (
      _plan(
        (methods.Turn('forget', objectives.ascend, project='kept'),),
        forward=_compiled,
      ),
      "draws from 'kept', but the streams are",
    ),
    (
      _plan(rates={'forget': lambda _: 1.0}, forward=_compiled),
      r"'retain' has no learning rate; .* \['forget'\]",
    ),
    (
      _plan(
        methods.npo(per='batch'),
        micro_batches=2,
        ref_params=toy.params(0),
        forward=_compiled,
      ),
      "'forget' is not a mean over tokens or answers.*micro_batches=1",
    ),
    (_plan(micro_batches=0, forward=_compiled), 'number >= 1, got 0'),
    (_plan(rounds=0, forward=_compiled), 'at least one round, got 0'),
    (
      _plan(methods.ga(forget_every=0), forward=_compiled),
      'taken every 0 rounds; it must be >= 1',
    ),
    (
      _plan(clip_norms={'forget': 1.0}, forward=_compiled),
      r"'retain' has no clip norm; .* \['forget'\]. Give every split one",
    ),
    (
      _plan(limits={'forgot': 1}, forward=_compiled),
      r"got 1 for 'forgot'; the turns are on \['forget', 'retain'\]",
    ),
    (
      _plan(limits={'forget': 0}, forward=_compiled),
      "a number >= 1 for the split of a turn, got 0 for 'forget'",
    ),
  ],
  ids=[
    'mask',
    'reference',
    'stream',
    'project',
    'rate',
    'not a mean',
    'micro-batches',
    'rounds',
    'every',
    'clip',
    'limited split',
    'limit',
  ],
)
def test_an_incomplete_plan_is_refused_before_compiling(
  plan, message, tmp_path
):
  with pytest.raises(ValueError, match=message):
    _fit(plan, toy.params(0), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_the_final_parameters_are_there_and_checkpoints_are_gone(tmp_path):
  params = toy.params(0)
  before = _bytes(params)
  final = _fit(_plan(), params, tmp_path, save_every=2)
  assert _bytes(params) == before  # kept, although the steps donate
  assert _bytes(final) != before
  saved = checkpoint.restore(tmp_path / loop.FINAL, params)
  assert _bytes(saved.tree) == _bytes(final)
  note = checkpoint.read_note(tmp_path / loop.FINAL)
  assert note == {'rounds': 6, 'content': checkpoint.digest(final)}
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'metrics.jsonl',
    'metrics.jsonl.seal',
    'params',
    'timing.jsonl',
  ]


def _mean(params, plan, mask=None):
  """Evaluation parameters of a schedule-free run, by optax alone."""
  tx = optax.contrib.schedule_free_adamw(1e-2, b1=0.8)

  @jax.jit
  def step(at, state, batch):
    grads = jax.grad(toy.loss)(at, batch)
    if mask is not None:
      grads = jax.tree.map(jnp.multiply, grads, mask)
    updates, state = tx.update(grads, state, at)
    return optax.apply_updates(at, updates), state

  at, state = params, jax.jit(tx.init)(params)
  for number in range(plan.rounds):
    at, state = step(at, state, plan.streams['retain'](number))
  return optax.contrib.schedule_free_eval_params(state, at), at


@pytest.mark.parametrize('masked', [False, True])
def test_a_schedule_free_run_keeps_and_shows_its_mean(
  masked, tmp_path, monkeypatch
):
  """Not the point that it steps from; frozen weights keep their bits."""
  made = optax.contrib.schedule_free_adamw
  monkeypatch.setitem(optimizer.OPTIMIZERS, 'schedule_free', made)
  params = toy.params(3)
  mask = toy.random_mask(params, 3) if masked else None
  params = toy.plant_fragile(params, mask) if masked else params
  turns = methods.finetune('retain')
  plan = _plan(
    tuple(turn._replace(masked=masked) for turn in turns),
    tx=optimizer.build('schedule_free', b1=0.8, clip_norm=math.inf),
    mask=mask,
  )
  seen = []
  probe = lambda p: seen.append(p) or {'x': 0.0}
  final = _fit(plan, params, tmp_path, probe=probe, probe_every=6, save_every=4)
  want, steps_from = _mean(params, plan, mask)
  assert toy.relative_error(final, want) < 1e-5
  assert toy.relative_error(steps_from, want) > 1e-3
  kept = checkpoint.restore(tmp_path / loop.FINAL, params)
  assert _bytes(kept.tree) == _bytes(final) == _bytes(seen[-1])
  assert kept.note['content'] == checkpoint.digest(final)
  assert toy.relative_error(seen[0], params) < 1e-6
  if masked:
    assert toy.frozen_bits_kept(params, final, mask)
    assert toy.frozen_bits_kept(params, seen[0], mask)


def test_the_log_has_probes_and_every_turn(tmp_path):
  seen = []

  def probe(params):
    seen.append(toy.vector(params))
    return {'norm': float(np.linalg.norm(seen[-1]))}

  rates = {'forget': lambda r: 0.01 * (1 + r), 'retain': lambda r: 0.02}
  final = _fit(
    _plan(rounds=5, rates=rates),
    toy.params(0),
    tmp_path,
    log_every=2,
    probe=probe,
    probe_every=3,
  )
  rows = _rows(tmp_path)
  probes = [(row['round'], row['probe']) for row in rows if 'probe' in row]
  assert [r for r, _ in probes] == [0, 3, 5]  # the last round, too
  assert [p['norm'] for _, p in probes] == [np.linalg.norm(x) for x in seen]
  np.testing.assert_array_equal(seen[0], toy.vector(toy.params(0)))
  np.testing.assert_array_equal(seen[-1], toy.vector(final))
  turns = [row for row in rows if 'turn' in row]
  assert [(r['round'], r['turn']) for r in turns] == [
    (done, split) for done in (2, 4, 5) for split in ('forget', 'retain')
  ]
  for row in turns:
    want = 0.02 if row['turn'] == 'retain' else 0.01 * row['round']
    assert row['lr'] == pytest.approx(want)
    sign = -1 if row['turn'] == 'forget' else 1
    assert sign * row['loss'] > 0
    assert row['grad_norm'] > 0 and row['update_norm'] > 0


def test_every_counts_rounds_and_draws_the_batches_in_order(tmp_path):
  plan = _plan(methods.ga_diff(forget_every=3), rounds=8)
  _fit(plan, toy.params(0), tmp_path, log_every=1)
  assert plan.streams['forget'].asked == [0, 1, 2]
  assert plan.streams['retain'].asked == [*range(8)]
  rows = _rows(tmp_path)
  taken = [r['round'] for r in rows if r['turn'] == 'forget']
  assert taken == [1, 4, 7]  # rounds 0, 3, 6, as counted when done


def test_a_limit_ends_the_turns_of_a_split_and_not_the_run(tmp_path):
  plan = _plan(methods.ga_diff(forget_every=2), rounds=8, limits={'forget': 3})
  _fit(plan, toy.params(0), tmp_path, log_every=1)
  assert plan.streams['forget'].asked == [0, 1, 2]  # without it also 3
  assert plan.streams['retain'].asked == [*range(8)]


def test_each_split_is_clipped_to_its_own_norm(tmp_path):
  """sgd at rate 0.01: the update is a hundredth of the clipped gradient."""
  clips = {'forget': 1e-3, 'retain': np.inf}
  plan = _plan(rounds=3, clip_norms=clips)
  _fit(plan, toy.params(0), tmp_path, log_every=1)
  for row in _rows(tmp_path):
    norm = 1e-3 if row['turn'] == 'forget' else row['grad_norm']
    assert row['grad_norm'] > 0.01
    assert row['update_norm'] == pytest.approx(0.01 * norm, rel=1e-5)


def test_a_projected_turn_draws_the_batch_of_its_own_step(tmp_path):
  turn = methods.Turn('forget', objectives.ascend, project='retain', every=2)
  plan = _plan((turn,), rounds=4)
  _fit(plan, toy.params(0), tmp_path)
  assert plan.streams['forget'].asked == [0, 1]
  assert plan.streams['retain'].asked == [0, 1]


def test_a_paired_turn_is_limited_and_stopped_by_both_of_its_splits(tmp_path):
  """The limit counts its turns; the loss that collapses is its second term."""
  turns = methods.counterfactual(forget_every=2)
  plan = _plan(turns, rounds=8, ref_params=toy.params(1), limits={'forget': 3})
  plan = plan._replace(rates={'forget': lambda _: 0.01})
  _fit(plan, toy.params(0), tmp_path / 'whole', log_every=1)
  assert plan.streams['forget'].asked == [0, 1, 2]
  assert plan.streams['retain'].asked == [0, 1, 2]
  rows = _rows(tmp_path / 'whole')
  beside = [row['beside_loss'] for row in rows]
  assert all(b < row['loss'] < b + 0.3 for b, row in zip(beside, rows))
  lost = plan._replace(max_losses={'retain': beside[0] - 0.01})
  with pytest.raises(errors.Collapse, match='the retain loss reached'):
    _fit(lost, toy.params(0), tmp_path / 'lost')
  poisoned = {**plan.streams, 'retain': _Stream(2, poisoned=0)}
  with pytest.raises(FloatingPointError, match='row-1-0-0.*row-2-0-0'):
    _fit(plan._replace(streams=poisoned), toy.params(0), tmp_path / 'nan')
  without = plan._replace(streams={'forget': _Stream(1)})
  with pytest.raises(ValueError, match="draws from 'retain', but the streams"):
    _fit(without, toy.params(0), tmp_path / 'without')


@pytest.mark.parametrize('beside', [None, 'retain'])
def test_a_run_that_is_stopped_goes_on_to_the_same_end(tmp_path, beside):
  """Stopped in round 5, after the checkpoint of round 4."""
  params, mask = toy.params(0), toy.random_mask(toy.params(0), 1)
  turn = methods.Turn('forget', objectives.ascend, masked=True, beside=beside)
  plan = _plan((turn,), mask=mask, tx=optimizer.build())  # with moments
  options = dict(save_every=2, log_every=1)
  want = _fit(plan, params, tmp_path / 'whole', **options)

  class Stopping(_Stream):
    def __call__(self, step):
      if step == 5:
        raise KeyboardInterrupt
      return super().__call__(step)

  stopped = plan._replace(streams=plan.streams | {'forget': Stopping(1)})
  with pytest.raises(KeyboardInterrupt):
    _fit(stopped, params, tmp_path / 'cut', **options)
  assert checkpoint.latest_step(tmp_path / 'cut' / loop.RUNNING) == 4
  plan.streams['forget'].asked.clear()
  got = _fit(plan, params, tmp_path / 'cut', **options)
  assert plan.streams['forget'].asked == [4, 5]
  assert _bytes(got) == _bytes(want)
  assert toy.frozen_bits_kept(params, got, mask)
  assert _rows(tmp_path / 'cut') == _rows(tmp_path / 'whole')


def test_a_state_of_another_source_is_not_gone_on_with(tmp_path):
  plan = _plan(rounds=4)
  options = dict(save_every=2, keep_every=2)
  note = lambda world: {'origin': {'world': world}}
  _fit(plan, toy.params(0), tmp_path, note=note('seed 0'), **options)
  shutil.rmtree(tmp_path / loop.FINAL)
  with pytest.raises(ValueError, match='made from something else.*seed 1'):
    _fit(plan, toy.params(0), tmp_path, note=note('seed 1'), **options)


def test_a_run_from_a_checkpoint_compiles_each_turn_once(tmp_path):
  checkpoint.save(tmp_path / 'start', toy.params(0), {})
  shapes = jax.eval_shape(lambda: toy.params(0))
  params = checkpoint.restore(tmp_path / 'start', shapes).tree
  # New to the cache, and with a state that is new beside the parameters.
  plan = _plan(methods.ga(), tx=optimizer.build('adamw', clip_norm=0.9))
  before = step_lib.take_turn._cache_size()  # pylint: disable=protected-access
  _fit(plan, params, tmp_path / 'run')
  after = step_lib.take_turn._cache_size()  # pylint: disable=protected-access
  assert after - before == len(plan.turns)


def test_a_half_written_line_of_the_log_is_dropped(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  rows = [{'round': r, 'loss': r / 3} for r in (1, 2, 3, 4)]
  workdir.write_log(path, rows)
  path.write_text(path.read_text() + '{"round": 2, "lo')
  logged = loop._count(rows[:3], (0, 0))
  log = loop.Log(tmp_path, start=3, logged=logged)
  log.write({'round': 4})
  rows = _rows_of(path)
  assert [row['round'] for row in rows] == [1, 2, 3, 4]
  assert 'loss' not in rows[-1]


@pytest.mark.parametrize('left', [[], [1, 3], [1, 2, 2, 3], [1, 1, 3]])
def test_a_log_that_lost_rows_says_so_to_the_end(tmp_path, left):
  """Also one with as many rows of another run."""
  log = loop.Log(tmp_path, start=0)
  for r in (1, 2, 3):
    log.write({'round': r})
  path = tmp_path / 'metrics.jsonl'
  workdir.write_log(path, [{'round': r} for r in left])
  said = f'{len(left)} rows instead of 3'
  with pytest.warns(errors.DamageWarning, match=said):
    again = loop.Log(tmp_path, start=3, logged=log.logged)
  again.write({'round': 4})
  again.close('ga', 'c0')
  note = seals.read_note(path)
  assert again.logged[0] == 4 and note['model'] == 'c0'
  assert said in note['lost']


def test_a_whole_log_lost_nothing(tmp_path):
  log = loop.Log(tmp_path, start=0)
  for r in (1, 2, 3):
    log.write({'round': r, 'loss': r / 3})
  logged = log.logged
  log.write({'round': 4})
  again = loop.Log(tmp_path, start=3, logged=logged)
  again.close('ga', 'c0')
  path = tmp_path / 'metrics.jsonl'
  assert seals.read_note(path) == {'model': 'c0', 'lost': ''}


def test_the_rows_of_a_log_are_on_disk_before_its_seal(tmp_path, monkeypatch):
  log = loop.Log(tmp_path, start=0)
  log.write({'round': 1})
  events = syncing.record(monkeypatch)
  log.close('ga', 'c0')
  seal = tmp_path / 'metrics.jsonl.seal'
  synced = [e.path.name for e in syncing.before(events, seal)]
  assert synced == ['metrics.jsonl', 'metrics.jsonl.seal.part']


def _rows_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_whose_retain_loss_is_lost_stops(tmp_path):
  """The forget turns climb until the retain loss is above the limit."""
  rates = {'forget': lambda _: 3.0, 'retain': lambda _: 1e-3}
  whole = _plan(rounds=8, rates=rates)
  _fit(whole, toy.params(0), tmp_path / 'whole', log_every=1)
  losses = [
    r['loss'] for r in _rows(tmp_path / 'whole') if r['turn'] == 'retain'
  ]
  assert max(losses) > 2 * losses[0]
  limit = (losses[0] + max(losses)) / 2
  first = 1 + next(i for i, loss in enumerate(losses) if loss > limit)
  plan = whole._replace(max_losses={'retain': limit})
  with pytest.raises(loop.Collapse) as error:
    _fit(plan, toy.params(0), tmp_path / 'run', save_every=1)
  said = f'in round {first} (limit {limit:g}): the model has lost what'
  assert said in str(error.value)
  latest = checkpoint.latest_step(tmp_path / 'run' / loop.RUNNING)
  assert (latest or 0) == first - 1  # what is saved is not collapsed
  assert not (tmp_path / 'run' / loop.FINAL).exists()
  # With a higher limit it goes on, to the same end.
  got = _fit(whole, toy.params(0), tmp_path / 'run', save_every=1)
  want = checkpoint.restore(tmp_path / 'whole' / loop.FINAL, toy.params(0)).tree
  assert _bytes(got) == _bytes(want)


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_later(
  tmp_path, monkeypatch
):
  asked = []

  def requested(step):
    asked.append(step)
    return step == 3

  monkeypatch.setattr(preemption, 'requested', requested)
  with pytest.raises(preemption.Preempted, match='train: saved after round 3'):
    _fit(_plan(), toy.params(0), tmp_path / 'run', save_every=100)
  assert asked == [1, 2, 3]
  assert checkpoint.latest_step(tmp_path / 'run' / loop.RUNNING) == 3
  monkeypatch.undo()
  got = _fit(_plan(), toy.params(0), tmp_path / 'run', save_every=100)
  want = _fit(_plan(), toy.params(0), tmp_path / 'whole')
  assert _bytes(got) == _bytes(want)
  assert _rows(tmp_path / 'run') == _rows(tmp_path / 'whole')


def test_states_kept_for_good_outlast_the_run(tmp_path):
  _fit(_plan(), toy.params(0), tmp_path, save_every=2, keep_every=3)
  kept = sorted(p.name for p in (tmp_path / loop.RUNNING).iterdir())
  assert kept == ['3', '6']
  like = step_lib.abstract_state(toy.params(0), _plan().tx)
  checkpoint.restore(tmp_path / loop.RUNNING, like, step=3)


def test_a_poisoned_batch_stops_the_run_and_is_named(tmp_path):
  streams = {'forget': _Stream(1), 'retain': _Stream(2, poisoned=4)}
  params = toy.params(0)
  with pytest.raises(FloatingPointError) as error:
    _fit(_plan(streams=streams), params, tmp_path, save_every=2)
  message = str(error.value)
  assert "the loss of the turn on 'retain' in round 5 is nan" in message
  assert 'learning rate 0.01' in message
  assert 'row-2-4-0, row-2-4-1 (2 in all)' in message
  assert checkpoint.latest_step(tmp_path / loop.RUNNING) == 4
  assert not (tmp_path / loop.FINAL).exists()
  # With the batch repaired the run goes on from there, as if nothing happened.
  got = _fit(_plan(), params, tmp_path, save_every=2)
  want = _fit(_plan(), params, tmp_path / 'whole', save_every=2)
  assert _bytes(got) == _bytes(want)


@pytest.mark.parametrize('rounds', [3, 6], ids=['last round', 'earlier'])
def test_a_step_that_is_not_finite_reaches_no_checkpoint(tmp_path, rounds):
  """The loss of round 3 is still finite; its update is not."""
  rates = {'forget': lambda r: np.inf if r == 2 else 1e-2}
  plan = _plan(methods.ga(), rounds=rounds, rates=rates)
  message = 'update_norm .* round 3 .* rate inf'
  with pytest.raises(FloatingPointError, match=message):
    _fit(plan, toy.params(0), tmp_path, save_every=1)
  assert not (tmp_path / loop.FINAL).exists()
  state = step_lib.init(toy.params(0), plan.tx)
  kept = checkpoint.restore(tmp_path / loop.RUNNING, state)
  assert kept.step == 2
  assert np.isfinite(toy.vector(kept.tree.params)).all()
