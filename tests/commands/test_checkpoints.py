"""convert and inspect take what their examples say; see also models/hub."""

from mmu_jax import __main__ as command_line
from mmu_jax.models.hub import convert
from mmu_jax.models.hub import inspection


def test_convert_is_given_both_folders_and_its_options(monkeypatch, capsys):
  asked = []
  said = lambda *args, **options: asked.append((args, options)) or 'written'
  monkeypatch.setattr(convert, 'convert', said)
  argv = ['convert', '--from=a', '--to=b', '--like=c', '--dtype=float16']
  assert command_line.main(argv) == 0
  assert asked == [(('a', 'b'), {'like': 'c', 'dtype': 'float16'})]
  assert capsys.readouterr().out.startswith('written\nmmu convert: ')


def test_inspect_prints_the_tables_of_a_folder(monkeypatch, capsys):
  monkeypatch.setattr(inspection, 'inspect', lambda path: path)
  monkeypatch.setattr(
    inspection, 'content_tables', lambda found: [f'see {found}']
  )
  assert command_line.main(['inspect', 'some_folder']) == 0
  assert capsys.readouterr().out == 'see some_folder\n'
