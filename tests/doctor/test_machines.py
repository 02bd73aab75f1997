"""Devices, versions and sums that would fail a job are found."""

import pytest

from mmu_jax.doctor import machines


def test_what_jax_is_told_about_gpus_is_looked_at():
  here = machines.about()
  assert machines.gpu_settings([here]) == []  # CPUs
  gpu = here | {
    'platform': 'gpu',
    'total': 80 << 30,
    'memory': 76 << 30,
    'exact': True,
  }
  assert machines.gpu_settings([gpu, gpu]) == []
  (finding,) = machines.gpu_settings([gpu, gpu | {'memory': 60 << 30}])
  assert finding.state == 'WARN' and 'XLA_CLIENT_MEM_FRACTION' in finding.fix
  assert '60.0 GiB of 80.0 GiB of a GPU in process 1' in finding.message
  assert machines.gpu_settings([gpu | {'memory': 60 << 30, 'total': 0}]) == []
  (finding,) = machines.gpu_settings([gpu, gpu | {'exact': False}])
  assert finding.state == 'OK' and 'not bit for bit' in finding.message
  assert '--xla_gpu_deterministic_ops=true' in finding.message


@pytest.mark.parametrize(
  'flags, exact',
  [
    ('', False),
    ('--xla_gpu_deterministic_ops', True),
    ('--a=1 --xla_gpu_deterministic_ops=true --b=2', True),
    ('--xla_gpu_deterministic_ops=1', True),
    ('--xla_gpu_deterministic_ops=false', False),
    ('--xla_gpu_deterministic_ops --xla_gpu_deterministic_ops=0', False),
    ('--xla_gpu_deterministic_opsies', False),
  ],
)
def test_the_last_of_the_flags_says_whether_every_bit_repeats(
  monkeypatch, flags, exact
):
  monkeypatch.setenv('XLA_FLAGS', flags)
  assert machines.about()['exact'] == exact


def test_versions_that_differ_or_are_missing_are_named():
  here = machines.about()
  other = dict(here, packages=dict(here['packages'], flax='0.0.1'))
  (finding,) = machines.versions([here, other])
  assert finding.state == 'FAIL' and 'flax: 0.0.1' in finding.message
  gone = dict(here, packages=dict(here['packages'], optax='missing'))
  (finding,) = machines.versions([gone, gone])[:1]
  assert finding.state == 'FAIL' and 'optax missing' in finding.message
  untried = dict(here, untried=['flax 9 (it needs <1)'])
  assert [f.state for f in machines.versions([untried])] == ['OK', 'WARN']
  proxy = dict(here, proxies=['HTTPS_PROXY'])
  states = [f.state for f in machines.versions([proxy, proxy])]
  assert states == ['OK', 'WARN']


def test_versions_outside_of_the_requirements_are_named(monkeypatch):
  lines = ['numpy>=2', 'jax<0.1', 'pytest<0.1; extra == "dev"', 'no_such>=1']
  monkeypatch.setattr(
    machines.importlib.metadata, 'requires', lambda name: lines
  )
  (found,) = machines.about()['untried']
  assert found.startswith('jax ') and found.endswith('(it needs <0.1)')


def test_devices_that_differ_or_lie_idle_are_named():
  here = machines.about() | {'nvidia': False}
  assert machines.devices([here, here])[0].message.startswith('16 devices')
  other = here | {'kind': 'TPU v4'}
  assert machines.devices([here, other])[0].state == 'FAIL'
  assert machines.devices([here | {'nvidia': True}])[0].state == 'WARN'


def test_a_sum_is_checked_and_its_rate_is_that_of_a_ring():
  speeds, finding = machines.sums([4096, 1 << 20])
  assert finding.state == 'OK' and 'over 8 devices' in finding.message
  for speed in speeds:
    moved = 2 * 7 / 8 * speed.size
    assert speed.rate == pytest.approx(moved / speed.seconds / 1e9)
