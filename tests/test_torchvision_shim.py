"""condense._torchvision, each time in a fresh interpreter."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    folders = [str(ROOT)] if path is None else [str(path), str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def fake(folder: Path, source: str) -> Path:
    """A package named torchvision that runs `source` when it is imported."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "part.py").write_text("")
    (folder / "torchvision" / "__init__.py").write_text(source)
    return folder


def test_the_installed_torchvision_can_be_used() -> None:
    done = run(
        "from condense._torchvision import torchvision\n"
        "import torch\n"
        "with torch.device('meta'): net = torchvision.models.resnet18(weights=None)\n"
        "print(sum(p.numel() for p in net.parameters()))"
    )
    assert done.stdout.strip() == "11689512", done.stderr  # torchvision's documentation of ResNet18


def test_a_clean_import_is_left_alone(tmp_path: Path) -> None:
    done = run(
        "import condense._torchvision as shim, torch\n"
        "print(shim.torchvision.MARK, shim._declared, hasattr(torch.ops.torchvision, 'nms'))",
        fake(tmp_path, "MARK = 'clean'"),
    )
    assert done.stdout.split() == ["clean", "None", "False"], done.stderr


def test_missing_operators_are_declared_and_the_import_starts_afresh(tmp_path: Path) -> None:
    source = (
        "import builtins, sys, torch\n"
        "builtins.leftover = 'torchvision.part' in sys.modules\n"
        "from torchvision import part\n"
        "for name in ('nms', 'qnms'):\n"
        "    torch.library.register_fake('torchvision::' + name)(lambda dets, scores, iou_threshold: dets)\n"
    )
    code = "import condense._torchvision as shim, torch; print(leftover, torch.ops.torchvision.qnms.default._schema)"
    done = run(code, fake(tmp_path, source))
    expected = "False torchvision::qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert done.stdout.strip() == expected, done.stderr


def test_any_other_failure_is_passed_on(tmp_path: Path) -> None:
    done = run("import condense._torchvision", fake(tmp_path, "raise RuntimeError('something else')"))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("RuntimeError: something else")
