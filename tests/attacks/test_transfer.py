"""Each kind of data is learned, and both are asked about, before and after."""

from attacked import small_job
import jax
import pytest

from mmu_jax.attacks import asking
from mmu_jax.attacks import stage
from mmu_jax.attacks import transfer
from mmu_jax.stages import runs

pytestmark = pytest.mark.usefixtures('quick_compile')
SETTINGS = dict(steps=6, rows=8, size=2, questions=4, pictures=1, rate=1e-2)


@pytest.fixture
def job(tmp_path, monkeypatch):
  job = small_job(tmp_path, monkeypatch, attacks={'transfer': SETTINGS})
  with jax.set_mesh(job.mesh):
    yield job


def test_two_by_two_before_and_after(job, tmp_path):
  rows = stage.check_rows(transfer.transfer(job, 'vanilla', tmp_path))
  found = {(r['case'], r['metric']): r['value'] for r in rows}
  both = ('text', 'pictures')
  cases = [f'{learns} to {name}' for learns in both for name in both]
  metrics = [f'{m} {w}' for m in ('exact', 'nats') for w in ('before', 'after')]
  assert {*found} == {(case, metric) for case in cases for metric in metrics}
  for name, kind in (('text', 'qa'), ('pictures', 'vqa')):
    look = asking.make_look(job, asking.headline_rows(job, kind, most=8))
    want = look(runs.final_params(job, 'x'))['nll']
    for learns in both:
      case = f'{learns} to {name}'
      assert found[case, 'nats before'] == pytest.approx(want)
    # What is learned is learned.
    assert found[f'{name} to {name}', 'nats after'] < want - 0.5


def test_without_text_there_is_half_of_the_matrix(job, tmp_path, capsys):
  train = {k: v for k, v in job.data.train.items() if not k.startswith('qa/')}
  tasks = {k: t for k, t in job.data.tasks.items() if t.modality != 'qa'}
  job = job._replace(data=job.data._replace(train=train, tasks=tasks))
  rows = transfer.transfer(job, 'vanilla', tmp_path)
  assert {row['case'] for row in rows} == {'pictures to pictures'}
  assert 'nothing to learn in text' in capsys.readouterr().out
