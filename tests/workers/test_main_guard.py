"""A script that starts workers without a main guard is told so in one sentence, and nothing hangs."""

import subprocess
import sys

import pytest

SCRIPT = """
from lorasynth.workers.main_guard import require_main_guard
from lorasynth.errors import UsageError
try:
    require_main_guard()
    print("works")
except UsageError as error:
    print(error)
"""
GUARDED = SCRIPT.replace("try:", 'if __name__ == "__main__":\n  try:').replace("\nexcept", "\n  except")


@pytest.mark.parametrize(("script", "said"), [(SCRIPT, 'under `if __name__ == "__main__":`'), (GUARDED, "works")])
def test_workers_need_a_script_with_a_main_guard(tmp_path, script, said):
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert said in done.stdout


@pytest.mark.slow
def test_zoo_is_not_begun_by_a_script_without_a_guard(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "from lorasynth.recipes import get_recipe\n"
        "from lorasynth.zoo.build import build_zoo_with_workers\n"
        f"build_zoo_with_workers(get_recipe('portraits_tiny').zoo, {str(tmp_path / 'zoo')!r}, 2)\n"
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"lorasynth.errors.UsageError: {path}: expected its work under")
    assert not (tmp_path / "zoo").exists()
