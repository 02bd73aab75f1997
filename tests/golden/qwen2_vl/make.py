"""Writes what transformers computes with a tiny Qwen2-VL, in torch.

    python tests/golden/qwen2_vl/make.py

needs what ``make parity`` installs. Sizes, weights and batches are drawn from
the seeds below by ``reference.py`` and ``rows.py`` in ``tests/parity``.
"""

import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / 'helpers'))  # tests/

import parity_reference as reference  # noqa: E402
import parity_rows as rows  # noqa: E402

SEED = 1  # two heads share keys and values; the output layer is not tied
BATCHES = {'mixed': (11, (0, 1, 2, 1)), 'text': (12, (0, 0, 0))}  # seed, images
LENGTH, PATCHES, NEW_TOKENS = 48, 64, 20


def compute(model, seed: int, images) -> dict[str, np.ndarray]:
  """A batch, and everything that torch makes of it."""
  made = rows.draw(model.config, seed, images)
  room = PATCHES if any(images) else 0
  batch = rows.batch(model, made, length=LENGTH, room=room)
  given = rows.inputs(model.config, made, length=LENGTH)
  model.zero_grad()
  out = reference.forward(model, given)
  out.loss.backward()
  found = {f'batch/{name}': x for name, x in batch.items()}
  found['logits'] = out.logits.detach().numpy()[batch['documents'] > 0]
  found['loss'] = np.float32(out.loss.item())
  for name, x in reference.gradients(model).items():
    if x is not None:
      found[f'gradients/{name}'] = x
  left = rows.inputs(model.config, made, 'left', LENGTH)
  tokens, gaps = reference.greedy(model, left, NEW_TOKENS)
  found['greedy'], found['gaps'] = tokens.astype(np.int32), gaps
  if any(images):
    found['features'] = np.concatenate(reference.image_features(model, given))
  return found


def main() -> None:
  """Writes the checkpoint and a file for each batch."""
  model = reference.build(reference.config_of('qwen2_vl', SEED), SEED)
  model.save_pretrained(HERE / 'checkpoint')
  for name, (seed, images) in BATCHES.items():
    np.savez_compressed(HERE / f'{name}.npz', **compute(model, seed, images))


if __name__ == '__main__':
  main()
