import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for guard, kept and mutants
sys.path.append(str(Path(__file__).parents[1] / "artifact"))  # for artifact_examples
