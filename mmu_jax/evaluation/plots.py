"""Four pictures of a comparison, each a matplotlib Figure.

The figures are made without pyplot: no global state, no display, nothing to
close. A run keeps its colour and its marker in every plot.
"""

from collections.abc import Sequence

from mmu_jax.evaluation import table

# Okabe & Ito's palette first, then Tol's muted one: told apart by readers
# with any of the common colour vision deficiencies; the marker differs too.
_KNOWN = {
    'vanilla': ('#000000', 'o'),
    'retrained': ('#000000', '*'),
    'ga': ('#E69F00', 'v'),
    'ga_diff': ('#D55E00', '^'),
    'kl_min': ('#CC79A7', 'D'),
    'npo': ('#882255', 's'),
    'mmunlearner': ('#0072B2', 'o'),
    'mmunlearner_strict': ('#56B4E9', 'P'),
    'mmunlearner_projected': ('#332288', 'X'),
    'mmunlearner_topk': ('#009E73', '<'),
    'mmunlearner_random': ('#8A8A8A', '>'),
}
_SPARE = ('#999933', '#44AA99', '#AA4499', '#117733', '#B8860B', '#6699CC')
_SPARE_MARKERS = ('h', 'd', 'p', '8')
_MASK_RUNS = {
    'saliency': 'mmunlearner',
    'topk': 'mmunlearner_topk',
    'random': 'mmunlearner_random',
}
_PANELS = (
    ('forget_vqa', 'forget VQA, training images'),
    ('forget_vqa_holdout', 'forget VQA, held-out images'),
    ('forget_qa', 'forget QA (text)'),
    ('retain_vqa', 'retain VQA'),
    ('retain_qa', 'retain QA (text)'),
    ('real_vqa', 'real-world VQA'),
    ('real_qa', 'real-world QA (text)'),
)


def styles(runs: Sequence[str]) -> dict[str, tuple[str, str]]:
  """``{run: (colour, marker)}``; a run without its own takes a spare one."""
  unknown = [run for run in dict.fromkeys(runs) if run not in _KNOWN]
  spare = {
      run: (_SPARE[i % len(_SPARE)], _SPARE_MARKERS[i % len(_SPARE_MARKERS)])
      for i, run in enumerate(unknown)
  }
  return {run: _KNOWN.get(run) or spare[run] for run in runs}


