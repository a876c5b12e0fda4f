"""A TrainSpec of the user's own, as documented, trains from outside the repository."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[3] / "docs" / "own_model.md"


def test_the_documented_module_trains(app: Any) -> None:
    text = DOCS.read_text()
    (module,) = re.findall(r"```python\n# my_models.py\n(.*?)```", text, re.DOTALL)
    lines = [line for line in module.splitlines() if line.strip()]
    assert len(lines) <= 10
    (app.folder / "my_models.py").write_text(module)
    (command,) = re.findall(r"^uv run apps/train .*custom_import.*$", text, re.MULTILINE)
    options = command.partition("debug.toml ")[2].split()
    assert options[:2] == ["--experimental.custom_import", "my_models"]
    result = app.forked("--config-path", app.config(), *options, cwd=app.folder)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert "checked my_llama 30M, " in result.stdout
    losses = app.losses(result.stdout)
    assert list(losses) == [1, 2]
    assert 6 < losses[1] < 10
