"""Bytes under their sha256: stored once, verified on every read.

`allotment_core.blobs.s3` needs the extra [s3] and is imported by who uses it.
"""

from allotment_core.blobs.folder import FolderBlobStore
from allotment_core.blobs.port import CHUNK_BYTES, BlobStore, StoredBlob

__all__ = ["CHUNK_BYTES", "BlobStore", "FolderBlobStore", "StoredBlob"]
