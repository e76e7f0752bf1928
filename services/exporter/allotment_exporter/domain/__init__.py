"""What an export is, how it moves, and how one is carried out. Knows no wire, no SQL, no onnx."""
