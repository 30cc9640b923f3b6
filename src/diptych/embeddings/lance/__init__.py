"""Embeddings in a Lance dataset, the format of a LanceDB table: on disk or in object storage, for more
vectors than fit into memory. Written by `diptych index EMB --to lancedb:PATH`."""
