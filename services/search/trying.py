"""Trying an index before it serves: whether it is what it says it is."""

import asyncio

import numpy as np

from services.search.adapters.documents import Documents
from services.search.domain import canaries
from services.search.indexer import Indexer
from services.search.ports import Embedder, Query


async def try_index(indexer: Indexer, documents: Documents, embedder: Embedder) -> None:
    """Canary queries over a sample of documents. Raises ``FailedPrecondition`` if the index is not what it says."""
    index = indexer.index
    sample = await asyncio.to_thread(documents.sample, index.collection, canaries.DOCUMENTS)
    ids = [document.id for document in sample]
    before = await indexer.vectors.held(ids)
    stored = await indexer.vectors.stored(ids)
    after = await indexer.vectors.held(ids)
    texts, rows = [], []
    for document in sample:
        # Documents are written meanwhile: of one that was, text and vector may be of different times.
        if not all(known and known.key == document.key for known in (before.get(document.id), after.get(document.id))):
            continue
        for passage in stored.get(document.id, [])[:1]:
            span = passage.span
            texts.append(document.passage[span.start : span.end] if span else document.passage)
            rows.append(passage.vector)
    if not texts:
        return
    fresh = await embedder.documents(index.version, texts)
    good = [row for i, row in enumerate(rows) if i not in fresh.failures]
    if not good:
        return
    canaries.check_vectors(index.id, np.stack(good), fresh.vectors)
    vectors = [row[None] for row in good]
    comparing_all = [Query(canaries.DEPTH, vector, exact=True) for vector in vectors]
    exact = await indexer.vectors.query(comparing_all)
    found = await indexer.vectors.query([Query(canaries.DEPTH, vector) for vector in vectors])
    again = await indexer.vectors.query(comparing_all)
    # Where a write changed the true answer meanwhile, there is nothing to compare with.
    steady = [i for i, answer in enumerate(exact) if answer == again[i]]
    canaries.check_recall(index.id, [found[i] for i in steady], [exact[i] for i in steady])
