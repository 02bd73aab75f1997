"""Your own pictures, questions and answers, from one file.

The file is JSONL (UTF-8, an object a line) or parquet, with these columns:
`question`, `answer`: text, in every row;
`image`: a path from the folder of the file (in parquet also the bytes), none
    for a row in text;
`person`: who is asked about: scores are averaged over people;
`split`: `forget`, `retain` (the default), `holdout`, `real`;
`fact`: the part of the answer that counts, by default all of it;
`options`: answers to choose from, the right one among them;
`id`: a name of the row; by default it is made of everything in the row.

  mmu data check people.jsonl
  mmu pipeline --config=own --workdir=runs/own \
      --config.data.path=people.jsonl --config.model.path=llava-1.5-7b-hf
  mmu pipeline --config=own:fast --workdir=runs/fast \
      --config.data.path=people.jsonl                      # 3 minutes

Hours and scores depend on your data; `mmu plan` says what a step computes.
Rounds come from the numbers of your rows, one pass over them, and are printed
before training starts; `config.vanilla.epochs` and `config.unlearn.epochs` ask
for more. Some rows in text about everybody (`forget` and `retain`) protect
what is known in text; without any that part is left out. For a checkpoint that
knows the people already, add `--config.vanilla.rounds=0`.
"""

from mmu_jax import recipes


def get_config(variant=''):
  """Returns the config; the variant is full or fast."""
  variant = recipes.variant(variant, ('full', 'fast'))
  data = dict(name='own', path='', retain_rows=400, processor='')
  data['outside'] = False  # images outside of the folder of the file
  config = recipes.benchmark(data, questions=16)
  if variant == 'fast':
    recipes.make_fast(config)
  return config
