"""datatrove's way of preparing data: its own reader, tokenizer step and local executor."""

import shutil
from pathlib import Path


def convert(folder: Path, tokenizer: Path, processes: int, out: Path) -> None:
    """Write token files of all JSON Lines in a folder.

    Args:
        folder: JSON Lines with a column `text`.
        tokenizer: Directory with a `tokenizer.json`.
        processes: Processes, each with files of its own.
        out: Directory for the token files and datatrove's logs; replaced.
    """
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    shutil.rmtree(out, ignore_errors=True)
    steps = [
        JsonlReader(str(folder), glob_pattern="*.jsonl"),
        DocumentTokenizer(
            str(out / "tokens"),
            tokenizer_name_or_path=str(tokenizer / "tokenizer.json"),
            eos_token="</s>",
            batch_size=1000,
            shuffle_documents=False,
        ),
    ]
    LocalPipelineExecutor(
        steps, tasks=processes, workers=processes, logging_dir=str(out / "logs")
    ).run()
