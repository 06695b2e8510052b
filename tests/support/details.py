"""What a run's process might have measured: made up, the same every time."""

import random
from typing import Any

from services.trainer.domain.gate import GatePolicy, decide
from services.trainer.reporting.report import Facts

FACTS = Facts(
    id="0123456789abcdef0123456789abcdef",
    kind="fine_tune",
    state="succeeded",
    message="promoted as version 2",
    collection="films",
    model="tiny",
    current="tiny version 1 (111111111111)",
    published="tiny version 2 (222222222222)",
    dry_run=False,
    created="2026-01-01 10:00:00+00:00",
    started="2026-01-01 10:00:01+00:00",
    ended="2026-01-01 10:05:00+00:00",
)
SIZES = (384, 128, 64)


def scores(chance: random.Random, queries: int, level: float) -> dict[str, dict[str, list[float]]]:
    """Three metrics at each size, lower at the smaller ones."""
    return {
        str(size): {
            metric: [min(1.0, max(0.0, chance.gauss(level - 0.04 * place, 0.25))) for _ in range(queries)]
            for metric in ("ndcg@10", "mrr@10", "recall@5")
        }
        for place, size in enumerate(SIZES)
    }


def encoder(queries: int = 120) -> dict[str, Any]:
    """Details of an encoder's run, as its process writes them."""
    chance = random.Random(7)
    texts = [f"query {number} about <script>alert({number})</script> & owls" for number in range(queries)]
    held_out = {
        "queries": texts,
        "before": scores(chance, queries, 0.55),
        "after": scores(chance, queries, 0.68),
        "judged@10": {"before": 0.41, "after": 0.37},
        "shown": {
            text: {
                "before": [f"<b>Mice</b> {rank}" for rank in range(3)],
                "after": [f"Owls & mice {rank}" for rank in range(3)],
                "relevant": ["Owls"],
            }
            for text in texts
        },
    }
    return {
        "kind": "encoder",
        "data": {
            "judgments": 1900,
            "positives": 500,
            "negatives": 1400,
            "documents": 308,
            "train_queries": 300,
            "validation_queries": 60,
            "held_out_queries": queries,
            "recipe": "multiple-negatives",
            "query_tokens": [4, 8, 12, 17, 30],
            "document_tokens": [40, 90, 128, 190, 256],
            "policy": {"thumbs up": 1.0, "thumbs down": 0.0},
        },
        "config": {"epochs": 2, "learning rate": 5e-5, "dimensions": [128, 64]},
        "training": [{"step": 5 * n, "epoch": n / 100, "loss": 3.0 / (1 + n / 30)} for n in range(1, 200)],
        "validation": [{"step": 100 * n, "epoch": n / 5, "ndcg@10": 0.7 - 0.1 / n} for n in range(1, 11)],
        "mix": [{"weight": n / 10, "ndcg@10": 0.6 + 0.1 * n / 10 * (1.4 - n / 10)} for n in range(10)]
        + [{"weight": 1.0, "ndcg@10": 0.64, "guard": -0.0123}],
        "mix_chosen": 0.7,
        "held_out": held_out,
        "guard": {
            "name": "a guard",
            "queries": 80,
            "before": scores(chance, 80, 0.6),
            "after": scores(chance, 80, 0.595),
        },
        "scores": {
            "before": _split(chance, 0.5, 0.4),
            "after": _split(chance, 0.62, 0.3),
        },
        "seconds": {"collect": 1.5, "train": 61.25, "evaluate": 12.0, "export": 8.5},
    }


def reranker(pairs: int = 400) -> dict[str, Any]:
    """Details of a reranker's run. It has no vectors, so its rankings are those at 0 dimensions."""
    chance = random.Random(8)
    labels = [int(chance.random() < 0.3) for _ in range(pairs)]

    def of(apart: float) -> list[float]:
        return [min(1.0, max(0.0, round(chance.gauss(0.45 + apart * (label - 0.5), 0.2), 2))) for label in labels]

    kept = {name: part for name, part in encoder().items() if name not in ("guard", "mix", "mix_chosen")}
    for when in ("before", "after"):
        kept["held_out"][when] = {"0": kept["held_out"][when]["384"]}
    blend = [{"share": n / 10, "ndcg@10": 0.8 - (n / 10 - 0.4) ** 2} for n in range(10)]
    compared = {"labels": labels, "before": of(0.1), "after": of(0.5)}
    return {**kept, "kind": "reranker", "blend": blend, "blend_chosen": 0.4, "pairs": compared}


def row(details: dict[str, Any]) -> dict[str, Any]:
    """What the run's row knows: the gate over the held-out queries."""
    before, after = (
        {int(size): metrics for size, metrics in details["held_out"][when].items()} for when in ("before", "after")
    )
    decision = decide(before, after, GatePolicy())
    return {
        "gate": {
            "verdict": decision.verdict.value,
            "reason": decision.reason,
            "queries": decision.queries,
            "metrics": [vars(comparison) for comparison in decision.comparisons],
        }
    }


def _split(chance: random.Random, liked: float, disliked: float) -> dict[str, list[float]]:
    return {
        "liked": [chance.gauss(liked, 0.12) for _ in range(300)],
        "disliked": [chance.gauss(disliked, 0.12) for _ in range(900)],
    }
