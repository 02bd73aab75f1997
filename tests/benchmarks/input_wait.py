"""How long does the device wait for pictures? Training turns, two ways.

  python tests/benchmarks/input_wait.py                    # 576 tokens each
  python tests/benchmarks/input_wait.py --patch_size=84    # 16 tokens each

The small model of the config people takes turns on portraits that are JPEG
files of 512 x 512 pixels, decoded and brought to 336 x 336 by CLIP's image
processor in every turn (nothing is remembered). Three ways of making batches
take turns within a run: `blocking` looks at every loss before it makes the
next batch, `plain` does what training/loop.py did without prefetching (the
loss before is looked at while the device works), `prefetch` makes batches in
the background. Idle is the time from the end of a turn on the device to the
start of the next. All numbers are medians over repeats.

On a CPU, turns and decoding share the cores: what prefetching cannot give
back there is the time that decoding takes from the turns, so the turn and the
batch by themselves are shown too.
"""

import argparse
import contextlib
import io
import queue
import statistics
import threading
import time

import jax
import numpy as np
import PIL.Image

from mmu_jax import methods
from mmu_jax import models
from mmu_jax import recipes
from mmu_jax.data.batches import batching
from mmu_jax.data.batches import prefetch
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib

IMAGE_SIZE = 336
WAYS = ('blocking', 'plain', 'prefetch')


def main():
  """Parses the command line and prints one row for each way."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--patch_size', type=int, default=14)
  parser.add_argument('--pixels', type=int, default=512)
  parser.add_argument('--size', type=int, default=6, help='rows of a batch')
  parser.add_argument('--turns', type=int, default=8)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--workers', type=int, default=1)
  args = parser.parse_args()
  stream = make_stream(args.patch_size, args.pixels, args.size)
  train = make_turn(args.patch_size)
  ready = stream(0)
  batch_seconds = seconds(args.repeats, lambda: stream(1))
  take = lambda: jax.block_until_ready(train(ready))
  take()  # compiles
  turn_seconds = seconds(args.repeats, take)
  print(
    f'{jax.devices()[0].device_kind}, jax {jax.__version__}; {args.size} '
    f'pictures, {stream.length} tokens a row; alone: batch '
    f'{batch_seconds:.3f} s, turn {turn_seconds:.3f} s',
    flush=True,
  )
  found = {way: [] for way in WAYS}
  for _ in range(args.repeats):
    for way in WAYS:
      found[way].append(measure(way, stream, train, args.turns, args.workers))
  for way, runs in found.items():
    total, idle = (statistics.median(column) for column in zip(*runs))
    print(f'{way:9} {total:7.3f} s a turn   device idle {idle:6.1%}')


def make_stream(patch_size: int, pixels: int, size: int) -> batching.Stream:
  """Portraits as JPEG files, four questions each; no pixels are kept."""
  world = world_lib.make_world(0, num_people=25, num_captioned=0)
  files = {}
  rows = []
  for row in world.train['vqa/forget']:
    if row.picture.key not in files:
      image = PIL.Image.fromarray(row.picture.image).resize((pixels, pixels))
      buffer = io.BytesIO()
      image.save(buffer, 'JPEG', quality=90)
      image = LazyImage(buffer.getvalue(), row.picture.key)
      files[row.picture.key] = row.picture._replace(image=image)
    rows.append(row._replace(picture=files[row.picture.key]))
  processor = vocabulary.make_processor(IMAGE_SIZE, patch_size)
  encoder = batching.Encoder(processor, max_bytes=0)
  return batching.Stream([batching.Part(rows, size, 4)], encoder, seed=0)


def make_turn(patch_size: int):
  """``batch -> measured``: a turn of finetuning, which keeps its state."""
  config = recipes.small_model()
  config['vision_config'] |= {
    'image_size': IMAGE_SIZE,
    'patch_size': patch_size,
  }
  del config['path']
  words = len(vocabulary.make_processor().tokenizer)
  model = models.from_options(config.pop('name'), words, **config)
  tx = optimizer.build(name='hf_adamw')
  (turn,) = methods.finetune()
  state = [step_lib.init(model.init(jax.random.key(0)), tx)]

  def train(batch):
    state[0], measured = step_lib.take_turn(
      state[0], batch, 1e-4, forward=model.forward, turn=turn, tx=tx
    )
    return measured

  return train


def measure(
  way: str, stream, train, turns: int, workers: int
) -> tuple[float, float]:
  """Returns seconds a turn, and the share of it in which the device waits."""
  started, finished = [], []
  asked = stream
  with contextlib.ExitStack() as stack:
    if way == 'prefetch':
      made = prefetch.Prefetch(stream, workers=workers)
      asked = stack.enter_context(made)
    watch = stack.enter_context(watching(finished))
    before = None
    for index in range(turns + 1):
      batch = asked(index)
      started.append(time.perf_counter())
      measured = train(batch)
      watch(measured)
      if way == 'blocking':
        before = measured
      if before is not None:
        jax.device_get(before)
      before = measured
  # The first turn is left out: nothing could be made before it.
  idle = np.maximum(0, np.subtract(started[1:], finished[:-1]))
  total = finished[-1] - finished[0]
  return total / turns, float(idle.sum()) / total


@contextlib.contextmanager
def watching(finished: list[float]):
  """Yields a function that has the end of a turn noted by a thread."""
  turns = queue.Queue()

  def watch():
    while (measured := turns.get()) is not None:
      jax.block_until_ready(measured)
      finished.append(time.perf_counter())

  thread = threading.Thread(target=watch)
  thread.start()
  yield turns.put
  turns.put(None)
  thread.join()


def seconds(repeats: int, call) -> float:
  """The median time of a call."""
  times = []
  for _ in range(repeats):
    started = time.perf_counter()
    call()
    times.append(time.perf_counter() - started)
  return statistics.median(times)


if __name__ == '__main__':
  main()
