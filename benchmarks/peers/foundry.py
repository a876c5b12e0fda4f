"""llm-foundry's way of preparing data, written anew from its documentation.

Its `convert_dataset_json.py --concat_tokens N` reads a data set with Hugging Face `datasets`,
tokenizes one document after the other, joins the tokens in a Python list, cuts rows off its front
and hands each to `MDSWriter`. llm-foundry itself needs its own pins of torch and Composer.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np


def convert(files: list[Path], tokenizer: Any, row_tokens: int, out: Path) -> int:
    """Write rows of tokens; how many tokens there were.

    Args:
        files: JSON Lines with a column `text`.
        tokenizer: From `transformers`.
        row_tokens: Tokens in a row; what is left at the end is dropped.
        out: Directory for the shards; replaced.
    """
    import datasets
    from streaming import MDSWriter

    shutil.rmtree(out, ignore_errors=True)
    names = [str(file) for file in files]
    documents = datasets.load_dataset("json", data_files=names, split="train", streaming=True)
    held: list[int] = []
    count = 0
    with MDSWriter(out=str(out), columns={"tokens": "ndarray:int32"}) as writer:
        for document in documents:
            ids = tokenizer(document["text"], truncation=False, padding=False)["input_ids"]
            held = held + ids + [tokenizer.eos_token_id]
            count += len(ids) + 1
            while len(held) >= row_tokens:
                row, held = held[:row_tokens], held[row_tokens:]
                writer.write({"tokens": np.asarray(row, np.int32)})
    return count
