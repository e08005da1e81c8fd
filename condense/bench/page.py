"""x"""
from pathlib import Path
from condense.bench.files import table_files
from condense.bench.results import Results
from condense.files import write_atomic
def write_report(bench: Path, out: Path | None = None) -> Path:
    results = Results(bench)
    folder = results.folder.report if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in table_files(results).items():
        write_atomic(folder / name, text.encode())
    return folder
