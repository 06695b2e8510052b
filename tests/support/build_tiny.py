"""Build a tiny, randomly initialised encoder and what publishing it needs: FOLDER/model and FOLDER/candidate.

python -m tests.support.build_tiny FOLDER SEED
"""

import sys
from pathlib import Path

from tests.support.words import VOCABULARY

SIZES = [16]


def main(folder: Path, seed: int) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel
    from transformers.models.bert import BertTokenizer

    from services.trainer.process.exporting import export

    torch.manual_seed(seed)
    backbone = folder / "backbone"
    backbone.mkdir(parents=True)
    (backbone / "vocab.txt").write_text("\n".join(VOCABULARY))
    tokenizer = BertTokenizer(vocab=str(backbone / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(backbone)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(backbone)
    transformer = Transformer(str(backbone), max_seq_length=64)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    export(model, SIZES, folder / "candidate")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
