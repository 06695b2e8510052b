"""Build tiny, randomly initialised models and what publishing them needs.

python -m tests.support.build_tiny FOLDER SEED
    one encoder: FOLDER/model and FOLDER/candidate

python -m tests.support.build_tiny FOLDER SEED NAME...
    several models, each in FOLDER/NAME; besides model and candidate there is expected.json with what
    sentence-transformers itself gives: "texts", the "queries" that belong to them (rerankers), and
    "values", one row per text: its vector, or its score

NAME is BACKBONE-HEAD and options, joined by "-". BACKBONE is bert, xlmr or modernbert. HEAD is a way of
pooling (mean, cls, lasttoken) or reranker. Options of an encoder: raw (nothing scales its vectors), left (its
tokenizer pads on the left), dense (a dense layer after pooling).
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.support.words import VOCABULARY

SIZES = [16]
MAX_TOKENS = 64
WIDTH = 32

FAMILY = (
    "bert-mean",
    "bert-cls",
    "bert-lasttoken",
    "bert-mean-raw",
    "bert-mean-dense",
    "xlmr-mean",
    "xlmr-cls",
    "modernbert-mean",
    "modernbert-cls",
    "modernbert-cls-raw",
    "modernbert-lasttoken-left",
    "bert-reranker",
    "xlmr-reranker",
    "modernbert-reranker",
)

_SPECIAL = 5
_WORDS = VOCABULARY[_SPECIAL:]
# In tokens of the text alone: with the special ones the sixth just fits, the later ones are too long.
_LENGTHS = (1, 2, 5, 17, 33, 62, 63, 64, 90)
_QUERY_LENGTHS = (1, 3, 2, 9, 30, 20, 31, 50, 4)


def build_default(folder: Path, seed: int) -> None:
    """The encoder that most tests use."""
    from services.trainer.process.exporting import export

    model = _encoder(folder, seed, "bert", "mean", ())
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    export(model, SIZES, folder / "candidate")


def build_named(folder: Path, seed: int, name: str) -> None:
    """One of the family, taken to publication from its folder as an import does it."""
    from services.trainer.domain.model import Kind
    from services.trainer.process.exporting import export
    from services.trainer.process.loading import load

    backbone, head, *options = name.split("-")
    # So that a wrong mask, position or token moves vectors by much more than the tests allow.
    size = {"num_hidden_layers": 4 if backbone == "modernbert" else 2, "initializer_range": 0.2}
    source = str(folder / "model")
    if head == "reranker":
        _reranker(folder, seed, backbone, **size).save_pretrained(source, create_model_card=False)
        reranker = load(source, Kind.RERANKER)
        pairs = list(zip(_texts(_QUERY_LENGTHS), _texts(_LENGTHS), strict=True))
        scores = reranker.predict(pairs, batch_size=1, show_progress_bar=False)
        _expect(folder, [text for _, text in pairs], [query for query, _ in pairs], scores.reshape(-1, 1).tolist())
        export(reranker, [], folder / "candidate")
        return
    _encoder(folder, seed, backbone, head, options, **size).save_pretrained(source, create_model_card=False)
    encoder = load(source, Kind.ENCODER)
    texts = _texts(_LENGTHS)
    _expect(folder, texts, [], encoder.encode(texts, batch_size=1, show_progress_bar=False).tolist())
    export(encoder, SIZES, folder / "candidate")


def _encoder(folder: Path, seed: int, backbone: str, pooling: Any, options: Any, **size: Any) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import BertModel, ModernBertModel, XLMRobertaModel

    torch.manual_seed(seed)
    kinds = {"bert": BertModel, "xlmr": XLMRobertaModel, "modernbert": ModernBertModel}
    path = _backbone(folder, backbone, kinds[backbone], "left" if "left" in options else "right", size)
    transformer = Transformer(path, max_seq_length=MAX_TOKENS)
    modules: list[Any] = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)]
    if "dense" in options:
        modules.append(Dense(WIDTH, WIDTH - 8))
    if "raw" not in options:
        modules.append(Normalize())
    return SentenceTransformer(modules=modules, device="cpu")


def _reranker(folder: Path, seed: int, backbone: str, **size: Any) -> Any:
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import (
        BertForSequenceClassification,
        ModernBertForSequenceClassification,
        XLMRobertaForSequenceClassification,
    )

    torch.manual_seed(seed)
    kinds = {
        "bert": BertForSequenceClassification,
        "xlmr": XLMRobertaForSequenceClassification,
        "modernbert": ModernBertForSequenceClassification,
    }
    path = _backbone(folder, backbone, kinds[backbone], "right", {**size, "num_labels": 1})
    return CrossEncoder(path, device="cpu")


def _backbone(folder: Path, backbone: str, kind: Any, padding_side: str, size: dict[str, Any]) -> str:
    """A folder with tokenizer, config and weights, as transformers keeps them."""
    path = folder / "backbone"
    path.mkdir(parents=True)
    # Given to its constructor: only what was is saved.
    rest = {"model_max_length": MAX_TOKENS, "padding_side": padding_side}
    tokenizer, config = {"bert": _bert, "xlmr": _xlmr, "modernbert": _modernbert}[backbone](path, rest)
    tokenizer.save_pretrained(path)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    kind(kind.config_class(**{**common, **config, **size})).save_pretrained(path)
    return str(path)


def _bert(path: Path, rest: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from transformers.models.bert import BertTokenizer

    (path / "vocab.txt").write_text("\n".join(VOCABULARY))
    tokenizer = BertTokenizer(vocab=str(path / "vocab.txt"), **rest)
    return tokenizer, {"max_position_embeddings": MAX_TOKENS}


def _xlmr(path: Path, rest: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Padding has id 1, and positions are counted from the one after it."""
    from transformers import XLMRobertaTokenizer

    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(f"▁{word}", -1.0) for word in _WORDS]
    tokenizer = XLMRobertaTokenizer(vocab=[*special, *pieces, ("<mask>", 0.0)], **rest)
    return tokenizer, {"max_position_embeddings": MAX_TOKENS + 2, "pad_token_id": 1, "type_vocab_size": 1}


def _modernbert(path: Path, rest: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Special tokens after the words, no token types, and layers that see only a few tokens to either side."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate((*_WORDS, *VOCABULARY[:_SPECIAL]))}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        **rest,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")},
    )
    config = {
        "max_position_embeddings": MAX_TOKENS,
        "local_attention": 16,
        "pad_token_id": ids["[PAD]"],
        "cls_token_id": ids["[CLS]"],
        "sep_token_id": ids["[SEP]"],
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return tokenizer, config


def _texts(lengths: tuple[int, ...]) -> list[str]:
    chooser = random.Random(sum(lengths))
    return [" ".join(chooser.choice(_WORDS) for _ in range(length)) for length in lengths]


def _expect(folder: Path, texts: list[str], queries: list[str], values: list[list[float]]) -> None:
    (folder / "expected.json").write_text(json.dumps({"texts": texts, "queries": queries, "values": values}))


def main(folder: Path, seed: int, *names: str) -> None:
    if not names:
        build_default(folder, seed)
    for name in names:
        build_named(folder / name, seed, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
