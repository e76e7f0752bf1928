"""What the dataset service knows: uploads, imports, datasets, blobs. No wire, no SQL, no files."""