def _axes(rows: int, columns: int, size: tuple[float, float], **kwargs):
  """A figure with a grid of plain axes ``[rows, columns]``."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, dpi=150, layout='constrained')
  FigureCanvasAgg(figure)  # a renderer, to measure the labels with
  axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
  for ax in axes.flat:
    ax.spines[['top', 'right']].set_visible(False)
    ax.grid(color='#e4e4e4', linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9)
  return figure, axes


def _overlaps(a, b) -> bool:
  """Whether two boxes ``(x0, y0, x1, y1)`` share a point."""
  return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _label(ax, points: dict, colours: dict, avoid: Sequence = ()):
  """Names beside their points, moved until nothing covers anything.

  Every label tries rings of places around its point, nearest first, and takes
  the first one that is inside the axes and free of points, other labels and
  ``avoid`` (paths ``[[(x, y), ...]]``); a thin line joins it to its point where
  it is not next to it.
  """
  import numpy as np

  figure = ax.figure
  figure.draw_without_rendering()
  renderer = figure.canvas.get_renderer()
  frame = ax.get_window_extent(renderer)
  at = {run: ax.transData.transform(xy) for run, xy in points.items()}
  r = 4 * figure.dpi / 72  # the half width of a marker
  taken = [(x - r, y - r, x + r, y + r) for x, y in at.values()]
  for path in avoid:
    ends = ax.transData.transform(path)
    for a, b in zip(ends[:-1], ends[1:]):
      steps = np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / r))
      taken += [(x - 1, y - 1, x + 1, y + 1) for x, y in steps]
  angles = np.deg2rad([0, 30, -30, 180, 90, -90, 150, -150, 60, -60])
  for run in sorted(points, key=lambda run: -points[run][1]):
    text = ax.annotate(
        run, points[run], xytext=(0, 0), textcoords='offset points',
        fontsize=8.5, color=colours[run], va='center', annotation_clip=False,
    )
    text.set_in_layout(False)
    extent = text.get_window_extent(renderer)
    w, h = extent.width, extent.height
    x, y = at[run]
    for ring in range(1, 40):
      for angle in angles:
        dx = np.cos(angle) * r * (1 + 1.2 * ring)
        dy = np.sin(angle) * r * (1 + 1.2 * ring)
        left = dx if dx > 1 else dx - w if dx < -1 else -w / 2
        box = (x + left, y + dy - h / 2, x + left + w, y + dy + h / 2)
        inside = frame.x0 + r <= box[0] and box[2] <= frame.x1
        inside &= frame.y0 <= box[1] and box[3] <= frame.y1
        if inside and not any(_overlaps(box, other) for other in taken):
          break
      else:
        continue
      break
    taken.append(box)
    text.set_position((left * 72 / figure.dpi, dy * 72 / figure.dpi))
    if ring > 3:
      end = ax.transData.inverted().transform(
          (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
      )
      ax.plot(*zip(points[run], end), color=colours[run], lw=0.6, alpha=0.6)


def _wanted(ax, x: str, y: str):
  """Names the axes and the wanted directions: the upper left is good."""
  ax.set_xlabel(f'{x}  (← wanted)', fontsize=10)
  ax.set_ylabel(f'{y}  (wanted →)', fontsize=10)
  ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.07))


def _spans(x, y) -> list[list[tuple[float, float]]]:
  """The intervals of a point as paths: along x, along y, where known."""
  spans = []
  if x.low is not None and x.high is not None:
    spans.append([(x.low, y.value), (x.high, y.value)])
  if y.low is not None and y.high is not None:
    spans.append([(x.value, y.low), (x.value, y.high)])
  return spans


def _point(ax, x, y, run: str, style: tuple[str, str]):
  """One run with its intervals."""
  colour, marker = style
  for path in _spans(x, y):
    ax.plot(*zip(*path), color=colour, lw=1, alpha=0.45, zorder=1)
  size = 13 if run == table.RETRAINED else 7
  ax.plot(
      x.value, y.value, marker=marker, color=colour, ms=size, mec='white',
      mew=0.6, ls='', zorder=3, clip_on=False,
  )


def tradeoff(results: Sequence[dict]):
  """What was forgotten against what was kept, one point per run.

  Both panels have forget VQA on held-out images on the x axis; y is forget QA
  (was the text about the same people kept?) on the left and the utility U on
  the right. The star, the retrained model, is where to be. Thin lines are 95 %
  intervals.

  Args:
    results: lines of ``results.jsonl``.

  Returns:
    A ``matplotlib.figure.Figure``.
  """
  shown = table.rows(results)
  style = styles(list(shown))
  figure, axes = _axes(1, 2, (12, 5))
  sides = (('forget_qa', 'forget QA, text'), ('utility', 'utility U'))
  for ax, (key, title) in zip(axes[0], sides):
    _wanted(ax, 'forget VQA, held-out images', title)
    both = {r: c for r, c in shown.items() if 'holdout' in c and key in c}
    for run, cells in both.items():
      _point(ax, cells['holdout'], cells[key], run, style[run])
    pairs = {r: (cells['holdout'], cells[key]) for r, cells in both.items()}
    points = {run: (x.value, y.value) for run, (x, y) in pairs.items()}
    spans = [path for x, y in pairs.values() for path in _spans(x, y)]
    _label(ax, points, {run: style[run][0] for run in points}, spans)
  return figure


FORGET_TASK = 'forget_vqa_holdout'  # what the probes look at


def trajectory(histories: dict[str, list[dict]], results: Sequence[dict]):
  """The way of every method from the vanilla model, probe by probe.

  Args:
    histories: ``{run: rows of its metrics.jsonl}``; rows without a 'probe'
      are passed over.
    results: lines of ``results.jsonl``, for the two fixed points.

  Returns:
    A ``matplotlib.figure.Figure``: forget VQA on held-out images against
    retain VQA (left) and forget QA (right).
  """
  found = table.scores(results)
  runs = list(dict.fromkeys([*found, *histories]))
  style = styles(runs)
  figure, axes = _axes(1, 2, (12, 5))
  for ax, (task, title) in zip(axes[0], _PANELS[3:1:-1]):
    _wanted(ax, 'forget VQA, held-out images', title)
    fixed = {}
    for run in (table.VANILLA, table.RETRAINED):
      values = table.exact_matches(found.get(run, {}))
      if {FORGET_TASK, task} <= set(values):
        fixed[run] = (values[FORGET_TASK], values[task])
    ends, paths = {}, []
    for run, rows in histories.items():
      path = [
          (row['probe'][FORGET_TASK], row['probe'][task])
          for row in rows
          if {FORGET_TASK, task} <= set(row.get('probe', ()))
      ]
      if not path:
        continue
      colour, marker = style[run]
      ax.plot(*zip(*path), color=colour, lw=1.4, alpha=0.8, zorder=2)
      ax.plot(*zip(*path[1:-1]), color=colour, marker='.', ms=5, ls='')
      ax.plot(
          *path[-1], color=colour, marker=marker, ms=7, mec='white', mew=0.6,
          zorder=3, clip_on=False,
      )
      ends[run] = path[-1]
      paths.append(path)
    for run, xy in fixed.items():
      ax.plot(
          *xy, color=style[run][0], marker=style[run][1], ls='', zorder=4,
          ms=13 if run == table.RETRAINED else 7, clip_on=False, mec='white',
      )
    ends |= fixed
    _label(ax, ends, {run: style[run][0] for run in ends}, paths)
  return figure


def bars(results: Sequence[dict]):
  """Every score of every run, one panel per task.

  The dotted line is the retrained model, the bar's whisker the 95 % interval.

  Args:
    results: lines of ``results.jsonl``.

  Returns:
    A ``matplotlib.figure.Figure``.
  """
  found = table.scores(results)
  style = styles(list(found))
  panels = [((task, 'exact_match'), title) for task, title in _PANELS]
  panels.insert(2, (('forget_vqa_holdout', 'choice'), 'held-out, of 4'))
  height = 1.2 + 0.26 * len(found)
  figure, axes = _axes(2, 4, (12, 2 * height), sharey=True)
  for ax, (key, title) in zip(axes.flat, panels):
    for row, (run, scores) in enumerate(found.items()):
      if key in scores:
        _bar(ax, row, scores[key], style[run][0])
    gold = found.get(table.RETRAINED, {}).get(key)
    if gold:
      ax.axvline(gold.value, color='black', lw=1, ls=':', zorder=2)
    if key[1] == 'choice':
      ax.axvline(0.25, color='#D55E00', lw=1, ls='--', zorder=2)
      title += ' (dashed: chance)'
    arrow = table.DOWN if key[0].startswith('forget_vqa') else table.UP
    ax.set_title(f'{title} {arrow}', fontsize=9, loc='left')
    ax.set(xlim=(0, 1.22), xticks=(0, 0.5, 1))
    ax.grid(axis='y', visible=False)
    ax.set_yticks(range(len(found)), list(found), fontsize=8.5)
  axes[0, 0].invert_yaxis()
  return figure


def _bar(ax, row: int, score, colour: str):
  """One bar with its interval and its number."""
  ax.barh(row, score.value, color=colour, height=0.7, alpha=0.85)
  end = score.value
  if score.low is not None and score.high is not None:
    for colour, width in (('white', 2.6), ('#333333', 1)):
      ax.plot([score.low, score.high], [row, row], color=colour, lw=width)
    end = max(end, score.high)
  ax.text(
      end + 0.02, row, table.number(score.value), va='center', fontsize=8,
      bbox={'fc': 'white', 'ec': 'none', 'pad': 0.6, 'alpha': 0.8},
  )


def density(masks: dict[str, dict]):
  """How much each mask lets change, by component and by layer.

  Args:
    masks: ``{name: note}``, the notes of ``mask/<name>/note.json``.

  Returns:
    A ``matplotlib.figure.Figure``: share of the weights, in [0, 1], per
    component (left) and along the layers of the vision tower and the language
    model (right).
  """
  figure, axes = _axes(
      1, 3, (12, 3.8), width_ratios=(1.5, 1, 1), sharey=True
  )
  runs = {}  # the first mask of a kind has the colour of the run that uses it
  for name, note in masks.items():
    run = _MASK_RUNS.get(note['kind'], name)
    runs[name] = name if run in runs.values() else run
  taken = styles(list(runs.values()))
  parts = list(dict.fromkeys(p for n in masks.values() for p in n['density']))
  width = 0.8 / max(len(masks), 1)
  highest = 0.1
  for i, (name, note) in enumerate(masks.items()):
    colour, marker = taken[runs[name]]
    label = name if name == note['kind'] else f'{name} ({note["kind"]})'
    for j, part in enumerate(parts):
      if part not in note['density']:
        continue
      value, x = note['density'][part], j + (i - (len(masks) - 1) / 2) * width
      highest = max(highest, value)
      axes[0, 0].bar(
          x, value, width * 0.92, color=colour, label=label if j == 0 else None
      )
      axes[0, 0].text(
          x, value + 0.01, table.number(value), ha='center', fontsize=8
      )
    for ax, part in zip(axes[0, 1:], ('vision', 'language')):
      layers = note.get('density_by_layer', {}).get(part, [])
      highest = max([highest, *layers])
      ax.plot(range(len(layers)), layers, color=colour, marker=marker, lw=1.4)
  axes[0, 0].set_xticks(range(len(parts)), parts, fontsize=9.5)
  axes[0, 0].set_title('by component', fontsize=10, loc='left')
  axes[0, 0].set_ylabel('share of weights that may change', fontsize=10)
  axes[0, 0].set_ylim(0, min(1.05, highest * 1.15))
  for ax, part in zip(axes[0, 1:], ('vision tower', 'language model')):
    ax.set_title(f'{part}, by layer', fontsize=10, loc='left')
    ax.xaxis.get_major_locator().set_params(integer=True)
  figure.legend(
      loc='outside upper left', ncols=max(len(masks), 1), fontsize=9,
      frameon=False,
  )
  return figure
