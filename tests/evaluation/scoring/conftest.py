"""A judge that answers at once."""

import threading

import judging
import pytest

from mmu_jax.evaluation.scoring import endpoint as chat


@pytest.fixture(name='serve')
def _serve(monkeypatch):
  """Starts a stub; returns it and an endpoint that waits very little."""
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  monkeypatch.setenv('JUDGE_KEY', judging.KEY)
  started = []

  def serve(answer, **settings):
    stub = judging.Stub(answer)
    threading.Thread(
      target=stub.serve_forever, args=(0.02,), daemon=True
    ).start()
    started.append(stub)
    fields = (
      dict(
        url=f'http://127.0.0.1:{stub.server_port}/v1',
        model='judge-1',
        key_variable='JUDGE_KEY',
        first_wait=0.01,
        timeout=5.0,
      )
      | settings
    )
    return stub, chat.make_endpoint(fields)

  yield serve
  for stub in started:
    stub.shutdown()
    stub.server_close()
