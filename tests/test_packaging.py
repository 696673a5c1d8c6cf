"""Tests for what `setup.py` and `tests/floors.txt` say of the dependencies."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent


class FloorTests(SynchronousTestCase):
    """The floors of the dependencies, which `script/test --floors` installs."""

    def test_floors_agree(self) -> None:
        """Each dependency in setup.py has a floor, and `tests/floors.txt` pins exactly that."""
        tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
        [listed] = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "install_requires"
        ]
        floors = [re.fullmatch(r"([\w.]+)(?:\[\w+\])? >= ([\d.]+)", each) for each in ast.literal_eval(listed)]
        pinned = [f"{floor[1]}=={floor[2]}" for floor in floors if floor]
        self.assertEqual(len(pinned), len(floors))
        self.assertEqual(pinned, (ROOT / "tests" / "floors.txt").read_text("utf-8").split())
