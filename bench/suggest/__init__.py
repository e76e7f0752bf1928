"""What one suggestion costs with a long history."""
