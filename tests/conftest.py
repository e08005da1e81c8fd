import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for the package `oracles` and the module `short`
