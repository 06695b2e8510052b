"""A folder of judged queries in BEIR's layout, in the small language of `words`."""

import json
from pathlib import Path

from tests.support import words


def write_beir(folder: Path, train: int, test: int) -> Path:
    """Every topic's document, and of each so many queries in either split."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{topic}", "title": "", "text": words.document(topic)} for topic in range(words.TOPICS)]
    queries: list[dict[str, str]] = []
    splits: dict[str, list[str]] = {"train": [], "test": []}
    for topic in range(words.TOPICS):
        for wording in range(train + test):
            name = f"q{topic}-{wording}"
            queries.append({"_id": name, "text": words.query(topic, wording)})
            splits["train" if wording < train else "test"].append(f"{name}\td{topic}\t1")
    for file, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, lines in splits.items():
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder
